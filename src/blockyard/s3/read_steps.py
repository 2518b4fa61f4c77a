"""A read under way: its state, and the pure function that says what comes next.

A body that breaks off is taken up again at the byte it had reached, from the same version of the
object (`If-Match` with its ETag). When the object was replaced meanwhile, the read starts over.
What does not match the checksums that the block was stored with is read once more, on another
connection. A ranged read is widened to the edges of the pages that it is on.
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
from blockyard.s3.requests import get_object
from blockyard.s3.responses import (
    Span,
    check_object,
    check_range_reply,
    cut_from_whole,
    stated_range,
)
from blockyard.stores.base import ReadRequest

_REREADS = 4
"""How often one read may find that its block has pages of yet another size."""


class Step(Enum):
    """What follows on a failure."""

    RETRY = auto()
    """The same request, after a pause."""
    RESUME = auto()
    """The rest of the body, after a pause."""
    START_OVER = auto()
    """All of it, after a pause."""
    READ_REPLACED = auto()
    """All of it, at once: there is another version of the object."""
    READ_WHOLE = auto()
    """The whole object, at once: the service ignores ranges."""
    READ_AGAIN = auto()
    """All of it, at once, on another connection: it did not match its checksum."""
    GIVE_UP = auto()


@dataclass(slots=True, eq=False)
class Broken:
    """A body that broke off: its first reply, and what has come of it since.

    `received` bytes are in `pieces`, or in the caller's buffer; the rest is requested of the
    version with `etag` alone. `failed_before` counts the attempts before this one.
    """

    reply: Response
    etag: str
    failed_before: int
    pieces: list[bytes]
    received: int = 0

    def span(self) -> Span:
        """The bytes that are missing."""
        first = 0
        if "content-range" in self.reply.headers:
            first, _ = stated_range(self.reply)
        return Span(first + self.received, self.reply.size - self.received)

    def add(self, broken: IncompleteBodyError) -> None:
        self.received += broken.received
        if broken.partial is not None:
            self.pieces.append(broken.partial)

    def completed(self, rest: Response) -> Response:
        """The reply as if it had not broken off. Raises `ProtocolError` for another `rest`."""
        _ = check_range_reply(rest, self.span())
        if rest.size != self.reply.size - self.received:
            raise ProtocolError("the object ends before the body that broke off did")
        if _strong(rest.headers) != self.etag:
            raise ProtocolError("the rest of a body came from another version of the object")
        reply = self.reply
        body = b"".join([*self.pieces, rest.body])  # empty where it went into a buffer
        return Response(reply.status, reply.headers, body, reply.size)


class Read(Call):
    """A read under way: what goes out next, and what has come so far.

    To read what is `wanted`, widened to the edges of pages of `page` bytes. `span` is what is
    requested of the service, None for the whole object; `broken` is set while a body that broke off
    is completed; `stated` are the first byte and the object's size, as the checked reply to a range
    says; `widened` counts how often `page` was another than that of the block.
    """

    __slots__ = (
        "broken",
        "fresh",
        "full_key",
        "page",
        "ranges_ignored",
        "span",
        "stated",
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
        self.broken: Broken | None = None
        self.stated = 0, 0
        self.span: Span | None = None
        if wanted.offset is None and wanted.suffix is None:
            self.limit, self.into = self._most, wanted.into
        else:
            self.span = span = _widened(wanted, page)
            self.limit = span.most

    def widen(self, page: int) -> None:
        """From now on read to the edges of pages of `page` bytes. Raises `IntegrityError`."""
        self.page = page
        self.widened += 1
        if self.widened == _REREADS:
            raise IntegrityError(
                f"{self.operation} {self.key!r}: each of {_REREADS} reads found a block of "
                "another size"
            )
        self.span = _widened(self.wanted, page)
        self.start_over()

    def start_over(self) -> None:
        """Forget what has come of the body."""
        self.broken = None
        self.into = self.target
        span = self.sent
        self.limit = self._most if span is None else span.most

    def resume(self, failure: IncompleteBodyError, failed_before: int) -> Broken:
        """Go on behind what `failure` brought."""
        broken = self.broken
        if broken is None:
            broken = self.broken = Broken(
                _head(failure), _strong(failure.headers), failed_before, []
            )
        broken.add(failure)
        self.limit = broken.reply.size - broken.received
        target = self.target
        if target is not None:
            self.into = target[broken.received : broken.reply.size]
        return broken

    @property
    def _most(self) -> int:
        """The most bytes of a whole object: all that a buffer of the caller's has room for."""
        return MAX_BLOCK_SIZE if self.wanted.into is None else len(self.wanted.into)

    @property
    def target(self) -> memoryview | None:
        """Where the service's bytes go: those of a range may be more than are wanted."""
        return self.wanted.into if self.span is None else None

    @property
    def sent(self) -> Span | None:
        """The range that goes out next; None for the whole object."""
        if self.broken is not None:
            return self.broken.span()
        return None if self.ranges_ignored else self.span

    def request(self, address: Address) -> Request:
        span, wanted, broken = self.sent, self.wanted, self.broken
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
            if_match=wanted.if_match if broken is None else broken.etag,
            if_none_match=wanted.if_none_match if broken is None else None,
            checksum=self.checksum_mode and span is None,
        )
        request.sum_body = span is None
        request.fresh = self.fresh and broken is None
        return request

    def check(self, response: Response) -> Response:
        """The reply to all that is requested, if `response` is that or completes it.

        Raises `ProtocolError` where it is neither, `InvalidRangeError` where a service that ignores
        ranges shows that there is none.
        """
        check_object(response)
        if self.broken is not None:
            response = self.broken.completed(response)
        span = self.span
        if _is_whole(response):
            if span is not None:
                response = cut_from_whole(response, span)
                self.stated = stated_range(response)
            return response
        if span is None or self.ranges_ignored:
            raise ProtocolError(f"status {response.status} with a part of the whole object")
        resumed = self.broken is not None
        self.stated = stated_range(response) if resumed else check_range_reply(response, span)
        return response

    def continues(self, failure: IncompleteBodyError) -> bool:
        """Whether the bytes that a broken reply brought are the next of those requested."""
        etag = _strong(failure.headers)
        if not etag or (self.broken is not None and etag != self.broken.etag):
            return False
        span = self.sent
        if span is None:
            return _is_whole(_head(failure))
        try:
            _ = check_range_reply(_head(failure), span)
        except ProtocolError:
            return False
        return True


def _widened(wanted: ReadRequest, page: int) -> Span:
    """The range that is wanted, to the edges of pages of `page` bytes."""
    offset, length = wanted.offset or 0, wanted.length
    if wanted.suffix is not None:
        return Span(suffix=wanted.suffix + page - 1)
    first = offset - offset % page
    return Span(first, None if length is None else -(-(offset + length) // page) * page - first)


def next_step(read: Read, failure: BlockStoreError) -> Step:
    """What a read does after a failure."""
    step = Step.RETRY
    match failure:
        case IncompleteBodyError():
            step = Step.RESUME if read.continues(failure) else Step.START_OVER
        case OversizedBodyError() if read.broken is not None:
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
            replaced = read.broken is not None and read.wanted.if_match is None
            step = Step.READ_REPLACED if replaced else Step.GIVE_UP
        case _:
            pass
    return step


def _head(broken: IncompleteBodyError) -> Response:
    return Response(broken.status, broken.headers, b"", broken.expected)


def _is_whole(reply: Response) -> bool:
    """Whether the reply is one to a request for a whole object."""
    return reply.status == 200 and "content-range" not in reply.headers


def _strong(headers: Mapping[str, str]) -> str:
    """The ETag without quotes; "" for a weak one, which does not say that bytes are the same."""
    etag = headers.get("etag", "")
    return "" if etag.startswith("W/") else etag.strip('"')
