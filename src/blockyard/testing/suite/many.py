"""Many blocks at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blockyard.errors import BlockNotFoundError, InvalidRangeError
from blockyard.model import MIB
from blockyard.sync import BlockStore
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase

_KEYS = [f"many/{number}" for number in range(40)]


def _data(number: int) -> bytes:
    return content(1000 - number, seed=number)


class ManyTests(SuiteBase):
    """Results come in request order, and the first error is raised."""

    def test_results_come_in_the_order_asked(self, store: BlockStore) -> None:
        written = store.write_blocks([(key, _data(n)) for n, key in enumerate(_KEYS)])
        assert [(block.key, block.size) for block in written] == [
            (key, 1000 - n) for n, key in enumerate(_KEYS)
        ]

        order = [17, 3, 39, 0, 3, 25]
        assert store.read_blocks(_KEYS[n] for n in order) == [_data(n) for n in order]
        ranges = [(_KEYS[n], 10 * n, 7) for n in order]
        assert store.read_block_ranges(ranges) == [_data(n)[10 * n : 10 * n + 7] for n in order]

    def test_large_blocks(self, store: BlockStore) -> None:
        blocks = [(f"large/{number}", content(4 * MIB, seed=number)) for number in range(4)]

        _ = store.write_blocks(blocks)

        assert store.read_blocks([key for key, _ in blocks]) == [data for _, data in blocks]

    def test_none_at_all(self, store: BlockStore) -> None:
        assert store.write_blocks([]) == []
        assert store.read_blocks([]) == []
        assert store.read_block_ranges([]) == []

    def test_one_at_a_time(self, store: BlockStore) -> None:
        one = store.with_options(concurrency=1)

        _ = one.write_blocks([(key, b"") for key in _KEYS[:5]])

        assert one.read_blocks(_KEYS[:5]) == [b""] * 5

    def test_blocks_are_drawn_as_they_are_written(self, store: BlockStore) -> None:
        """A generator of blocks is never taken to its end before the first is written."""

        def blocks() -> Iterator[tuple[str, bytes]]:
            yield _KEYS[0], b""
            raise InterruptedError("the source broke off")

        with pytest.raises(InterruptedError):
            _ = store.with_options(concurrency=1).write_blocks(blocks())

        assert store.list_by_prefix() == _KEYS[:1]

    def test_the_error_of_a_missing_block(self, store: BlockStore) -> None:
        _ = store.write_blocks([(key, b"block") for key in _KEYS])
        store.delete_block(_KEYS[20])

        with pytest.raises(BlockNotFoundError, match=f"'{_KEYS[20]}'"):
            _ = store.read_blocks(_KEYS)
        with pytest.raises(BlockNotFoundError, match=f"'{_KEYS[20]}'"):
            _ = store.read_block_ranges([(key, 0, 1) for key in _KEYS])
        with pytest.raises(InvalidRangeError, match=f"'{_KEYS[3]}'"):
            _ = store.read_block_ranges([(_KEYS[2], 0, 1), (_KEYS[3], 5, 1)])

    def test_one_key_in_place_of_several_is_refused(self, store: BlockStore) -> None:
        with pytest.raises(TypeError, match="expected several keys"):
            _ = store.read_blocks("ab")
