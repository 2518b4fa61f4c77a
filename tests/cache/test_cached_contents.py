"""Contents through a cache: all of one version, though it has blocks of an older one."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest

from blockyard import open_store
from blockyard.cache.store import CacheStore
from blockyard.model import MIB
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client

SIZE = 9 * MIB


def _into(store: BlockStore) -> bytes:
    target = io.BytesIO()
    _ = store.read_content_into("c", target)
    return target.getvalue()


READS: dict[str, Callable[[BlockStore], bytes]] = {
    "read_content": lambda store: store.read_content("c"),
    "iter_content": lambda store: b"".join(store.iter_content("c")),
    "read_content_into": _into,
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_content_that_was_replaced_elsewhere_is_read_whole(
    read: Callable[[BlockStore], bytes], name: ClientName
) -> None:
    inner = MemoryStore()
    old, new = os.urandom(SIZE), os.urandom(SIZE)
    with (
        open_client(name, CacheStore(inner, memory=64 * MIB, revalidate="never")) as client,
        open_store(inner) as elsewhere,
    ):
        store = client.store
        _ = store.write_content("c", old)
        assert store.read_content("c", 4 * MIB, 10) == old[4 * MIB : 4 * MIB + 10]
        _ = store.read_block("c/chunk-0/block-1")
        _ = elsewhere.write_content("c", new)

        for _ in range(2):
            assert read(store) == new
        assert store.read_content("c", 5 * MIB, 10) == new[5 * MIB : 5 * MIB + 10]


def test_a_content_that_is_read_again_comes_from_the_cache() -> None:
    with open_store(CacheStore(MemoryStore(), memory=64 * MIB)) as store:
        content = os.urandom(SIZE)
        _ = store.write_content("c", content)
        assert [store.read_content("c"), store.read_content("c")] == [content] * 2
        counts = store.stats().cache
    assert counts is not None
    assert (counts.misses, counts.memory_hits) == (3, 3)
