"""Listing: order, literal prefixes, and more keys than a page holds."""

from __future__ import annotations

import pytest

from blockyard.prefixes import PAGE_SIZE
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
_ASCII = [key for key in _KEYS if key.isascii()]
"""LocalStack 4.13 loses other keys between short pages, and behind a key to start after."""


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

    @pytest.mark.parametrize("folder", ["", "a", "a/", "a//", "a/b", "b", "b/a", "z", "nothing"])
    def test_what_lies_in_a_folder(self, store: BlockStore, folder: str) -> None:
        keys = self.held(_KEYS)
        _ = store.write_blocks([(key, b"") for key in reversed(keys)])

        listing = store.list_folder(folder)

        begin = folder if folder in {"", "a/", "a//"} else folder + "/"
        below = [key for key in keys if key.startswith(begin)]
        blocks = [key for key in below if "/" not in key[len(begin) :]]
        deeper = [key[: key.index("/", len(begin)) + 1] for key in below if key not in blocks]
        assert [block.key for block in listing.blocks] == blocks
        assert listing.folders == list(dict.fromkeys(deeper))
        assert [block.size for block in listing.blocks] == [0] * len(blocks)

    @pytest.mark.parametrize("folder", ["", "a", "a/b"])
    def test_what_lies_in_a_folder_page_by_page(
        self, store: BlockStore, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = self.held([*_ASCII, "a/b/d/e", "a/b/d/f", "a/c/d", "a/c/e", "a/d"])
        _ = store.write_blocks([(key, b"") for key in keys])
        whole = store.list_folder(folder)

        for page_size in (1, 2, 3):
            monkeypatch.setattr("blockyard.prefixes.PAGE_SIZE", page_size)
            assert store.list_folder(folder) == whole
            assert [block.key for block in store.iter_blocks(folder)] == sorted(
                key for key in keys if key.startswith(folder)
            )

    @pytest.mark.parametrize("prefix", ["", "a", "a/"])
    def test_listings_that_start_after_a_key(self, store: BlockStore, prefix: str) -> None:
        keys = self.held(_ASCII)
        _ = store.write_blocks([(key, b"") for key in keys])

        for after in ["", "0", "a/b", "a/b-", "a/b/", "zz", *keys]:
            expected = [key for key in keys if key > after and key.startswith(prefix)]
            found = store.iter_blocks(prefix, start_after=after)
            assert [block.key for block in found] == expected

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
