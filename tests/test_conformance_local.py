"""The conformance suite over the two local stores."""

from pathlib import Path

import pytest

from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.testing.conformance import DurabilityTests, StoreConformance
from blockyard.testing.faces import Source


class TestMemory(StoreConformance):
    @pytest.fixture
    def source(self) -> Source:
        return MemoryStore()


class TestFilesystem(StoreConformance, DurabilityTests):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return FilesystemStore(tmp_path / "blocks")
