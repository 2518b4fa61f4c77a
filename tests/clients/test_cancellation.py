"""Calls under asyncio that are cancelled, twice or at every `await`: they end, and leave order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Hedge
from blockyard.operations import Operations
from blockyard.stores.memory import MemoryStore
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_head
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from tests.hooked_store import HookedStore, shrink_blocks
from tests.small_s3 import small_s3
from tests.transport.runtimes import LIMIT, ask

BLOCK = 1024
OLD = b"old" * BLOCK
NEW = b"renewed" * BLOCK
REWRITES = 80

Cancel = Callable[[Coroutine[Any, Any, object], float], Coroutine[Any, Any, None]]


async def by_a_scope(call: Coroutine[Any, Any, object], seconds: float) -> None:
    """As FastAPI and Starlette do when a client goes away."""
    with anyio.move_on_after(seconds):
        _ = await call


async def in_a_group(call: Coroutine[Any, Any, object], seconds: float) -> None:
    """As a request's task is cancelled by its neighbour's."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            _ = await call

        group.start_soon(run)
        await anyio.sleep(seconds)
        group.cancel_scope.cancel()


async def twice(call: Coroutine[Any, Any, object], seconds: float) -> None:
    """As an impatient caller does."""
    task = asyncio.create_task(call)
    await asyncio.sleep(seconds)
    _ = task.cancel()
    await asyncio.sleep(seconds / 2)
    _ = task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def a_slow_moment(operation: str, key: str) -> None:
    await asyncio.sleep(0.0005)


def slow_store() -> AsyncBlockStore:
    operations = Operations(HookedStore(MemoryStore(), a_slow_moment))
    runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
    return AsyncBlockStore(operations, runtime, deadline=None, concurrency=4)


async def rewritten_and_cancelled(store: AsyncBlockStore, cancel: Cancel) -> None:
    """Cancelled at any time, a rewrite or copy leaves the old content or the new one, whole."""
    shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
    _ = await store.write_content("source", NEW)
    cut_short = 0
    for number in range(REWRITES):
        _ = await store.write_content("movie", OLD)
        before = asyncio.all_tasks()
        calls = (store.write_content("movie", NEW), store.copy_content("source", "movie"))
        calls[1 - number % 2].close()
        await cancel(calls[number % 2], 0.0005 * (1 + number % 40))
        assert asyncio.all_tasks() == before  # nothing goes on after the return
        content = await store.read_content("movie")
        assert content in {OLD, NEW}
        cut_short += content == OLD
    assert cut_short


@pytest.mark.parametrize("cancel", [by_a_scope, in_a_group, twice])
def test_a_rewrite_that_is_cancelled_leaves_a_content_that_can_be_read(cancel: Cancel) -> None:
    async def main() -> None:
        async with slow_store() as store:
            await rewritten_and_cancelled(store, cancel)

    asyncio.run(main())


@pytest.mark.parametrize("cancel", [by_a_scope, twice])
def test_a_rewrite_on_s3_that_is_cancelled_leaves_a_content_that_can_be_read(
    cancel: Cancel,
) -> None:
    async def main(url: str) -> None:
        async with await blockyard.open_async_store(url) as store:
            await rewritten_and_cancelled(store, cancel)

    with small_s3() as server:
        asyncio.run(main(server.store_url("cancelled")))


@pytest.mark.parametrize("cancel", [by_a_scope, in_a_group, twice])
def test_many_at_once_have_all_ended_when_a_cancelled_call_returns(cancel: Cancel) -> None:
    under_way = 0

    async def moment(operation: str, key: str) -> None:
        nonlocal under_way
        under_way += 1
        try:
            await asyncio.sleep(30)
        finally:
            under_way -= 1

    async def main() -> None:
        operations = Operations(HookedStore(MemoryStore(), moment))
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        store = AsyncBlockStore(operations, runtime, deadline=None, concurrency=8)
        for call in (
            store.write_blocks((f"{number}", b"") for number in range(20)),
            store.read_blocks([f"{number}" for number in range(20)]),
        ):
            await cancel(call, 0.05)
            assert under_way == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


class Silent(LoopbackServer):
    """Takes requests, and never answers."""

    async def serve(self, client: Connection) -> None:
        while await read_head(client.reader) is not None:
            _ = await asyncio.wait([client.gone])


@pytest.mark.parametrize("cancel", [by_a_scope, in_a_group, twice])
def test_a_hedged_read_that_is_cancelled_leaves_no_request_behind(cancel: Cancel) -> None:
    async def main(url: str) -> None:
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        for _ in range(10):
            hedge = Hedge(0.005, lambda: True, lambda: None)
            await cancel(runtime.exchange(ask(url), limit=LIMIT, hedge=hedge), 0.03)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await runtime.close()

    with Silent() as server:
        asyncio.run(main(server.url))


def test_a_read_of_an_open_content_that_is_given_up_does_not_move() -> None:
    """`wait_for(file.read(n), t)`: the next read goes on where the last one that ended did."""

    async def main() -> None:
        data = bytes(range(256)) * 2048
        async with slow_store() as store:
            shrink_blocks(store, 8 * BLOCK)  # pyright: ignore[reportArgumentType]
            _ = await store.write_content("movie", data)
            for size in (-1, len(data), 200_000):
                async with await store.open_content("movie") as file:
                    got, given_up = bytearray(), 0
                    while True:
                        position = await file.tell()
                        assert position == len(got)
                        try:
                            wait = 0.002 * (1 + given_up % 80)
                            part = await asyncio.wait_for(file.read(size), wait)
                        except TimeoutError:
                            given_up += 1
                            continue
                        if not part:
                            break
                        got += part
                    assert bytes(got) == data
                    assert given_up

    asyncio.run(main())


def test_a_source_is_closed_when_its_opening_is_cancelled(tmp_path: Path) -> None:
    """Warnings are errors: of a file that was left open, for one."""
    path = tmp_path / "source"
    _ = path.write_bytes(OLD)

    async def main() -> None:
        async with slow_store() as store:
            for number in range(40):
                await twice(store.write_content("movie", path), 0.0001 * number)

    asyncio.run(main())


def test_a_second_cancellation_tells_what_is_left() -> None:
    async def main() -> None:
        tidying, go_on = asyncio.Event(), asyncio.Event()

        async def fail(operation: str, key: str) -> None:
            if operation.startswith("delete"):
                tidying.set()
                _ = await go_on.wait()
                raise blockyard.ServerError("no", status=501, code="NotImplemented")
            if operation == "write_block":
                started.set()

        started = asyncio.Event()
        operations = Operations(HookedStore(MemoryStore(), fail))
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        async with AsyncBlockStore(operations, runtime, deadline=None, concurrency=1) as store:
            shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
            call = asyncio.create_task(store.write_content("movie", NEW))
            _ = await started.wait()
            _ = call.cancel()
            _ = await tidying.wait()
            _ = call.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError) as raised:
                _ = await call
        assert any(
            "may be left: `clean` removes them: no" in note for note in notes_of(raised.value)
        )

    def notes_of(error: BaseException) -> list[str]:
        return getattr(error, "__notes__", [])

    asyncio.run(main())
