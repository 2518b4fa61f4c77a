"""Byte ranges: what is requested of an object, and what the reply says that it holds.

RFC 9110, sections 14 and 15.3.7. A reply that does not hold exactly the bytes requested is a
`ProtocolError`, never read as something near it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blockyard.context import Response
from blockyard.errors import InvalidRangeError, ProtocolError
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.stores.checks import resolve_range

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(slots=True)
class Span:
    """Bytes of an object: `length` from `first` (to the end when None), or the last `suffix`."""

    first: int = 0
    length: int | None = None
    suffix: int | None = None

    def __str__(self) -> str:
        if self.suffix is not None:
            return f"the last {self.suffix} bytes"
        return f"{'all' if self.length is None else self.length} bytes from {self.first}"

    @property
    def max_size(self) -> int:
        """The most bytes that a correct reply holds."""
        return self.length or self.suffix or MAX_BLOCK_SIZE

    def of(self, size: int) -> tuple[int, int]:
        """Start and end (exclusive) in an object of `size` bytes."""
        return resolve_range(size, self.first, self.length, self.suffix)


def check_range_reply(response: Response, span: Span) -> tuple[int, int]:
    """Verify that a reply holds the range requested; return its first byte and the object's size.

    Raises `ProtocolError` for any other. Fewer bytes than requested are right only at the object's
    end. A 200 is accepted where its Content-Range says that it holds the range alone.
    """
    if response.status not in {200, 206}:
        raise ProtocolError(f"status {response.status} for a range request, expected 206")
    if span.suffix is not None and response.size == 0:
        raise InvalidRangeError("the service has no bytes at the object's end")
    stated = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    if match is None:
        raise ProtocolError(f"Content-Range {stated!r}: expected 'bytes FIRST-LAST/SIZE'")
    begin, last, size = int(match[1]), int(match[2]), int(match[3])
    if (begin, last + 1) != span.of(size) or last + 1 - begin != response.size:
        raise ProtocolError(
            f"Content-Range {stated!r} with a body of {response.size} bytes does not answer "
            f"a request for {span}"
        )
    return begin, size


def stated_range(response: Response) -> tuple[int, int]:
    """The first byte and the object's size, by the Content-Range of a verified reply."""
    stated = response.headers["content-range"]
    first, _, rest = stated[6:].partition("-")  # behind "bytes "
    return int(first), int(rest[rest.index("/") + 1 :])


def cut_from_whole(whole: Response, span: Span) -> Response:
    """Cut the range out of the reply of a service that ignores ranges.

    Raises `InvalidRangeError` at or past the object's end.
    """
    first, end = span.of(whole.size)
    if first >= whole.size:
        raise InvalidRangeError(f"{span}: the object has {whole.size}")
    stated = {"content-range": f"bytes {first}-{end - 1}/{whole.size}"}
    return Response(206, {**whole.headers, **stated}, whole.body[first:end], end - first)
