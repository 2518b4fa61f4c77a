"""How connections are made and kept: look-ups shared, addresses raced, dead flows found out."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Request
from blockyard.errors import (
    DeadlineExceededError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)
from blockyard.testing.scripted import ClientCloses, Close, Receive, Reset, ScriptedServer
from blockyard.transport import resolving
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connecting import in_turns
from blockyard.transport.connections import Connections
from blockyard.transport.resolving import Address
from tests.transport.runtimes import (
    LIMIT,
    OK,
    Driver,
    EchoServer,
    RuntimeName,
    ask,
    black_hole,
    both_runtimes,
    driving,
    origin_of,
)

NAME = "endpoint.test"
SOON = 0.3
LATE = 10.0
"""Seconds after which what should have ended `SOON` has failed to."""


class Names:
    """A name server: `answers` are the addresses of `NAME`; it answers while `awake` is set."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.failure: OSError | None = None
        self.asked = 0
        self.awake = threading.Event()
        self.awake.set()
        self._resolve = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host != NAME:
            return self._resolve(host, port, *args, **kwargs)
        self.asked += 1
        assert self.awake.wait(60)
        if self.failure is not None:
            raise self.failure
        found = [self._resolve(answer, port, *args, **kwargs) for answer in self.answers]
        return [each for (each, *_) in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Generator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.awake.set()
    resolving._look_ups.clear()  # pyright: ignore[reportPrivateUsage]


def named(url: str, *, fresh: bool = False) -> Request:
    """A request to the server at `url` by its name."""
    return ask(f"http://{NAME}:{origin_of(url).port}", fresh=fresh)


def test_connections_by_name_share_one_look_up(names: Names) -> None:
    names.answers = ["127.0.0.1"]
    names.awake.clear()
    with EchoServer() as server, ThreadPoolExecutor(20) as threads:
        blocking = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
        under_asyncio = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))

        def one(_: int) -> object:
            return run_to_end(blocking.exchange(named(server.url), limit=LIMIT))

        async def many() -> None:
            exchanges = [under_asyncio.exchange(named(server.url), limit=LIMIT) for _ in range(20)]
            threading.Timer(0.2, names.awake.set).start()
            _ = await asyncio.gather(*exchanges)
            await under_asyncio.close()

        results = threads.map(one, range(20))
        asyncio.run(many())
        _ = list(results)
        blocking.close()
    assert names.asked == 1


@both_runtimes
def test_a_look_up_is_kept_for_a_while_and_a_failure_is_not(
    runtime: RuntimeName, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EchoServer() as server, driving(runtime) as driver:
        names.answers = ["127.0.0.1"]
        names.failure = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
        for asked in (1, 2):
            with pytest.raises(TransportConnectionError, match="Temporary failure"):
                _ = driver.exchange(named(server.url))
            assert names.asked == asked
        names.failure = None
        for _ in range(3):
            _ = driver.exchange(named(server.url, fresh=True))
        assert names.asked == 3
        monkeypatch.setattr(resolving, "_KEPT", -1)
        resolving.forget(NAME)
        for _ in range(2):
            _ = driver.exchange(named(server.url, fresh=True))
        assert names.asked == 5


@both_runtimes
def test_a_name_is_asked_for_anew_when_no_connection_came_about(
    runtime: RuntimeName, names: Names
) -> None:
    """The endpoint was moved, and nobody answers at its old address."""
    names.answers = ["127.0.0.2"]
    with EchoServer() as server, driving(runtime) as driver:
        with pytest.raises(TransportConnectionError):
            _ = driver.exchange(named(server.url))
        names.answers = ["127.0.0.1"]
        _ = driver.exchange(named(server.url))


@both_runtimes
def test_a_name_is_asked_for_anew_when_its_address_is_silent(
    runtime: RuntimeName, names: Names
) -> None:
    names.answers = ["127.0.0.1"]
    with black_hole() as url, driving(runtime, connect=SOON) as driver:
        for asked in (1, 2):
            with pytest.raises(TransportTimeoutError):
                _ = driver.exchange(named(url))
            assert names.asked == asked


@both_runtimes
@pytest.mark.parametrize("limit", ["connect", "deadline"])
def test_a_silent_name_server_is_not_waited_for_longer_than_said(
    runtime: RuntimeName, names: Names, limit: str
) -> None:
    names.awake.clear()
    by_deadline = limit == "deadline"
    begun = time.monotonic()
    with (
        driving(runtime, connect=60.0 if by_deadline else SOON) as driver,
        pytest.raises(TransportTimeoutError) as raised,
    ):
        _ = driver.exchange(named("http://127.0.0.1:9"), seconds=SOON if by_deadline else None)
    assert time.monotonic() - begun < LATE
    assert isinstance(raised.value, DeadlineExceededError) == by_deadline
    assert not raised.value.established


def test_a_cancelled_look_up_ends_at_once_and_goes_on_for_others(names: Names) -> None:
    names.answers = ["127.0.0.1"]
    names.awake.clear()

    async def main(url: str) -> None:
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig(connect=60)))
        gives_up, goes_on = (
            asyncio.create_task(runtime.exchange(named(url), limit=LIMIT)) for _ in range(2)
        )
        await asyncio.sleep(0.05)
        _ = gives_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gives_up
        names.awake.set()
        _ = await goes_on
        await runtime.close()

    with EchoServer() as server:
        asyncio.run(main(server.url))
    assert names.asked == 1


def test_families_take_turns() -> None:
    six = [Address(socket.AF_INET6, 1, 6, (f"::{n}", 0, 0, 0)) for n in range(3)]
    four = [Address(socket.AF_INET, 1, 6, (f"127.0.0.{n}", 0)) for n in range(2)]
    assert in_turns([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert in_turns([four[0], *six, four[0]]) == [four[0], *six]
    assert in_turns([]) == []
    assert six[1].at(443) == ("::1", 443, 0, 0)


@contextmanager
def slow_listener(seconds: float) -> Generator[str]:
    """A server whose backlog is full for so long: the first handshake is only then answered."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        fillers = [stack.enter_context(socket.socket()) for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            _ = filler.connect_ex(address)
        over = threading.Event()

        def serve() -> None:
            _ = over.wait(seconds)
            while not over.is_set():
                if not select.select([listener], [], [], 0.05)[0]:
                    continue
                client = listener.accept()[0]
                with client, suppress(OSError):
                    client.settimeout(0.5)
                    if client.recv(65536):
                        client.sendall(OK)
                        _ = client.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        for filler in fillers:
            filler.close()
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            over.set()
            thread.join()


@both_runtimes
def test_an_address_that_answers_late_is_waited_for_however_many_there_are(
    runtime: RuntimeName, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an eighth of the time for each of eight, none would get the second that it takes."""
    names.answers = [f"127.0.0.{number}" for number in range(1, 9)]
    with slow_listener(0.2) as url, driving(runtime, connect=5) as driver:

        def redirected(*_: object) -> tuple[str, int]:
            return "127.0.0.1", origin_of(url).port

        monkeypatch.setattr(Address, "at", redirected)
        assert driver.exchange(named(url)).body == b"hello"


@both_runtimes
def test_an_address_that_is_silent_holds_nobody_up(
    runtime: RuntimeName, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets to the first are dropped: the second is tried a moment later, and wins."""
    with black_hole() as silent, EchoServer() as server, driving(runtime, connect=30) as driver:
        ports = {"127.0.0.3": origin_of(silent).port, "127.0.0.1": origin_of(server.url).port}

        def redirected(address: Address, port: int) -> tuple[Any, ...]:
            return "127.0.0.1", ports[address.address[0]]

        names.answers = ["127.0.0.3", "127.0.0.1"]
        monkeypatch.setattr(Address, "at", redirected)
        begun = time.monotonic()
        _ = driver.exchange(named(server.url))
        assert time.monotonic() - begun < LATE


@both_runtimes
def test_an_address_that_refuses_is_followed_by_the_next_at_once(
    runtime: RuntimeName, names: Names
) -> None:
    names.answers = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    with EchoServer() as server, driving(runtime) as driver:
        _ = driver.exchange(named(server.url))


def sockets(driver: Driver) -> list[socket.socket]:
    """The sockets that a runtime has open."""
    runtime: Any = driver.runtime
    return [each()._sock for each in runtime.connections.here()._open]


@both_runtimes
@pytest.mark.parametrize(("no_progress", "probes"), [(1, 3), (30, 7), (3600, 127)])
def test_idle_connections_show_that_they_are_alive(
    runtime: RuntimeName, no_progress: float, probes: int
) -> None:
    with (
        ScriptedServer([Receive(), OK]) as server,
        driving(runtime, no_progress=no_progress) as driver,
    ):
        _ = driver.exchange(ask(server.url))
        (sock,) = sockets(driver)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == probes


@both_runtimes
@pytest.mark.parametrize(("seconds", "milliseconds"), [(None, 0), (10, 10_000), (0.0001, 1)])
def test_how_long_sent_bytes_may_go_unacknowledged(
    runtime: RuntimeName, seconds: float | None, milliseconds: int
) -> None:
    settings = {} if seconds is None else {"unacknowledged": seconds}
    with ScriptedServer([Receive(), OK]) as server, driving(runtime, **settings) as driver:
        _ = driver.exchange(ask(server.url))
        (sock,) = sockets(driver)
        option = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert option == milliseconds


@both_runtimes
@pytest.mark.parametrize("end", [Close(), Reset()])
def test_after_a_dead_connection_comes_a_fresh_one(runtime: RuntimeName, end: object) -> None:
    """The ones that were idle for longer may be dead as well, each after a long wait."""
    unused = [Receive(), OK, ClientCloses()]
    dead = [Receive(), OK, Receive(), end]
    with (
        ScriptedServer(unused, dead, [Receive(), OK]) as server,  # pyright: ignore[reportArgumentType]
        driving(runtime) as driver,
    ):
        for fresh in (False, True, False):
            assert driver.exchange(ask(server.url, fresh=fresh)).body == b"hello"
        assert driver.counts() == (0, 1)


@both_runtimes
def test_after_a_silent_connection_those_that_were_idle_as_long_are_not_used(
    runtime: RuntimeName,
) -> None:
    """An endpoint that was moved, a flow that a firewall forgot."""
    unused = [Receive(), OK, ClientCloses()]
    with (
        ScriptedServer(unused, [Receive(), OK, Receive()], [Receive(), OK]) as server,
        driving(runtime, no_progress=SOON) as driver,
    ):
        for fresh in (False, True):
            assert driver.exchange(ask(server.url, fresh=fresh)).body == b"hello"
        with pytest.raises(TransportTimeoutError):
            _ = driver.exchange(ask(server.url))
        assert driver.counts() == (0, 0)
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
def test_a_short_deadline_does_not_empty_the_pool(runtime: RuntimeName) -> None:
    scripts = [[Receive(), OK, Receive(), OK], [Receive(), OK, Receive()]]
    with ScriptedServer(*scripts) as server, driving(runtime) as driver:
        for fresh in (False, True):
            _ = driver.exchange(ask(server.url, fresh=fresh))
        with pytest.raises(DeadlineExceededError):
            _ = driver.exchange(ask(server.url), seconds=0.05)
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_socket_to_be_had_is_a_typed_error(
    runtime: RuntimeName, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    with ScriptedServer([Receive(), OK]) as server, driving(runtime) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            with pytest.raises(TransportConnectionError, match=os.strerror(number)) as raised:
                _ = driver.exchange(ask(server.url))
        assert not raised.value.established
        assert driver.counts() == (0, 0)
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
def test_no_memory_for_a_connection_leaves_the_pool_right(
    runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    with ScriptedServer([ClientCloses()], [Receive(), OK]) as server, driving(runtime) as driver:
        with monkeypatch.context() as patch:
            patch.setattr("blockyard.transport.connection.bytearray", no_memory, raising=False)
            with pytest.raises(MemoryError):
                _ = driver.exchange(ask(server.url))
        assert driver.counts() == (0, 0)
        assert driver.exchange(ask(server.url)).body == b"hello"


class LateError(TimeoutError):
    pass


@pytest.mark.parametrize(
    "raised", [LateError(), KeyboardInterrupt("^C"), SystemExit(3), ValueError()]
)
def test_what_a_signal_handler_raises_as_an_address_is_looked_at_is_raised(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    """An address needs no thread. A `TimeoutError` was taken for the look-up's, and tried again;
    of others a copy was raised."""

    def interrupted(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(socket, "getaddrinfo", interrupted)
    with driving("blocking") as driver, pytest.raises(type(raised)) as caught:
        _ = driver.exchange(ask("http://127.0.0.1:9"))
    assert caught.value is raised


def test_no_thread_for_a_look_up_is_a_typed_error(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    names.answers = ["127.0.0.1"]
    with EchoServer() as server, driving("blocking") as driver:
        with monkeypatch.context() as patch:
            patch.setattr("blockyard.transport.threads.start_thread", none_left)
            patch.setattr(resolving, "_threads", resolving.Threads())
            with pytest.raises(TransportError, match="no thread could be started"):
                _ = driver.exchange(named(server.url))
        _ = driver.exchange(named(server.url))


def test_hosts_that_are_not_used_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of very many buckets, whose names are in that of the host."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    monkeypatch.setattr(resolving, "_KEPT", 0.0)
    monkeypatch.setattr(resolving, "_MOST", 10)
    monkeypatch.setattr(resolving, "_look_ups", {})
    for number in range(100):
        assert resolving.look_up(f"bucket-{number}.host.test").result() == []
    assert len(resolving._look_ups) <= 11
