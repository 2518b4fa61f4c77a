"""A store that is dropped without `close`: its threads and sockets end, and Python says so."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

import blockyard
from blockyard.sync import BlockStore
from tests.small_s3 import SmallS3
from tests.transport.runtimes import EchoServer, no_new_descriptors, no_new_threads

pytestmark = pytest.mark.thorough

STORES = 20


def single_calls(store: BlockStore) -> None:
    assert store.read_block("k")


def bulk_calls(store: BlockStore) -> None:
    assert len(store.read_blocks(["a", "b"])) == 2


def both(store: BlockStore) -> None:
    single_calls(store)
    bulk_calls(store)


def a_view(store: BlockStore) -> None:
    both(store.with_options(deadline=20))


def url_of(server: EchoServer) -> str:
    return SmallS3(server.url).store_url()


@contextmanager
def quick_collections() -> Generator[None, None, None]:
    """What is there already is not looked at: all that a test run holds would cost 0.1 s a time."""
    _ = gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def dropped(*uses: Callable[[], None]) -> None:
    """Run each so often that what it leaves shows."""
    with quick_collections():
        for _ in range(STORES):
            for use in uses:
                use()
                _ = gc.collect()


@pytest.mark.parametrize("use", [single_calls, bulk_calls, both, a_view])
def test_stores_that_are_dropped_leave_no_thread_and_no_descriptor(
    use: Callable[[BlockStore], None],
) -> None:
    with EchoServer() as server, no_new_descriptors():
        with no_new_threads(), pytest.warns(ResourceWarning, match="without close"):
            dropped(lambda: use(blockyard.open_store(url_of(server))))
        assert server.wait_until_drained()


def test_local_stores_that_are_dropped_leave_no_thread(tmp_path: Path) -> None:
    def use(url: str) -> None:
        store = blockyard.open_store(url)
        _ = store.write_blocks([("a", b"1"), ("b", b"2")])

    expected = pytest.warns(ResourceWarning, match="without close")
    with no_new_descriptors(), no_new_threads(), expected:
        dropped(lambda: use("memory://"), lambda: use(tmp_path.as_uri()))


def test_asyncio_stores_that_are_dropped_leave_no_connection() -> None:
    async def use(url: str) -> None:
        with quick_collections():
            for _ in range(STORES):
                store = await blockyard.open_async_store(url)
                assert len(await store.read_blocks(["a", "b"])) == 2
                assert await store.read_block("k")
                del store
                _ = gc.collect()

    async def main(server: EchoServer) -> None:
        with no_new_descriptors():
            with pytest.warns(ResourceWarning, match="without close"):
                await use(url_of(server))
            await asyncio.sleep(0.01)

    with EchoServer() as server:
        with no_new_threads():
            asyncio.run(main(server))
        assert server.wait_until_drained()


def test_an_asyncio_store_whose_loop_has_ended_is_dropped() -> None:
    async def use(url: str) -> blockyard.AsyncBlockStore:
        store = await blockyard.open_async_store(url)
        assert await store.read_block("k")
        return store

    with EchoServer() as server, no_new_descriptors():
        store = asyncio.run(use(url_of(server)))
        stores = [store]
        del store
        with pytest.warns(ResourceWarning, match="without close"):
            stores.clear()
        assert server.wait_until_drained()


def test_stores_that_hold_nothing_are_dropped_in_silence() -> None:
    with EchoServer() as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        never_used = blockyard.open_store(url_of(server))
        closed = blockyard.open_store(url_of(server))
        both(closed)
        closed.close()
        memory = blockyard.open_store("memory://")
        _ = memory.write_block("a", b"data")
        del never_used, closed, memory
        _ = gc.collect()


def test_a_store_is_not_dropped_while_a_view_of_it_is_there() -> None:
    with EchoServer() as server:
        store = blockyard.open_store(url_of(server))
        both(store)
        view = store.with_options(concurrency=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del store
            _ = gc.collect()
            assert caught == []
            both(view)
            del view
            _ = gc.collect()
        assert {each.category for each in caught} == {ResourceWarning}
