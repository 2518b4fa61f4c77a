"""The conformance suite over the two local stores."""

from pathlib import Path

import pytest

from blockyard.context import Context
from blockyard.errors import ServerError
from blockyard.model import BlockInfo
from blockyard.stores.base import WriteRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.clients import Source
from blockyard.testing.conformance import DeadlineTests, DurabilityTests, StoreConformance
from blockyard.testing.suite.lifecycle import CALLS
from blockyard.testing.suite.odd_keys import OddKeyTests


class TestMemory(StoreConformance, DeadlineTests):
    @pytest.fixture
    def source(self) -> Source:
        return MemoryStore()


class TestFilesystem(StoreConformance, DurabilityTests, DeadlineTests):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return FilesystemStore(tmp_path / "blocks")


def test_the_suite_calls_every_method() -> None:
    methods = {name for name in vars(BlockStore) if not name.startswith("_")}

    assert set(CALLS) == methods - {"close", "closed", "presign", "stats", "with_options"}


class FussyStore(MemoryStore):
    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        if request.key == "//":
            raise ServerError("no place for that", status=500)
        return await super().write(ctx, request)


class TestAServerWithoutPlaceForAKey(OddKeyTests):
    lacks = frozenset({Capability.SLASHES_ALONE})

    @pytest.fixture
    def source(self) -> Source:
        return FussyStore()
