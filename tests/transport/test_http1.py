"""HTTP/1.1 replies from bytes: whatever the pieces they come in, and whatever a peer may send."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.context import Origin, Request
from blockyard.errors import (
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)
from blockyard.model import KIB, MIB
from blockyard.transport.http1 import (
    ERROR_BODY_LIMIT,
    HEAD_LIMIT,
    SCRATCH_SIZE,
    ReplyReader,
    encode_head,
)

LIMIT = 4 * MIB


def deliver(reply: ReplyReader, wire: bytes, piece: int = SCRATCH_SIZE) -> bytes:
    """Give `wire` to `reply` in pieces as a connection would; returns what it left unread."""
    left = memoryview(wire)
    while left and not reply.complete:
        view = reply.destination
        if view is None:
            size = min(piece, len(left), SCRATCH_SIZE)
            reply.feed(bytearray(left[:size]), size)
        else:
            size = min(piece, len(left), len(view))
            assert size
            view[:size] = left[:size]
            reply.filled(size)
        left = left[size:]
    return bytes(left)


def read(
    wire: bytes, method: str = "GET", into: bytearray | None = None, piece: int = SCRATCH_SIZE
) -> ReplyReader:
    """The reply in `wire`, which the peer ends when there is no more."""
    view = None if into is None else memoryview(into)
    reply = ReplyReader(method, view, LIMIT if view is None else len(view))
    _ = deliver(reply, wire, piece)
    if not reply.complete:
        reply.end_of_stream()
    return reply


@pytest.mark.parametrize("piece", [999, 64 * KIB, 256 * KIB - 1, 256 * KIB, MIB])
@pytest.mark.parametrize("size", [SCRATCH_SIZE, 256 * KIB, 256 * KIB + 1, 3 * MIB + 7])
def test_a_body_is_summed_as_it_comes(size: int, piece: int) -> None:
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body
    for summed in (True, False):
        reply = ReplyReader("GET", None, LIMIT, summed)
        _ = deliver(reply, wire, piece)
        response = reply.response()
        assert response.body == body
        assert response.crc32c == (crc32c(body) if summed else None)


@dataclass(frozen=True)
class Good:
    """A reply on the wire and what it means."""

    wire: bytes
    status: int
    body: bytes = b""
    keep_alive: bool = True
    method: str = "GET"
    to_stream_end: bool = False


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
GOOD = {
    "sized": Good(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "blanks around a value": Good(
        b"HTTP/1.1 200 OK\r\nContent-Length: \t 5 \t\r\n\r\nhello", 200, b"hello"
    ),
    "partial": Good(
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/9\r\ncontent-length: 2\r\n\r\nab",
        206,
        b"ab",
    ),
    "no body": Good(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "no body, and closes": Good(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        200,
        keep_alive=False,
    ),
    "no reason": Good(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab", 200, b"ab"),
    "head": Good(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, method="HEAD"),
    "head of an empty block": Good(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, method="HEAD"
    ),
    "head without length": Good(b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n", 200, method="HEAD"),
    "head of chunks": Good(CHUNKED + b"\r\n", 200, method="HEAD"),
    "204": Good(b"HTTP/1.1 204 No Content\r\n\r\n", 204, method="DELETE"),
    "204 with a length": Good(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", 204),
    "204 that closes": Good(
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204, keep_alive=False
    ),
    "204 that announces a body": Good(
        b"HTTP/1.1 204 No\r\nContent-Length: 40\r\n\r\n", 204, keep_alive=False
    ),
    "204 that announces chunks": Good(
        b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", 204, keep_alive=False
    ),
    "304": Good(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304),
    "chunked": Good(CHUNKED + b"\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
    "chunked, empty": Good(CHUNKED + b"\r\n0\r\n\r\n", 200),
    "chunked, with all it may have": Good(
        CHUNKED + b'\r\nA;n=v;q="x y"\r\n0123456789\r\n0000;last\r\nX-Sum: 1\r\nX-B: 2\r\n\r\n',
        200,
        b"0123456789",
    ),
    "chunked, any case": Good(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, b"a"
    ),
    "chunked, and closes": Good(
        CHUNKED + b"Connection: close\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, b"a", keep_alive=False
    ),
    "chunked error": Good(
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        404,
        b"no",
    ),
    "closes": Good(
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nab",
        200,
        b"ab",
        keep_alive=False,
    ),
    "closes, among others": Good(
        b"HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nab",
        200,
        b"ab",
        keep_alive=False,
    ),
    "1.0": Good(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", keep_alive=False),
    "1.0 that stays": Good(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", 200, b"ab"
    ),
    "1.0 in chunks that stays": Good(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\n\r\n",
        200,
        b"a",
        keep_alive=False,
    ),
    "interim": Good(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
        200,
        b"ab",
    ),
    "any other interim": Good(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 104 Upload Resumption Supported\r\n"
        b"Upload-Offset: 5\r\n\r\nHTTP/1.1 142 What\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
        200,
        b"ab",
    ),
    "stored, to the end of the stream": Good(
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\n', 200, b"", False, to_stream_end=True, method="PUT"
    ),
    "result of a POST to the end of the stream": Good(
        b"HTTP/1.1 200 OK\r\n\r\n<DeleteResult/>",
        200,
        b"<DeleteResult/>",
        False,
        to_stream_end=True,
        method="POST",
    ),
    "error to the end of the stream": Good(
        b"HTTP/1.1 502 Bad Gateway\r\n\r\nsorry", 502, b"sorry", False, to_stream_end=True
    ),
    "redirect to the end of the stream": Good(
        b"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: r\r\n\r\n", 301, b"", False, to_stream_end=True
    ),
    "error with a length": Good(
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, b"no"
    ),
}
good = pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())


def check(reply: ReplyReader, case: Good) -> None:
    response = reply.response()
    assert (response.status, response.body, response.size, reply.keep_alive) == (
        case.status,
        case.body,
        len(case.body),
        case.keep_alive,
    )


@good
def test_a_reply_is_the_same_whole_and_byte_by_byte(case: Good) -> None:
    for piece in (SCRATCH_SIZE, 7, 1):
        check(read(case.wire, case.method, piece=piece), case)


@good
def test_a_reply_is_the_same_wherever_it_is_split(case: Good) -> None:
    for split in range(1, len(case.wire)):
        reply = ReplyReader(case.method, None, LIMIT)
        left = deliver(reply, case.wire[:split])
        assert left == b""
        assert deliver(reply, case.wire[split:]) == b""
        if not reply.complete:
            reply.end_of_stream()
        check(reply, case)


@good
def test_surplus_bytes_are_neither_read_as_body_nor_forgotten(case: Good) -> None:
    if case.to_stream_end:
        return
    for surplus in (b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nz"):
        for piece in (SCRATCH_SIZE, 1):
            reply = ReplyReader(case.method, None, LIMIT)
            left = deliver(reply, case.wire + surplus, piece)
            assert reply.response().body == case.body
            assert left or not reply.keep_alive


@good
def test_a_reply_cut_short_anywhere_is_never_taken_for_whole(case: Good) -> None:
    for end in range(len(case.wire)):
        if case.to_stream_end and b"\r\n\r\n" in case.wire[:end]:
            continue
        with pytest.raises(TransportError) as raised:
            _ = read(case.wire[:end], case.method)
        error = raised.value
        if not isinstance(error, IncompleteBodyError):
            assert isinstance(error, TransportConnectionError)
            continue
        final = re.search(rb"HTTP/1\.\d 2[^\0]*?\r\n\r\n", case.wire)
        assert final is not None
        body_begins = final.end()
        assert error.partial == case.wire[body_begins:end]
        assert (error.received, error.expected) == (end - body_begins, len(case.body))


@good
def test_whether_a_reply_has_begun(case: Good) -> None:
    reply = ReplyReader(case.method, None, LIMIT)
    assert not reply.begun
    for byte in case.wire:
        reply.feed(bytearray([byte]), 1)
        assert reply.begun
        if reply.destination is not None or reply.complete:
            break


@good
def test_the_body_of_a_success_goes_into_the_callers_buffer_and_no_other(case: Good) -> None:
    for piece in (SCRATCH_SIZE, 1):
        buffer = bytearray(b"." * (len(case.body) + 3))
        reply = read(case.wire, case.method, buffer, piece)
        response = reply.response()
        if case.status in {200, 206}:
            assert buffer == case.body + b"..."
            assert (response.body, response.size) == (b"", len(case.body))
        else:
            assert buffer == b"." * len(buffer)
            assert (response.body, response.size) == (case.body, len(case.body))


@pytest.mark.parametrize("size", [0, 1, 2, 65_535, 65_536, 65_537, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("given_buffer", [False, True])
def test_bodies_of_every_size_come_whole(size: int, given_buffer: bool) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body
    buffer = bytearray(size) if given_buffer else None
    for piece in (SCRATCH_SIZE, 40_000):
        response = read(wire, into=buffer, piece=piece).response()
        assert (response.body if buffer is None else bytes(buffer)) == body
        assert response.size == size


def test_two_replies_share_no_memory() -> None:
    size = 100_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    first = read(head + b"a" * size).response().body
    second = read(head + b"b" * size).response().body
    assert first == b"a" * size
    assert second == b"b" * size
    assert hash(first) == hash(b"a" * size)
    assert type(first) is bytes


def test_header_names_are_lower_case_and_repeated_ones_are_joined() -> None:
    wire = (
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nX-Amz-Meta-A: 1\r\nDATE: now \r\nx-amz-meta-a: 2\r\n'
        b"X-Empty:\r\nX-Amz-Meta-A:3\t\r\nX-Latin: \xe9\r\nContent-Length: 0\r\n\r\n"
    )
    assert read(wire).response().headers == {
        "etag": '"e"',
        "x-amz-meta-a": "1, 2, 3",
        "date": "now",
        "x-empty": "",
        "x-latin": "\xe9",
        "content-length": "0",
    }


@pytest.mark.parametrize(
    "name", [b"ETag", b"Content-Range", b"Last-Modified", b"x-amz-checksum-crc32c"]
)
def test_what_tells_an_object_is_no_list(name: bytes) -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n%s: "e"\r\n' % name
    told = read(head + b'%s:  "e" \r\n\r\n' % name.upper()).response().headers
    assert told[name.decode().lower()] == '"e"'
    with pytest.raises(ProtocolError, match=f"{name.decode().lower()} twice, and not the same"):
        _ = read(head + b'%s: "f"\r\n\r\n' % name)


SIZED = b"HTTP/1.1 200 OK\r\n"
REFUSED = {
    "no length": SIZED + b"\r\nhello",
    "no length, 206": b"HTTP/1.1 206 P\r\nConnection: close\r\n\r\nhello",
    "a length of words": SIZED + b"Content-Length: five\r\n\r\nhello",
    "a negative length": SIZED + b"Content-Length: -5\r\n\r\nhello",
    "a signed length": SIZED + b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": SIZED + b"Content-Length: 0x5\r\n\r\nhello",
    "no digits": SIZED + b"Content-Length: \r\n\r\nhello",
    "a list of lengths": SIZED + b"Content-Length: 5, 5\r\n\r\nhello",
    "the same length twice": SIZED + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": SIZED + b"Content-Length: 5\r\ncontent-length: 4\r\n\r\nhello",
    "a length no integer holds": SIZED + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "length and chunks": CHUNKED + b"Content-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks and length": SIZED
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a coding that is not chunked": SIZED + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "a coding inside the chunks": SIZED
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a coding over the chunks": SIZED
    + b"Transfer-Encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a chunk of words": CHUNKED + b"\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "a signed chunk": CHUNKED + b"\r\n+3\r\nabc\r\n0\r\n\r\n",
    "a chunk no integer holds": CHUNKED + b"\r\nFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"\r\n3\nabc\n0\n\n",
    "a length in the trailer": CHUNKED + b"\r\n1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n",
    "a bare line feed": SIZED + b"X: a\nContent-Length: 5\r\n\r\nhello",
    "a bare carriage return": SIZED + b"X: a\rContent-Length: 5\r\n\r\nhello",
    "a folded line": SIZED + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL": SIZED + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "a blank in a name": SIZED + b"Content-Length : 5\r\n\r\nhello",
    "no name": SIZED + b": 5\r\nContent-Length: 5\r\n\r\nhello",
    "a request": b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "a greeting": b"220 ftp.example.com ready\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "an upgrade": b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "an upgrade to nothing": b"HTTP/1.1 101 Switching\r\n\r\n",
    "interim replies without end": b"HTTP/1.1 100 \r\n\r\n" * 10_000,
    "a head over the limit": SIZED + b"X: " + b"x" * HEAD_LIMIT + b"\r\nContent-Length: 0\r\n\r\n",
    "a head without end": SIZED + b"X: " + b"x" * (HEAD_LIMIT + 1),
}


@pytest.mark.parametrize("piece", [SCRATCH_SIZE, 977])
@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_valid_is_refused(wire: bytes, piece: int) -> None:
    with pytest.raises(ProtocolError) as raised:
        _ = read(wire, piece=piece)
    assert not isinstance(raised.value, (IncompleteBodyError, OversizedBodyError))


def test_a_head_of_just_under_the_limit_is_taken() -> None:
    tail = b"\r\nContent-Length: 0\r\n\r\n"
    padding = b"x" * (HEAD_LIMIT - len(SIZED + b"X: " + tail))
    wire = SIZED + b"X: " + padding + tail
    for piece in (SCRATCH_SIZE, 977):
        assert len(read(wire, piece=piece).headers["x"]) == len(padding)


@pytest.mark.parametrize("body_limit", ["limit", "buffer"])
@pytest.mark.parametrize(
    "wire",
    [
        SIZED + b"Content-Length: 11\r\n\r\n",
        SIZED + b"Content-Length: 18446744073709551615\r\n\r\n",
        b"HTTP/1.1 206 P\r\nContent-Length: 11\r\n\r\nhello",
        CHUNKED + b"\r\n9\r\n012345678\r\n2\r\n90\r\n",
    ],
)
def test_a_body_over_the_limit_or_the_buffer_is_refused(wire: bytes, body_limit: str) -> None:
    buffer = bytearray(10) if body_limit == "buffer" else None
    reply = ReplyReader(
        "GET",
        None if buffer is None else memoryview(buffer),
        LIMIT if buffer is not None else 10,
    )
    with pytest.raises(OversizedBodyError) as raised:
        _ = deliver(reply, wire)
    status = int(wire[9:12])
    declared = re.search(rb"Content-Length: (\d+)", wire)
    assert raised.value.status == status
    assert raised.value.size == (int(declared[1]) if declared else 11)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n\r\n" % (ERROR_BODY_LIMIT + 1), b"\r\n"]
)
def test_an_error_reply_may_be_longer_than_the_limit_but_not_endless(framing: bytes) -> None:
    head = b"HTTP/1.1 500 Oops\r\n"
    tight = ReplyReader("GET", None, 1)
    _ = deliver(tight, head + b"Content-Length: 300\r\n\r\n" + b"e" * 300)
    assert tight.response().size == 300
    with pytest.raises(OversizedBodyError):
        _ = deliver(ReplyReader("GET", None, 1), head + framing + b"e" * (ERROR_BODY_LIMIT + 1))


def test_a_stated_length_claims_no_memory_beyond_the_limit() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(OversizedBodyError):
            _ = read(SIZED + b"Content-Length: 999999999999\r\n\r\n")
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def traced_peak(act: Callable[[], object]) -> int:
    """Bytes that are allocated by Python at most in the course of `act`."""
    tracemalloc.start()
    try:
        _ = act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_chunks_take_no_more_memory_than_large_ones(size: int) -> None:
    body = MIB // 4
    chunk = b"%d\r\n%b\r\n" % (size, b"a" * size)
    wire = CHUNKED + b"\r\n" + chunk * (body // size) + b"0\r\n\r\n"
    read_at_once: list[ReplyReader] = []
    peak = traced_peak(lambda: read_at_once.append(read(wire)))
    assert read_at_once[0].response().body == b"a" * body
    assert peak < 4 * body


def test_long_header_names_are_not_kept() -> None:
    """Those of every reply are, for the next one: a hostile service could fill memory by them."""
    heads = [
        SIZED + b"x-%d-%b: 1\r\nContent-Length: 0\r\n\r\n" % (n, b"a" * KIB) for n in range(99)
    ]
    tracemalloc.start()
    try:
        for head in heads:
            assert read(head).complete
        assert tracemalloc.get_traced_memory()[0] < 32 * KIB
    finally:
        tracemalloc.stop()


def test_what_ends_a_reply_is_told_with_what_had_come() -> None:
    reply = ReplyReader("GET", None, LIMIT)
    cause = TransportTimeoutError("no byte moved")
    assert reply.broken(cause) is cause  # nothing has come yet
    _ = deliver(reply, SIZED + b'ETag: "e"\r\nContent-Length: 5\r\n\r\nhel')
    error = reply.broken(cause)
    assert isinstance(error, IncompleteBodyError)
    assert (error.partial, error.received, error.expected) == (b"hel", 3, 5)
    assert (error.status, error.headers["etag"], error.cause) == (200, '"e"', cause)
    buffer = bytearray(9)
    in_place = ReplyReader("GET", memoryview(buffer), 9)
    _ = deliver(in_place, SIZED + b"Content-Length: 5\r\n\r\nhel")
    broken = in_place.broken(cause)
    assert isinstance(broken, IncompleteBodyError)
    assert (broken.partial, broken.received, bytes(buffer[:3])) == (None, 3, b"hel")


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhel",
        CHUNKED + b"\r\n5\r\nhel",  # what came of a chunked body has no place to go on from
    ],
)
def test_other_replies_that_break_off_are_broken_connections(wire: bytes) -> None:
    reply = ReplyReader("GET", None, LIMIT)
    _ = deliver(reply, wire)
    cause = TransportConnectionError("reset")
    assert reply.broken(cause) is cause


ANYTHING = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from(
            [
                *(case.wire for case in GOOD.values()),
                *(wire for wire in REFUSED.values() if len(wire) < 300),
                b"HTTP/1.1 200 OK\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Connection: upgrade\r\nUpgrade: x\r\n",
                b"\r\n",
                b"0\r\n\r\n",
                b"\0",
            ]
        ),
        max_size=6,
    ).map(b"".join),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    wire = bytearray(draw(ANYTHING))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(wire)


@settings(max_examples=400, deadline=None)
@given(
    wire=mutated(),
    piece=st.sampled_from([1, 2, 13, SCRATCH_SIZE]),
    method=st.sampled_from(["GET", "HEAD", "PUT", "CONNECT"]),
    limit=st.integers(0, 20),
    into=st.none() | st.integers(0, 20),
)
def test_only_transport_errors_escape_and_no_body_is_over_its_limit(
    wire: bytes, piece: int, method: str, limit: int, into: int | None
) -> None:
    buffer = None if into is None else memoryview(bytearray(into))
    reply = ReplyReader(method, buffer, limit)
    try:
        _ = deliver(reply, wire, piece)
        if not reply.complete:
            reply.end_of_stream()
    except TransportError:
        return
    response = reply.response()
    assert reply.destination is None
    if response.status in {200, 206}:
        assert response.size <= (limit if into is None else min(limit, into))
    assert len(response.body) in {0, response.size}


ORIGIN = Origin("http", "h", 80)


@pytest.mark.parametrize(
    ("request_", "head"),
    [
        (
            Request(ORIGIN, "GET", "/b/k?x=%2B", {"host": "h", "range": "bytes=0-1"}),
            b"GET /b/k?x=%2B HTTP/1.1\r\nhost: h\r\nrange: bytes=0-1\r\n\r\n",
        ),
        (
            Request(ORIGIN, "PUT", "/k", {"host": "h"}, b"abc"),
            b"PUT /k HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n",
        ),
        (
            Request(ORIGIN, "PUT", "/k", {"host": "h"}, memoryview(b"")),
            b"PUT /k HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            Request(ORIGIN, "POST", "/?delete=", {"host": "h"}),
            b"POST /?delete= HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            Request(ORIGIN, "DELETE", "/k", {"host": "h"}),
            b"DELETE /k HTTP/1.1\r\nhost: h\r\n\r\n",
        ),
    ],
)
def test_the_head_of_a_request(request_: Request, head: bytes) -> None:
    assert encode_head(request_) == head


def test_a_body_in_tiny_chunks_takes_no_more_memory_than_its_bytes() -> None:
    wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    wire += b"2\r\nab\r\n" * 200_000 + b"0\r\n\r\n"
    tracemalloc.start()
    try:
        reply = read(wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply.response().body == b"ab" * 200_000
    assert peak < 2_000_000
