"""Every wait of the transport ends in its time, whatever else goes on in the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Hedge
from blockyard.errors import DeadlineExceededError, TransportTimeoutError
from blockyard.model import KIB, MIB
from blockyard.testing.scripted import Pause, Receive, ScriptedServer
from blockyard.transport import connection as transport_connection
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connection import Connection
from blockyard.transport.connections import Connections
from blockyard.transport.http1 import ReplyReader
from tests.transport.runtimes import (
    HOLDER,
    LIMIT,
    OK,
    Peer,
    RuntimeName,
    ask,
    black_hole,
    both_runtimes,
    driving,
)

SOON = 0.3
"""Seconds until the limits of these tests strike."""
TICK = 0.02
"""Seconds between two signals: each comes well before a limit that it must not put off."""
TICKS = 1000
"""After so many, a wait that should have ended `SOON` is given up."""


@contextmanager
def signals() -> Generator[None]:
    """A signal handler that runs every `TICK` on the main thread, as a profiler's does."""
    seen = 0

    def handle(*_: object) -> None:
        nonlocal seen
        seen += 1
        assert seen < TICKS, "no limit ended the wait"

    before = signal.signal(signal.SIGALRM, handle)
    try:
        _ = signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        yield
    finally:
        _ = signal.setitimer(signal.ITIMER_REAL, 0)
        _ = signal.signal(signal.SIGALRM, before)
    assert seen  # on a busy machine one may stand for many


@contextmanager
def silent_after(*sent: bytes) -> Generator[str]:
    """A server that says `sent`, each part after it has received something, and then nothing."""
    over = threading.Event()

    def talk(client: socket.socket) -> None:
        for part in sent:
            _ = client.recv(64 * KIB)
            client.sendall(part)
        _ = over.wait(60)

    with Peer(talk) as peer:
        try:
            yield f"http://127.0.0.1:{peer.port}"
        finally:
            over.set()


def https(server: AbstractContextManager[str]) -> AbstractContextManager[str]:
    @contextmanager
    def renamed() -> Generator[str]:
        with server as url:
            yield url.replace("http:", "https:")

    return renamed()


WAITS: dict[str, tuple[Callable[[], AbstractContextManager[str]], bytes]] = {
    "for a connection": (black_hole, b""),
    "for a TLS handshake": (lambda: https(silent_after()), b""),
    "for a reply": (silent_after, b""),
    "for the rest of a head": (lambda: silent_after(b"HTTP/1.1 200 OK\r\n"), b""),
    "for the rest of a large body": (
        lambda: silent_after(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 99_999),
        b"",
    ),
    "for room to send": (silent_after, bytes(32 * MIB)),
}


@pytest.mark.parametrize("limit", ["deadline", "timeout"])
@pytest.mark.parametrize("wait", WAITS)
def test_signals_put_off_no_limit(wait: str, limit: str) -> None:
    server, body = WAITS[wait]
    by_deadline = limit == "deadline"
    seconds = 60.0 if by_deadline else SOON
    with (
        driving("blocking", connect=seconds, no_progress=seconds) as driver,
        server() as url,
        signals(),
        pytest.raises(Exception, match=r"deadline|for 0\.3 s") as raised,
    ):
        _ = driver.exchange(ask(url, "PUT", body), seconds=SOON if by_deadline else None)
    error = getattr(raised.value, "cause", raised.value)
    assert isinstance(error, DeadlineExceededError if by_deadline else TransportTimeoutError)


def test_signals_put_off_no_wait_for_a_place() -> None:
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
    request = ask("http://127.0.0.1:9")
    assert shared.connections.here()._pool.take(request.origin, HOLDER, 0)
    with signals(), pytest.raises(DeadlineExceededError):
        _ = run_to_end(shared.exchange(request, limit=LIMIT, deadline=shared.now() + SOON))


def test_signals_put_off_no_hedged_read() -> None:
    hedge = Hedge(SOON / 3, lambda: True, lambda: None)
    with (
        driving("blocking", no_progress=SOON) as driver,
        silent_after() as url,
        signals(),
        pytest.raises(TransportTimeoutError),
    ):
        _ = driver.run(driver.runtime.exchange(ask(url), limit=LIMIT, hedge=hedge))


def test_a_mark_does_not_outlive_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body's last bytes come while its reader waits to be woken for many."""
    monkeypatch.setattr(transport_connection, "_LOW_WATER", 16 * KIB)
    body = bytes(48 * KIB)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    script = [Receive(), head, Pause(0.2), body]
    with ScriptedServer(script) as server:
        shared = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
        assert run_to_end(shared.exchange(ask(server.url), limit=LIMIT)).body == body
        (connection,) = [each() for each in shared.connections.here()._open]
        assert connection is not None
        assert isinstance(connection._sock, socket.socket)
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        shared.close()


@both_runtimes
@pytest.mark.parametrize("status", [b"403 Forbidden", b"413 Content Too Large"])
def test_an_error_response_is_read_while_the_body_is_being_sent(
    runtime: RuntimeName, status: bytes
) -> None:
    """The server reads no more, and does not close: only a look at its reply ends the sending."""
    refused = b"HTTP/1.1 %b\r\nContent-Length: 8\r\n\r\n<Error/>" % status
    with driving(runtime, no_progress=60) as driver, silent_after(refused) as url:
        response = driver.exchange(ask(url, "PUT", bytes(32 * MIB)))
        assert (response.status, response.body) == (int(status[:3]), b"<Error/>")
        assert driver.counts() == (0, 0)


@both_runtimes
def test_a_success_that_begins_before_the_body_was_sent_does_not_end_the_sending(
    runtime: RuntimeName,
) -> None:
    size = 16 * MIB
    received = 0

    def talk(client: socket.socket) -> None:
        nonlocal received
        received = len(client.recv(MIB)) - len(HEAD)
        client.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" + OK[:-5])
        while received < size and (more := client.recv(MIB)):
            received += len(more)
        client.sendall(OK[-5:])

    with Peer(talk) as peer, driving(runtime) as driver:
        request = ask(f"http://127.0.0.1:{peer.port}", "PUT", bytes(size))
        assert driver.exchange(request).body == b"hello"
    assert received == size


HEAD = b"PUT /b/k HTTP/1.1\r\nhost: test\r\ncontent-length: 16777216\r\n\r\n"


@both_runtimes
def test_clocks_that_a_test_has_frozen_are_not_gone_by(
    runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As freezegun does: `time`'s functions stand still, also those that modules have imported."""
    with ScriptedServer([Receive(), OK]) as server, driving(runtime) as driver:
        for name in ("monotonic", "time", "perf_counter"):
            monkeypatch.setattr(time, name, lambda: 1.0)
        try:
            deadline = driver.runtime.now() + 60
            exchange = driver.runtime.exchange(ask(server.url), limit=LIMIT, deadline=deadline)
            assert driver.run(exchange).body == b"hello"
            assert driver.runtime.wall_time() > 1e9
        finally:
            monkeypatch.undo()


def test_a_deadline_ends_a_call_while_clocks_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    with driving("blocking") as driver, silent_after() as url:
        monkeypatch.setattr(time, "monotonic", lambda: 1.0)
        deadline = driver.runtime.now() + SOON
        with pytest.raises(DeadlineExceededError):
            _ = driver.run(driver.runtime.exchange(ask(url), limit=LIMIT, deadline=deadline))
        monkeypatch.undo()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_time_passes_while_the_machine_is_suspended() -> None:
    """A process whose machine slept a day: CLOCK_MONOTONIC stood still, CLOCK_BOOTTIME did not."""
    program = (
        "import time; from blockyard.transport.clock import monotonic;"
        "print(monotonic() - time.clock_gettime(time.CLOCK_MONOTONIC))"
    )
    slept = ["unshare", "--time", "--fork", "--boottime", "86400"]
    apart = float(subprocess.check_output([*slept, sys.executable, "-c", program]))
    assert apart > 86_000


@both_runtimes
@pytest.mark.parametrize("place", ["head", "sending"])
def test_an_unexpected_error_ends_its_exchange_as_it_is(
    runtime: RuntimeName, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in a callback of the loop, for one: nobody waits for a timeout then."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    with driving(runtime, no_progress=60) as driver, silent_after(OK) as url:
        with monkeypatch.context() as patch:
            patch.setattr(
                *((ReplyReader, "feed") if place == "head" else (Connection, "_send_some")),
                no_memory,
            )
            with pytest.raises(MemoryError):
                _ = driver.exchange(ask(url))
        assert driver.counts() == (0, 0)


@both_runtimes
def test_an_unexpected_error_while_there_is_more_to_send(
    runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Connection._send_some
    calls = 0

    def fail_later(connection: Connection, parts: list[bytes | memoryview]) -> bool:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise MemoryError
        return send(connection, parts)

    def slow(client: socket.socket) -> None:
        time.sleep(0.2)
        while client.recv(MIB):
            pass

    with Peer(slow) as peer, driving(runtime, no_progress=60) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_send_some", fail_later)
            with pytest.raises(MemoryError):
                _ = driver.exchange(ask(f"http://127.0.0.1:{peer.port}", "PUT", bytes(32 * MIB)))
        assert driver.counts() == (0, 0)
