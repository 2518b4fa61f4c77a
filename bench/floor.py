"""The least that Python can do for the work we are slowest at: `python -m bench.floor`, by hand.

One socket, or 32 under epoll; requests prepared and unsigned; the reply's body made `bytes`;
nothing parsed, nothing checked, nothing tried again. What a write needs is the SHA-256 of its
body, so that is computed. For ranges and copies also with what each can't do without: signed by
blockyard's own functions, the head parsed, the body held to its checksum or its XML read; still
with no store, no event loop, no timeout and nothing tried again. Ranges in flight also as 32 tasks
of an event loop, and then over blockyard's connections, with its pool and timeouts and still no
store. In turns with blockyard, to compare, and copies with obstore.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from bench import data, pages, wire
from bench.driving import Sample, Stopwatch
from bench.peers import obstore
from bench.samples import cpu_per_operation, rate
from bench.site import Site
from bench.workloads import KIB, MIB, RANGED_BLOCK
from blockyard import BlockStore, open_async_store, open_store
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Request, Response
from blockyard.s3.credentials import Credentials
from blockyard.s3.endpoints import Address, bucket_address
from blockyard.s3.integrity import service_checksum
from blockyard.s3.read_steps import Read
from blockyard.s3.reading import verify
from blockyard.s3.requests import copy_object
from blockyard.s3.responses import copy_result
from blockyard.s3.signing import EMPTY_SHA256, Signer
from blockyard.stores.base import ReadRequest
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from blockyard.transport.http1 import encode_head, parse_head
from servers.endpoint import Endpoint

Item = TypeVar("Item")
Result = TypeVar("Result")

_REGION = "us-east-1"
_ROUNDS = 9
_RANGE = 16 * KIB
_RANGES = 640
_AT_ONCE = 32
_COPIES = 1000


def main() -> None:
    with wire.serve() as endpoint:
        address = ("127.0.0.1", urlsplit(endpoint.url).port or 0)
        with _opened(endpoint) as store:
            _ranges(store, endpoint, address)
            _writes(store, address)
        _ranges_of_tasks(endpoint, address)
    with pages.serve() as endpoint, _opened(endpoint) as store:
        _copies(store, endpoint)


def _opened(endpoint: Endpoint) -> BlockStore:
    return open_store(_url(endpoint))


def _url(endpoint: Endpoint) -> str:
    return (
        f"s3://{data.KEPT}?endpoint={endpoint.url}&region={_REGION}&force_path_style=true"
        f"&access_key={endpoint.access_key}&secret_key={endpoint.secret_key}"
    )


def _wanted() -> list[tuple[str, int, int]]:
    keys = data.read_keys(RANGED_BLOCK)
    return [(keys[n % len(keys)], n * 37 % 256 * _RANGE, _RANGE) for n in range(_RANGES)]


def _ranges(store: BlockStore, endpoint: Endpoint, address: tuple[str, int]) -> None:
    wanted = _wanted()
    bare, verified = [_Bare(*each) for each in wanted], _verified(endpoint, wanted)
    for what, at_once, ours in (
        ("one at a time", 1, lambda: [store.read_block_range(*each) for each in wanted]),
        ("32 in flight", _AT_ONCE, lambda: store.read_block_ranges(wanted)),
    ):
        socks = [_connected(address) for _ in range(at_once)]
        _compare(
            f"16 KiB ranges, {what}",
            _RANGES,
            {
                "floor": partial(_read_all, socks, bare),
                "signed, verified": partial(_read_all, socks, verified),
                "blockyard": ours,
            },
        )
        for sock in socks:
            sock.close()


def _ranges_of_tasks(endpoint: Endpoint, address: tuple[str, int]) -> None:
    wanted = _wanted()
    bare, verified = [_Bare(*each) for each in wanted], _verified(endpoint, wanted)
    with asyncio.Runner() as runner:
        socks = [_connected(address) for _ in range(_AT_ONCE)]
        connections = Connections(HttpConfig(), TimeoutConfig())
        runtime = AsyncioRuntime(connections)
        store = runner.run(_awaited(open_async_store(_url(endpoint))))
        _compare(
            "16 KiB ranges, 32 tasks",
            _RANGES,
            {
                "floor": lambda: runner.run(_read_by_tasks(socks, bare)),
                "signed, verified": lambda: runner.run(_read_by_tasks(socks, verified)),
                "connections": lambda: runner.run(_exchanged(runtime, verified)),
                "blockyard": lambda: runner.run(
                    _of_tasks(lambda each: store.read_block_range(*each), wanted)
                ),
            },
        )
        for close in (store.close, runtime.close):
            runner.run(close())
        for sock in socks:
            sock.close()


async def _awaited(result: Awaitable[Result]) -> Result:
    return await result


class _Read(Protocol):
    """A ranged read: what is sent, and what becomes of the reply."""

    def request(self) -> bytes: ...

    def take(self, head: memoryview, body: memoryview) -> bytes: ...


class _Bare:
    """A request prepared, a reply not looked at."""

    def __init__(self, key: str, first: int, length: int) -> None:
        self._request = (
            f"GET /{data.KEPT}/{key} HTTP/1.1\r\nHost: floor\r\n"
            f"Range: bytes={first}-{first + length - 1}\r\n\r\n"
        ).encode()

    def request(self) -> bytes:
        return self._request

    def take(self, head: memoryview, body: memoryview) -> bytes:
        return bytes(body)


@dataclass
class _Verified:
    """A request signed when it is sent, a reply parsed and held to its checksum."""

    address: Address
    signer: Signer
    credentials: Credentials
    read: Read

    def signed(self) -> Request:
        request = self.read.request(self.address)
        self.signer.sign(request, self.credentials, time.time(), EMPTY_SHA256)
        return request

    def request(self) -> bytes:
        return encode_head(self.signed())

    def take(self, head: memoryview, body: memoryview) -> bytes:
        status, headers, _ = parse_head(bytes(head))
        return self.checked(Response(status, headers, bytes(body), len(body)))

    def checked(self, reply: Response) -> bytes:
        _ = verify(self.read, self.read.check(reply), service_checksum)
        return reply.body


def _verified(endpoint: Endpoint, wanted: Sequence[tuple[str, int, int]]) -> list[_Verified]:
    address = bucket_address(endpoint.url, _REGION, data.KEPT, path_style=True)
    signer = Signer(_REGION)
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    requests = [ReadRequest(key, first, length) for key, first, length in wanted]
    return [
        _Verified(
            address,
            signer,
            credentials,
            Read(each, each.key, 1),
        )
        for each in requests
    ]


def _writes(store: BlockStore, address: tuple[str, int]) -> None:
    keys, body = data.written_keys(4 * MIB), data.body(4 * MIB)

    def floor() -> None:
        for key in keys:
            signed = sha256(body).hexdigest()
            head = f"PUT /{data.KEPT}/{key} HTTP/1.1\r\nHost: floor\r\nX: {signed}\r\n"
            sent = sock.sendmsg([f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body])
            if sent < len(body):
                raise OSError("a blocking socket sends all, or fails")
            _ = sock.recv(64 * KIB)

    def ours() -> None:
        for key in keys:
            _ = store.write_block(key, body)

    with _connected(address) as sock:
        _compare("write 4 MiB, one at a time", len(keys), {"floor": floor, "blockyard": ours})


def _copies(store: BlockStore, endpoint: Endpoint) -> None:
    """One request each, whose reply says the copy's ETag and time in XML."""
    address = bucket_address(endpoint.url, _REGION, data.KEPT, path_style=True)
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    signer, prepared = Signer(_REGION), encode_head(copy_object(address, "k", "copy"))
    theirs = obstore.open_store(Site(endpoint.url, data.KEPT))

    def floor() -> None:
        for _ in range(_COPIES):
            sock.sendall(prepared)
            _ = sock.recv(64 * KIB)

    def signed() -> None:
        for _ in range(_COPIES):
            request = copy_object(address, "k", "copy")
            signer.sign(request, credentials, time.time(), EMPTY_SHA256)
            sock.sendall(encode_head(request))
            reply = sock.recv(64 * KIB)
            end = reply.find(b"\r\n\r\n") + 4
            status, headers, _ = parse_head(reply[:end])
            _ = copy_result(Response(status, headers, reply[end:], len(reply) - end), "k")

    with _connected(("127.0.0.1", urlsplit(endpoint.url).port or 0)) as sock:
        _compare(
            "copy, one at a time",
            _COPIES,
            {
                "floor": floor,
                "signed, read": signed,
                "blockyard": lambda: [store.copy_block("k", "copy") for _ in range(_COPIES)],
                "obstore": lambda: [theirs.copy("k", "copy") for _ in range(_COPIES)],
            },
        )


def _read_all(socks: list[socket.socket], reads: Sequence[_Read]) -> list[bytes]:
    """Make every read, on whichever socket has been answered."""
    left = iter(reads)
    scratch = bytearray(64 * KIB)
    ready = select.epoll()
    under_way: dict[int, tuple[socket.socket, _Read]] = {}

    def send_next(sock: socket.socket) -> None:
        read = next(left, None)
        if read is not None:
            under_way[sock.fileno()] = sock, read
            _ = sock.send(read.request())

    for sock in socks:
        if len(socks) > 1:
            ready.register(sock, select.EPOLLIN)
        send_next(sock)
    bodies: list[bytes] = []
    while under_way:
        numbers = [number for number, _ in ready.poll()] if len(socks) > 1 else [*under_way]
        for number in numbers:
            sock, read = under_way.pop(number)
            bodies.append(read.take(*_receive(sock, scratch)))
            send_next(sock)
    ready.close()
    return bodies


async def _of_tasks(read: Callable[[Item], Awaitable[bytes]], items: Sequence[Item]) -> list[bytes]:
    """What 32 tasks have read, each taking the next of `items`."""
    left = iter(items)
    bodies: list[bytes] = []

    async def task() -> None:
        bodies.extend([await read(each) for each in left])

    _ = await asyncio.gather(*(task() for _ in range(_AT_ONCE)))
    return bodies


async def _read_by_tasks(socks: Sequence[socket.socket], reads: Sequence[_Read]) -> list[bytes]:
    """As `_read_all`, but by tasks, each with the next socket that is free."""
    loop = asyncio.get_running_loop()
    waiting: dict[int, asyncio.Future[None]] = {}
    free = [(sock, bytearray(64 * KIB)) for sock in socks]

    def answered(number: int) -> None:
        if not (waiter := waiting[number]).done():
            waiter.set_result(None)

    async def read(each: _Read) -> bytes:
        sock, scratch = free.pop()
        _ = sock.send(each.request())
        waiting[sock.fileno()] = waiter = loop.create_future()
        await waiter
        body = each.take(*_receive(sock, scratch))
        free.append((sock, scratch))
        return body

    for sock in socks:
        loop.add_reader(sock, answered, sock.fileno())
        waiting[sock.fileno()] = loop.create_future()
    try:
        return await _of_tasks(read, reads)
    finally:
        for sock in socks:
            _ = loop.remove_reader(sock)


async def _exchanged(runtime: AsyncioRuntime, reads: Sequence[_Verified]) -> list[bytes]:
    """As `_read_by_tasks`, over connections of blockyard's."""

    async def read(each: _Verified) -> bytes:
        return each.checked(await runtime.exchange(each.signed(), limit=_RANGE))

    return await _of_tasks(read, reads)


def _receive(sock: socket.socket, scratch: bytearray) -> tuple[memoryview, memoryview]:
    view = memoryview(scratch)
    size = sock.recv_into(scratch)
    begin = scratch.find(b"\r\n\r\n", 0, size) + 4
    while size < begin + _RANGE:
        size += sock.recv_into(view[size:])
    return view[:begin], view[begin:size]


def _connected(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _compare(what: str, operations: int, works: Mapping[str, Callable[[], object]]) -> None:
    taken: dict[str, list[Sample]] = {name: [] for name in works}
    for _ in range(_ROUNDS):
        for name, work in works.items():
            watch = Stopwatch()
            _ = work()
            taken[name].append(watch.sample(operations))
    for name, samples in taken.items():
        wall, cpu = 1e6 / rate(samples), 1e6 * cpu_per_operation(samples)
        _ = sys.stdout.write(f"{what:30}{name:18}{wall:9,.0f} us{cpu:9,.0f} us of CPU\n")


if __name__ == "__main__":
    main()
