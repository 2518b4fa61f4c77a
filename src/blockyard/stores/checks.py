"""Checks that every store makes of its requests, and the errors for those that it refuses."""

from __future__ import annotations

from blockyard.errors import (
    BlockTooLargeError,
    BufferTooSmallError,
    NotModifiedError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.keys import range_past_end
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.stores.base import ReadRequest, UploadRequest, WriteRequest


def etag_mismatch(
    where: str, if_match: str | None, etag: str | None = None
) -> PreconditionFailedError:
    """The error for a failed `if_match`; `etag` is that of the block, where it is known."""
    found = "" if etag is None else f"{etag!r}, "
    return PreconditionFailedError(f"{where}: its ETag is {found}not {if_match!r}")


def not_modified(where: str, etag: str | None) -> NotModifiedError:
    """The error for a failed `if_none_match`: the block still has that ETag."""
    return NotModifiedError(f"{where}: its ETag is still {etag!r}")


def check_match(where: str, if_match: str | None, etag: str) -> None:
    """Raise `PreconditionFailedError` unless `etag` satisfies `if_match`."""
    if if_match not in {None, etag}:
        raise etag_mismatch(where, if_match, etag)


def check_options(request: WriteRequest | UploadRequest, *kept: str) -> None:
    """Raise `UnsupportedError` for options other than those that the store keeps (`kept`).

    Empty metadata and tags are the same as none.
    """
    if request.options is None:
        return
    for name, value in request.options.given().items():
        if name not in kept and value:
            error = UnsupportedError(
                f"{request.operation} {request.key!r}: options: {name}: this store can't keep it"
            )
            error.of_options = True
            try:
                raise error
            finally:
                del error  # which its traceback refers to


def check_conditions(request: ReadRequest, etag: str) -> None:
    """Raise where `etag` fails a condition of the request."""
    where = f"{request.operation} {request.key!r}"
    check_match(where, request.if_match, etag)
    if request.if_none_match == etag:
        raise not_modified(where, etag)


def resolve_range(
    size: int, offset: int, length: int | None, suffix: int | None
) -> tuple[int, int]:
    """Start and end (exclusive) of a range in a block of `size` bytes, clamped at its end."""
    if suffix is not None:
        return max(0, size - suffix), size
    return offset, size if length is None else min(offset + length, size)


def requested_range(request: ReadRequest, size: int) -> tuple[int, int]:
    """Start and end (exclusive) of the bytes requested of a block of `size` bytes.

    Raises `InvalidRangeError` for an offset at or past the end, `BufferTooSmallError`.
    """
    offset = request.offset or 0
    if request.is_past_end(size):
        raise range_past_end(request.operation, request.key, offset, size)
    begin, end = resolve_range(size, offset, request.length, request.suffix)
    if request.into is not None and end - begin > len(request.into):
        raise buffer_too_small(request, end - begin)
    return begin, end


def buffer_too_small(request: ReadRequest, size: int) -> BufferTooSmallError:
    """The error for a buffer that can't hold the `size` bytes that were requested."""
    capacity = 0 if request.into is None else len(request.into)
    what = "the block has" if request.whole else "the range has"
    return BufferTooSmallError(
        f"{request.operation} {request.key!r}: {what} {size} bytes, the buffer {capacity}"
    )


def check_size(request: ReadRequest, size: int) -> None:
    """Raise `BlockTooLargeError` for a read of more than `MAX_BLOCK_SIZE` bytes at once."""
    if request.into is None and size > MAX_BLOCK_SIZE:
        raise BlockTooLargeError(
            f"{request.operation} {request.key!r}: {size} bytes, the limit is {MAX_BLOCK_SIZE}"
        )
