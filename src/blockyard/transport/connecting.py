"""Making a connection: addresses raced, a tunnel through a proxy, the TLS handshake."""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from itertools import chain, zip_longest

from blockyard.context import Origin
from blockyard.transport.clock import monotonic
from blockyard.transport.dialing import Dialing, Way
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.polling import Poller
from blockyard.transport.proxies import Proxy, check_connect, connect_head
from blockyard.transport.resolving import Address
from blockyard.transport.tls import RECEIVED_AT_ONCE, TlsSocket
from blockyard.user_code import pass_on_foreign

_HEAD_START = 0.25
"""Seconds that each address has before the next is tried as well: RFC 8305, section 5."""


async def connecting(way: Way, dialing: Dialing, poller: Poller) -> socket.socket | TlsSocket:
    """A new connection, at one of the addresses that were looked up.

    Raises `OSError`, and `TimeoutError` when the time is over.
    """
    origin, proxy, look_up, port, ends = way
    addresses = in_turns(look_up.addresses())
    while True:
        sock = await _first_to_connect(addresses, port, dialing, ends, poller)
        try:
            if origin.scheme == "http":
                return sock
            if proxy is not None:
                await _open_tunnel(sock, origin, proxy, ends, poller)
            context = dialing.trust.context
            try:
                return await _shake_hands(sock, context, origin.host, ends, poller)
            except ssl.SSLError:
                if not dialing.trust.renew(context):
                    raise
        except BaseException:
            sock.close()
            raise
        sock.close()


def in_turns(found: Sequence[Address]) -> list[Address]:
    """Families in turns, that of the first address first: RFC 8305, section 4."""
    first = [each for each in found if each.family == found[0].family]
    others = [each for each in found if each.family != found[0].family]
    both = chain.from_iterable(zip_longest(first, others))
    return list(dict.fromkeys(each for each in both if each is not None))


async def _first_to_connect(
    addresses: Sequence[Address], port: int, dialing: Dialing, ends: float, poller: Poller
) -> socket.socket:
    """Try one address after the other, each with a head start, until one is connected."""
    if not addresses:
        raise OSError("the host has no address")
    left = deque(addresses)
    under_way: dict[int, socket.socket] = {}
    head_start = min(_HEAD_START, (ends - monotonic()) / (2 * len(addresses)))
    due = 0.0
    error = OSError()
    try:
        while left or under_way:
            now = monotonic()
            if now >= ends:
                raise TimeoutError
            if left and (now >= due or not under_way):
                due = now + head_start
                try:
                    sock = _begin(left.popleft(), port, dialing)
                except OSError as cause:
                    pass_on_foreign(cause)
                    error, due = cause, now
                    continue
                under_way[sock.fileno()] = sock
            seconds = max((min(due, ends) if left else ends) - monotonic(), 0.0)
            socks = under_way.values()
            for descriptor in await poller.any_ready(socks, select.POLLOUT, seconds):
                sock = under_way[descriptor]
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return under_way.pop(descriptor)
                under_way.pop(descriptor).close()
                error, due = OSError(code, os.strerror(code)), now
        raise error
    finally:
        for sock in under_way.values():
            sock.close()


def _begin(address: Address, port: int, dialing: Dialing) -> socket.socket:
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        sock.setblocking(False)
        dialing.set_options(sock)
        sock.connect(address.at(port))
    except BlockingIOError:
        pass
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tunnel(
    sock: socket.socket, origin: Origin, proxy: Proxy, ends: float, poller: Poller
) -> None:
    await _send(sock, connect_head(origin, proxy), ends, poller)
    reply = ReplyReader("CONNECT", None, 0)
    while not reply.status:
        received = bytearray(await _receive(sock, SCRATCH_SIZE, ends, poller))
        if not received:
            reply.end_of_stream()
        reply.feed(received, len(received))
    check_connect(reply.status, proxy)


async def _shake_hands(
    sock: socket.socket, context: ssl.SSLContext, host: str, ends: float, poller: Poller
) -> TlsSocket:
    """The name goes without the dot that may end it: RFC 6066, section 3."""
    tls = TlsSocket(sock, context, host.removesuffix("."))
    to_send, done = tls.shake_hands(None)
    while not done:
        await _send(sock, to_send, ends, poller)
        received = await _receive(sock, RECEIVED_AT_ONCE, ends, poller)
        to_send, done = tls.shake_hands(received)
    await _send(sock, to_send, ends, poller)
    return tls


async def _send(sock: socket.socket, data: bytes, ends: float, poller: Poller) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await _ready(sock, select.POLLOUT, ends, poller)


async def _receive(sock: socket.socket, size: int, ends: float, poller: Poller) -> bytes:
    while True:
        await _ready(sock, select.POLLIN, ends, poller)
        try:
            return sock.recv(size)
        except BlockingIOError:
            continue


async def _ready(sock: socket.socket, event: int, ends: float, poller: Poller) -> None:
    """Wait until `sock` is ready, at `ends` no more. Raises `TimeoutError`."""
    seconds = ends - monotonic()
    if seconds <= 0 or not await poller.any_ready((sock,), event, seconds):
        raise TimeoutError
