"""Checksums that travel with a block: what is stored, and that nothing else is ever read."""

from __future__ import annotations

import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha1, sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.context import Request, Response
from blockyard.errors import (
    BufferTooSmallError,
    IntegrityError,
    InvalidRangeError,
    ServerError,
)
from blockyard.model import KIB, MAX_BLOCK_SIZE, MIB
from blockyard.s3.integrity import PageChecksums, page_size, upload_headers
from tests.s3.pretend import (
    Pretended,
    Stored,
    Twist,
    asked_ranges,
    flip,
    path,
    s3_error,
    with_body,
)

PAGE = 16 * KIB
SUMS = "x-amz-meta-blockyard-sums"
PAGES = "x-amz-meta-blockyard-pages-"
CHECKSUM = "x-amz-checksum-crc32c"
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 77, 4 * MIB, 4 * MIB + 1, 64 * MIB]
SMALL = [size for size in SIZES if size <= 4 * MIB + 1]
MODES = ["widen", "covered", "off"]

RANDOM = os.urandom(MIB)


def some_bytes(size: int) -> bytes:
    return (RANDOM * (size // MIB + 1))[:size]


def crc32c_bit_by_bit(data: bytes) -> int:
    """From the polynomial alone: RFC 3720, section 12.1."""
    of_bytes: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901
        of_bytes.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ of_bytes[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def edge_checksums(headers: dict[str, str]) -> list[int]:
    values = [
        headers[f"{PAGES}{index}"] for index in range(len(headers)) if f"{PAGES}{index}" in headers
    ]
    packed = b"".join(b64decode(value) for value in values)
    return [int.from_bytes(packed[begin : begin + 4]) for begin in range(0, len(packed), 4)]


# What is stored.


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (
            bytes.fromhex(
                "01c00000000000000000000000000000140000000000040000000014000000182800000000000000020000000000000000"[
                    :96
                ]
            ),
            0xD9963A56,
        ),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_is_that_of_the_published_vectors(data: bytes, crc: int) -> None:
    """RFC 3720, appendix B.4; and the check value of the CRC catalogue."""
    headers = upload_headers(data)
    assert headers[SUMS] == f"2 {len(data)} {PAGE} {crc:08x}"
    assert b64decode(headers["x-amz-checksum-crc32c"]) == crc.to_bytes(4)


@pytest.mark.parametrize("size", SIZES)
def test_pages_are_few_and_the_metadata_small(size: int) -> None:
    headers = upload_headers(some_bytes(size))
    page = page_size(size)
    assert headers[SUMS].startswith(f"2 {size} {page} ")
    edges = edge_checksums(headers)
    assert len(edges) == max(0, -(-size // page) - 1)
    assert len(edges) <= 255
    # AWS counts names and values in UTF-8; counted here with the prefix, and the nonce of a
    # conditional write, it is more than any service counts.
    kept = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
    kept["x-amz-meta-blockyard-nonce"] = "0" * 24
    assert sum(len(name) + len(value) for name, value in kept.items()) <= 2048
    assert max(map(len, kept.values())) <= 256


@pytest.mark.parametrize(
    ("size", "page"),
    [
        (0, PAGE),
        (4 * MIB, PAGE),
        (4 * MIB + 1, 2 * PAGE),
        (8 * MIB, 2 * PAGE),
        (8 * MIB + 1, 4 * PAGE),
        (64 * MIB, 16 * PAGE),
        (MAX_BLOCK_SIZE, 4 * MIB),
    ],
)
def test_page_sizes(size: int, page: int) -> None:
    assert page_size(size) == page


@pytest.mark.parametrize("size", [PAGE + 1, 3 * PAGE, 49 * PAGE, 50 * PAGE + 5, 4 * MIB + 1])
def test_the_checksum_at_the_end_of_a_page_is_that_of_the_block_up_to_there(size: int) -> None:
    data = bytearray(some_bytes(size))
    headers = upload_headers(memoryview(data))
    page = page_size(size)
    checksums = PageChecksums.of(headers)
    assert checksums is not None
    edges = [0, *edge_checksums(headers), checksums.whole]
    assert len(edges) == -(-size // page) + 1
    for index, checksum in enumerate(edges):
        edge = min(index * page, size)
        assert checksums.up_to(edge, headers) == checksum
        assert b64decode(upload_headers(data[:edge])[CHECKSUM]) == checksum.to_bytes(4)
    assert edges[1] == crc32c_bit_by_bit(data[:page])
    assert checksums.whole == crc32c_bit_by_bit(data)


def test_an_empty_block_has_the_checksum_of_nothing() -> None:
    assert upload_headers(b"")[SUMS] == f"2 0 {PAGE} 00000000"
    with pytest.raises(ValueError, match="damaged"):
        _ = PageChecksums.of({SUMS: f"2 0 {PAGE} 00000001"})


def test_bytes_that_change_after_they_were_summed_up_are_no_page_of_it() -> None:
    """As a caller's buffer may, whose sum was taken while it was received."""
    headers = upload_headers(BLOCK)
    checksums = PageChecksums.of(headers)
    assert checksums is not None
    wrong = checksums.mismatch(memoryview(BLOCK), 0, headers, checksums.whole ^ 1)
    assert wrong is not None
    assert wrong.page is None
    assert checksums.mismatch(memoryview(BLOCK), 0, headers, checksums.whole) is None


def refusing_checksums(code: str) -> Twist:
    def twist(request: Request, sent: Response) -> Response:
        return s3_error(400, code) if "x-amz-checksum-crc32c" in request.headers else sent

    return twist


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument"])
def test_a_service_that_refuses_the_checksum_header_is_spared_it(
    code: str, if_absent: bool
) -> None:
    s3 = Pretended()
    s3.service.always = refusing_checksums(code)
    for key in ("a", "b", "c"):
        s3.write(key, b"data", if_absent=if_absent)
        assert SUMS in s3.stored(key).headers
        assert s3.read(key) == b"data"
    assert len([each for each in s3.requests if each.method == "PUT"]) == 4  # tried once


def test_a_write_refused_for_something_else_tells_what() -> None:
    s3 = Pretended()
    s3.service.always = lambda *_: s3_error(501, "NotImplemented")
    for _ in range(2):
        with pytest.raises(ServerError, match="NotImplemented"):
            s3.write("k", b"data")
    s3.service.always = None
    s3.write("k", b"data")
    assert "x-amz-checksum-crc32c" in s3.requests[-1].headers


def test_a_wrong_checksum_is_no_reason_to_leave_it_out() -> None:
    s3 = Pretended()
    s3.service.twists = [lambda *_: s3_error(400, "BadDigest")]
    s3.write("k", b"data")
    assert all("x-amz-checksum-crc32c" in each.headers for each in s3.requests)


# What is read back.


def ranges(size: int) -> list[tuple[int, int | None]]:
    """Aligned, unaligned, clamped, open-ended and tiny ranges that begin within `size` bytes."""
    page = page_size(size)
    asked: list[tuple[int, int | None]] = [
        (0, None),
        (0, 1),
        (0, page),
        (1, 1),
        (page - 1, 2),
        (page, page),
        (page + 1, 3 * page),
        (size - 1, 1),
        (size - 1, None),
        (size - 1, 10 * page),
        (size // 2, None),
        (size // 3, size // 3 + 1),
        (0, size),
        (0, size + 1),
        (size // page * page, 7),
        (5, 0),
    ]
    return [(offset, length) for offset, length in asked if 0 <= offset < size]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SMALL)
def test_every_read_gives_the_bytes_that_were_written(size: int, mode: str) -> None:
    s3 = Pretended(integrity={"verify_ranges": mode})
    data = some_bytes(size)
    s3.write("k", data)
    assert s3.stored("k").body == data  # plain, for any other program
    assert s3.read("k") == data
    assert s3.read_into("k", size) == data
    assert s3.read_into("k", size + 100) == data
    for offset, length in ranges(size):
        end = None if length is None else offset + length
        assert s3.read_range("k", offset, length) == data[offset:end], (offset, length)
    for offset in (size, size + 1, size + PAGE, 100 * MIB):
        for length in (0, 1, None):
            with pytest.raises(InvalidRangeError, match=f"offset {offset} "):
                _ = s3.read_range("k", offset, length)
    if size:
        with pytest.raises(BufferTooSmallError):
            _ = s3.read_into("k", size - 1)


def test_a_large_block() -> None:
    s3 = Pretended()
    data = some_bytes(64 * MIB)
    s3.write("k", data)
    assert s3.read("k") == data
    assert s3.read_range("k", 10 * MIB + 5, 100) == data[10 * MIB + 5 : 10 * MIB + 105]
    assert [each.headers.get("range") for each in s3.requests[2:]] == [
        "bytes=10485760-10502143",
        f"bytes=10485760-{10 * MIB + 256 * KIB - 1}",
    ]


@given(
    size=st.integers(1, 3 * PAGE) | st.sampled_from([4 * MIB + 1, 8 * MIB + PAGE]),
    data=st.data(),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=60, deadline=None)
def test_any_range(size: int, mode: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, size - 1))
    length = data.draw(st.none() | st.integers(0, size + PAGE))
    s3 = Pretended(integrity={"verify_ranges": mode})
    block = some_bytes(size)
    s3.write("k", block)
    end = None if length is None else offset + length
    assert s3.read_range("k", offset, length) == block[offset:end]


@pytest.mark.parametrize(
    ("mode", "offset", "length", "sent"),
    [
        ("widen", 0, PAGE, f"bytes=0-{PAGE - 1}"),
        ("widen", 10, 10, f"bytes=0-{PAGE - 1}"),
        ("widen", PAGE - 1, 2, f"bytes=0-{2 * PAGE - 1}"),
        ("widen", PAGE + 1, None, f"bytes={PAGE}-"),
        ("covered", 10, 10, "bytes=10-19"),
        ("covered", PAGE + 1, None, f"bytes={PAGE + 1}-"),
        ("off", PAGE - 1, 2, f"bytes={PAGE - 1}-{PAGE}"),
    ],
)
def test_what_is_sent_for_a_range(mode: str, offset: int, length: int | None, sent: str) -> None:
    s3 = Pretended(integrity={"verify_ranges": mode})
    s3.write("k", some_bytes(5 * PAGE))
    _ = s3.read_range("k", offset, length)
    assert asked_ranges(s3) == [sent]


# What does not match.


def kinds_of_read(s3: Pretended, at: int, size: int) -> dict[str, Callable[[], bytes]]:
    """Reads that all take in the page of the byte `at`."""
    return {
        "whole": lambda: s3.read("k"),
        "into": lambda: s3.read_into("k", size),
        "that byte": lambda: s3.read_range("k", at, 1),
        "its page": lambda: s3.read_range("k", at - at % PAGE, PAGE),
        "its neighbour": lambda: s3.read_range("k", at ^ 1, 1),
        "from it on": lambda: s3.read_range("k", at),
        "all as a range": lambda: s3.read_range("k", 0, size),
    }


BLOCK = some_bytes(5 * PAGE + 77)
READS = sorted(kinds_of_read(Pretended(), 0, 0))


@pytest.mark.thorough
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("at", [0, 1, 2 * PAGE, 3 * PAGE - 1, 5 * PAGE, len(BLOCK) - 2])
def test_a_bit_that_rotted_at_rest_is_found_by_every_read(at: int, read: str) -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.stored("k").body = flip(BLOCK, at)
    with pytest.raises(IntegrityError) as raised:
        _ = kinds_of_read(s3, at, len(BLOCK))[read]()
    page = at // PAGE
    before, end = BLOCK[: page * PAGE], (page + 1) * PAGE
    stored = f"{crc32c_bit_by_bit(BLOCK[:end]):08x}"
    found = f"{crc32c_bit_by_bit(before + s3.stored('k').body[len(before) : end]):08x}"
    message = str(raised.value)
    assert "'k'" in message
    assert f"page {page}: " in message
    assert f"stored is {stored}" in message
    assert f"bytes {found}" in message
    reads = [each for each in s3.requests if each.method == "GET"]
    assert [each.fresh for each in reads] == [False, True]  # once more, on another connection


@pytest.mark.parametrize("read", READS)
def test_a_bit_that_flipped_on_the_way_is_read_again(read: str) -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    right = kinds_of_read(s3, 3 * PAGE, len(BLOCK))[read]()
    s3.requests.clear()
    s3.service.twists = [lambda _, sent: with_body(sent, flip(sent.body, sent.size // 2))]
    assert kinds_of_read(s3, 3 * PAGE, len(BLOCK))[read]() == right
    assert [each.fresh for each in s3.requests] == [False, True]


@pytest.mark.parametrize("max_attempts", [1, 2, 4, 10])
def test_a_mismatch_is_one_of_the_tries_and_all_of_them_are_told(max_attempts: int) -> None:
    """A second read that has a budget of its own would make twice the requests allowed."""
    s3 = Pretended(max_attempts=max_attempts)
    s3.write("k", BLOCK)
    s3.requests.clear()
    damaged = True

    def twist(_: Request, sent: Response) -> Response:
        nonlocal damaged
        if damaged:
            damaged = False
            return with_body(sent, flip(sent.body, 5))
        return s3_error(500, "InternalError")

    s3.service.always = twist
    with pytest.raises((ServerError, IntegrityError)) as raised:
        _ = s3.read("k")
    assert len(s3.requests) == max_attempts
    notes = getattr(raised.value, "__notes__", [])
    assert [note.partition(":")[0] for note in notes] == [
        f"attempt {number}" for number in range(1, max_attempts)
    ]


def test_the_error_of_a_second_mismatch_tells_of_the_first() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.stored("k").body = flip(BLOCK, 5)
    s3.requests.clear()
    s3.service.twists = [lambda *_: s3_error(500, "InternalError")]
    with pytest.raises(IntegrityError, match="read_block 'k': page 0") as raised:
        _ = s3.read("k")
    first, second = raised.value.__notes__
    assert first.startswith("attempt 1: read_block 'k': ")
    assert "500 InternalError" in first
    assert second.startswith("attempt 2: read_block 'k': page 0")
    assert len(s3.requests) == 3


def test_in_the_other_modes_a_range_is_held_to_less() -> None:
    at = 2 * PAGE + 5
    for mode, found in (("covered", True), ("off", False)):
        s3 = Pretended(integrity={"verify_ranges": mode})
        s3.write("k", BLOCK)
        s3.stored("k").body = flip(BLOCK, at)
        assert s3.read_range("k", at, 1) == flip(BLOCK, at)[at : at + 1]
        assert s3.read_range("k", at, PAGE) == flip(BLOCK, at)[at : at + PAGE]
        with pytest.raises(IntegrityError):
            _ = s3.read("k")
        if found:
            with pytest.raises(IntegrityError, match="page 2"):
                _ = s3.read_range("k", at - 10, 2 * PAGE)
        else:
            assert s3.read_range("k", at - 10, 2 * PAGE) == flip(BLOCK, at)[at - 10 :][: 2 * PAGE]


def headers_with(s3: Pretended, **changes: str | None) -> None:
    headers = s3.stored("k").headers
    for name, value in changes.items():
        full = SUMS if name == "sums" else f"{PAGES}{name[5:]}"
        _ = headers.pop(full, None)
        if value is not None:
            headers[full] = value


LONG = some_bytes(60 * PAGE)  # of two page values
WHOLE = f"{PageChecksums.of(upload_headers(LONG)).whole:08x}"  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("changes", "whole_too"),
    [
        ({"sums": f"2 {len(LONG)} {2 * PAGE} {WHOLE}"}, True),
        ({"sums": f"2 {len(LONG)} 0 {WHOLE}"}, True),
        ({"sums": f"2 {len(LONG)} 1 {WHOLE}"}, True),
        ({"sums": f"2 {len(LONG) - 1} {PAGE} {WHOLE}"}, True),
        ({"sums": f"2 {len(LONG) + 1} {PAGE} {WHOLE}"}, True),
        ({"sums": f"2 {MAX_BLOCK_SIZE * 8} {32 * MIB} {WHOLE}"}, True),
        ({"sums": f"2 {'9' * 19} {'9' * 19} {WHOLE}"}, True),
        ({"sums": f"2 {'9' * 4000} {PAGE} {WHOLE}"}, True),
        ({"sums": f"1 {len(LONG)} {PAGE} {WHOLE}"}, True),
        ({"sums": f"3 {len(LONG)} {PAGE} {WHOLE}"}, True),
        ({"sums": f"2 {len(LONG)} {PAGE} {WHOLE}, 2 {len(LONG)} {PAGE} {WHOLE}"}, True),
        ({"sums": f"2 -5 {PAGE} {WHOLE}"}, True),
        ({"sums": "2 ² ² 00000000"}, True),
        ({"sums": ""}, True),
        ({"sums": "\x00\xff"}, True),
        ({"pages1": None}, False),
        ({"pages0": None, "pages1": None}, False),
        ({"pages1": ""}, False),
        ({"pages1": "AAAA"}, False),
        ({"pages1": "!" * 64}, False),
        ({"pages1": "é" * 64}, False),
        ({"pages1": "=" * 64}, False),
    ],
)
def test_damaged_metadata_is_no_licence(changes: dict[str, str | None], whole_too: bool) -> None:
    s3 = Pretended()
    s3.write("k", LONG)
    headers_with(s3, **changes)
    with pytest.raises(IntegrityError, match=r"read_block_range 'k': "):
        _ = s3.read_range("k", 50 * PAGE + 1, 10)
    if whole_too:
        with pytest.raises(IntegrityError):
            _ = s3.read("k")
        with pytest.raises(IntegrityError):
            _ = s3.read_into("k", len(LONG))
    else:  # the sum of the whole says that the bytes are right
        assert s3.read("k") == LONG
        assert s3.read_into("k", len(LONG)) == LONG


def test_a_damaged_sum_of_the_whole_is_found_by_whole_reads() -> None:
    s3 = Pretended()
    s3.write("k", LONG)
    headers_with(s3, sums=f"2 {len(LONG)} {PAGE} {int(WHOLE, 16) ^ 1:08x}")
    with pytest.raises(IntegrityError, match=f"page 59: .* bytes {WHOLE}"):
        _ = s3.read("k")
    with pytest.raises(IntegrityError, match="page 59"):
        _ = s3.read_range("k", len(LONG) - 1)
    assert s3.read_range("k", 5, 10) == LONG[5:15]  # its page ends at a checksum of its own


def test_every_bit_of_the_checksums_counts() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    value = s3.stored("k").headers[f"{PAGES}0"]
    for index, page in enumerate(index * 6 // 32 for index in range(26)):  # then comes padding
        damaged = value[:index] + ("A" if value[index] != "A" else "B") + value[index + 1 :]
        s3.stored("k").headers[f"{PAGES}0"] = damaged
        wrong = 0
        for each in (page, page + 1):
            try:
                assert s3.read_range("k", each * PAGE, 1) == BLOCK[each * PAGE : each * PAGE + 1]
            except IntegrityError:
                wrong += 1
        assert wrong


@given(header=st.integers(0, 2), at=st.integers(0, 255), bit=st.integers(0, 7), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_bit_flipped_anywhere_in_a_reply_never_gives_wrong_bytes(
    header: int, at: int, bit: int, data: st.DataObject
) -> None:
    s3 = Pretended()
    s3.write("k", LONG)
    offset = data.draw(st.integers(0, len(LONG) - 1))
    name = [SUMS, f"{PAGES}0", f"{PAGES}1"][header]

    def twist(_: Request, sent: Response) -> Response:
        value = sent.headers[name].encode("latin-1")
        damaged = flip(value, at % len(value), bit).decode("latin-1")
        return Response(sent.status, {**sent.headers, name: damaged}, sent.body, sent.size)

    s3.service.always = twist
    for read, right in (
        (lambda: s3.read("k"), LONG),
        (lambda: s3.read_range("k", offset, 100), LONG[offset : offset + 100]),
    ):
        try:
            assert read() == right
        except IntegrityError:
            continue


def test_truncated_at_rest_under_a_matching_length() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.stored("k").body = BLOCK[: 2 * PAGE]
    said = f"stored with {len(BLOCK)} bytes and has {2 * PAGE}"
    with pytest.raises(IntegrityError, match=said):
        _ = s3.read("k")
    with pytest.raises(IntegrityError, match=said):
        _ = s3.read_range("k", 0, 10)
    with pytest.raises(IntegrityError, match=said):
        _ = s3.read_range("k", PAGE)


def test_the_body_of_another_block_under_the_key() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.write("other", BLOCK[::-1])
    s3.stored("k").body = s3.stored("other").body
    for read in kinds_of_read(s3, 7, len(BLOCK)).values():
        with pytest.raises(IntegrityError):
            _ = read()


def test_a_block_that_lost_its_metadata_is_anybodys() -> None:
    """What is left is the checksum that the service keeps, and that is of its own bytes."""
    s3 = Pretended()
    s3.write("k", BLOCK)
    kept = s3.stored("k").headers["x-amz-checksum-crc32c"]
    s3.stored("k").headers = {"x-amz-checksum-crc32c": kept}
    assert s3.read("k") == BLOCK
    s3.stored("k").body = BLOCK[::-1]
    with pytest.raises(
        IntegrityError, match="the block: the checksum stored is x-amz-checksum-crc32c"
    ):
        _ = s3.read("k")


def test_a_copy_keeps_the_sums() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.copy("k", "copy")
    assert "x-amz-metadata-directive" not in s3.requests[1].headers
    s3.service.objects[path("k")] = Stored(flip(BLOCK, 5), s3.stored("copy").headers)
    assert s3.read_range("copy", 0, 10) == BLOCK[:10]
    with pytest.raises(IntegrityError):
        _ = s3.read_range("k", 0, 10)


# Blocks with pages of other sizes.


def test_the_page_size_of_the_last_block_is_remembered() -> None:
    s3 = Pretended()
    large = some_bytes(5 * MIB)
    s3.write("k", large)
    for begin in range(3 * PAGE, 10 * PAGE, PAGE):
        assert s3.read_range("k", begin, 5) == large[begin : begin + 5]
    sent = asked_ranges(s3)
    assert len(sent) == 8  # the first was asked again
    assert sent[1] == f"bytes={2 * PAGE}-{4 * PAGE - 1}"
    s3.write("small", BLOCK)
    s3.requests.clear()
    for begin in (0, PAGE, 3 * PAGE + 1):
        assert s3.read_range("small", begin, 5) == BLOCK[begin : begin + 5]
    assert len(asked_ranges(s3)) == 3  # wider pages hold narrower ones


def test_a_range_that_happens_to_cover_larger_pages_is_read_once() -> None:
    s3 = Pretended()
    large = some_bytes(5 * MIB)
    s3.write("k", large)
    assert s3.read_range("k", 0, 32 * KIB) == large[: 32 * KIB]
    assert s3.read_range("k", 5 * MIB - 1, None) == large[-1:]
    assert len(asked_ranges(s3)) == 2


def sized(size: int) -> Stored:
    body = some_bytes(size)
    return Stored(body, upload_headers(body))


def test_a_block_that_is_replaced_by_a_larger_one_while_it_is_read() -> None:
    s3 = Pretended()
    s3.service.objects[path("k")] = sized(5 * MIB)

    def replaced(_: Request, sent: Response) -> Response:
        s3.service.objects[path("k")] = sized(9 * MIB)
        return sent

    s3.service.twists = [replaced]
    assert s3.read_range("k", 3 * PAGE, 5) == RANDOM[3 * PAGE : 3 * PAGE + 5]
    assert len(asked_ranges(s3)) == 3


def test_a_service_with_another_page_size_each_time_does_not_keep_a_read_going() -> None:
    s3 = Pretended()
    sizes = [5 * MIB, 10 * MIB, 20 * MIB, 40 * MIB, 64 * MIB]
    objects = [sized(size) for size in sizes]
    offset = 4 * MIB - 1  # of the last page, whatever the page size, but for its begin

    def another(_: Request, sent: Response) -> Response:
        if objects:
            s3.service.objects[path("k")] = objects.pop(0)
        return sent

    s3.service.objects[path("k")] = objects.pop(0)
    s3.service.always = another
    with pytest.raises(IntegrityError, match=r"'k'.* another size"):
        _ = s3.read_range("k", offset, 1)
    assert len(s3.requests) <= 8


def test_blocks_of_two_page_sizes_read_in_turn() -> None:
    """No read waits for another one to leave the remembered page size alone."""
    s3 = Pretended()
    large, small = some_bytes(5 * MIB), some_bytes(2 * MIB)
    s3.write("large", large)
    s3.write("small", small)

    def meanwhile(_: Request, sent: Response) -> Response:
        s3.service.twists.append(None)
        assert s3.read_range("small", 5, 5) == small[5:10]
        return sent

    s3.service.twists = [meanwhile, None, meanwhile]
    assert s3.read_range("large", 3 * PAGE, 5) == large[3 * PAGE : 3 * PAGE + 5]
    s3.service.twists = []
    assert len([each for each in s3.requests if each.target == path("large")]) == 3


# Blocks that other programs wrote.


def base64(digest: bytes) -> str:
    return b64encode(digest).decode()


CHECKSUMS = {
    "crc32c": base64(crc32c_bit_by_bit(BLOCK).to_bytes(4)),
    "crc32": base64(zlib.crc32(BLOCK).to_bytes(4)),
    "sha1": base64(sha1(BLOCK, usedforsecurity=False).digest()),
    "sha256": base64(sha256(BLOCK).digest()),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_the_services_own_checksum_holds_for_whole_reads(name: str) -> None:
    s3 = Pretended()
    stored = {f"x_amz_checksum_{name}": CHECKSUMS[name]}
    s3.put("k", BLOCK, **stored)
    assert s3.read("k") == BLOCK
    assert s3.read_into("k", len(BLOCK)) == BLOCK
    assert s3.requests[0].headers["x-amz-checksum-mode"] == "ENABLED"
    s3.put("k", flip(BLOCK, 5), **stored)
    for read in (lambda: s3.read("k"), lambda: s3.read_into("k", len(BLOCK))):
        s3.requests.clear()
        with pytest.raises(IntegrityError, match=f"x-amz-checksum-{name} "):
            _ = read()
        assert [each.fresh for each in s3.requests] == [False, True]
    assert s3.read_range("k", 5, 1) == flip(BLOCK, 5)[5:6]  # nothing to hold a range to


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_amz_checksum_crc32c": "AAAAAA==-2"},
        {"x_amz_checksum_sha256": "AAAA-17", "x_amz_checksum_type": "COMPOSITE"},
        {"x_amz_checksum_crc64nvme": "AAAAAAAAAAA="},
    ],
)
def test_what_can_not_be_checked_is_read(headers: dict[str, str]) -> None:
    s3 = Pretended()
    s3.put("k", BLOCK, **headers)
    assert s3.read("k") == BLOCK
    assert len(s3.requests) == 1


def test_of_two_checksums_one_that_is_of_the_bytes_is_taken() -> None:
    s3 = Pretended()
    s3.put("k", BLOCK, x_amz_checksum_crc32c="AAAAAA==-2", x_amz_checksum_sha1=CHECKSUMS["sha1"])
    assert s3.read("k") == BLOCK
    s3.put("k", b"x", x_amz_checksum_crc32c="AAAAAA==-2", x_amz_checksum_sha1=CHECKSUMS["sha1"])
    with pytest.raises(IntegrityError, match="sha1"):
        _ = s3.read("k")
