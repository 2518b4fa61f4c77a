"""Large bodies under an event loop: received on threads of their own, whatever ends them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Response
from blockyard.errors import (
    DeadlineExceededError,
    IncompleteBodyError,
    StoreClosedError,
    TransportTimeoutError,
)
from blockyard.model import KIB, MIB
from blockyard.testing.scripted import ClientCloses, Close, Pause, Receive, ScriptedServer
from blockyard.transport import aio, connection
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from tests.transport.runtimes import LIMIT, OK, ask

BODY = os.urandom(4 * MIB)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
PART = 1 * MIB + 5
WHOLE = [Receive(), HEAD + BODY]
STALLED = [Receive(), HEAD + BODY[:PART], ClientCloses()]


def runtime(**timeouts: float) -> AsyncioRuntime:
    return AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig(**timeouts)))


@contextmanager
def noted_threads(monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """The threads that large bodies are received on, one for each piece."""
    threads: list[int] = []
    take = connection.Connection.take

    def noted(self: connection.Connection, reply: Any) -> bool:
        if reply.destination is not None:
            threads.append(threading.get_ident())
        return take(self, reply)

    with monkeypatch.context() as patched:
        patched.setattr(connection.Connection, "take", noted)
        yield threads


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - what it waits for is set by another thread
            await asyncio.sleep(0.01)


async def some_came(into: bytearray) -> None:
    """Until some of `BODY` has come: the last before a pause waits for the low-water mark."""
    await until(lambda: into[:KIB] == BODY[:KIB])


def test_it_is_received_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        http = runtime()
        response = await http.exchange(ask(server.url), limit=LIMIT)
        assert response.body == BODY
        into = bytearray(len(BODY))
        response = await http.exchange(ask(server.url), limit=LIMIT, into=memoryview(into))
        assert (into, response.size) == (BODY, len(BODY))
        await http.close()

    with noted_threads(monkeypatch) as threads, ScriptedServer(WHOLE * 2) as server:
        asyncio.run(main())
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("reason", ["all at work", "none to be had"])
def test_where_no_thread_is_free_the_loops_own_receives(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "all at work":
        monkeypatch.setattr(aio, "_MOST_RECEIVERS", 0)

    def none_to_be_had(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        http = runtime()
        if reason == "none to be had":
            _ = await http.exchange(ask(server.url), limit=LIMIT)  # which looks a name up
            monkeypatch.setattr("blockyard.transport.threads.start_thread", none_to_be_had)
        response = await http.exchange(ask(server.url), limit=LIMIT)
        assert response.body == BODY
        await http.close()

    script = [Receive(), OK, *WHOLE] if reason == "none to be had" else WHOLE
    with noted_threads(monkeypatch) as threads, ScriptedServer(script) as server:
        asyncio.run(main())
    assert set(threads) == {threading.get_ident()}


def test_more_than_there_are_threads_for_are_all_received() -> None:
    count = 3 * aio._MOST_RECEIVERS

    async def main() -> None:
        http = runtime()
        reads = [http.exchange(ask(server.url), limit=LIMIT) for _ in range(count)]
        responses = await asyncio.gather(*reads)
        assert all(response.body == BODY for response in responses)
        await http.close()

    with ScriptedServer(*[WHOLE] * count) as server:
        asyncio.run(main())


def test_cancelled_it_lets_go_of_the_callers_buffer_before_it_ends() -> None:
    async def main() -> None:
        http = runtime()
        into = bytearray(len(BODY))
        read = http.exchange(ask(server.url), limit=LIMIT, into=memoryview(into))
        task = asyncio.create_task(read)
        await some_came(into)
        begun = time.monotonic()
        _ = task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 10, "it waited for the service"
        pool = http.connections.here()
        assert pool.counts() == (0, 0)
        assert set(pool.loop_threads.values()) == {threading.get_ident()}, "it is received still"
        await http.close()

    with ScriptedServer(STALLED) as server:
        asyncio.run(main())


def test_closed_meanwhile_it_raises_that() -> None:
    async def main() -> None:
        http = runtime()
        into = bytearray(len(BODY))
        read = http.exchange(ask(server.url), limit=LIMIT, into=memoryview(into))
        task = asyncio.create_task(read)
        await some_came(into)
        await http.close()
        with pytest.raises(StoreClosedError):
            _ = await task

    with ScriptedServer(STALLED) as server:
        asyncio.run(main())


@pytest.mark.parametrize("limit", ["deadline", "timeout"])
def test_its_time_limits_hold(limit: str) -> None:
    """The last bytes don't reach the low-water mark: they are taken when the time is over."""

    async def main() -> None:
        http = runtime() if limit == "deadline" else runtime(no_progress=0.3)
        deadline = http.now() + 0.3 if limit == "deadline" else None
        with pytest.raises(IncompleteBodyError) as raised:
            _ = await http.exchange(ask(server.url), limit=LIMIT, deadline=deadline)
        error = raised.value
        assert (error.received, error.partial) == (PART, BODY[:PART])
        kind = DeadlineExceededError if limit == "deadline" else TransportTimeoutError
        assert isinstance(error.cause, kind)
        await http.close()

    last = 5
    came = [HEAD + BODY[: PART - last], Pause(0.05), BODY[PART - last : PART]]
    with ScriptedServer([Receive(), *came, ClientCloses()]) as server:
        asyncio.run(main())


def test_what_has_come_of_a_body_that_breaks_off_is_kept() -> None:
    async def main() -> None:
        http = runtime()
        with pytest.raises(IncompleteBodyError) as raised:
            _ = await http.exchange(ask(server.url), limit=LIMIT)
        assert raised.value.partial == BODY[:PART]
        await http.close()

    with ScriptedServer([Receive(), HEAD + BODY[:PART], Close()]) as server:
        asyncio.run(main())


def test_a_call_out_of_a_finalizer_there_waits_for_no_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one slot is held by the exchange that it interrupts, which it would wait for."""
    connections = Connections(HttpConfig(max_connections=1), TimeoutConfig())
    nested: list[Response] = []
    take = connection.Connection.take

    def interrupted(self: connection.Connection, reply: Any) -> bool:
        if reply.destination is not None and not nested:
            within = BlockingRuntime(connections)
            nested.append(run_to_end(within.exchange(ask(server.url), limit=64 * KIB)))
            within.close()
        return take(self, reply)

    monkeypatch.setattr(connection.Connection, "take", interrupted)

    async def main() -> None:
        http = AsyncioRuntime(connections)
        async with asyncio.timeout(20):
            response = await http.exchange(ask(server.url), limit=LIMIT)
        assert response.body == BODY
        await http.close()

    with ScriptedServer([Receive(), HEAD, Pause(0.05), BODY], [Receive(), OK]) as server:
        asyncio.run(main())
    assert [response.body for response in nested] == [b"hello"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio refuses its tasks in a child")
def test_a_forked_child_that_gives_it_up_leaves_the_parents_connection_alone() -> None:
    async def main() -> None:
        http = runtime()
        into = bytearray(len(BODY))
        read = http.exchange(ask(server.url), limit=LIMIT, into=memoryview(into))
        task = asyncio.create_task(read)
        await some_came(into)
        child = os.fork()
        if child == 0:
            _ = task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os._exit(0 if task.cancelled() else 1)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
        assert os.waitstatus_to_exitcode(status) == 0
        let_go.set()
        response = await task
        assert (response.size, into) == (len(BODY), BODY)
        await http.close()

    let_go = threading.Event()

    class UntilLetGo(Pause):
        async def play(self, client: Any) -> None:
            _ = await asyncio.to_thread(let_go.wait, 20)

    script = [Receive(), HEAD + BODY[:PART], UntilLetGo(0), BODY[PART:]]
    with ScriptedServer(script) as server:
        asyncio.run(main())
