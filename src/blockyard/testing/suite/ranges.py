"""Reading parts of a block."""

from __future__ import annotations

import pytest

from blockyard.errors import InvalidRangeError
from blockyard.model import KIB, MIB
from blockyard.sync import BlockStore
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase

KEY = "share/content/chunk-0/block-1"
_PAGE = 16 * KIB


class RangeTests(SuiteBase):
    """A range is exactly the bytes asked for, clamped at the block's end."""

    @pytest.mark.parametrize(
        ("offset", "length"),
        [
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
        ],
    )
    def test_ranges_of_a_block_of_100_bytes(
        self, store: BlockStore, offset: int, length: int | None
    ) -> None:
        data = content(100)
        _ = store.write_block(KEY, data)

        read = store.read_block_range(KEY, offset, length)

        assert type(read) is bytes
        assert read == (data[offset:] if length is None else data[offset : offset + length])

    def test_pages_of_a_whole_block(self, store: BlockStore) -> None:
        data = content(4 * MIB)
        _ = store.write_block(KEY, data)

        for offset in (0, _PAGE, 2 * MIB, 4 * MIB - _PAGE, 4 * MIB - 1):
            assert store.read_block_range(KEY, offset, _PAGE) == data[offset : offset + _PAGE]
        assert store.read_block_range(KEY, 1) == data[1:]

    @pytest.mark.parametrize("length", [None, 0, 1, 100])
    @pytest.mark.parametrize("offset", [100, 101, 10**12])
    def test_a_range_at_or_past_the_end(
        self, store: BlockStore, offset: int, length: int | None
    ) -> None:
        _ = store.write_block(KEY, content(100))

        with pytest.raises(InvalidRangeError, match=f"read_block_range '{KEY}': offset {offset} "):
            _ = store.read_block_range(KEY, offset, length)

    @pytest.mark.parametrize("length", [None, 0, 1])
    def test_an_empty_block_has_no_ranges(self, store: BlockStore, length: int | None) -> None:
        _ = store.write_block(KEY, b"")

        with pytest.raises(InvalidRangeError):
            _ = store.read_block_range(KEY, 0, length)

    @pytest.mark.parametrize(
        ("offset", "length"), [(-1, 1), (-1, None), (0, -1), (1.5, 1), (0, "1")]
    )
    def test_a_range_that_is_none(self, store: BlockStore, offset: int, length: int | None) -> None:
        _ = store.write_block(KEY, content(100))

        with pytest.raises(InvalidRangeError, match=r"read_block_range .*whole number"):
            _ = store.read_block_range(KEY, offset, length)
