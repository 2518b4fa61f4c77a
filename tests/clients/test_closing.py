"""A store that is closed while calls are under way: they leave order, and end with an error."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.errors import BlockNotFoundError, ServerError, StoreClosedError
from blockyard.operations import Operations
from blockyard.stores.base import Store
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.transport import loop_poller
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.bulk import BulkLoop
from blockyard.transport.connections import Connections
from blockyard.transport.tasks import CallsUnderWay
from tests.hooked_store import HookedStore, shrink_blocks
from tests.small_s3 import SmallS3, small_s3
from tests.transport.runtimes import eventually

BLOCK = 64
OLD = b"old" * 150
NEW = b"renewed!" * 50

Run = Callable[["Closed", str], None]


def test_a_store_that_waits_for_its_disk_does_not_hold_up_the_loop() -> None:
    went_on, closed = threading.Event(), threading.Event()

    class Waiting(MemoryStore):
        waits_to_close = True

        def close(self) -> None:
            assert went_on.wait(30)  # for the loop, which has to go on meanwhile
            closed.set()

    async def main() -> None:
        store = await blockyard.open_async_store(Waiting())
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        _ = asyncio.get_running_loop().call_later(0.05, went_on.set)
        await closing
        assert closed.is_set()
        with pytest.raises(StoreClosedError):
            _ = await store.read_block("a")

    asyncio.run(main())


def test_a_cache_in_a_folder_waits_to_close(tmp_path: Path) -> None:
    disk = {"path": tmp_path / "cache", "size": "8MiB"}
    for cache, waits in (({"memory": "1MiB"}, False), ({"disk": disk}, True)):
        with blockyard.open_store((tmp_path / "blocks").as_uri(), cache=cache) as store:
            assert store._operations.waits_to_close is waits


def blocking_store(store: Store) -> BlockStore:
    settings = HttpConfig(), TimeoutConfig()
    client = BlockStore(
        Operations(store),
        BlockingRuntime(Connections(*settings)),
        BulkLoop(Connections(*settings)),
        deadline=None,
        concurrency=3,
    )
    shrink_blocks(client, BLOCK)
    return client


def asyncio_store(store: Store) -> AsyncBlockStore:
    runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
    client = AsyncBlockStore(Operations(store), runtime, deadline=None, concurrency=3)
    shrink_blocks(client, BLOCK)  # pyright: ignore[reportArgumentType]
    return client


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 50):
        yield data[start : start + 50]


CALLS: dict[str, Callable[[Any], Any]] = {
    "write": lambda store: store.write_content("movie", NEW),
    "write a stream": lambda store: store.write_content("movie", pieces(NEW)),
    "copy": lambda store: store.copy_content("source", "movie"),
    "write a new one": lambda store: store.write_content("other", NEW),
}


class Closed:
    """A store over `inner` that is closed at the operation `at` of a call, from elsewhere."""

    def __init__(self, inner: Store, at: int) -> None:
        self.hooked = HookedStore(inner, self._hook)
        self.error: BaseException | None = None
        self.reached = False
        self.seen: list[str] = []
        self.fails: Callable[[str, str], bool] = lambda operation, key: False
        self._left = at
        self._close: Callable[[], Awaitable[None]] | None = None

    async def _hook(self, operation: str, key: str) -> None:
        if self._close is None:
            return
        await asyncio.sleep(0)
        if self.reached and self.fails(operation, key):
            raise ServerError("no", status=501, code="NotImplemented")
        self._left -= 1
        if self._left == 0:
            self.reached = True
            await self._close()
        if self.reached:
            self.seen.append(operation)

    def run_blocking(self, call: str) -> None:
        store = blocking_store(self.hooked)
        closer = threading.Thread(target=store.close)

        async def close() -> None:
            closer.start()
            assert eventually(lambda: store._operations._refusing)

        self._close = close
        try:
            CALLS[call](store)
        except blockyard.BlockStoreError as error:
            self.error = error
        if self.reached:
            closer.join()
            refused(lambda: store.read_block("k"))
        store.close()

    def run_asyncio(self, call: str) -> None:
        asyncio.run(self._under_asyncio(call))

    async def _under_asyncio(self, call: str) -> None:
        store = asyncio_store(self.hooked)
        closing: list[asyncio.Task[None]] = []

        async def close() -> None:
            closing.append(asyncio.create_task(store.close()))
            await asyncio.sleep(0)
            with pytest.raises(StoreClosedError):
                _ = await store.read_block("k")

        self._close = close
        try:
            await CALLS[call](store)
        except blockyard.BlockStoreError as error:
            self.error = error
        _ = await asyncio.gather(*closing)
        await store.close()


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(StoreClosedError):
        _ = call()


both_ways = pytest.mark.parametrize("run", [Closed.run_blocking, Closed.run_asyncio])


def closed_at_every_operation(inner: Store, run: Run, call: str) -> int:
    """Close at each operation of a call in turn; how many there are."""
    for at in range(1, 1000):
        with blocking_store(inner) as store:
            store.write_content("movie", OLD)
            store.write_content("source", NEW)
            store.delete_content("other")
        case = Closed(inner, at)
        run(case, call)
        with blocking_store(inner) as store:
            movie = store.read_content("movie")
            other = contents_of(store, "other")
            _ = store.clean_contents(dry_run=False, no_writers=True)
            count = len(store.list_by_prefix())
        assert movie in {OLD, NEW}, (at, case.error)
        assert other in {None, NEW}, (at, case.error)
        if call == "write a new one":
            assert movie == OLD
        assert count == sum(count_of(data) for data in (movie, NEW, other) if data is not None)
        if not case.reached:
            assert case.error is None
            return at - 1
        assert case.error is None or type(case.error) is StoreClosedError
        assert not any("may be left" in note for note in getattr(case.error, "__notes__", ()))
    raise AssertionError("the call never ended without being closed")


def contents_of(store: BlockStore, content_id: str) -> bytes | None:
    try:
        return store.read_content(content_id)
    except BlockNotFoundError:
        return None


def count_of(data: bytes) -> int:
    """The objects of a content: its manifest and its blocks."""
    return 1 + -(-len(data) // BLOCK)


@both_ways
@pytest.mark.parametrize("call", list(CALLS))
def test_a_content_is_the_old_one_or_the_new_whenever_the_store_is_closed(
    run: Run, call: str
) -> None:
    assert closed_at_every_operation(MemoryStore(), run, call) > count_of(NEW)


@pytest.fixture(scope="module")
def server() -> Iterator[SmallS3]:
    with small_s3() as server:
        yield server


@both_ways
@pytest.mark.parametrize("call", ["write", "copy"])
def test_what_is_put_in_order_has_its_connections(run: Run, call: str, server: SmallS3) -> None:
    bucket = f"{run.__name__}-{call}".replace("_", "-")
    inner = blockyard.open_store(server.store_url(bucket))._operations.store
    assert closed_at_every_operation(inner, run, call) > count_of(NEW)


@both_ways
def test_a_folder_is_left_in_order(run: Run, tmp_path: Any) -> None:
    assert closed_at_every_operation(FilesystemStore(tmp_path), run, "write") > count_of(NEW)


@both_ways
@pytest.mark.parametrize("call", ["write", "copy"])
def test_what_can_not_be_put_in_order_is_said_in_a_note(run: Run, call: str) -> None:
    inner = MemoryStore()
    with blocking_store(inner) as store:
        store.write_content("movie", OLD)
        store.write_content("source", NEW)
    told = 0
    for at in range(1, 40):
        case = Closed(inner, at)
        case.fails = lambda operation, key: operation == "delete_blocks"
        run(case, call)
        notes: list[str] = getattr(case.error, "__notes__", [])
        told += any("may be left: `clean` removes them: no" in note for note in notes)
        with blocking_store(inner) as store:
            store.delete_content("movie")
            store.write_content("movie", OLD)
    assert told >= count_of(NEW) // 2  # not where nothing was stored yet


def hang_once_closed(case: Closed) -> threading.Event:
    """Let what is tidied up hang in a call that is not the transport's."""
    go_on = threading.Event()
    before = case.hooked.hook

    async def hang(operation: str, key: str) -> None:
        await before(operation, key)
        while case.reached and not go_on.is_set():  # noqa: ASYNC110 - set by another loop
            await asyncio.sleep(0.001)

    case.hooked.hook = hang
    return go_on


def test_closing_waits_for_some_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_poller, "CLOSING_SECONDS", 0.05)
    case = Closed(MemoryStore(), 8)
    with blocking_store(case.hooked.inner) as store:
        store.write_content("movie", OLD)
    _ = hang_once_closed(case)
    case.run_blocking("write")
    assert isinstance(case.error, StoreClosedError)
    assert any("may be left" in note for note in case.error.__notes__)


def test_closing_waits_for_some_seconds_only_under_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_poller, "CLOSING_SECONDS", 0.05)

    async def main() -> None:
        case = Closed(MemoryStore(), 1)
        go_on = hang_once_closed(case)
        store = asyncio_store(case.hooked)
        case.reached = True
        call = asyncio.create_task(store.write_content("other", NEW))
        await asyncio.sleep(0.01)
        await store.close()
        go_on.set()
        with pytest.raises(StoreClosedError):
            _ = await call

    asyncio.run(main())


def test_a_block_that_is_left_by_an_error_lets_other_threads_finish() -> None:
    inner = MemoryStore()
    with blocking_store(inner) as store:
        store.write_content("movie", OLD)
    begun = threading.Event()

    async def slowly(operation: str, key: str) -> None:
        if operation == "write_block" and key.startswith("movie/"):
            begun.set()
        await asyncio.sleep(0.002)

    def rewrite(store: BlockStore) -> None:
        with pytest.raises(StoreClosedError):
            store.write_content("movie", NEW)

    def use(threads: ThreadPoolExecutor) -> None:
        with blocking_store(HookedStore(inner, slowly)) as store:
            rewriting = threads.submit(rewrite, store)
            assert begun.wait(30)
            try:
                raise ZeroDivisionError
            finally:
                rewritings.append(rewriting)

    rewritings: list[Any] = []
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(ZeroDivisionError):
            use(threads)
        rewritings[0].result(30)
    with blocking_store(inner) as store:
        assert store.read_content("movie") == OLD


def test_progress_may_close_the_store() -> None:
    for at in range(BLOCK, len(NEW), BLOCK):
        inner = MemoryStore()
        store = blocking_store(inner)
        store.write_content("movie", OLD)

        def close(done: int, at: int = at, store: BlockStore = store) -> None:
            if done >= at:
                store.close()

        with pytest.raises(StoreClosedError):
            store.write_content("movie", NEW, progress=close)
        with blocking_store(inner) as after:
            assert after.read_content("movie") == OLD
            assert len(after.list_by_prefix()) == count_of(OLD)


def test_an_async_source_may_close_the_store() -> None:
    inner = MemoryStore()

    async def closing(store: AsyncBlockStore) -> AsyncIterator[bytes]:
        yield NEW
        await store.close()
        yield NEW

    async def main() -> None:
        store = asyncio_store(inner)
        _ = await store.write_content("movie", OLD)
        with pytest.raises(StoreClosedError):
            _ = await store.write_content("movie", closing(store))
        await store.close()

    asyncio.run(main())
    with blocking_store(inner) as after:
        assert after.read_content("movie") == OLD
        assert len(after.list_by_prefix()) == count_of(OLD)


def test_calls_on_other_loops_are_ended_there() -> None:
    inner = MemoryStore()
    begun = threading.Event()

    async def slowly(operation: str, key: str) -> None:
        if operation == "write_block" and key.startswith("movie/"):
            begun.set()
        await asyncio.sleep(0.002)

    async def rewrite(store: AsyncBlockStore) -> None:
        with pytest.raises(StoreClosedError):
            _ = await store.write_content("movie", NEW)

    with blocking_store(inner) as before:
        before.write_content("movie", OLD)
    store = asyncio_store(HookedStore(inner, slowly))
    with ThreadPoolExecutor(1) as threads:
        rewriting = threads.submit(lambda: asyncio.run(rewrite(store)))
        assert begun.wait(30)
        asyncio.run(store.close())
        rewriting.result(30)
    with blocking_store(inner) as after:
        assert after.read_content("movie") == OLD


def test_a_close_that_is_cancelled_goes_on() -> None:
    inner = MemoryStore()
    with blocking_store(inner) as before:
        before.write_content("movie", OLD)

    async def main() -> None:
        copying = asyncio.Event()

        async def slowly(operation: str, key: str) -> None:
            if operation == "write_block" and key.startswith("movie/"):
                copying.set()
            await asyncio.sleep(0.002)

        store = asyncio_store(HookedStore(inner, slowly))
        call = asyncio.create_task(store.write_content("movie", NEW))
        _ = await copying.wait()
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        _ = closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(StoreClosedError):
            _ = await call
        await store.close()

    asyncio.run(main())
    with blocking_store(inner) as after:
        assert after.read_content("movie") == OLD


def test_a_delete_by_prefix_that_is_cut_off_is_told_so() -> None:
    def run(store: BlockStore) -> None:
        refused(lambda: store.delete_by_prefix("d"))

    inner = MemoryStore()
    with blocking_store(inner) as store:
        _ = store.write_blocks([(f"d/{number}", b"") for number in range(20)])
    begun = threading.Event()

    async def slowly(operation: str, key: str) -> None:
        if operation == "delete_blocks":
            begun.set()
            await asyncio.sleep(0.01)

    store = blocking_store(HookedStore(inner, slowly))
    with ThreadPoolExecutor(1) as threads:
        deleting = threads.submit(run, store)
        assert begun.wait(30)
        store.close()
        deleting.result(30)


def test_what_is_cancelled_by_others_too_is_cancelled() -> None:
    async def main() -> None:
        calls = CallsUnderWay()
        call = asyncio.create_task(calls.run(asyncio.sleep(60)))
        await asyncio.sleep(0)
        ending = asyncio.create_task(calls.end(30))
        await asyncio.sleep(0)
        _ = call.cancel()
        await ending
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())


def test_a_task_whose_call_was_cut_off_is_not_cancelled() -> None:
    async def whatever_happens() -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return 5

    async def main() -> None:
        calls = CallsUnderWay()

        async def use() -> int:
            with pytest.raises(StoreClosedError):
                await calls.run(asyncio.sleep(60))
            result = await calls.run(whatever_happens())
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return result

        using = asyncio.create_task(use())
        await asyncio.sleep(0)
        await calls.end(30)
        while calls.any:
            await calls.end(30)
        assert await using == 5

    asyncio.run(main())


def test_nothing_is_left_of_stores_that_were_closed_in_a_call() -> None:
    before = set(threading.enumerate())  # of which some may be at their end
    for _ in range(5):
        Closed(MemoryStore(), 5).run_blocking("write")
        _ = gc.collect()
    assert eventually(lambda: set(threading.enumerate()) <= before)
