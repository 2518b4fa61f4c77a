"""Deleting: one, many, and by prefix."""

from __future__ import annotations

import pytest

from blockyard.errors import InvalidKeyError
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.suite.base import SuiteBase

_SHARES = ["share1", "share1/", "share1/a", "share1/b/c", "share10", "share10/a", "share2/a"]


class DeleteTests(SuiteBase):
    """What is requested goes, and nothing else."""

    def test_delete_is_for_one_key(self, store: BlockStore) -> None:
        keys = self.held(_SHARES)
        _ = store.write_blocks([(key, b"") for key in keys])

        store.delete_block(keys[0])

        assert store.list_by_prefix() == keys[1:]

    def test_an_absent_block_is_no_error(self, store: BlockStore) -> None:
        _ = store.write_block("a/b/c", b"")

        for key in ("b", "a", "a/b", "a/b/", "a/b/c/", "a/b/c/d"):
            if self.held(["a/b/c", key]) == ["a/b/c", key]:
                store.delete_block(key)

        assert store.list_by_prefix() == ["a/b/c"]

    def test_each_key_has_its_outcome(self, store: BlockStore) -> None:
        _ = store.write_blocks([(key, b"") for key in ("a", "b", "c")])

        result = store.delete_blocks(["c", "absent", "a", "c", "absent"])

        assert result.deleted == ["c", "absent", "a"]
        assert dict(result.failed) == {}
        assert store.list_by_prefix() == ["b"]

    def test_nothing_to_delete(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"")

        assert store.delete_blocks([]).deleted == []
        assert store.delete_by_prefix("b").deleted == []

        assert store.list_by_prefix() == ["a"]

    def test_one_key_in_place_of_several_is_refused(self, store: BlockStore) -> None:
        _ = store.write_blocks([("a", b""), ("ab", b""), ("b", b"")])

        with pytest.raises(TypeError, match="expected several keys"):
            _ = store.delete_blocks("ab")

        assert store.list_by_prefix() == ["a", "ab", "b"]

    @pytest.mark.parametrize(
        ("prefix", "literal", "gone"),
        [
            ("share1", False, ["share1", "share1/", "share1/a", "share1/b/c"]),
            ("share1/", False, ["share1/", "share1/a", "share1/b/c"]),
            ("share1", True, _SHARES[:6]),
            ("share1/", True, ["share1/", "share1/a", "share1/b/c"]),
            ("share1/b", False, ["share1/b/c"]),
            ("share", False, []),
            ("share", True, _SHARES),
            ("", True, _SHARES),
            ("/", False, []),
        ],
    )
    def test_prefixes_end_at_a_slash_unless_literal(
        self, store: BlockStore, prefix: str, literal: bool, gone: list[str]
    ) -> None:
        if prefix == "/" and Capability.ODD_PATHS in self.lacks:
            pytest.skip("the service takes the prefix for none: such a listing is a ProtocolError")
        keys = self.held(_SHARES)
        gone = [key for key in keys if key in gone]
        _ = store.write_blocks([(key, b"") for key in keys])

        dry = store.delete_by_prefix(prefix, literal=literal, dry_run=True)
        assert dry.deleted == gone
        assert store.list_by_prefix() == keys

        result = store.delete_by_prefix(prefix, literal=literal)
        assert result.deleted == gone
        assert not result.failed
        assert store.list_by_prefix() == [key for key in keys if key not in gone]

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_an_empty_prefix_is_refused_unless_literal(
        self, store: BlockStore, dry_run: bool
    ) -> None:
        _ = store.write_block("a", b"")

        with pytest.raises(InvalidKeyError, match="literal=True"):
            _ = store.delete_by_prefix("", dry_run=dry_run)

        assert store.list_by_prefix() == ["a"]
