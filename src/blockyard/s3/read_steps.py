"""The state of one read, and `next_step`, the pure function that decides what follows a failure.

A truncated body is resumed at the byte it had reached, from the same version of the object
(`If-Match` with its ETag). When the object was replaced meanwhile, the read starts over. Bytes that
fail the checksums that the block was stored with are read once more, on another connection. A
ranged read is widened to whole pages, which have checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from blockyard.context import Request, Response
from blockyard.errors import (
    BlockStoreError,
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
)
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.s3.call import Call
from blockyard.s3.endpoints import Address
from blockyard.s3.ranges import Span, check_range_reply, cut_from_whole, stated_range
from blockyard.s3.requests import get_object
from blockyard.s3.responses import check_object
from blockyard.stores.base import ReadRequest

_REREADS = 4
"""How often one read may be widened again, since the block has pages of yet another size."""


class Step(Enum):
    """What a read does after a failure."""

    RETRY = auto()
    """Send the same request, after the backoff."""
    RESUME = auto()
    """Request the rest of the body, after the backoff."""
    START_OVER = auto()
    """Discard what has come and request everything, after the backoff."""
    READ_REPLACED = auto()
    """Request everything, at once: the object was replaced."""
    READ_WHOLE = auto()
    """Request the whole object, at once: the service ignores ranges."""
    READ_AGAIN = auto()
    """Request everything, at once, on another connection: a checksum did not match."""
    GIVE_UP = auto()


@dataclass(slots=True, eq=False)
class PartialBody:
    """A truncated body: its first reply, and the bytes received by then and since.

    `received` bytes are in `pieces`, or in the caller's buffer; the rest is requested with
    `If-Match: etag`. `failed_before` is the number of failed attempts before the first reply.
    """

    reply: Response
    etag: str
    failed_before: int
    pieces: list[bytes]
    received: int = 0

    def span(self) -> Span:
        """The range that is still missing."""
        first = 0
        if "content-range" in self.reply.headers:
            first, _ = stated_range(self.reply)
        return Span(first + self.received, self.reply.size - self.received)

    def add(self, failure: IncompleteBodyError) -> None:
        """Append the bytes that another truncated reply brought."""
        self.received += failure.received
        if failure.partial is not None:
            self.pieces.append(failure.partial)

    def completed(self, rest: Response) -> Response:
        """The whole reply, completed by `rest`. Raises `ProtocolError` where that does not fit."""
        _ = check_range_reply(rest, self.span())
        if rest.size != self.reply.size - self.received:
            raise ProtocolError("the object ends before the body that broke off did")
        if _strong_etag(rest.headers) != self.etag:
            raise ProtocolError("the rest of a body came from another version of the object")
        reply = self.reply
        body = b"".join([*self.pieces, rest.body])  # empty where it went into a buffer
        return Response(reply.status, reply.headers, body, reply.size)


class Read(Call):
    """The state of one read: its next request, and what has been received.

    wanted: what the caller asked for
    page: the page size in bytes that a range is widened to
    span: the range to read, widened; None for the whole object
    partial: the truncated body while it is being resumed
    content_range: first byte and object size, by the verified reply to a range
    widened: how often `page` turned out not to be the page size of the block
    fresh: whether the bytes are being read again, on another connection
    ranges_ignored: whether the service ignores ranges, so that the whole object is requested
    """

    __slots__ = (
        "content_range",
        "fresh",
        "full_key",
        "page",
        "partial",
        "ranges_ignored",
        "span",
        "wanted",
        "widened",
    )

    def __init__(self, wanted: ReadRequest, full_key: str, page: int) -> None:
        Call.__init__(self, wanted.operation, wanted.key)
        self.wanted = wanted
        self.full_key = full_key
        self.page = page
        self.widened = 0
        self.hedged = wanted.into is None
        self.ranges_ignored = self.fresh = False
        self.partial: PartialBody | None = None
        self.content_range = 0, 0
        self.span: Span | None = None
        if wanted.offset is None and wanted.suffix is None:
            self.limit, self.into = self._size_limit, wanted.into
        else:
            self.span = span = _align_to_pages(wanted, page)
            self.limit = span.max_size

    def widen_to_pages(self, page: int) -> None:
        """Start over with the range widened to pages of `page` bytes. Raises `IntegrityError`."""
        self.page = page
        self.widened += 1
        if self.widened == _REREADS:
            raise IntegrityError(
                f"{self.operation} {self.key!r}: each of {_REREADS} reads found a block of "
                "another size"
            )
        self.span = _align_to_pages(self.wanted, page)
        self.start_over()

    def start_over(self) -> None:
        """Discard what has been received of the body."""
        self.partial = None
        self.into = self.target
        span = self.sent
        self.limit = self._size_limit if span is None else span.max_size

    def resume(self, failure: IncompleteBodyError, failed_before: int) -> PartialBody:
        """Keep the bytes that `failure` brought, and request the rest next."""
        partial = self.partial
        if partial is None:
            partial = self.partial = PartialBody(
                _head_of(failure), _strong_etag(failure.headers), failed_before, []
            )
        partial.add(failure)
        self.limit = partial.reply.size - partial.received
        target = self.target
        if target is not None:
            self.into = target[partial.received : partial.reply.size]
        return partial

    @property
    def _size_limit(self) -> int:
        """The largest whole object accepted: the caller's buffer, or the limit of a block."""
        return MAX_BLOCK_SIZE if self.wanted.into is None else len(self.wanted.into)

    @property
    def target(self) -> memoryview | None:
        """The buffer to receive into; None for a range, whose pages may be more than is wanted."""
        return self.wanted.into if self.span is None else None

    @property
    def sent(self) -> Span | None:
        """The range of the next request; None for the whole object."""
        if self.partial is not None:
            return self.partial.span()
        return None if self.ranges_ignored else self.span

    def request(self, address: Address) -> Request:
        span, wanted, partial = self.sent, self.wanted, self.partial
        if span is None:
            byte_range = suffix = None
        else:
            last = None if span.length is None else span.first + span.length - 1
            byte_range, suffix = (span.first, last), span.suffix
        request = get_object(
            address,
            self.full_key,
            byte_range=byte_range,
            suffix=suffix,
            if_match=wanted.if_match if partial is None else partial.etag,
            if_none_match=wanted.if_none_match if partial is None else None,
            checksum=self.checksum_mode and span is None,
        )
        request.sum_body = span is None
        request.fresh = self.fresh and partial is None
        return request

    def check(self, response: Response) -> Response:
        """Verify a reply, and return the complete one that it is or that it completes.

        Raises `ProtocolError` for a reply that does not fit the request, and `InvalidRangeError`
        where the whole object, from a service that ignores ranges, shows that the range is past its
        end.
        """
        check_object(response)
        if self.partial is not None:
            response = self.partial.completed(response)
        span = self.span
        if _is_whole(response):
            if span is not None:
                response = cut_from_whole(response, span)
                self.content_range = stated_range(response)
            return response
        if span is None or self.ranges_ignored:
            raise ProtocolError(f"status {response.status} with a part of the whole object")
        resumed = self.partial is not None
        self.content_range = (
            stated_range(response) if resumed else check_range_reply(response, span)
        )
        return response

    def continues(self, failure: IncompleteBodyError) -> bool:
        """Whether the bytes of a truncated reply are the next of those requested."""
        etag = _strong_etag(failure.headers)
        if not etag or (self.partial is not None and etag != self.partial.etag):
            return False
        span = self.sent
        if span is None:
            return _is_whole(_head_of(failure))
        try:
            _ = check_range_reply(_head_of(failure), span)
        except ProtocolError:
            return False
        return True


def _align_to_pages(wanted: ReadRequest, page: int) -> Span:
    """The range that is wanted, widened to whole pages of `page` bytes."""
    offset, length = wanted.offset or 0, wanted.length
    if wanted.suffix is not None:
        return Span(suffix=wanted.suffix + page - 1)
    first = offset - offset % page
    return Span(first, None if length is None else -(-(offset + length) // page) * page - first)


def next_step(read: Read, failure: BlockStoreError) -> Step:
    """Decide what a read does after a failure. Pure."""
    step = Step.RETRY
    match failure:
        case IncompleteBodyError():
            step = Step.RESUME if read.continues(failure) else Step.START_OVER
        case OversizedBodyError() if read.partial is not None:
            step = Step.START_OVER  # the range is ignored, and the whole would come each time
        case OversizedBodyError():
            span = read.sent
            if span is None or (span.length is None and span.suffix is None):
                step = Step.GIVE_UP
            elif failure.status == 200:
                step = Step.READ_WHOLE
        case IntegrityError():
            step = Step.GIVE_UP if read.fresh else Step.READ_AGAIN
        case InvalidRangeError():
            step = Step.GIVE_UP
        case S3Error() if failure.status in {304, 412}:
            replaced = read.partial is not None and read.wanted.if_match is None
            step = Step.READ_REPLACED if replaced else Step.GIVE_UP
        case _:
            pass
    return step


def _head_of(failure: IncompleteBodyError) -> Response:
    return Response(failure.status, failure.headers, b"", failure.expected)


def _is_whole(reply: Response) -> bool:
    """Whether the reply holds a whole object, rather than a range."""
    return reply.status == 200 and "content-range" not in reply.headers


def _strong_etag(headers: Mapping[str, str]) -> str:
    """The ETag without quotes; "" for a weak one, which does not promise equal bytes."""
    etag = headers.get("etag", "")
    return "" if etag.startswith("W/") else etag.strip('"')
