"""The conformance suite through a cache, in front of each kind of store.

What is read twice comes from the cache, as `test_what_is_read_again_is_a_hit` shows of each of
these classes: else the suite would show nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from blockyard import HttpConfig, S3Config, StoreConfig, TimeoutConfig, open_store
from blockyard.cache.disk import DiskCache
from blockyard.cache.folder import Folder
from blockyard.cache.store import CacheStore, Revalidate
from blockyard.cache.write_back import WriteBackStore
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
from blockyard.testing.suite.conditions import ConditionTests
from blockyard.testing.suite.contents import ContentTests
from blockyard.testing.suite.many import ManyTests
from blockyard.testing.suite.model import ModelTests
from blockyard.testing.suite.objects import ObjectTests
from blockyard.testing.suite.ranges import RangeTests
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.connections import Connections
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


class Reads(BlockTests, RangeTests, ManyTests, ContentTests, ModelTests):
    """The parts of the suite that read what they wrote."""


class OverMemory(Cached):
    @pytest.fixture
    def inner(self) -> Store:
        return MemoryStore()


class OverFiles(Cached):
    @pytest.fixture
    def inner(self, tmp_path: Path) -> Store:
        return FilesystemStore(tmp_path / "blocks")


class OverMoto(Cached):
    lacks = SERVICES["moto 5"]

    @pytest.fixture
    def inner(self, moto_endpoint: Endpoint, cleared_bucket: str) -> Iterator[Store]:
        config = S3Config(**moto_endpoint.s3_settings(cleared_bucket))
        yield S3Store(config, credential_source(config, {}))
        with open_store(StoreConfig(s3=config)) as store:
            assert store.delete_by_prefix("", literal=True).failed == {}


class RoomForLittle(Cached):
    """Entries leave all the time, most blocks are too large to be kept, each is asked about."""

    memory = 40 * KIB
    revalidate = "always"


class OnDisk(Cached):
    """With a folder, and no tier in memory but where `memory` says so."""

    memory = 0

    @pytest.fixture
    def source(self, inner: Store, tmp_path: Path) -> Store:
        disk = DiskCache(tmp_path / "cache", 64 * MIB, "the store")
        return CacheStore(inner, memory=self.memory, disk=disk, revalidate=self.revalidate)

    def test_what_is_read_again_is_a_hit(self, store: BlockStore) -> None:
        _ = store.write_block("k", b"x" * 50_000)
        counts, ends = store.stats().cache, monotonic() + 60
        while counts is not None and not counts.disk_hits and monotonic() < ends:
            assert store.read_block("k") == b"x" * 50_000
            counts = store.stats().cache

        assert counts is not None
        assert counts.disk_hits == 1


class WriteBack(OnDisk):
    """What was written is in the folder first, and in the store once it was uploaded or listed."""

    @pytest.fixture
    def source(self, inner: Store, tmp_path: Path) -> Store:
        root = tmp_path / "cache"
        disk = DiskCache(root, 32 * MIB, inner.identity)
        cache = CacheStore(inner, memory=self.memory, disk=disk, revalidate=self.revalidate)
        runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
        return WriteBackStore(cache, Folder(root), 32 * MIB, runtime)

    def test_what_was_drained_is_in_the_store(self, store: BlockStore, inner: Store) -> None:
        _ = store.write_block("k", b"staged")
        assert store.drain(60) == []
        with open_store(inner) as below:
            assert below.read_block("k") == b"staged"


class TestMemory(OverMemory, StoreConformance):
    pass


class TestMemoryWithRoomForLittle(RoomForLittle, OverMemory, Reads):
    pass


@pytest.mark.thorough
class TestMemoryOnDisk(OnDisk, OverMemory, StoreConformance):
    pass


@pytest.mark.thorough
class TestMemoryOnDiskAndInMemory(OnDisk, OverMemory, Reads):
    memory = 40 * KIB


@pytest.mark.thorough
class TestFiles(OverFiles, Reads, DurabilityTests):
    pass


@pytest.mark.thorough
class TestFilesOnDisk(OnDisk, OverFiles, Reads):
    pass


@pytest.mark.thorough
class TestMoto(OverMoto, StoreConformance, DurabilityTests, DeadlineTests):
    pass


@pytest.mark.thorough
class TestMotoWithRoomForLittle(RoomForLittle, OverMoto, BlockTests, RangeTests, ManyTests):
    pass


@pytest.mark.thorough
class TestMotoOnDisk(OnDisk, OverMoto, BlockTests, RangeTests, ManyTests):
    pass


@pytest.mark.thorough
class TestMotoOnDiskAndInMemory(OnDisk, OverMoto, RangeTests, ConditionTests, ContentTests):
    memory = 40 * KIB


@pytest.mark.thorough
class TestMemoryWriteBack(WriteBack, OverMemory, StoreConformance):
    pass


class TestFilesWriteBack(WriteBack, OverFiles, Reads, DurabilityTests, DeadlineTests):
    pass


@pytest.mark.thorough
class TestMotoWriteBack(WriteBack, OverMoto, BlockTests, ConditionTests, ObjectTests):
    memory = 40 * KIB
