"""Reads of one version of a block, of its end, into memory; what a read does after a failure."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from blockyard import open_store
from blockyard.cache.store import CacheStore
from blockyard.context import Context, Origin, Request, Response
from blockyard.crc32c import crc32c
from blockyard.errors import (
    AccessDeniedError,
    BlockStoreError,
    BufferTooSmallError,
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    NotModifiedError,
    OversizedBodyError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    ThrottledError,
    TransportConnectionError,
)
from blockyard.model import KIB, MIB, Block, BlockInfo
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import PageChecksums, upload_headers
from blockyard.s3.read_steps import Read, Step, next_step
from blockyard.stores.base import ReadRequest, Store, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import (
    Pretended,
    asked_ranges,
    broken_off,
    flip,
    reply,
    s3_error,
    with_body,
)

PAGE = 16 * KIB
BLOCK = os.urandom(5 * PAGE + 77)
SIZE = len(BLOCK)


@pytest.fixture
def s3() -> Pretended:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.requests.clear()
    return s3


# The page checksums of a block, for whoever keeps its bytes.


@pytest.mark.parametrize("size", [0, 1, PAGE, SIZE, 4 * MIB, 4 * MIB + 1, 9 * MIB + 5])
def test_page_sums_of_every_page(size: int) -> None:
    s3, data = Pretended(), (BLOCK * (size // SIZE + 1))[:size]
    s3.write("k", data)

    whole = s3.read_with("k", page_sums=True)
    sums = whole.page_sums
    assert sums is not None
    page = sums.page_size
    ends = range(page, size, page)
    running = [crc32c(data[:end]) for end in ends] + [crc32c(data)]
    assert sums.running == b"".join(each.to_bytes(4, "big") for each in running)
    assert s3.read_with("k").page_sums is None
    if size:
        part = s3.read_with("k", offset=size - 1, length=1, page_sums=True)
        assert part.page_sums == sums


def test_no_page_sums_where_some_are_damaged(s3: Pretended) -> None:
    """The bytes are right, as the checksum of the whole says."""
    headers = s3.stored("k").headers
    name = next(name for name in headers if "pages-" in name)
    headers[name] = headers[name][:-4]

    block = s3.read_with("k", page_sums=True)

    assert block.data == BLOCK
    assert block.page_sums is None


# The end of a block.


@pytest.mark.parametrize("suffix", [1, 76, 77, 78, PAGE, PAGE + 77, 3 * PAGE, SIZE, SIZE + 1])
def test_the_end_of_a_block_comes_verified_in_one_request(s3: Pretended, suffix: int) -> None:
    block = s3.read_with("k", suffix=suffix)
    assert block.data == BLOCK[-suffix:]
    assert isinstance(block.checksums, PageChecksums)
    told = {"metadata": {}, "storage_class": "STANDARD"}
    assert block.info == BlockInfo("k", SIZE, s3.stored("k").etag.strip('"'), **told)
    assert asked_ranges(s3) == [f"bytes=-{suffix + PAGE - 1}"]

    s3.stored("k").body = flip(BLOCK, max(0, SIZE - suffix))
    with pytest.raises(IntegrityError, match="page"):
        _ = s3.read_with("k", suffix=suffix)


def test_the_end_of_a_block_with_larger_pages() -> None:
    s3 = Pretended()
    large = os.urandom(5 * MIB)
    s3.write("large", large)
    suffix = 2 * PAGE + 5
    for _ in range(2):
        assert s3.read_with("large", suffix=suffix).data == large[-suffix:]
    wide = f"bytes=-{suffix + 2 * PAGE - 1}"
    assert asked_ranges(s3) == [f"bytes=-{suffix + PAGE - 1}", wide, wide]


def test_the_end_of_an_empty_block_is_empty(s3: Pretended) -> None:
    s3.write("empty", b"")
    block = s3.read_with("empty", suffix=10)
    assert (block.data, block.size, block.info.size) == (b"", 0, 0)


def test_a_service_that_ignores_the_range_of_an_end_is_cut(s3: Pretended) -> None:
    s3.put("k", BLOCK)

    def whole(request: Request, sent: Response) -> Response:
        return reply(200, {"etag": sent.headers["etag"]}, BLOCK) if sent.status == 206 else sent

    s3.service.always = whole
    assert s3.read_with("k", suffix=100).data == BLOCK[-100:]
    assert s3.read_with("k", suffix=2 * SIZE).data == BLOCK


@pytest.mark.parametrize("refused", ["416", "no bytes"])
@pytest.mark.parametrize("suffix", [SIZE, 2 * SIZE])
def test_a_service_that_refuses_a_long_suffix_is_asked_by_offset(
    s3: Pretended, suffix: int, refused: str
) -> None:
    def strict(request: Request, sent: Response) -> Response:
        if not request.headers.get("range", "").startswith("bytes=-"):
            return sent
        if refused == "416":
            return s3_error(416, "InvalidRange")
        return reply(
            206, {"etag": sent.headers.get("etag", '"e"'), "content-range": "bytes 0--1/0"}, b""
        )

    s3.service.always = strict
    assert s3.read_with("k", suffix=suffix).data == BLOCK
    s3.write("empty", b"")
    assert s3.read_with("empty", suffix=suffix).data == b""


@pytest.mark.parametrize("asked", [{"offset": 0}, {"offset": 5, "length": 9}, {"suffix": 7}])
def test_a_range_that_is_refused_though_it_is_there_is_no_empty_block(
    s3: Pretended, asked: dict[str, Any]
) -> None:
    def refused(request: Request, sent: Response) -> Response:
        return sent if request.method == "HEAD" else s3_error(416, "InvalidRange")

    s3.service.always = refused
    with pytest.raises(ProtocolError, match=f"past the end of an object that it says has {SIZE}"):
        _ = s3.read_with("k", **asked)
    with pytest.raises(S3Error, match="416"):  # no range was asked for
        _ = s3.read("k")


def test_a_range_that_is_refused_once_is_asked_for_again(s3: Pretended) -> None:
    """As by one that has not seen the latest version yet."""
    s3.service.twists = [lambda request, sent: s3_error(416, "InvalidRange")]
    assert s3.read_with("k", offset=5, length=9).data == BLOCK[5:14]


# Versions.


@pytest.mark.parametrize(
    "asked", [{}, {"offset": 5}, {"offset": 5, "length": 9}, {"suffix": 7}, {"suffix": 0}], ids=str
)
def test_a_service_that_ignores_conditions_is_no_danger(asked: dict[str, Any]) -> None:
    s3 = Pretended()
    s3.put("k", BLOCK, etag='"new"')

    def deaf(request: Request, sent: Response) -> Response:
        _ = request.headers.pop("if-match", request.headers.pop("if-none-match", None))
        return s3.service.get(request)

    s3.service.always = deaf
    with pytest.raises(PreconditionFailedError, match="ETag"):
        _ = s3.read_with("k", **asked, if_match="old")
    with pytest.raises(NotModifiedError, match="'new'"):
        _ = s3.read_with("k", **asked, if_none_match="new")


def test_a_body_that_broke_off_goes_on_with_the_version_asked_for(s3: Pretended) -> None:
    etag = s3.stored("k").etag.strip('"')

    def broken(request: Request, sent: Response) -> IncompleteBodyError:
        s3.put("k", BLOCK[::-1])
        return broken_off(sent, 100)

    s3.service.twists = [broken]
    with pytest.raises(PreconditionFailedError) as raised:
        _ = s3.read_with("k", if_match=etag, if_none_match="x")
    assert "broke off" in raised.value.__notes__[0]
    first, second = s3.requests
    assert "if-none-match" in first.headers
    assert "if-none-match" not in second.headers


# Into memory.


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, BLOCK),
        ({"offset": 5, "length": 9}, BLOCK[5:14]),
        ({"offset": PAGE, "length": PAGE}, BLOCK[PAGE : 2 * PAGE]),
        ({"offset": SIZE - 3, "length": 9}, BLOCK[-3:]),
        ({"suffix": 9}, BLOCK[-9:]),
    ],
    ids=["whole", "range", "page", "clamped", "end"],
)
def test_any_read_goes_into_a_buffer(s3: Pretended, asked: dict[str, Any], wanted: bytes) -> None:
    memory = MemoryStore()
    ctx = Context(s3.runtime)
    _ = run_to_end(memory.write(ctx, WriteRequest("k", BLOCK)))
    for store in (s3.store, memory):
        buffer = bytearray(len(wanted) + 3)
        block = run_to_end(store.read(ctx, ReadRequest("k", into=memoryview(buffer), **asked)))
        assert (block.data, block.size) == (b"", len(wanted))
        assert buffer == wanted + bytes(3)
        with pytest.raises(BufferTooSmallError, match=f"{len(wanted)} bytes, the buffer 2"):
            _ = run_to_end(store.read(ctx, ReadRequest("k", into=memoryview(buffer)[:2], **asked)))


# Past the end.


def test_a_block_that_lost_its_end_is_damaged_also_to_reads_of_what_is_lost(s3: Pretended) -> None:
    s3.stored("k").body = BLOCK[: SIZE // 2]
    for asked in (
        {"offset": SIZE - 5},
        {"offset": SIZE - 5, "length": 2},
        {"offset": 0, "length": 0},
    ):
        with pytest.raises(IntegrityError, match=f"stored with {SIZE} bytes and has {SIZE // 2}"):
            _ = s3.read_with("k", **asked)


def test_an_offset_past_the_end_tells_where_that_is(s3: Pretended) -> None:
    with pytest.raises(InvalidRangeError, match=f"offset {SIZE} .* block's {SIZE} bytes"):
        _ = s3.read_with("k", offset=SIZE)


# What comes next: pure.


WHOLE = reply(200, {"etag": '"e"'}, BLOCK)
PART = reply(206, {"etag": '"e"', "content-range": f"bytes 0-{PAGE - 1}/{SIZE}"}, BLOCK[:PAGE])
WEAK = reply(200, {"etag": 'W/"e"'}, BLOCK)


def oversized(status: int) -> OversizedBodyError:
    return OversizedBodyError("too large", status=status, size=SIZE)


def changed() -> S3Error:
    return S3Error("changed", status=412)


@pytest.mark.parametrize(
    ("asked", "before", "failure", "step"),
    [
        ({}, None, broken_off(WHOLE, 5), Step.RESUME),
        ({}, None, broken_off(WEAK, 5), Step.START_OVER),
        ({}, None, broken_off(PART, 5), Step.START_OVER),
        ({"offset": 3, "length": 4}, None, broken_off(PART, 5), Step.RESUME),
        ({"offset": 3, "length": 4}, None, broken_off(WHOLE, 5), Step.START_OVER),
        ({}, WHOLE, changed(), Step.READ_REPLACED),
        ({"if_match": "e"}, WHOLE, changed(), Step.GIVE_UP),
        ({"if_match": "x"}, None, changed(), Step.GIVE_UP),
        ({"if_none_match": "e"}, None, S3Error("same", status=304), Step.GIVE_UP),
        ({}, WHOLE, oversized(200), Step.START_OVER),
        ({}, None, oversized(200), Step.GIVE_UP),
        ({"offset": 3}, None, oversized(206), Step.GIVE_UP),
        ({"offset": 3, "length": 4}, None, oversized(200), Step.READ_WHOLE),
        ({"offset": 3, "length": 4}, None, oversized(206), Step.RETRY),
        ({"suffix": 4}, None, oversized(200), Step.READ_WHOLE),
        ({}, None, IntegrityError("wrong"), Step.READ_AGAIN),
        ({"offset": 3}, None, InvalidRangeError("past"), Step.GIVE_UP),
        ({}, None, ThrottledError("slow", status=503), Step.RETRY),
        ({}, None, TransportConnectionError("reset"), Step.RETRY),
        ({}, None, ProtocolError("odd"), Step.RETRY),
        ({}, WHOLE, ProtocolError("odd"), Step.RETRY),
        ({}, None, AccessDeniedError("no", status=403), Step.RETRY),  # a retry that is not made
    ],
)
def test_what_a_read_does_after_a_failure(
    asked: dict[str, Any], before: Response | None, failure: BlockStoreError, step: Step
) -> None:
    read = Read(ReadRequest("k", **asked), "k", PAGE)
    if before is not None:
        _ = read.resume(broken_off(before, 5), 0)
    assert next_step(read, failure) is step


def test_a_second_mismatch_is_the_last() -> None:
    read = Read(ReadRequest("k"), "k", PAGE)
    read.fresh = True
    assert next_step(read, IntegrityError("wrong")) is Step.GIVE_UP


def test_a_mismatch_of_a_resumed_body_starts_over(s3: Pretended) -> None:
    s3.service.twists = [
        lambda _, sent: broken_off(sent, 100),
        lambda _, sent: with_body(sent, flip(sent.body, 5)),
        lambda *_: s3_error(500, "InternalError"),
    ]
    assert s3.read_with("k").data == BLOCK
    assert asked_ranges(s3) == [None, f"bytes=100-{SIZE - 1}", None, None]
    assert [each.fresh for each in s3.requests] == [False, False, True, True]


def test_only_what_is_asked_of_the_whole_object_has_its_checksum_taken_on_the_way() -> None:
    address = Address(Origin("http", "h", 80), "h", "/b", "b")
    whole = Read(ReadRequest("k"), "k", PAGE)
    assert whole.request(address).sum_body
    _ = whole.resume(broken_off(WHOLE, 5), 0)
    assert not whole.request(address).sum_body
    assert not Read(ReadRequest("k", 0), "k", PAGE).request(address).sum_body


def test_upload_headers_verify_the_end() -> None:
    headers = upload_headers(BLOCK)
    checksums = PageChecksums.of(headers)
    assert checksums is not None
    begin = SIZE - PAGE - 80
    assert checksums.mismatch(memoryview(BLOCK)[begin:], begin, headers) is None
    assert (
        checksums.mismatch(memoryview(BLOCK[begin:-1] + bytes([BLOCK[-1] ^ 1])), begin, headers)
        is not None
    )


# A store in front of another.


def test_a_wrapper_forwards_everything() -> None:
    """What it forgot would be the default of `Store`, or missing, behind every cache and file
    system that is built on it."""
    of_the_contract = {name for name in vars(Store) if not name.startswith("_")}
    assert of_the_contract <= set(vars(WrapperStore))


class Upper(WrapperStore):
    """Changes what is read."""

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        block = await super().read(ctx, request)
        return replace(block, data=block.data.upper())


@pytest.mark.parametrize(("wrapper", "read"), [(WrapperStore, b"data"), (Upper, b"DATA")])
def test_a_wrapper_that_reads_otherwise_is_not_passed_by(
    wrapper: type[WrapperStore], read: bytes
) -> None:
    """`read_blocks` asks for what is there at once, which a cache behind the wrapper answers."""
    with open_store(wrapper(CacheStore(MemoryStore(), memory=MIB))) as store:
        _ = store.write_block("k", b"data")
        for _ in range(2):
            assert store.read_blocks(["k"]) == [read]
