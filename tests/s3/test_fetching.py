"""Bodies that break off, and services that ignore a range: the bytes asked for, or none."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from blockyard.context import Request, Response
from blockyard.errors import (
    BlockStoreError,
    BlockTooLargeError,
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    ProtocolError,
)
from blockyard.model import KIB, MIB
from blockyard.s3.integrity import upload_headers
from tests.s3.pretend import (
    Pretended,
    asked_ranges,
    broken_after,
    flip,
    reply,
    s3_error,
    with_body,
)

PAGE = 16 * KIB
SIZE = 5 * PAGE + 77
BLOCK = os.urandom(SIZE)


def test_a_resumed_read_is_verified() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.service.twists = [broken_after(30_000), broken_after(10_000)]
    assert s3.read("k") == BLOCK
    assert asked_ranges(s3) == [
        None,
        f"bytes=30000-{SIZE - 1}",
        f"bytes=40000-{SIZE - 1}",
    ]
    assert all(each.headers["if-match"] == s3.stored("k").etag for each in s3.requests[2:])

    s3.requests.clear()
    s3.service.twists = [
        broken_after(30_000),
        lambda _, sent: with_body(sent, flip(sent.body, 5)),
    ]
    assert s3.read("k") == BLOCK
    assert [each.fresh for each in s3.requests] == [False, False, True]

    s3.stored("k").body = flip(BLOCK, 5)
    s3.service.twists = [broken_after(30_000)]
    with pytest.raises(IntegrityError):
        _ = s3.read("k")


def test_a_resumed_range_is_verified() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.service.twists = [broken_after(PAGE), lambda _, sent: with_body(sent, flip(sent.body, 5))]
    assert s3.read_range("k", PAGE + 5, 2 * PAGE) == BLOCK[PAGE + 5 :][: 2 * PAGE]
    assert asked_ranges(s3)[:2] == [
        f"bytes={PAGE}-{4 * PAGE - 1}",
        f"bytes={2 * PAGE}-{4 * PAGE - 1}",
    ]


def test_a_block_replaced_while_its_read_had_broken_off_is_read_anew() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    other = BLOCK[::-1]

    def replaced(request: Request, sent: Response) -> IncompleteBodyError:
        s3.put(
            "k",
            other,
            **{name.replace("-", "_"): value for name, value in upload_headers(other).items()},
        )
        return broken_after(100)(request, sent)

    s3.service.twists = [replaced]
    assert s3.read("k") == other
    assert asked_ranges(s3) == [None, f"bytes=100-{SIZE - 1}", None]


def foreign() -> Pretended:
    """Where no checksum catches what the fetching lets through."""
    s3 = Pretended(integrity={"verify_ranges": "off"})
    s3.put("k", BLOCK)
    return s3


def ignoring_range(request: Request, sent: Response) -> Response:
    return reply(200, {"etag": sent.headers.get("etag", '"e"')}, BLOCK)


@pytest.mark.parametrize(("offset", "length"), [(100, 50), (100, None), (5, SIZE), (0, 1)])
def test_a_service_that_ignores_range_is_read_whole_and_cut(
    offset: int, length: int | None
) -> None:
    s3 = foreign()
    s3.service.always = ignoring_range
    end = None if length is None else offset + length
    assert s3.read_range("k", offset, length) == BLOCK[offset:end]
    with pytest.raises(InvalidRangeError):
        _ = s3.read_range("k", SIZE, length)


@pytest.mark.parametrize("read", [lambda s3: s3.read("k"), lambda s3: s3.read_into("k", SIZE)])
def test_a_service_that_ignores_range_gets_a_broken_read_done_at_the_next_try(
    read: Callable[[Pretended], bytes],
) -> None:
    s3 = foreign()
    s3.service.twists = [broken_after(100), ignoring_range]
    assert read(s3) == BLOCK


def test_the_broken_head_of_an_ignored_range_is_no_beginning() -> None:
    s3 = foreign()

    def broken_whole(request: Request, sent: Response) -> IncompleteBodyError:
        return broken_after(50)(request, ignoring_range(request, sent))

    s3.service.twists = [broken_whole]
    assert s3.read_range("k", 1000, SIZE) == BLOCK[1000:]


def test_the_broken_head_of_another_range_is_no_beginning() -> None:
    s3 = foreign()

    def elsewhere(request: Request, sent: Response) -> IncompleteBodyError:
        shifted = f"bytes 900-1899/{SIZE}"
        wrong = Response(206, {**sent.headers, "content-range": shifted}, BLOCK[900:1900], 1000)
        return broken_after(500)(request, wrong)

    s3.service.twists = [elsewhere]
    assert s3.read_range("k", 1000, 1000) == BLOCK[1000:2000]
    s3.service.twists = [broken_after(500), elsewhere]
    assert s3.read_range("k", 1000, 1000) == BLOCK[1000:2000]


def test_the_rest_of_another_version_is_not_taken() -> None:
    s3 = foreign()

    def other_version(_: Request, sent: Response) -> Response:
        return Response(
            sent.status, {**sent.headers, "etag": '"other"'}, bytes(sent.size), sent.size
        )

    s3.service.twists = [broken_after(500), other_version, broken_after(500), other_version]
    assert s3.read("k") == BLOCK


def test_the_broken_rest_of_another_version_is_not_taken() -> None:
    """A service that ignores If-Match: what came of the other version is no part of this one."""
    s3 = foreign()

    def other_version(request: Request, sent: Response) -> IncompleteBodyError:
        zeros = Response(
            sent.status, {**sent.headers, "etag": '"other"'}, bytes(sent.size), sent.size
        )
        return broken_after(700)(request, zeros)

    s3.service.twists = [broken_after(500), other_version]
    assert s3.read("k") == BLOCK


def test_a_rest_that_ends_early_is_not_taken() -> None:
    s3 = foreign()

    def shorter(_: Request, sent: Response) -> Response:
        size = SIZE - 10
        headers = {**sent.headers, "content-range": f"bytes 500-{size - 1}/{size}"}
        return reply(206, headers, BLOCK[500:size])

    s3.service.twists = [broken_after(500), shorter]
    assert s3.read("k") == BLOCK
    s3.service.twists = [broken_after(500), shorter]
    assert s3.read_into("k", SIZE) == BLOCK


@pytest.mark.parametrize("etag", [None, "", 'W/"weak"'])
def test_without_a_version_to_pin_it_to_a_body_is_read_anew(etag: str | None) -> None:
    s3 = foreign()

    def unpinned(request: Request, sent: Response) -> IncompleteBodyError:
        headers = {name: value for name, value in sent.headers.items() if name != "etag"}
        headers |= {} if etag is None else {"etag": etag}
        return broken_after(500)(request, Response(200, headers, sent.body, sent.size))

    s3.service.twists = [unpinned]
    assert s3.read("k") == BLOCK
    assert asked_ranges(s3) == [None, None]
    s3.service.always = unpinned
    with pytest.raises(IncompleteBodyError):
        _ = s3.read("k")
    assert len(s3.requests) == 12  # ten tries


def test_a_body_that_brings_little_each_time_is_given_up() -> None:
    s3 = foreign()
    s3.service.always = broken_after(1)
    with pytest.raises(IncompleteBodyError) as raised:
        _ = s3.read("k")
    assert len(s3.requests) == 10
    assert len(raised.value.__notes__) == 9


def test_a_body_that_breaks_off_often_but_brings_much_is_read() -> None:
    s3 = Pretended()
    data = os.urandom(MIB) * 16
    s3.write("k", data)
    s3.service.always = lambda request, sent: (
        broken_after(70_000)(request, sent) if sent.size > 70_000 else sent
    )
    assert s3.read("k") == data
    assert s3.read_into("k", len(data)) == data


def test_a_block_replaced_again_and_again_while_it_breaks_off_is_given_up() -> None:
    s3 = foreign()
    large = os.urandom(MIB)
    s3.put("k", large)

    def hostile(request: Request, sent: Response) -> Response | IncompleteBodyError:
        if "if-match" in request.headers and request.headers["range"] != f"bytes=200000-{MIB - 1}":
            return s3_error(412, "PreconditionFailed")
        return broken_after(200_000)(request, sent)

    s3.service.always = hostile
    with pytest.raises(IncompleteBodyError):
        _ = s3.read("k")
    assert len(s3.requests) < 50


def test_what_came_before_a_body_broke_off_is_told() -> None:
    s3 = foreign()
    s3.service.twists = [lambda *_: s3_error(500, "InternalError"), broken_after(500)]
    s3.service.always = lambda *_: s3_error(403, "AccessDenied")
    with pytest.raises(BlockStoreError) as raised:
        _ = s3.read("k")
    first, second = raised.value.__notes__
    assert "attempt 1: " in first
    assert "InternalError" in first
    assert "attempt 2: the body broke off" in second


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "bytes 0-9/*",
        f"bytes */{SIZE}",
        "bytes 0-9",
        f"bytes 1-10/{SIZE}",
        f"bytes 0-8/{SIZE}",
        f"bytes 0-10/{SIZE}",
        "bytes 0-9/9",
        "bytes 0-9/5",
        f"items 0-9/{SIZE}",
        f"bytes 0-9/{SIZE}, x",
        "bytes " + "9" * 30 + "-" + "9" * 30 + "/" + "9" * 30,
    ],
)
def test_a_range_reply_that_says_something_else_is_refused(stated: str) -> None:
    s3 = foreign()
    s3.service.always = lambda _, sent: Response(
        206, {**sent.headers, "content-range": stated}, sent.body, sent.size
    )
    with pytest.raises(ProtocolError, match="Content-Range"):
        _ = s3.read_range("k", 0, 10)


@pytest.mark.parametrize("size", [9, 11])
def test_a_range_reply_of_another_length_is_refused(size: int) -> None:
    s3 = foreign()
    s3.service.always = lambda _, sent: Response(206, sent.headers, bytes(size), size)
    with pytest.raises((ProtocolError, BlockTooLargeError)):
        _ = s3.read_range("k", 0, 10)


def test_a_part_is_no_whole() -> None:
    s3 = foreign()
    s3.service.always = lambda _, sent: Response(206, sent.headers, sent.body[:9], 9)
    with pytest.raises(ProtocolError, match="status 206 with a part of the whole object"):
        _ = s3.read("k")
