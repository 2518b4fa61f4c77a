"""Ranges of one block that lie close together, merged into one read.

Ranges that overlap or touch cost a request each, and bytes of the same pages several times over.
Pure: a plan of which ranges are read together, and the parts of what was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from blockyard.model import KIB, MIB

Range = tuple[str, int, int | None]
"""Key, offset, and length: None for all up to the end of the block."""

_GAP = 16 * KIB
"""Most unwanted bytes between two merged ranges: they take less time than another request."""
_MOST = 1 * MIB
"""Most bytes of a merged read: longer ones would lose parallelism."""


@dataclass(slots=True, eq=False)
class MergedRead:
    """One read, `length` bytes from `offset` (to the end when None), for several ranges."""

    key: str
    offset: int
    length: int | None
    indices: list[int]
    """Which of the ranges that were requested."""

    def takes(self, offset: int, length: int, gap: int, most: int) -> bool:
        """Add a range, which begins no earlier than the last one, if it fits: see `merged`."""
        assert self.length is not None  # noqa: S101 - `merged` adds to no other
        end = self.offset + self.length
        longer = max(end, offset + length) - self.offset
        if offset > end + gap or (longer > most and longer > self.length):
            return False
        self.length = longer
        return True


def merged(ranges: Sequence[Range], gap: int = _GAP, most: int = _MOST) -> list[MergedRead]:
    """Merge `ranges` into reads, in the order of the first range of each.

    Ranges at most `gap` bytes apart are read together, up to `most` bytes at a time.
    """
    by_key: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    reads: list[MergedRead] = []
    for index, (key, offset, length) in enumerate(ranges):
        if length:
            by_key[key].append((offset, length, index))
        else:
            reads.append(MergedRead(key, offset, length, [index]))
    for key, of_one_block in by_key.items():
        of_one_block.sort()
        last: MergedRead | None = None
        for offset, length, index in of_one_block:
            if last is not None and last.takes(offset, length, gap, most):
                last.indices.append(index)
            else:
                last = MergedRead(key, offset, length, [index])
                reads.append(last)
    reads.sort(key=lambda read: min(read.indices))
    return reads


def part(read: MergedRead, data: bytes, wanted: Range) -> bytes | None:
    """The bytes of `wanted` within the `data` of `read`; None when they begin past its end."""
    if len(read.indices) == 1:
        return data
    _, offset, length = wanted
    begin = offset - read.offset
    if begin >= len(data) or length is None:  # None is never merged
        return None
    return data[begin : begin + length]
