"""Listing: order, literal prefixes, and more keys than a page holds."""

from __future__ import annotations

import pytest

from blockyard.operations import PAGE_SIZE
from blockyard.sync import BlockStore
from blockyard.testing.suite.base import SuiteBase

_SEVERAL_PAGES = PAGE_SIZE + 50
_KEYS = [
    "A",
    "a",
    "a!",
    "a-b",
    "a.b",
    "a/",
    "a//",
    "a/b",
    "a/b!",
    "a/b/c",
    "a/b0",
    "a0",
    "ab",
    "b/a/c",
    "z",
    "\u00e9",
    "\uffff",
    "\U00010000",
]
"""In the order of their UTF-8 bytes, which that of UTF-16 is not for the last two."""


class ListingTests(SuiteBase):
    """A listing is complete, in order, and says what a stat would."""

    def test_an_empty_store(self, store: BlockStore) -> None:
        assert store.list_by_prefix() == []
        assert store.list_by_prefix("a") == []
        assert list(store.iter_blocks()) == []

    @pytest.mark.parametrize(
        "prefix", ["", "A", "a", "a/", "a//", "a/b", "a/b/", "b/a/c", "b/a/c/", "nothing", "\u00e9"]
    )
    def test_prefixes_are_literal(self, store: BlockStore, prefix: str) -> None:
        keys = self.held(_KEYS)
        _ = store.write_blocks([(key, b"") for key in reversed(keys)])

        expected = [key for key in keys if key.startswith(prefix)]
        assert store.list_by_prefix(prefix) == expected
        assert [block.key for block in store.iter_blocks(prefix)] == expected

    def test_a_listing_says_what_stat_does(self, store: BlockStore) -> None:
        _ = store.write_blocks([("a/b", b"12345"), ("a/c", b"")])

        listed = list(store.iter_blocks("a/"))

        assert [block.size for block in listed] == [5, 0]
        for block in listed:
            assert block.etag == store.stat_block(block.key).etag
            assert block.last_modified is not None

    def test_several_pages(self, store: BlockStore) -> None:
        """One test for all that needs so many keys: writing them takes its time on a server."""
        keys = [f"many/{number:04}" for number in range(_SEVERAL_PAGES)]
        written = store.write_blocks((key, key.encode()) for key in keys)
        assert [block.key for block in written] == keys
        others = [key for key in self.held(["many", *keys, "many0", "manz"]) if key not in keys]
        _ = store.write_blocks([(key, b"") for key in reversed(others)])

        assert store.list_by_prefix("many/") == keys
        assert store.list_by_prefix() == sorted([*keys, *others])
        assert [block.key for block in store.iter_blocks("many/")] == keys
        assert store.read_blocks(keys) == [key.encode() for key in keys]

        asked = ["absent", *keys, keys[0]]
        dry = store.delete_by_prefix("many", dry_run=True)
        assert dry.deleted == sorted({*keys, *others} - {"many0", "manz"})
        result = store.delete_blocks(asked)
        assert result.deleted == asked[:-1]
        assert not result.failed
        assert store.list_by_prefix() == others

    def test_a_listing_left_half_way(self, store: BlockStore) -> None:
        _ = store.write_blocks([(key, b"") for key in "abc"])
        blocks = store.iter_blocks()

        assert next(blocks).key == "a"
        del blocks

        assert store.list_by_prefix() == ["a", "b", "c"]
