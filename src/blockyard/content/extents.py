"""Runs of bytes that are read in pieces: contents in their blocks, objects in parts of a size.

This module does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from blockyard.model import KIB

LEAST_PART = 512 * KIB
"""Blocks are not read in smaller parts than of so many bytes."""
_WHOLE_UP_TO = 4
"""As many blocks are read whole: parts are for those who read for long, and cost requests."""
_PARTS_ALIGNED = 64 * KIB
"""To a whole number of pages of most blocks: others are widened to them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one block that a range needs; `position` is its place in the result.

    `size` is that of the block. `crc32c` is that of the whole block, `etag` the version of it to
    read alone; None where there is none.
    """

    index: int
    key: str
    size: int
    offset: int
    length: int
    position: int
    crc32c: int | None = None
    etag: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of the block."""
        return self.length == self.size


class Extent(ABC):
    """A run of bytes in blocks of one size, and how a range of it is cut into pieces.

    `operation` is what reads it, which errors name.
    """

    operation: str

    @property
    @abstractmethod
    def block_size(self) -> int:
        """In bytes; only the last block may be smaller."""

    @abstractmethod
    def _piece(self, index: int, first: int, last: int, start: int) -> Piece:
        """From `first` to `last` in the block `index`, for a range that begins at `start`."""

    def pieces(self, start: int, stop: int, places: int | None = None) -> list[Piece]:
        """What to read of which block for the bytes from `start` to `stop`, both within.

        Where they are read in `places` at a time, blocks near the end are in parts: see `edge`.
        """
        return list(self.walk(start, stop, places))

    def walk(self, start: int, stop: int, places: int | None = None) -> Iterator[Piece]:
        """The same one by one, as there may be millions."""
        at, places = start, self.places_in_parts(start, stop, places)
        while at < stop:
            after = self.edge(at, stop, places)
            yield self._piece(at // self.block_size, at, after, start)
            at = after

    def places_in_parts(self, start: int, stop: int, places: int | None) -> int | None:
        """`places` where some of this range is read in parts, and else None."""
        return places if stop - start > _WHOLE_UP_TO * self.block_size else None

    def edge(self, at: int, stop: int, places: int | None, *, least: bool = False) -> int:
        """Where a piece that begins at `at` ends, of what is read up to `stop`.

        That is the end of its block, or of a part of it. Connections are not equally fast, so with
        one block left to each the slowest is waited for. Towards the end pieces get smaller, until
        each of the `places` has one of `LEAST_PART` left: who is fast takes more of them. With
        `least` this piece has no more than that.
        """
        begin = at - at % self.block_size
        size = self.block_size
        while places is not None and size > LEAST_PART and (least or size * places > stop - begin):
            size = max(LEAST_PART, -(-size // 2 // _PARTS_ALIGNED) * _PARTS_ALIGNED)
        part_end = at - (at - begin) % size + size
        return min(part_end, begin + self.block_size, stop)
