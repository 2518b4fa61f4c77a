"""Copying within the store."""

from __future__ import annotations

import pytest

from blockyard.errors import BlockNotFoundError
from blockyard.model import MIB
from blockyard.sync import BlockStore
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase, stored


class CopyTests(SuiteBase):
    """A copy is a block of its own."""

    @pytest.mark.parametrize("size", [0, 1, 4 * MIB + 1])
    def test_a_copy_holds_the_same(self, store: BlockStore, size: int) -> None:
        data = content(size)
        _ = store.write_block("source", data)

        copied = store.copy_block("source", "folder/target")

        assert copied.key == "folder/target"
        assert copied.etag == store.stat_block("folder/target").etag
        assert store.stat_block("folder/target").size == size
        assert store.read_block("folder/target") == data
        assert store.read_block("source") == data

    def test_a_copy_stands_by_itself(self, store: BlockStore) -> None:
        _ = store.write_block("source", b"first")
        _ = store.copy_block("source", "target")

        _ = store.write_block("source", b"second")
        assert store.read_block("target") == b"first"
        store.delete_block("source")
        assert store.read_block("target") == b"first"

    def test_a_copy_replaces_its_target(self, store: BlockStore) -> None:
        _ = store.write_block("source", b"new")
        old = stored(store, "target", b"old and longer")

        copied = store.copy_block("source", "target")

        assert store.read_block("target") == b"new"
        assert copied.etag != old.etag

    def test_a_copy_onto_itself_changes_nothing(self, store: BlockStore) -> None:
        known = stored(store, "a/b", b"block")

        copied = store.copy_block("a/b", "a/b")

        assert (copied.key, copied.etag) == ("a/b", known.etag)
        assert store.read_block("a/b") == b"block"

    @pytest.mark.parametrize("target", ["target", "missing"])
    def test_a_missing_source(self, store: BlockStore, target: str) -> None:
        _ = store.write_block("target", b"old")

        with pytest.raises(BlockNotFoundError, match="copy_block 'missing'"):
            _ = store.copy_block("missing", target)

        assert store.read_block("target") == b"old"
        assert store.list_by_prefix() == ["target"]
