"""What the memory store does beyond what the conformance suite asks of it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import open_client
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections

CTX = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))


def write(store: MemoryStore, key: str, data: bytes | memoryview = b"") -> str:
    return run_to_end(store.write(CTX, WriteRequest(key, data))).etag


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pages_of_any_size(size: int) -> None:
    store = MemoryStore()
    for number in range(7):
        _ = write(store, f"b/{number}")
    for other in ("a", "b", "b0", "c/1"):
        _ = write(store, other)

    keys: list[str] = []
    token: str | None = None
    pages = 0
    while pages == 0 or token is not None:
        page = run_to_end(store.list(CTX, ListRequest("b/", token, size)))
        assert 1 <= len(page.blocks) <= size
        keys += [block.key for block in page.blocks]
        token = page.next_token
        pages += 1

    assert keys == [f"b/{number}" for number in range(7)]
    assert pages == -(-7 // size)  # none is empty


def test_a_listing_goes_on_after_its_last_key_was_deleted() -> None:
    store = MemoryStore()
    for key in "abcd":
        _ = write(store, key)
    page = run_to_end(store.list(CTX, ListRequest("", None, 2)))
    _ = run_to_end(store.delete_blocks(CTX, ["b", "c"]))
    _ = write(store, "aa")

    rest = run_to_end(store.list(CTX, ListRequest("", page.next_token, 2)))

    assert [block.key for block in rest.blocks] == ["d"]


def test_every_write_has_its_own_etag() -> None:
    first, second = MemoryStore(), MemoryStore()

    etags = [write(first, "a", b"1"), write(first, "a", b"2"), write(first, "a", b"1")]

    assert len(set(etags)) == 3
    assert write(second, "a", b"other") not in etags


def test_what_is_read_can_not_change_what_is_stored() -> None:
    store = MemoryStore()
    _ = write(store, "a", memoryview(bytearray(b"block")))

    read = run_to_end(store.read(CTX, ReadRequest("a"))).data

    assert type(read) is bytes
    assert run_to_end(store.read(CTX, ReadRequest("a"))).data is read  # no copy on the way out


def test_threads_and_event_loops_share_a_store() -> None:
    store = MemoryStore()
    keys = [f"{number:03}" for number in range(200)]

    def work(worker: int) -> None:
        for key in keys[worker::2]:
            _ = write(store, key)
            if key.endswith("5"):
                _ = run_to_end(store.delete_blocks(CTX, [key, key]))
            _ = run_to_end(store.list(CTX, ListRequest("", None, 1000)))

    async def work_on_a_loop(worker: int) -> None:
        await asyncio.to_thread(work, worker)
        work(worker)

    with ThreadPoolExecutor(4) as threads:
        _ = list(threads.map(work, [0, 1, 0, 1]))
        _ = list(threads.map(lambda n: asyncio.run(work_on_a_loop(n)), [0, 1]))

    listed = [
        block.key for block in run_to_end(store.list(CTX, ListRequest("", None, 1000))).blocks
    ]
    assert listed == [key for key in keys if not key.endswith("5")]


def test_closing_keeps_the_blocks_of_a_store_opened_twice() -> None:
    store = MemoryStore()
    with open_client("blocking", store) as client:
        _ = client.store.write_block("a", b"block")

    with open_client("asyncio", store) as client:
        assert client.store.read_block("a") == b"block"
