"""A request fails once and is tried again: what is read through the cache is what the bucket holds.

The first try may have been refused, lost on its way, carried out with its reply lost, or have come
damaged. Each request of a round of operations in its turn, by each client, in each mode.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blockyard import BlockNotFoundError, BlockStore, PreconditionFailedError
from blockyard.config.loading import load_config
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.transport.exchanging import NetworkRuntime
from blockyard_faults import (
    Fault,
    FaultProxy,
    FlipBit,
    LoseReply,
    ResetBefore,
    SeenRequest,
    Status,
    Truncate,
)
from blockyard_faults.campaign.bucket import DictBucket

OLD, NEW = b"old" * 30_000, b"new" * 40_000
FAULTS: list[Fault] = [Status(500, "InternalError"), ResetBefore(), FlipBit(), Truncate()]


@dataclass
class Once:
    """Lets the request of that number fail, counted from when it was set."""

    fault: Fault
    left: int = 0
    seen: list[SeenRequest] = field(default_factory=list[SeenRequest])

    def __call__(self, request: SeenRequest) -> Fault | None:
        self.seen.append(request)
        self.left -= 1
        return self.fault if self.left == 0 else None


class World:
    """Clients of one kind that share a folder, or one with a cache in memory."""

    def __init__(self, bucket: DictBucket, once: Once, stores: list[BlockStore]) -> None:
        self.bucket, self.once = bucket, once
        self.stores, self.one = stores, stores[0]

    def check(self, *keys: str) -> None:
        """Read them, twice, as they are in the bucket."""
        for store in self.stores:
            for key in keys:
                for _ in range(2):
                    stored = self.bucket.objects.get(key)
                    whole = read(store, key)
                    assert whole == (None if stored is None else stored.data)

    def round(self, name: str, broken: int = 0) -> int:
        """Every kind of change, of a key of its own, and what is read afterwards.

        The request `broken` fails once; returns how many there were.
        """
        keys = [f"{name}-{what}" for what in ("written", "swapped", "copied", "deleted", "gone")]
        written, swapped, copied, deleted, gone = keys
        for key in keys:
            _ = self.one.write_block(key, OLD)
        assert self.one.drain() == []
        self.check(*keys)
        self.once.seen.clear()
        self.once.left = broken

        _ = self.one.write_block(written, NEW)
        assert read(self.one, written) == NEW
        assert self.one.drain() == []
        with suppress(PreconditionFailedError):  # by its own first try, whose reply was lost
            _ = self.one.write_block(swapped, NEW, if_match=self.one.stat_block(swapped).etag)
        _ = self.one.copy_block(swapped, copied)
        _ = self.one.delete_blocks([deleted])
        self.one.delete_block(gone)
        assert [*self.one.read_blocks([written, copied])] == [NEW, NEW]
        self.check(*keys)
        assert not {deleted, gone} & {*self.bucket.objects}
        self.once.left = 0
        return len(self.once.seen)


def read(store: BlockStore, key: str) -> bytes | None:
    """All of a block, which its parts are compared with; None where it is not there."""
    with suppress(BlockNotFoundError):
        begin, whole = store.read_block_range(key, 20_000, 10), store.read_block(key)
        assert begin == whole[20_000:20_010]
        return whole
    return None


CACHES: dict[str, dict[str, Any]] = {
    "memory": {"memory": "4MiB"},
    "disk": {"memory": 0, "disk": {"size": "16MiB"}},
    "both": {"memory": "4MiB", "disk": {"size": "16MiB"}},
    "write_back": {"mode": "write_back", "memory": "4MiB", "disk": {"size": "16MiB"}},
}


@contextmanager
def world(client: ClientName, cache: str, fault: Fault, folder: Path) -> Generator[World]:
    settings = dict(CACHES[cache], revalidate="never")
    if "disk" in settings:
        settings["disk"] = dict(settings["disk"], path=str(folder))
    once = Once(fault)
    with ExitStack() as opened:
        bucket = opened.enter_context(DictBucket())
        proxy = opened.enter_context(FaultProxy(bucket.url, once))
        config = load_config(
            None,
            {
                "bucket": "bucket",
                "endpoint": proxy.url,
                "force_path_style": True,
                "access_key": "some",
                "secret_key": "thing",
                "max_attempts": 3,
                "cache": settings,
            },
            {},
        )
        count = 2 if "disk" in settings else 1
        clients = [opened.enter_context(open_client(client, config)) for _ in range(count)]
        yield World(bucket, once, [each.store for each in clients])


CASES = [
    *(pytest.param(cache, LoseReply(), id=cache) for cache in ("both", "write_back")),
    *(
        pytest.param(cache, fault, id=f"{cache}-{fault}", marks=pytest.mark.thorough)
        for cache in CACHES
        for fault in [*FAULTS, LoseReply()]
        if fault in FAULTS or cache in {"memory", "disk"}
    ),
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("cache", "fault"), CASES)
def test_what_is_read_is_what_is_stored(
    client: ClientName, cache: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        NetworkRuntime, "jitter", staticmethod(lambda: 0.0)
    )  # no pause before a retry
    with world(client, cache, fault, tmp_path / "cache") as all_of_it:
        requests = all_of_it.round("right")
        assert requests > 8
        # of the thorough cases each has some of the requests, and not the same as others have
        step = 1 if isinstance(fault, LoseReply) and cache in {"both", "write_back"} else 5
        for number in range(1 + len(f"{fault}{cache}") % step, requests + 1, step):
            _ = all_of_it.round(f"{number}", number)
