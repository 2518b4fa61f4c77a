"""The asyncio runtime: cancelled anywhere, over several loops, closed; no place is ever lost."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Origin, Request
from blockyard.errors import (
    BlockStoreError,
    DeadlineExceededError,
    StoreClosedError,
    TransportConnectionError,
)
from blockyard.model import MIB
from blockyard.testing.scripted import Receive, ScriptedServer
from blockyard.transport import connections as transport_connections
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connection import Connection
from blockyard.transport.connections import Connections
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.pool import Take
from blockyard.transport.timeouts import Timeouts
from tests.authority import Authority
from tests.transport.runtimes import (
    HOLDER,
    LIMIT,
    OK,
    EchoServer,
    Holder,
    Peer,
    ask,
    black_hole,
    echo,
    no_new_descriptors,
)


@pytest.fixture(autouse=True)
def _waiters_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these tests passes because who waits for a slot looks for itself."""
    monkeypatch.setattr(transport_connections, "_LOOK_AGAIN", 3600.0)


@asynccontextmanager
async def runtime(
    http: HttpConfig | None = None, **timeouts: float
) -> AsyncGenerator[AsyncioRuntime, None]:
    """A runtime that leaves no socket and no taken place behind."""
    with no_new_descriptors():
        runtime = AsyncioRuntime(Connections(http or HttpConfig(), TimeoutConfig(**timeouts)))
        try:
            yield runtime
            assert counts(runtime)[0] == 0
        finally:
            await runtime.close()
            await asyncio.sleep(0)


def counts(runtime: AsyncioRuntime) -> tuple[int, int]:
    return runtime.connections.here().counts()


async def exchange(
    runtime: AsyncioRuntime, request: Request, deadline: float | None = None
) -> bytes:
    return (await runtime.exchange(request, limit=LIMIT, deadline=deadline)).body


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.002)


async def cancelled(task: asyncio.Task[Any]) -> None:
    _ = task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_tasks_get_each_their_own_bytes_over_a_few_connections() -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=8)) as shared:

            async def work(number: int) -> None:
                for step in range(10):
                    target, body = f"/{number}/{step}", bytes([number]) * number * step
                    request = ask(server.url, "PUT", body, target)
                    assert await exchange(shared, request) == echo(target, body)

            _ = await asyncio.gather(*map(work, range(64)))
            assert server.connections <= 8

    with EchoServer() as server:
        asyncio.run(main())


def test_requests_over_the_limit_wait_for_a_slot() -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=3)) as shared:
            requests = [ask(server.url, target=f"/{number}") for number in range(30)]
            bodies = await asyncio.gather(*(exchange(shared, request) for request in requests))
            assert bodies == [echo(request.target) for request in requests]
            assert server.most_at_once == 3

    with EchoServer(delay=0.01) as server:
        asyncio.run(main())


ORIGIN = Origin("http", "127.0.0.1", 9)


def test_the_deadline_ends_waiting_for_a_slot() -> None:
    async def main() -> None:
        shared = AsyncioRuntime(Connections(HttpConfig(max_connections=1), TimeoutConfig()))
        assert shared.connections.here()._pool.take(ORIGIN, HOLDER, 0)
        with pytest.raises(DeadlineExceededError):
            _ = await exchange(shared, ask("http://127.0.0.1:9"), time.monotonic() + 0.05)
        assert counts(shared) == (1, 0)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["deadline", "cancellation", "a deadline that was past"])
def test_a_waiter_that_gives_up_as_it_is_woken_wakes_the_next(end: str) -> None:
    """The slot is given to it in the same turn of the loop in which it gives up."""

    async def main() -> None:
        async with runtime(HttpConfig(max_connections=1)) as shared:
            pool, poller = shared.connections.here(), shared._poller()
            request = ask(server.url)
            assert pool._pool.take(request.origin, HOLDER, 0)
            holders = Holder(), Holder()
            soon = None if end == "cancellation" else time.monotonic() + 0.03
            gives_up = asyncio.create_task(
                pool.take(request, holders[0], Timeouts(60, soon), poller)
            )
            next_one = asyncio.create_task(
                pool.take(request, holders[1], Timeouts(60, None), poller)
            )
            await asyncio.sleep(0)

            def give_back() -> None:
                pool._give_up(request.origin, HOLDER, Take.OPEN)

            if end == "cancellation":
                give_back()
                _ = gives_up.cancel()
            elif end == "deadline":
                time.sleep(0.05)  # noqa: ASYNC251 - so that the timer is due in the next turn
                _ = asyncio.get_running_loop().call_soon(give_back)
            else:
                give_back()
                time.sleep(0.05)  # noqa: ASYNC251 - woken in time, but it runs too late
            async with asyncio.timeout(10):
                with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
                    _ = await gives_up
                connection = await next_one
            pool.release(request.origin, holders[1], connection, keep=False)

    with EchoServer() as server:
        asyncio.run(main())


def test_no_wakeup_is_lost_among_waiters_that_come_and_go() -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=2)) as shared:

            async def hurried(number: int) -> None:
                for step in range(20):
                    deadline = time.monotonic() + 0.0005 * ((number + step) % 7)
                    try:
                        _ = await exchange(shared, ask(server.url), deadline)
                    except (BlockStoreError, TimeoutError):
                        continue

            async def impatient(number: int) -> None:
                for step in range(20):
                    task = asyncio.create_task(exchange(shared, ask(server.url)))
                    await asyncio.sleep(0.0003 * ((number * 3 + step) % 5))
                    _ = task.cancel()
                    _ = await asyncio.wait([task])

            async def steady(number: int) -> None:
                for step in range(20):
                    target = f"/{number}/{step}"
                    assert await exchange(shared, ask(server.url, target=target)) == echo(target)

            async with asyncio.timeout(30):
                kinds = (hurried, impatient, steady)
                _ = await asyncio.gather(*(kinds[number % 3](number) for number in range(24)))
            assert counts(shared)[0] == 0

    with EchoServer() as server:
        asyncio.run(main())


def test_cancelled_while_connecting() -> None:
    async def main() -> None:
        async with runtime() as shared:
            with black_hole() as url:
                task = asyncio.create_task(exchange(shared, ask(url)))
                await reached(lambda: counts(shared) == (1, 0))
                await asyncio.sleep(0.02)  # past the resolver
                await cancelled(task)
            assert counts(shared) == (0, 0)

    asyncio.run(main())


def test_cancelled_while_shaking_hands(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("endpoint"))
    heard = threading.Event()

    def talk(client: socket.socket) -> None:
        if heard.is_set():
            with context.wrap_socket(client, server_side=True) as tls:
                _ = tls.recv(65536)
                tls.sendall(OK)
                _ = tls.recv(1)
        _ = client.recv(65536)
        heard.set()
        while client.recv(65536):
            pass

    async def main() -> None:
        async with runtime(HttpConfig(ca_bundle=str(authority.bundle))) as shared:
            task = asyncio.create_task(exchange(shared, ask(url)))
            await reached(heard.is_set)
            await cancelled(task)
            assert counts(shared) == (0, 0)
            assert await exchange(shared, ask(url)) == b"hello"

    with Peer(talk) as server:
        url = f"https://127.0.0.1:{server.port}"
        asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "method"),
    [
        ([], "GET"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "GET"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000], "GET"),
        ([], "PUT"),
    ],
)
def test_a_cancelled_exchange_leaves_nothing_behind(sent: list[bytes], method: str) -> None:
    body = bytes(32 * MIB) if method == "PUT" else b""

    async def main() -> None:
        async with runtime() as shared:
            with ScriptedServer([Receive(body=False), *sent], [Receive(), OK]) as server:
                task = asyncio.create_task(exchange(shared, ask(server.url, method, body)))
                await reached(lambda: len(server.requests) == 1)
                await asyncio.sleep(0.02)  # for what was sent to have come
                await cancelled(task)
                assert counts(shared) == (0, 0)
                assert await exchange(shared, ask(server.url)) == b"hello"

    asyncio.run(main())


def test_cancelled_while_waiting_for_a_slot() -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=1)) as shared:
            first = asyncio.create_task(exchange(shared, ask(server.url, target="/first")))
            second = asyncio.create_task(exchange(shared, ask(server.url, target="/second")))
            third = asyncio.create_task(exchange(shared, ask(server.url, target="/third")))
            await reached(lambda: server.most_at_once == 1)
            await cancelled(second)
            assert await first == echo("/first")
            assert await third == echo("/third")
            assert counts(shared) == (0, 1)

    with EchoServer(delay=0.02) as server:
        asyncio.run(main())


def test_a_task_cancelled_as_its_reply_is_complete_leaves_a_usable_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An early answer: the rest of the request's body must not go out before the next request."""
    tasks: list[asyncio.Task[bytes]] = []
    take = Connection.take

    def take_and_cancel(self: Connection, reply: ReplyReader) -> bool:
        taken = take(self, reply)
        _ = tasks.pop().cancel() if tasks and reply.complete else None
        return taken

    monkeypatch.setattr(Connection, "take", take_and_cancel)

    async def main() -> None:
        async with runtime() as shared:
            body = bytes(32 * MIB)
            scripts = [[Receive(body=False), OK], [Receive(), OK]]
            with ScriptedServer(*scripts) as server:
                task = asyncio.create_task(exchange(shared, ask(server.url, "PUT", body)))
                tasks.append(task)
                _ = await asyncio.wait([task])
                assert task.cancelled()
                assert await exchange(shared, ask(server.url)) == b"hello"

    asyncio.run(main())


def test_a_runtime_outlives_its_loop() -> None:
    with EchoServer() as server, no_new_descriptors():
        shared = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        for number in range(3):
            target = f"/{number}"
            assert asyncio.run(exchange(shared, ask(server.url, target=target))) == echo(target)
        asyncio.run(shared.close())


def test_two_loops_in_two_threads_share_a_runtime() -> None:
    shared = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))

    async def work(name: str) -> None:
        for step in range(50):
            targets = [f"/{name}/{step}/{number}" for number in range(4)]
            requests = [ask(server.url, target=target) for target in targets]
            bodies = await asyncio.gather(*(exchange(shared, each) for each in requests))
            assert bodies == [echo(target) for target in targets]

    failures: list[BaseException] = []

    def run(name: str) -> None:
        try:
            for _ in range(3):
                asyncio.run(work(name))
        except BaseException as error:  # noqa: BLE001 - the test's to look at
            failures.append(error)

    with EchoServer() as server, no_new_descriptors():
        threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(shared.close())
    assert failures == []


def test_closing_ends_what_is_under_way_and_begins_nothing_else() -> None:
    async def main() -> None:
        with no_new_descriptors():
            shared = AsyncioRuntime(Connections(HttpConfig(max_connections=2), TimeoutConfig()))
            tasks = [asyncio.create_task(exchange(shared, ask(server.url))) for _ in range(5)]
            await reached(lambda: server.most_at_once == 2)
            await shared.close()
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreClosedError}
            with pytest.raises(StoreClosedError):
                _ = await exchange(shared, ask(server.url))
            await shared.close()

    with EchoServer(delay=30) as server:
        asyncio.run(main())


def test_closing_while_connecting_leaves_no_connection() -> None:
    async def main() -> None:
        with no_new_descriptors():
            shared = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
            tasks = [asyncio.create_task(exchange(shared, ask(server.url))) for _ in range(10)]
            await reached(lambda: counts(shared) == (10, 0))
            await shared.close()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreClosedError}

    with EchoServer(delay=30) as server:
        asyncio.run(main())


def test_closing_closes_the_connections_of_every_loop() -> None:
    with EchoServer() as server, no_new_descriptors(), asyncio.Runner() as other:
        shared = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        asyncio.run(exchange(shared, ask(server.url)))  # of a loop that has ended
        _ = other.run(exchange(shared, ask(server.url)))
        ready, over = threading.Event(), threading.Event()

        async def stay() -> None:
            _ = await exchange(shared, ask(server.url))
            ready.set()
            await reached(over.is_set)

        staying = threading.Thread(target=lambda: asyncio.run(stay()))
        staying.start()
        assert ready.wait(10)
        other.run(shared.close())
        drained = server.wait_until_drained()
        over.set()
        staying.join()
        assert drained


def test_the_first_failure_of_many_cancels_the_others_and_is_raised() -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=4)) as shared:
            cancelled: list[int] = []

            async def operation(number: int) -> bytes:
                if number == 7:
                    raise TransportConnectionError("the seventh")
                try:
                    return await exchange(shared, ask(server.url))
                except asyncio.CancelledError:
                    cancelled.append(number)
                    raise

            with pytest.raises(TransportConnectionError, match="seventh"):
                _ = await shared.gather(operation, range(100), 16)
            assert len(cancelled) == 15

    with EchoServer(delay=30) as server:
        asyncio.run(main())


def test_many_come_back_in_order_and_no_more_at_once_than_asked() -> None:
    async def main() -> None:
        shared = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        drawn = under_way = most = 0

        async def operation(number: int) -> int:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            assert drawn - number <= 5
            for _ in range(number % 7):
                await asyncio.sleep(0)
            under_way -= 1
            return number * number

        def items() -> Any:
            nonlocal drawn
            for number in range(100):
                drawn += 1
                yield number

        assert await shared.gather(operation, items(), 5) == [n * n for n in range(100)]
        assert most == 5
        assert await shared.gather(operation, [], 5) == []

    asyncio.run(main())


def test_cancelling_many_cancels_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with runtime(HttpConfig(max_connections=4)) as shared:

            def operation(_: int) -> Coroutine[Any, Any, bytes]:
                return exchange(shared, ask(server.url))

            task = asyncio.create_task(shared.gather(operation, range(100), 16))
            await reached(lambda: server.most_at_once == 4)
            await cancelled(task)
            assert counts(shared) == (0, 0)
            assert len(asyncio.all_tasks()) == 1

    with EchoServer(delay=30) as server:
        asyncio.run(main())


@pytest.mark.parametrize("end", ["close", "drop", "abandon"])
def test_a_runtime_that_ends_leaves_shared_connections_to_the_others(end: str) -> None:
    async def main(url: str) -> None:
        connections = Connections(HttpConfig(max_connections=1), TimeoutConfig(), shared=True)
        ends, goes_on = AsyncioRuntime(connections), AsyncioRuntime(connections)
        pool, before = connections.here(), dict(connections.here().loop_threads)
        for each in (ends, goes_on):
            assert await exchange(each, ask(url)) == echo("/b/k")
        reading = asyncio.create_task(exchange(goes_on, ask(url, body=b"slowly")))
        await asyncio.sleep(0)
        assert counts(goes_on) == (1, 0)
        waiting = asyncio.create_task(exchange(ends, ask(url)))
        await asyncio.sleep(0)
        if end == "close":
            await ends.close()
            with pytest.raises(StoreClosedError):
                _ = await waiting
        else:
            _ = waiting.cancel()
            _ = await asyncio.wait([waiting])
            _ = ends.drop() if end == "drop" else ends.abandon()
            await asyncio.sleep(0)
        assert list(pool.loop_threads.values()) == [threading.get_ident()]
        assert await reading == echo("/b/k", b"slowly")
        assert await exchange(goes_on, ask(url)) == echo("/b/k")
        await goes_on.close()
        assert counts(goes_on) == (0, 1)
        assert pool.close()
        assert dict(pool.loop_threads) == before == {}

    with EchoServer(delay=0.02) as server, no_new_descriptors():
        asyncio.run(main(server.url))
        assert server.connections == 1
