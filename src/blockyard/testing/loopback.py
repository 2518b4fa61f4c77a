"""Servers for tests: on the loopback interface, on an event loop with a thread of its own.

This module owns the thread, the accepting, TLS and the ways in which a connection ends. What is
said over a connection is for the servers built on it, `ScriptedServer` and `FaultProxy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from blockyard.transport.background import PrivateLoop

if TYPE_CHECKING:
    from types import TracebackType

BUFFER = 1 << 20
"""Bytes read ahead on a connection, and so the largest head that is understood."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: RST in place of FIN
_TLS_GOODBYE = 0.5  # seconds allowed for the client's close_notify


class _Protocol(asyncio.StreamReaderProtocol):
    """asyncio's streams, which also tell when the client hung up and when the socket is shut."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.gone: asyncio.Future[None] = loop.create_future()
        self.lost = asyncio.Event()

    def eof_received(self) -> bool:
        self._hung_up()
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._hung_up()
        self.lost.set()

    def _hung_up(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


class Connection:
    """One client's connection, as the server sees it.

    `number` counts the server's connections from 1; `reader` holds what the client sent; `gone`
    is done once the client has closed its side.
    """

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: _Protocol,
    ) -> None:
        self.number = number
        self.reader = reader
        self.gone = protocol.gone
        self._socket = sock
        self._writer = writer
        self._lost = protocol.lost

    @classmethod
    async def open(cls, number: int, sock: socket.socket, tls: ssl.SSLContext | None) -> Connection:
        """Take up an accepted socket, with the server's side of a TLS handshake if asked."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces go out as they come
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=BUFFER, loop=loop)
        transport, protocol = await loop.connect_accepted_socket(
            lambda: _Protocol(reader, loop),
            sock,
            ssl=tls,
            ssl_shutdown_timeout=_TLS_GOODBYE if tls else None,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return cls(number, sock, reader, writer, protocol)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or closing."""
        return self._writer.is_closing()

    async def send(self, data: bytes) -> None:
        """Send `data`; raises `ConnectionError` when the client is gone."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """End cleanly, with a FIN; over TLS a close_notify comes first."""
        self._writer.close()
        _ = await self._lost.wait()

    async def reset(self) -> None:
        """End with a RST, once everything that was sent before it has arrived."""
        while not self.closed and self._unconfirmed():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.001)
        if not self.closed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await self.drop()

    async def drop(self) -> None:
        """End at once, without waiting for anything still unsent."""
        if not self._lost.is_set():
            self._writer.transport.abort()
        _ = await self._lost.wait()

    def _unconfirmed(self) -> int:
        """The bytes sent that a RST would still overtake and throw away."""
        in_kernel = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        here = self._writer.transport.get_write_buffer_size()
        return here + int.from_bytes(in_kernel, sys.byteorder)


class LoopbackServer(ABC):
    """A server that runs inside a `with` block; `serve` is its part of each conversation.

    `tls` makes it an HTTPS server, and `handshake_delay` is how many seconds it lets a client
    wait before its side of the handshake begins. An error in `serve` that is not the client's
    doing stops the server and is raised at the end of the `with` block (or, if that ends with an
    error already, noted with it).
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        handshake_delay: float = 0.0,
    ) -> None:
        self._host = host
        self._tls = tls
        self._handshake_delay = handshake_delay
        self._clients: set[socket.socket] = set()
        self._clients_changed = threading.Condition()
        self._failure: BaseException | None = None

    @abstractmethod
    async def serve(self, client: Connection) -> None:
        """Talk with one client. Afterwards the connection is closed, if it is not yet."""

    @property
    def port(self) -> int:
        """The port that the system chose."""
        return self._port

    @property
    def url(self) -> str:
        """Where the server is, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many client connections are open now."""
        return len(self._clients)

    def wait_until_drained(self, within: float = 5.0) -> bool:
        """Wait until no client connection is open; False if one is after `within` seconds."""
        with self._clients_changed:
            return self._clients_changed.wait_for(self._drained, within)

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, 0), family=family, backlog=512)
        self._listener.setblocking(False)
        self._port: int = self._listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()
        _ = self._ready.wait()
        _running.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _running.discard(self)
        with contextlib.suppress(RuntimeError):  # a failure has ended the loop already
            _ = self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join()
        if self._failure is None:
            return
        if error is None:
            raise self._failure
        error.add_note(f"{type(self).__name__} had failed before: {self._failure!r}")

    def let_go_of_sockets(self) -> None:
        """In a forked child: close its copies, which would keep closed connections open."""
        for sock in (self._listener, *self._clients):
            sock.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=PrivateLoop) as runner:
                runner.run(self._accept())
        except BaseExceptionGroup as failures:
            self._failure = failures.exceptions[0]

    async def _accept(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepting = asyncio.ensure_future(self._accept_clients())
        self._ready.set()
        with contextlib.suppress(asyncio.CancelledError):  # so `__exit__` ends it
            await self._accepting

    async def _accept_clients(self) -> None:
        try:
            async with asyncio.TaskGroup() as conversations:
                for number in itertools.count(1):
                    await self._arrival()
                    with self._clients_changed:
                        sock, _ = self._listener.accept()
                        self._clients.add(sock)
                    _ = conversations.create_task(self._converse(number, sock))
        finally:
            with self._clients_changed:
                self._listener.close()

    async def _arrival(self) -> None:
        arrived = asyncio.Event()
        self._loop.add_reader(self._listener, arrived.set)
        try:
            _ = await arrived.wait()
        finally:
            _ = self._loop.remove_reader(self._listener)

    def _drained(self) -> bool:
        if self._clients:
            return False
        if self._listener.fileno() < 0:
            return True
        waiting, _, _ = select.select([self._listener], [], [], 0)
        return not waiting

    async def _converse(self, number: int, sock: socket.socket) -> None:
        try:
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client broke it off
                await asyncio.sleep(self._handshake_delay)
                client = await Connection.open(number, sock, self._tls)
                try:
                    await self.serve(client)
                    await client.close()
                finally:
                    await client.drop()
        finally:
            sock.close()
            with self._clients_changed:
                self._clients.discard(sock)
                self._clients_changed.notify_all()


_running: weakref.WeakSet[LoopbackServer] = weakref.WeakSet()


def _after_fork() -> None:
    for server in _running:
        server.let_go_of_sockets()


os.register_at_fork(after_in_child=_after_fork)
