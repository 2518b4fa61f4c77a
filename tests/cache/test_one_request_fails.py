"""One request of a change fails: what is read through the cache is what the bucket holds.

Each request that a change makes, with one client or in the other one that shares the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from blockyard import (
    BlockNotFoundError,
    BlockStore,
    BlockStoreError,
    PartialDeleteError,
    open_store,
)
from blockyard_faults import FailKeys, Fault, FaultProxy, LoseReply, SeenRequest, Status, WebPage
from blockyard_faults.campaign.bucket import DictBucket

pytestmark = pytest.mark.thorough

OLD = b"old" * 30_000
NEW = b"new" * 40_000

Mode = Literal["write_through", "write_back"]
CHANGES: list[Callable[[BlockStore], object]] = [
    lambda store: (store.write_block("k", NEW), store.drain()),
    lambda store: store.write_block("k", NEW, if_match=store.stat_block("k").etag),
    lambda store: store.delete_blocks(["k", "other"]),
    lambda store: store.copy_block("other", "k"),
]


def opened(url: str, mode: Mode, folder: Path) -> BlockStore:
    return open_store(
        bucket="bucket",
        endpoint=url,
        force_path_style=True,
        access_key="some",
        secret_key="thing",
        max_attempts=1,
        cache={
            "mode": mode,
            "revalidate": "never",
            "memory": "1MiB",
            "disk": {"path": str(folder), "size": "16MiB"},
        },
    )


def read(store: BlockStore, key: str) -> bytes | None:
    with suppress(BlockNotFoundError):
        begin, whole = store.read_block_range(key, 20_000, 10), store.read_block(key)
        assert begin == whole[20_000:20_010]
        return whole
    return None


@pytest.mark.parametrize("mode", ["write_through", "write_back"])
@pytest.mark.parametrize("fault", [Status(403, "AccessDenied"), WebPage(), LoseReply()], ids=repr)
@pytest.mark.parametrize("change", CHANGES, ids=["write", "conditional write", "delete", "copy"])
def test_what_is_read_is_what_is_stored(
    change: Callable[[BlockStore], object], fault: Fault, mode: Mode, tmp_path: Path
) -> None:
    broken = requests = 0
    while requests >= broken:  # else that one was not made
        broken += 1
        requests = change_with_failure(change, fault, broken, mode, tmp_path / str(broken))
    assert broken > 1


def change_with_failure(
    change: Callable[[BlockStore], object], fault: Fault, broken: int, mode: Mode, folder: Path
) -> int:
    requests: list[SeenRequest] = []
    breaking = False

    def plan(request: SeenRequest) -> Fault | None:
        if breaking:
            requests.append(request)
        return fault if breaking and len(requests) >= broken else None

    with (
        DictBucket() as bucket,
        FaultProxy(bucket.url, plan) as proxy,
        opened(proxy.url, mode, folder) as one,
        opened(proxy.url, mode, folder) as other,
    ):
        for key in ("k", "other"):
            one.write_block(key, OLD)
            assert one.drain() == []
            assert read(one, key) == read(other, key) == OLD
        breaking = True
        with suppress(BlockStoreError):
            _ = change(one)
        breaking = False
        assert one.drain() == other.pending() == []
        for key in ("k", "other"):
            stored = bucket.objects.get(key)
            for _ in range(2):
                for store in (one, other):
                    assert read(store, key) == (None if stored is None else stored.data)
    return len(requests)


def test_a_key_that_the_service_failed_to_delete_may_go_later(tmp_path: Path) -> None:
    with (
        DictBucket() as bucket,
        FaultProxy(bucket.url, lambda _: FailKeys()) as proxy,
        opened(proxy.url, "write_through", tmp_path) as store,
    ):
        for key in ("k", "other"):
            _ = store.write_block(key, OLD)
        still_there = bucket.objects["k"]
        with pytest.raises(PartialDeleteError) as raised:
            _ = store.delete_blocks(["k", "other"])
        assert raised.value.result.failed["k"].unknown_attempts == 1
        bucket.objects["k"] = still_there
        assert read(store, "k") == read(store, "k") == OLD
        del bucket.objects["k"]
        assert read(store, "k") is None
