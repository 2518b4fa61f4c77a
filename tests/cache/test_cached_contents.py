"""Contents through a cache: all of one version, though it has blocks of an older one."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Literal

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
    assert counts.misses == 1 + 1 + 3  # the manifest, for the write too, and three blocks
    assert counts.memory_hits == 1 + 3


@pytest.mark.parametrize("revalidate", ["never", "always"])
def test_the_manifest_is_asked_for_again_and_blocks_never_are(
    revalidate: Literal["never", "always"],
) -> None:
    with open_store(CacheStore(MemoryStore(), memory=64 * MIB, revalidate=revalidate)) as store:
        _ = store.write_content("c", os.urandom(SIZE))
        _ = store.read_content("c")
        before = store.stats().cache
        _ = store.read_content("c")
        after = store.stats().cache
    assert before is not None
    assert after is not None
    assert after.revalidated - before.revalidated == 1
    assert after.memory_hits - before.memory_hits == 3
    assert after.misses == before.misses
