"""Reading parts of a block."""

from __future__ import annotations

from typing import Any

import pytest

from blockyard.errors import (
    BlockNotFoundError,
    InvalidRangeError,
    NotModifiedError,
    PreconditionFailedError,
)
from blockyard.model import KIB, MIB
from blockyard.sync import BlockStore
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase, stored

KEY = "share/content/chunk-0/block-1"
_PAGE = 16 * KIB


_SIZE = 100
_WITHIN = [
    (0, 1),
    (0, None),
    (0, 100),
    (0, 101),
    (0, 10**12),
    (7, 13),
    (7, None),
    (50, 0),
    (0, 0),
    (99, 0),
    (99, 1),
    (99, 2),
    (99, None),
]
_BEYOND = [(offset, length) for offset in (100, 101, 10**12) for length in (None, 0, 1, 100)]
_NONE_AT_ALL: list[Any] = [(-1, 1), (-1, None), (0, -1)]
_MISTYPED: list[Any] = [(1.5, 1), (0, "1"), (None, 1), (True, 1)]


class RangeTests(SuiteBase):
    """A range is exactly the bytes requested, clamped at the block's end."""

    def test_ranges_within_a_block(self, store: BlockStore) -> None:
        data = content(_SIZE)
        _ = store.write_block(KEY, data)

        for offset, length in _WITHIN:
            read = store.read_block_range(KEY, offset, length)
            assert type(read) is bytes
            assert read == data[offset:][:length], (offset, length)

    def test_pages_of_a_whole_block(self, store: BlockStore) -> None:
        data = content(4 * MIB)
        _ = store.write_block(KEY, data)

        for offset in (0, _PAGE, 2 * MIB, 4 * MIB - _PAGE, 4 * MIB - 1):
            assert store.read_block_range(KEY, offset, _PAGE) == data[offset : offset + _PAGE]
        assert store.read_block_range(KEY, 1) == data[1:]

    def test_bytes_and_the_block_they_are_of(self, store: BlockStore) -> None:
        data = content(_SIZE)
        known = stored(store, KEY, data)

        for offset, length in _WITHIN:
            read, info = store.read_block_with_info(KEY, offset, length)
            assert type(read) is bytes
            assert read == data[offset:][:length], (offset, length)
            assert (info.key, info.size, info.etag) == (KEY, _SIZE, known.etag)
            assert info.last_modified is not None
        for offset, length in _BEYOND:
            with pytest.raises(InvalidRangeError, match="read_block_with_info"):
                _ = store.read_block_with_info(KEY, offset, length)

    @pytest.mark.parametrize("size", [0, 1, 100, 3 * _PAGE + 5])
    def test_the_end_of_a_block(self, store: BlockStore, size: int) -> None:
        data = content(size)
        _ = store.write_block(KEY, data)

        for suffix in (0, 1, 99, 100, 101, _PAGE, size, 10**12):
            read, info = store.read_block_with_info(KEY, suffix=suffix)
            assert read == (data[-suffix:] if suffix else b"")
            assert (info.key, info.size) == (KEY, size)

    @pytest.mark.parametrize(
        "asked", [{}, {"offset": 5, "length": 9}, {"suffix": 7}, {"suffix": 0}], ids=str
    )
    def test_reads_of_one_version(self, store: BlockStore, asked: dict[str, Any]) -> None:
        old = stored(store, KEY, content(_SIZE)).etag
        _, info = store.read_block_with_info(KEY, **asked, if_match=old, if_none_match="another")
        assert info.etag == old
        with pytest.raises(NotModifiedError, match=KEY):
            _ = store.read_block_with_info(KEY, **asked, if_none_match=old)

        new = stored(store, KEY, content(_SIZE)[::-1]).etag
        assert new != old
        with pytest.raises(PreconditionFailedError, match=KEY):
            _ = store.read_block_with_info(KEY, **asked, if_match=old)
        _, info = store.read_block_with_info(KEY, **asked, if_none_match=old)
        assert info.etag == new
        store.delete_block(KEY)
        conditions: list[dict[str, Any]] = [{"if_match": new}, {"if_none_match": old}]
        for condition in conditions:
            with pytest.raises(BlockNotFoundError):
                _ = store.read_block_with_info(KEY, **asked, **condition)

    def test_ranges_at_or_past_the_end(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, content(_SIZE))

        for offset, length in _BEYOND:
            says = f"read_block_range '{KEY}': offset {offset} "
            with pytest.raises(InvalidRangeError, match=says):
                _ = store.read_block_range(KEY, offset, length)

    @pytest.mark.parametrize("length", [None, 0, 1])
    def test_an_empty_block_has_no_ranges(self, store: BlockStore, length: int | None) -> None:
        _ = store.write_block(KEY, b"")

        with pytest.raises(InvalidRangeError):
            _ = store.read_block_range(KEY, 0, length)

    def test_ranges_that_are_none(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, content(_SIZE))

        for offset, length in _NONE_AT_ALL:
            with pytest.raises(InvalidRangeError, match=r"read_block_range .*whole number"):
                _ = store.read_block_range(KEY, offset, length)
        for offset, length in _MISTYPED:
            with pytest.raises(TypeError, match=r"read_block_range .*whole number"):
                _ = store.read_block_range(KEY, offset, length)
