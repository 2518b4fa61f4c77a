"""Runs of bytes that are read in pieces: contents block by block, objects in ranges.

This module does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from blockyard.model import KIB

LEAST_PART = 512 * KIB
"""The smallest part of a block that is read by itself, in bytes."""
_WHOLE_UP_TO = 4
"""Ranges of so many blocks are read in whole blocks: parts cost requests."""
_PARTS_ALIGNED = 64 * KIB
"""Parts are a multiple of this, so of the page size of most blocks."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one block that a range needs.

    position: where its bytes go in the result
    size: the size of the whole block
    crc32c: the checksum of the whole block; etag: the version to read; None where there is none
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
        """Whether the piece is all of its block."""
        return self.length == self.size


class Extent(ABC):
    """A run of bytes in blocks of equal size, and how a range of it is cut into pieces.

    `operation` is what errors name.
    """

    operation: str

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Bytes of a block; only the last one may be smaller."""

    @abstractmethod
    def _piece(self, index: int, first: int, last: int, start: int) -> Piece:
        """The piece from `first` to `last` in block `index`, of a range that begins at `start`."""

    def pieces(self, start: int, stop: int, places: int | None = None) -> list[Piece]:
        """The pieces of the range from `start` to `stop`.

        For reads of `places` pieces at a time, blocks near the end are cut into parts: see `edge`.
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
        """`places` if the range is long enough for blocks to be cut into parts; else None."""
        return places if stop - start > _WHOLE_UP_TO * self.block_size else None

    def edge(self, at: int, stop: int, places: int | None, *, least: bool = False) -> int:
        """The end of the piece that begins at `at`, of a range up to `stop`.

        It is the end of its block, or of a part of it. Connections are not equally fast, so with
        whole blocks the slowest one would be waited for. Towards the end pieces get smaller, down
        to one of `LEAST_PART` for each of the `places`: faster connections read more of them. With
        `least` this piece has no more than `LEAST_PART`.
        """
        begin = at - at % self.block_size
        size = self.block_size
        while places is not None and size > LEAST_PART and (least or size * places > stop - begin):
            size = max(LEAST_PART, -(-size // 2 // _PARTS_ALIGNED) * _PARTS_ALIGNED)
        part_end = at - (at - begin) % size + size
        return min(part_end, begin + self.block_size, stop)
