"""The blocking runtime: shared by threads, interrupted, closed; and that no place is ever lost."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Request
from blockyard.errors import DeadlineExceededError, StoreClosedError
from blockyard.model import MIB
from blockyard.testing.scripted import Receive, ScriptedServer
from blockyard.transport import connections as transport_connections
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connection import Connection
from blockyard.transport.connections import ConnectionPool, Connections
from blockyard.transport.memory import receivable
from blockyard.transport.pool import Take
from blockyard.transport.timeouts import Timeouts
from tests.transport.runtimes import (
    HOLDER,
    LIMIT,
    OK,
    EchoServer,
    Holder,
    ask,
    black_hole,
    echo,
    eventually,
    no_new_descriptors,
)


@pytest.fixture(autouse=True)
def _waiters_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these tests passes because who waits for a slot looks for itself."""
    monkeypatch.setattr(transport_connections, "_LOOK_AGAIN", 3600.0)


@contextmanager
def runtime(http: HttpConfig | None = None, **timeouts: float) -> Generator[BlockingRuntime]:
    """A runtime that leaves no socket and no taken place behind."""
    with no_new_descriptors():
        runtime = BlockingRuntime(Connections(http or HttpConfig(), TimeoutConfig(**timeouts)))
        try:
            yield runtime
            assert pool(runtime).counts()[0] == 0
        finally:
            runtime.close()


def pool(runtime: BlockingRuntime) -> ConnectionPool:
    return runtime.connections.here()


def exchange(runtime: BlockingRuntime, request: Request, deadline: float | None = None) -> bytes:
    return run_to_end(runtime.exchange(request, limit=LIMIT, deadline=deadline)).body


def test_threads_get_each_their_own_bytes_over_a_few_connections() -> None:
    http = HttpConfig(max_connections=8)

    def work(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - to be repeatable
        for step in range(10):
            target, body = f"/{number}/{step}", chance.randbytes(chance.randrange(3_000))
            assert exchange(shared, ask(server.url, "PUT", body, target)) == echo(target, body)

    with EchoServer() as server, runtime(http) as shared, ThreadPoolExecutor(32) as threads:
        _ = list(threads.map(work, range(32)))
        assert server.connections <= 8
        assert pool(shared).counts()[0] == 0


def test_requests_over_the_limit_wait_for_a_place() -> None:
    http = HttpConfig(max_connections=3)
    with EchoServer(delay=0.01) as server, runtime(http) as shared:
        requests = [ask(server.url, target=f"/{number}") for number in range(30)]
        with ThreadPoolExecutor(30) as threads:
            bodies = list(threads.map(lambda request: exchange(shared, request), requests))
        assert bodies == [echo(request.target) for request in requests]
        assert server.most_at_once == 3


def test_the_deadline_ends_waiting_for_a_slot() -> None:
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
    request = ask("http://127.0.0.1:9")
    assert pool(shared)._pool.take(request.origin, HOLDER, 0)
    with pytest.raises(DeadlineExceededError):
        _ = exchange(shared, request, time.monotonic() + 0.05)
    assert pool(shared).counts() == (1, 0)


def test_a_slot_that_an_exception_left_taken_is_found_by_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody gives it back, and nobody wakes: its call has ended."""
    monkeypatch.setattr(transport_connections, "_LOOK_AGAIN", 0.01)
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
    with EchoServer() as server:
        request = ask(server.url)
        holders = [Holder()]
        assert pool(shared)._pool.take(request.origin, holders[0], 0)
        ending = threading.Thread(
            target=lambda: eventually(lambda: waiting(shared) == 1) and holders.clear()
        )
        ending.start()
        assert exchange(shared, request) == echo(request.target)
        ending.join()
        assert (waiting(shared), pool(shared).counts()) == (0, (0, 1))
        shared.close()


class _GivesUpOnceWoken(Timeouts):
    """A deadline that passes just as the wait for a slot has ended."""

    def __init__(self, end: BaseException) -> None:
        super().__init__(60, None)
        self._end = end

    def wait(self) -> float:
        raise self._end


@pytest.mark.parametrize("end", [DeadlineExceededError("too late"), KeyboardInterrupt()])
def test_a_waiter_that_gives_up_as_it_is_woken_wakes_the_next(end: BaseException) -> None:
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
    with EchoServer() as server:
        request = ask(server.url)
        assert pool(shared)._pool.take(request.origin, HOLDER, 0)

        def give_up() -> None:
            with pytest.raises(type(end)):
                _ = take(shared, request, Holder(), _GivesUpOnceWoken(end))

        def get_it() -> None:
            holder = Holder()
            connection = take(shared, request, holder, Timeouts(60, None))
            pool(shared).release(request.origin, holder, connection, keep=False)

        waiters = [threading.Thread(target=each, daemon=True) for each in (give_up, get_it)]
        for number, waiter in enumerate(waiters, 1):
            waiter.start()
            assert eventually(lambda number=number: waiting(shared) == number)
        pool(shared)._give_up(request.origin, HOLDER, Take.OPEN)
        for waiter in waiters:
            waiter.join(10)
            assert not waiter.is_alive()
        assert pool(shared).counts() == (0, 0)


def take(
    runtime: BlockingRuntime, request: Request, holder: Holder, timeouts: Timeouts
) -> Connection:
    return run_to_end(pool(runtime).take(request, holder, timeouts, runtime._poller()))


def waiting(runtime: BlockingRuntime) -> int:
    return sum(map(len, pool(runtime)._waiting.values()))


def interrupt_when(condition: Callable[[], bool]) -> threading.Thread:
    """Interrupt the main thread, as Ctrl-C does, a moment after `condition` holds."""

    def wait_and_interrupt() -> None:
        assert eventually(condition)
        time.sleep(0.05)  # for the main thread to be back in its system call
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=wait_and_interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("sent", "method"),
    [
        ([], "GET"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "GET"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000], "GET"),
        ([], "PUT"),
    ],
)
def test_an_interrupted_exchange_leaves_nothing_behind(sent: list[bytes], method: str) -> None:
    body = bytes(32 * MIB) if method == "PUT" else b""
    script = [Receive(body=False), *sent]
    with runtime() as shared, ScriptedServer(script, [Receive(), OK]) as server:
        interrupter = interrupt_when(lambda: len(server.requests) == 1)
        with pytest.raises(KeyboardInterrupt):
            _ = exchange(shared, ask(server.url, method, body))
        interrupter.join()
        assert pool(shared).counts() == (0, 0)
        assert exchange(shared, ask(server.url)) == b"hello"


def test_an_interrupt_while_connecting_leaves_nothing_behind() -> None:
    with runtime(connect=60) as shared, black_hole() as url:
        interrupter = interrupt_when(lambda: pool(shared).counts() == (1, 0))
        with pytest.raises(KeyboardInterrupt):
            _ = exchange(shared, ask(url))
        interrupter.join()
        assert pool(shared).counts() == (0, 0)


def test_an_interrupt_while_waiting_for_a_slot_leaves_nothing_behind() -> None:
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
    request = ask("http://127.0.0.1:9")
    assert pool(shared)._pool.take(request.origin, HOLDER, 0)
    interrupter = interrupt_when(lambda: waiting(shared) == 1)
    with pytest.raises(KeyboardInterrupt):
        _ = exchange(shared, request)
    interrupter.join()
    assert waiting(shared) == 0
    assert pool(shared).counts() == (1, 0)


def test_closing_lets_requests_under_way_finish_and_begins_no_others() -> None:
    with EchoServer(delay=0.2) as server, no_new_descriptors():
        shared = BlockingRuntime(Connections(HttpConfig(max_connections=2), TimeoutConfig()))

        def attempt(number: int) -> bytes | type[Exception]:
            try:
                return exchange(shared, ask(server.url, target=f"/{number}"))
            except StoreClosedError as error:
                return type(error)

        with ThreadPoolExecutor(4) as threads:
            outcomes = [threads.submit(attempt, number) for number in range(4)]
            assert eventually(lambda: server.most_at_once == 2 and waiting(shared) == 2)
            shared.close()
        results = [outcome.result() for outcome in outcomes]
        assert results.count(StoreClosedError) == 2
        assert sum(results.count(echo(f"/{number}")) for number in range(4)) == 2
        assert pool(shared).counts() == (0, 0)
        assert server.wait_until_drained()
        with pytest.raises(StoreClosedError):
            _ = exchange(shared, ask(server.url))


def test_what_is_waited_for_in_a_system_call_goes_on_after_a_harmless_signal() -> None:
    """A handler that returns: the receive is taken up again, and loses nothing."""
    half = b"x" * 100_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"
    go_on = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: go_on.set())
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                client, _ = listener.accept()
                with client:
                    _ = client.recv(65536)
                    client.sendall(head + half)
                    time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    assert go_on.wait(10)
                    client.sendall(half)

            server = threading.Thread(target=serve)
            server.start()
            with runtime() as shared:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                assert exchange(shared, ask(url)) == half + half
            server.join()
    finally:
        _ = signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("size", [2, 3, 65_536, 4 * MIB])
def test_receivable_memory_is_ordinary_bytes_once_filled(size: int) -> None:
    pieces = [receivable(size) for _ in range(3)]
    for number, (_, view) in enumerate(pieces):
        assert (len(view), view.readonly, view.format) == (size, False, "B")
        view[:] = bytes([number]) * size
    for number, (block, _) in enumerate(pieces):
        assert type(block) is bytes
        assert block == bytes([number]) * size
        assert hash(block) == hash(bytes([number]) * size)
        assert {block: 1}[bytes([number]) * size] == 1


@pytest.mark.parametrize("size", [0, 1])
def test_receivable_memory_is_never_an_object_that_python_shares(size: int) -> None:
    with pytest.raises(ValueError, match="two bytes"):
        _ = receivable(size)


def test_interrupts_at_any_moment_leave_a_runtime_that_works() -> None:
    """One may come between any two steps, also those of taking and giving back the lock."""
    storm = subprocess.run(
        [sys.executable, "-m", "tests.transport.storm_of_interrupts"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert storm.returncode == 0, storm.stderr[-4000:]
