"""Widening of a missed range to whole pages, or to the whole block."""

from __future__ import annotations

from blockyard.cache.tier import Pages
from blockyard.s3.integrity import page_size
from blockyard.stores.base import ReadRequest

_WHOLE_AT = 4
"""The missed range of a block with which all of it is read."""
_MISSED_KEPT = 10_000


class Widening:
    """Widens reads to whole pages, and to whole blocks of up to `largest` bytes once that pays."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._missed: dict[str, tuple[int, int | None]] = {}
        """How often ranges of a block were missing, and where the last of them ended."""

    def widened(self, request: ReadRequest, held: Pages | None, page: int) -> ReadRequest:
        """The request to the store for a request to the cache.

        `page` is the page size to assume of a block that is not held.
        """
        wanted = ReadRequest(
            request.key,
            suffix=request.suffix,
            if_match=request.if_match,
            if_none_match=request.if_none_match,
            operation=request.operation,
            page_sums=True,
            or_empty=request.or_empty,
        )
        if request.whole:
            return wanted
        offset, length = request.offset, request.length
        if held is not None:
            page = page_size(held.info.size)
        if offset is None:
            wanted.suffix = (request.suffix or 0) + page - 1  # to an edge, wherever that is
        else:
            wanted.offset = offset - offset % page
            if length is not None:
                wanted.length = -(-(offset + length) // page) * page - wanted.offset
        if held is None or not held.covers(request):
            again = self._missed_before(wanted)
            if again and held is not None and held.info.size <= self._largest:
                wanted.offset = wanted.length = wanted.suffix = None
        return wanted

    def _missed_before(self, wanted: ReadRequest) -> bool:
        """Count a missed range; whether the block should be read whole now.

        A heuristic: a count that threads lose, or that is dropped, costs one more request.
        """
        times, end = self._missed.get(wanted.key, (0, None))
        if times + 1 >= _WHOLE_AT or (end is not None and wanted.offset == end):
            _ = self._missed.pop(wanted.key, None)
            return True
        if len(self._missed) >= _MISSED_KEPT:
            self._missed.clear()
        behind = None
        if wanted.offset is not None and wanted.length is not None:
            behind = wanted.offset + wanted.length
        self._missed[wanted.key] = (times + 1, behind)
        return False
