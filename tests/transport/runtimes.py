"""Both runtimes behind one way to call them, so that a test of the transport is written once."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Origin, Request, Response, Runtime
from blockyard.model import MIB
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_body, read_head, request_framing, whole
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections

Result = TypeVar("Result")
RuntimeName = Literal["blocking", "asyncio"]
RUNTIMES: tuple[RuntimeName, ...] = ("blocking", "asyncio")
both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES)

LIMIT = 32 * MIB
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Holder:
    """What a connection is lent to."""


HOLDER = Holder()


def origin_of(url: str) -> Origin:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Origin(parts.scheme, parts.hostname, parts.port)


def ask(
    url: str,
    method: str = "GET",
    body: bytes | memoryview = b"",
    target: str = "/b/k",
    *,
    fresh: bool = False,
) -> Request:
    """A request to the server at `url`."""
    return Request(origin_of(url), method, target, {"host": "test"}, body, fresh)


class Driver(ABC):
    """A runtime, each of whose exchanges is run to its end."""

    runtime: Runtime

    @abstractmethod
    def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Run what awaits the runtime."""

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """How many connections are taken, and how many idle."""

    @abstractmethod
    def close(self) -> None:
        """Close the runtime."""

    def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int = LIMIT,
        seconds: float | None = None,
    ) -> Response:
        """One exchange, with a deadline in so many `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        return self.run(self.runtime.exchange(request, into=into, limit=limit, deadline=deadline))


class _Blocking(Driver):
    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self.runtime = self._blocking = BlockingRuntime(Connections(http, timeouts))

    def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        return run_to_end(operation)

    def counts(self) -> tuple[int, int]:
        return self._blocking.connections.here().counts()

    def close(self) -> None:
        self._blocking.close()


class _Asyncio(Driver):
    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig, runner: asyncio.Runner) -> None:
        self.runtime = self._asyncio = AsyncioRuntime(Connections(http, timeouts))
        self._runner = runner

    def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(operation)

    def counts(self) -> tuple[int, int]:
        return self._asyncio.connections.here().counts()

    def close(self) -> None:
        self._runner.run(self._asyncio.close())


@contextmanager
def driving(
    name: RuntimeName, http: HttpConfig | None = None, **timeouts: float
) -> Generator[Driver, None, None]:
    """A runtime of that name; at the end nothing of it is left open or taken."""
    settings = http or HttpConfig(), TimeoutConfig(**timeouts)
    with asyncio.Runner() as runner:
        runner.get_loop()
        with no_new_descriptors():
            driver = _Blocking(*settings) if name == "blocking" else _Asyncio(*settings, runner)
            try:
                yield driver
                assert driver.counts()[0] == 0
            finally:
                driver.close()


@contextmanager
def no_new_descriptors() -> Generator[None, None, None]:
    """At the end of the block, this process has the open files and sockets that it began with."""
    before = open_sockets()
    yield
    assert eventually(lambda: not open_sockets() - before), open_sockets() - before


class NewThreads:
    """The threads that began since this was made; those of earlier tests may end meanwhile."""

    def __init__(self) -> None:
        self._before = frozenset(threading.enumerate())

    def alive(self, name: str = "") -> list[threading.Thread]:
        """Those of them that run now, or of them those of that name."""
        now = [thread for thread in threading.enumerate() if thread not in self._before]
        return [thread for thread in now if name in {"", thread.name}]


@contextmanager
def no_new_threads() -> Generator[NewThreads, None, None]:
    """Soon after the end of the block, no thread is left that began in it."""
    threads = NewThreads()
    yield threads
    assert eventually(lambda: not threads.alive()), threads.alive()


def open_sockets() -> set[str]:
    """The sockets that this process has open, by inode."""
    return {target for _, target in open_descriptors() if target.startswith("socket:")}


def open_descriptors() -> set[tuple[str, str]]:
    """What this process has open: each descriptor, and what it leads to."""
    found: set[tuple[str, str]] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed the folder
            found.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
    return found


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Wait for what another thread or process is about to do."""
    ends = time.monotonic() + within
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.002)
    return True


@contextmanager
def black_hole() -> Generator[str, None, None]:
    """Where connections are never accepted: a listener whose backlog is full."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(3):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            _ = filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


class EchoServer(LoopbackServer):
    """Answers each request with a body made of its target and its own, `delay` seconds later.

    `most_at_once` is how many requests it has had under way at a time.
    """

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__()
        self._delay = delay
        self._under_way = 0
        self.most_at_once = 0
        self.connections = 0

    async def serve(self, client: Connection) -> None:
        self.connections = client.number
        while (head := await read_head(client.reader)) is not None:
            framing = request_framing(head)
            request = await whole(head, framing, read_body(client.reader, framing))
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            _ = await asyncio.wait([client.gone], timeout=self._delay)
            self._under_way -= 1
            body = echo(head.target, request.body)
            head_of_reply = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n'
            await client.send(head_of_reply % len(body) + body)


def echo(target: str, body: bytes = b"") -> bytes:
    """What `EchoServer` answers."""
    return target.encode() * 100 + body


class Peer:
    """A listener whose `talk` gets one client after another; `clients` counts them."""

    def __init__(self, talk: Callable[[socket.socket], object]) -> None:
        self._talk = talk
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port: int = self._listener.getsockname()[1]
        self.clients = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):  # none came yet; or one that has seen enough
                client, _ = self._listener.accept()
                self.clients += 1
                with client:
                    client.settimeout(10)
                    _ = self._talk(client)
