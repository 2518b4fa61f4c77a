"""The conformance suite over the two local stores."""

from pathlib import Path

import pytest

from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.conformance import DurabilityTests, StoreConformance
from blockyard.testing.faces import Source
from blockyard.testing.suite.lifecycle import CALLS


class TestMemory(StoreConformance):
    @pytest.fixture
    def source(self) -> Source:
        return MemoryStore()


class TestFilesystem(StoreConformance, DurabilityTests):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return FilesystemStore(tmp_path / "blocks")


def test_the_suite_calls_every_method() -> None:
    methods = {name for name in vars(BlockStore) if not name.startswith("_")}

    assert set(CALLS) == methods - {"close", "with_options"}
