"""What the tests of the disk tier share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockyard.cache.disk import DiskCache
from blockyard.cache.tier import Pages
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.model import MIB, BlockInfo
from blockyard.s3.integrity import PageChecksums, page_size, upload_headers
from blockyard.stores.base import ReadRequest
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.connections import Connections

SIZE = 64 * MIB
IDENTITY = "s3://bucket"


def runtime() -> BlockingRuntime:
    made = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    made.close()  # no connection is made
    return made


def pages_of(
    key: str,
    block: bytes,
    first: int = 0,
    end: int | None = None,
    *,
    etag: str = "etag",
    sums: bool = True,
    at: float = 1.0,
) -> Pages:
    """Pages of `block`, from the page of `first` to that before `end`."""
    page = page_size(len(block))
    begin = first - first % page
    end = len(block) if end is None else min(-(-end // page) * page, len(block))
    headers = upload_headers(block)
    stored = PageChecksums.of(headers)
    assert stored is not None
    info = BlockInfo(key, len(block), etag)
    return Pages(info, begin, block[begin:end], at, stored.all(headers) if sums else None)


class Tier:
    """A disk tier, each of whose fills is waited for."""

    def __init__(self, root: Path, size: int = SIZE, identity: str = IDENTITY) -> None:
        self.cache = DiskCache(root, size, identity)
        self.runtime = runtime()

    def fill(self, pages: Pages, epoch: int | None = None) -> None:
        key = pages.info.key
        _ = self.cache.fill(self.runtime, pages, self.cache.epoch(key) if epoch is None else epoch)
        self.settle()

    def settle(self) -> None:
        assert self.cache._queue.wait(60)

    def read(self, key: str, offset: int | None = None, length: int | None = None) -> bytes | None:
        """The bytes requested, None if the tier has them not; by both ways to read."""
        request = ReadRequest(key, offset, length)
        found = self.cache.get(request, wait=True)
        if found is None:
            assert self.cache.get(request, wait=False) is None
            return None
        assert isinstance(found, Pages)
        if not found.data and found.info.size:
            return None
        begin = (offset or 0) - found.first
        end = found.info.size if length is None else begin + length
        return found.data[begin:end]

    def path(self, key: str) -> Path:
        return Path(self.cache._folder.path(self.cache._name(key)))

    def forget_open(self) -> None:
        self.cache._kept.clear()

    @property
    def stats(self) -> dict[str, int]:
        return self.cache.stats()


@contextmanager
def tier(root: Path, size: int = SIZE, identity: str = IDENTITY) -> Generator[Tier]:
    opened = Tier(root, size, identity)
    try:
        yield opened
    finally:
        opened.cache.close()


def later(disk: Tier, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so many seconds pass for the tier."""
    now = disk.runtime.now()
    monkeypatch.setattr(disk.runtime, "now", lambda: now + seconds)
