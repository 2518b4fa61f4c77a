"""The conformance suite through a cache, in front of each kind of store.

What is read twice comes from the cache, as `test_what_is_read_again_is_a_hit` shows of each of
these classes: else the suite would show nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from blockyard import S3Config, StoreConfig, open_store
from blockyard.cache.disk import DiskCache
from blockyard.cache.store import CacheStore, Revalidate
from blockyard.model import KIB, MIB
from blockyard.s3.credentials import credential_source
from blockyard.s3.store import S3Store
from blockyard.stores.base import Store
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import SERVICES
from blockyard.testing.conformance import DeadlineTests, DurabilityTests, StoreConformance
from blockyard.testing.suite.base import SuiteBase
from blockyard.testing.suite.blocks import BlockTests
from blockyard.testing.suite.many import ManyTests
from blockyard.testing.suite.model import ModelTests
from blockyard.testing.suite.ranges import RangeTests
from servers.endpoint import Endpoint


class Cached(SuiteBase):
    """In front of `inner`, with a cache that no test fills; entries are taken as they are."""

    memory = 256 * MIB
    revalidate: Revalidate = "never"

    @pytest.fixture
    def inner(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def source(self, inner: Store) -> Store:
        return CacheStore(inner, memory=self.memory, revalidate=self.revalidate)

    def test_what_is_read_again_is_a_hit(self, store: BlockStore) -> None:
        _ = store.write_block("k", b"x" * 100)
        for _ in range(3):
            assert store.read_block("k") == b"x" * 100
            assert store.read_block_range("k", 10, 5) == b"x" * 5

        counts = store.stats().cache

        assert counts is not None
        assert (counts.memory_hits + counts.revalidated, counts.misses) == (5, 1)
        assert counts.revalidated == (5 if self.revalidate == "always" else 0)


class TestMemory(Cached, StoreConformance):
    @pytest.fixture
    def inner(self) -> Store:
        return MemoryStore()


class TestMemoryAskedEachTime(TestMemory):
    revalidate = "always"


class TestMemoryWithRoomForLittle(TestMemory):
    """Entries leave all the time, and most blocks are too large to be kept."""

    memory = 40 * KIB


class TestFilesystem(Cached, StoreConformance, DurabilityTests):
    @pytest.fixture
    def inner(self, tmp_path: Path) -> Store:
        return FilesystemStore(tmp_path / "blocks")


class OnDisk(Cached):
    """With a folder, alone or behind a tier in memory that most blocks are too large for."""

    @pytest.fixture(params=[0, 40 * KIB], ids=["disk", "memory and disk"])
    def source(self, inner: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
        disk = DiskCache(tmp_path / "cache", 64 * MIB, "the store")
        return CacheStore(inner, memory=request.param, disk=disk, revalidate=self.revalidate)

    def test_what_is_read_again_is_a_hit(self, store: BlockStore) -> None:
        _ = store.write_block("k", b"x" * 50_000)
        counts, ends = store.stats().cache, monotonic() + 60
        while counts is not None and not counts.disk_hits and monotonic() < ends:
            assert store.read_block("k") == b"x" * 50_000
            counts = store.stats().cache

        assert counts is not None
        assert counts.disk_hits == 1


class TestMemoryCachedOnDisk(OnDisk, StoreConformance):
    @pytest.fixture
    def inner(self) -> Store:
        return MemoryStore()


class TestFilesystemCachedOnDisk(OnDisk, BlockTests, RangeTests, ManyTests, ModelTests):
    revalidate = "always"

    @pytest.fixture
    def inner(self, tmp_path: Path) -> Store:
        return FilesystemStore(tmp_path / "blocks")

    test_what_is_read_again_is_a_hit = None  # it is one that was asked about


class OverMoto(Cached):
    lacks = SERVICES["moto 5"]

    @pytest.fixture
    def inner(self, moto_endpoint: Endpoint, cleared_bucket: str) -> Iterator[Store]:
        config = S3Config(**moto_endpoint.s3_settings(cleared_bucket))
        yield S3Store(config, credential_source(config, {}))
        with open_store(StoreConfig(s3=config)) as store:
            assert store.delete_by_prefix("", literal=True).failed == {}


class TestMoto(OverMoto, StoreConformance, DurabilityTests, DeadlineTests):
    pass


class TestMotoCachedOnDisk(OnDisk, OverMoto, BlockTests, RangeTests, ManyTests, ModelTests):
    pass


class TestMotoWithRoomForLittle(OverMoto, BlockTests, RangeTests, ManyTests, ModelTests):
    """The parts that read, asked each time."""

    memory = 40 * KIB
    revalidate = "always"
