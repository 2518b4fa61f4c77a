"""What a success has to show before it is believed, by a web page as `200` and worse."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, urlsplit

import pytest

import blockyard
from blockyard import BlockInfo, BlockStoreError, S3Config, StoreConfig
from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    IntegrityError,
    NotS3Error,
    ProtocolError,
    S3Error,
    ServerError,
    UnsupportedError,
)
from blockyard.operations import Operations
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_body, read_head, request_framing
from blockyard.testing.messages import whole as whole_message
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import Pretended, reply
from tests.s3.scripted_service import EMPTY, LISTING, Scripted, s3_error

HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
PAGE = reply(200, {"content-type": "text/html; charset=utf-8"}, HTML)
PAGE_WITH_ETAG = reply(200, {"content-type": "text/html", "etag": '"6711-5d"'}, HTML)
WRITTEN = reply(200, {"etag": '"e"'}, b"")

Operation = Callable[[Scripted], object]


def headless(answer: Response) -> Callable[[Request], Response]:
    """The page to all requests, without its body to a HEAD."""

    def answered(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(answer.status, answer.headers, b"", 0)
        return answer

    return answered


CONDITIONAL = WriteRequest("k", b"data", if_absent=True)
WRITES: dict[str, Operation] = {
    "write_block": lambda s3: s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"data"))),
    "if_absent": lambda s3: s3.run(s3.store.write(s3.ctx, CONDITIONAL)),
    "delete_block": lambda s3: s3.run(s3.store.delete_block(s3.ctx, "k")),
    "delete_blocks": lambda s3: s3.run(s3.store.delete_blocks(s3.ctx, ["a", "b"])),
    "delete_by_prefix": lambda s3: s3.run(Operations(s3.store).delete_by_prefix(s3.ctx, "k")),
    "copy_block": lambda s3: s3.run(s3.store.copy_block(s3.ctx, "k", "l")),
    "health_check": lambda s3: s3.run(s3.store.health_check(s3.ctx)),
    "list_by_prefix": lambda s3: s3.run(Operations(s3.store).list_by_prefix(s3.ctx, "k")),
}
READS: dict[str, Operation] = {
    "read_block": lambda s3: s3.read("k"),
    "read_block_into": lambda s3: s3.run(
        s3.store.read(s3.ctx, ReadRequest("k", into=memoryview(bytearray(1000))))
    ),
    "read_block_range": lambda s3: s3.run(s3.store.read(s3.ctx, ReadRequest("k", 1, 3))),
    "read_nothing": lambda s3: s3.run(s3.store.read(s3.ctx, ReadRequest("k", 1, 0))),
    "verify_block": lambda s3: s3.run(s3.store.verify_block(s3.ctx, "k")),
    "stat_block": lambda s3: s3.run(s3.store.stat_block(s3.ctx, "k")),
    "block_exists": lambda s3: s3.run(Operations(s3.store).block_exists(s3.ctx, "k")),
}


@pytest.mark.parametrize("operation", (WRITES | READS).values(), ids=(WRITES | READS).keys())
def test_a_web_page_is_no_success(operation: Operation) -> None:
    s3 = Scripted(headless(PAGE))
    with pytest.raises(NotS3Error, match="is this an S3 endpoint"):
        _ = operation(s3)
    assert len(s3.requests) <= 6  # a wrong address is told soon


@pytest.mark.parametrize("operation", WRITES.values(), ids=WRITES.keys())
def test_a_web_page_with_an_etag_is_no_success_of_a_change(operation: Operation) -> None:
    s3 = Scripted(headless(PAGE_WITH_ETAG))
    s3.store._caller.capabilities.conditional_writes = True
    with pytest.raises(NotS3Error, match="is this an S3 endpoint"):
        _ = operation(s3)


@pytest.mark.parametrize("operation", (WRITES | READS).values(), ids=(WRITES | READS).keys())
@pytest.mark.parametrize("body", [HTML, b"404 page not found"])
def test_a_web_page_that_says_404_is_no_missing_block(operation: Operation, body: bytes) -> None:
    """A delete would be done, and a read give what is given where there is no block."""
    s3 = Scripted(headless(reply(404, {"content-type": "text/html"}, body)))
    with pytest.raises(BlockStoreError) as raised:
        _ = operation(s3)
    assert isinstance(raised.value, NotS3Error)


@pytest.mark.parametrize("operation", READS.values(), ids=READS.keys())
def test_an_empty_404_to_everything_is_a_missing_bucket(operation: Operation) -> None:
    s3 = Scripted(s3_error(404))
    with pytest.raises(blockyard.BucketNotFoundError, match="there is no bucket 'bucket'"):
        _ = operation(s3)


# Writes.


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize("etag", ['"e"', "e", 'W/"e"'])
def test_a_write_is_proved_by_its_etag(status: int, etag: str) -> None:
    s3 = Scripted(reply(status, {"etag": etag}, b""))
    assert WRITES["write_block"](s3) == BlockInfo("k", 4, "e", None)
    assert len(s3.requests) == 1


def test_a_page_with_a_201_is_how_webdav_says_that_it_stored() -> None:
    created = reply(201, {"etag": '"e"', "content-type": "text/html"}, HTML)
    s3 = Scripted(created)
    assert WRITES["write_block"](s3) == BlockInfo("k", 4, "e", None)
    assert len(s3.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, {}, b""),
        reply(200, {"etag": ""}, b""),
        reply(200, {"etag": '""'}, b""),
        reply(201, {}, b""),
        reply(204, {}, b""),
        reply(202, {"etag": '"e"'}, b""),
        PAGE,
        PAGE_WITH_ETAG,
    ],
    ids=repr,
)
def test_a_write_without_proof_is_an_error(answer: Response) -> None:
    s3 = Scripted(answer)
    with pytest.raises(NotS3Error, match="write_block 'k'"):
        _ = WRITES["write_block"](s3)
    assert len(s3.requests) == 3


def test_a_page_in_between_is_passed_over() -> None:
    """A proxy may answer in the service's place for a moment."""
    s3 = Scripted(WRITTEN, *[PAGE] * 8, WRITTEN)
    assert WRITES["write_block"](s3) == WRITES["write_block"](s3)
    assert len(s3.requests) == 10


def test_a_write_of_which_the_service_tells_another_checksum_is_sent_again() -> None:
    """AWS tells the one it has found, such as of half the bytes."""
    half = reply(200, {"etag": '"e"', "x-amz-checksum-crc32c": "AAAAAA=="}, b"")
    s3 = Scripted(half, WRITTEN)
    _ = WRITES["write_block"](s3)
    assert len(s3.requests) == 2
    sent = s3.requests[0].headers["x-amz-checksum-crc32c"]
    s3 = Scripted(reply(200, {"etag": '"e"', "x-amz-checksum-crc32c": sent}, b""))
    _ = WRITES["write_block"](s3)
    assert len(s3.requests) == 1


class WebServer(LoopbackServer):
    """Answers everything with one page."""

    async def serve(self, client: Connection) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(HTML)}\r\n\r\n"
        while (request := await read_head(client.reader)) is not None:
            framing = request_framing(request)
            _ = await whole_message(request, framing, read_body(client.reader, framing))
            await client.send(head.encode() + (b"" if request.method == "HEAD" else HTML))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_web_server_is_no_store(client: ClientName) -> None:
    """The same over sockets, by all that users call."""
    with WebServer() as server:
        config = S3Config(bucket="data", endpoint=server.url, force_path_style=True, anonymous=True)
        with open_client(client, StoreConfig(s3=config)) as opened:
            store = opened.store
            calls: list[Callable[[], object]] = [
                store.health_check,
                lambda: store.write_block("k", b"data"),
                lambda: store.write_block("k", b"data", if_absent=True),
                lambda: store.write_blocks([("k", b"data"), ("l", b"data")]),
                lambda: store.write_content("c", b"data"),
                lambda: store.read_block("k"),
                lambda: store.read_block_into("k", bytearray(1000)),
                lambda: store.read_block_range("k", 0, 4),
                lambda: store.read_block_range("k", 0, 0),
                lambda: store.read_blocks(["k", "l"]),
                lambda: store.read_block_ranges([("k", 0, 4)]),
                lambda: store.read_content("c"),
                lambda: store.stat_block("k"),
                lambda: store.block_exists("k"),
                lambda: store.copy_block("k", "l"),
                lambda: store.list_by_prefix("k"),
                lambda: list(store.iter_blocks("k")),
                lambda: store.verify_by_prefix("k"),
                lambda: store.delete_block("k"),
                lambda: store.delete_blocks(["k", "l"]),
                lambda: store.delete_by_prefix("k"),
                lambda: store.delete_content("c"),
            ]
            for call in calls:
                with pytest.raises(NotS3Error, match="is this an S3 endpoint"):
                    _ = call()


def without_etag(request: Request, sent: Response) -> Response:
    """A service that sends none with the reply to a write."""
    return reply(200, {}, b"") if request.method == "PUT" else sent


def test_a_service_known_to_send_no_etag_is_asked_for_the_block() -> None:
    s3 = Pretended(write_proof="head")
    s3.service.always = without_etag
    s3.write("k", bytes(50_000))
    assert [each.method for each in s3.requests] == ["PUT", "HEAD"]


@pytest.mark.parametrize("left", [None, 20_000])
def test_what_such_a_service_lost_is_found_out(left: int | None) -> None:
    s3 = Pretended(write_proof="head")

    def lose(request: Request, sent: Response) -> Response:
        if request.method == "PUT":
            stored = s3.service.objects.pop(request.target)
            if left is not None:
                s3.put("k", stored.body[:left])
        return without_etag(request, s3.service.head(request)) if left is None else sent

    s3.service.always = lose
    with pytest.raises((ProtocolError, IntegrityError)):
        s3.write("k", bytes(50_000))


def test_a_page_is_no_proof_for_such_a_service() -> None:
    s3 = Scripted(PAGE, write_proof="head")
    with pytest.raises(NotS3Error):
        _ = WRITES["write_block"](s3)


# Conditional writes.


def methods(s3: Scripted) -> list[str]:
    return [each.method for each in s3.requests]


TAKEN = s3_error(412, "PreconditionFailed")
ABSENT = s3_error(404, "NoSuchKey")


def test_the_first_conditional_write_shows_that_conditions_are_kept() -> None:
    s3 = Scripted(ABSENT, WRITTEN, TAKEN, WRITTEN)
    _ = WRITES["if_absent"](s3)
    looked, first, second = s3.requests
    assert looked.method == "HEAD"
    assert (first.target, first.body, second.headers["if-none-match"]) == (
        second.target,
        second.body,
        "*",
    )
    _ = WRITES["if_absent"](s3)
    assert methods(s3) == ["HEAD"] + ["PUT"] * 3  # known from now on


def test_an_error_response_shows_it_as_well() -> None:
    s3 = Scripted(ABSENT, TAKEN, ABSENT, WRITTEN)
    with pytest.raises(BlockExistsError):
        _ = WRITES["if_absent"](s3)
    _ = WRITES["if_absent"](s3)
    assert methods(s3) == ["HEAD", "PUT", "HEAD", "PUT"]


def test_until_then_a_block_that_is_there_is_not_written_to() -> None:
    s3 = Scripted(Response(200, {"etag": '"e"', "content-length": "7"}, b"", 0))
    for _ in range(2):
        with pytest.raises(BlockExistsError):
            _ = WRITES["if_absent"](s3)
    assert methods(s3) == ["HEAD", "HEAD"]


def test_a_service_that_ignores_conditions_is_found_out_once() -> None:
    s3 = Scripted(ABSENT, WRITTEN)
    with pytest.raises(UnsupportedError, match="if_absent is not possible") as raised:
        _ = WRITES["if_absent"](s3)
    assert "stored, perhaps in place of another" in str(raised.value)
    assert raised.value.unknown_attempts == 1
    with pytest.raises(UnsupportedError, match="not stored"):
        _ = WRITES["if_absent"](s3)
    assert methods(s3) == ["HEAD"] + ["PUT"] * 3
    _ = WRITES["write_block"](s3)


def test_two_writers_never_both_win_where_conditions_are_ignored() -> None:
    ignoring: dict[str, bytes] = {}

    def answer(request: Request) -> Response:
        ignoring[request.target] = bytes(request.body)
        return WRITTEN

    wins = 0
    for _ in range(2):
        try:
            _ = WRITES["if_absent"](Scripted(ABSENT, answer))
            wins += 1
        except UnsupportedError:
            pass
    assert wins == 0


def test_a_block_deleted_while_that_is_found_out_is_no_sign_of_it() -> None:
    s3 = Scripted(ABSENT, WRITTEN, WRITTEN, TAKEN)
    _ = WRITES["if_absent"](s3)
    conflict = s3_error(409, "ConditionalRequestConflict")
    _ = WRITES["if_absent"](Scripted(ABSENT, WRITTEN, conflict, TAKEN))


@pytest.mark.parametrize("answer", [s3_error(501, "NotImplemented"), s3_error(501)])
def test_a_service_that_refuses_conditions_says_what_it_lacks(answer: Response) -> None:
    s3 = Scripted(ABSENT, answer, max_attempts=1)
    with pytest.raises(UnsupportedError, match="if_absent is not possible") as raised:
        _ = WRITES["if_absent"](s3)
    assert isinstance(raised.value.__cause__, S3Error)


def test_amazon_is_taken_at_its_word() -> None:
    s3 = Scripted(WRITTEN, endpoint="", force_path_style=False)
    _ = WRITES["if_absent"](s3)
    assert methods(s3) == ["PUT"]


# Reads.


BLOCK = bytes(range(256)) * 200
SIZE = len(BLOCK)


def ranged(status: int, first: int, last: int, body: bytes) -> Response:
    stated = f"bytes {first}-{last}/{SIZE}"
    return reply(status, {"etag": '"e"', "content-range": stated}, body)


def as_rclone_does(request: Request) -> Response:
    """The range, its Content-Range, and yet a 200."""
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last or SIZE) + 1, SIZE)
    return ranged(200, begin, end - 1, BLOCK[begin:end])


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (17_000, 100), (40_000, None), (5, SIZE)])
def test_a_200_that_holds_just_the_range_is_that_range(offset: int, length: int | None) -> None:
    s3 = Scripted(as_rclone_does)
    end = None if length is None else offset + length
    read = s3.run(s3.store.read(s3.ctx, ReadRequest("k", offset, length))).data
    assert read == BLOCK[offset:end]
    assert len(s3.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        ranged(200, 0, 9, BLOCK[:10]),
        ranged(200, 16_384, 32_767, BLOCK[16_384:32_000]),
        ranged(206, 0, 16_383, BLOCK[:16_384]),
        reply(200, {"etag": '"e"', "content-range": "bytes */*"}, BLOCK[16_384:32_768]),
    ],
    ids=repr,
)
def test_a_range_that_does_not_answer_is_an_error(answer: Response) -> None:
    s3 = Scripted(answer, max_attempts=2)
    with pytest.raises(ProtocolError, match="Content-Range"):
        _ = s3.run(s3.store.read(s3.ctx, ReadRequest("k", 17_000, 100)))


def test_a_200_that_says_it_is_a_part_is_no_whole() -> None:
    s3 = Scripted(ranged(200, 0, 99, BLOCK[:100]), max_attempts=2)
    with pytest.raises(ProtocolError, match="part of the whole"):
        _ = s3.read("k")


def test_a_block_of_which_half_was_stored_is_found_out_by_its_size() -> None:
    s3 = Pretended()
    s3.write("k", BLOCK)
    s3.stored("k").body = BLOCK[: SIZE // 2]
    operations = Operations(s3.store)
    with pytest.raises(IntegrityError, match=f"stored with {SIZE} bytes and has {SIZE // 2}"):
        _ = run_to_end(operations.stat_block(s3.ctx, "k"))
    with pytest.raises(IntegrityError):
        _ = s3.read_range("k", 0, 0)
    assert run_to_end(operations.block_exists(s3.ctx, "k"))  # so it can be deleted


# Listings.


def page(
    *keys: str, prefix: str | None = "", token: str = "", encoding: str = "EncodingType"
) -> Response:
    rows = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in keys)
    said = "" if prefix is None else f"<Prefix>{escape(prefix)}</Prefix>"
    goes_on = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    body = (
        f"<ListBucketResult>{said}<{encoding}>url</{encoding}>{rows}"
        f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{goes_on}</ListBucketResult>"
    )
    return reply(200, {}, body.encode())


def deleting(*pages: Response) -> tuple[Scripted, list[str]]:
    """A store whose service lists so, and what it is asked to delete."""
    deleted: list[str] = []
    left = list(pages)

    def answer(request: Request) -> Response:
        query = parse_qs(urlsplit(request.target).query)
        if request.method == "HEAD":
            return s3_error(404)
        if request.method == "POST":
            deleted.append(bytes(request.body).decode())
            return reply(200, {}, b"<DeleteResult/>")
        if request.method == "DELETE":
            deleted.append(request.target)
            return EMPTY
        if query.get("max-keys") == ["1"]:
            return LISTING
        return left.pop(0) if len(left) > 1 else left[0]

    return Scripted(answer, key_prefix="mine/", max_attempts=2), deleted


@pytest.mark.parametrize(
    "pages",
    [
        [page("payroll/2024", prefix=None)],
        [page("mine/share1/a", "payroll/2024", prefix=None)],
        [page("mine/payroll/2024", prefix=None)],
        [page("mine/share10/a", prefix=None)],
        [page("mine/share1/a", prefix="mine/")],
        [page("mine/share1/a", prefix="")],
        [page(prefix="mine/share2/")],
        [page("mine/share1/b", "mine/share1/a", prefix=None)],
        [page("mine/share1/a", "mine/share1/a", prefix=None)],
        [page("mine/share1/a", prefix=None, token="again")],
        [page("mine/share1/b", token="1", prefix=None), page("mine/share1/a", prefix=None)],
        [page(prefix=None, token="1"), page("mine/share1/a", prefix=None, token="1")],
    ],
    ids=lambda pages: pages[-1].body.decode()[:150],
)
def test_nothing_is_deleted_by_a_listing_that_is_not_what_was_asked_for(
    pages: list[Response],
) -> None:
    s3, deleted = deleting(*pages)
    with pytest.raises(ProtocolError):
        _ = s3.run(Operations(s3.store).delete_by_prefix(s3.ctx, "share1"))
    assert deleted == []


def test_a_listing_without_end_ends() -> None:
    """Pages without a key, and a token that is always another one."""
    numbers = iter(range(10_000))
    s3 = Scripted(lambda _: page(prefix=None, token=str(next(numbers))), max_attempts=1)
    with pytest.raises(ProtocolError, match="held no key"):
        _ = s3.run(Operations(s3.store).list_by_prefix(s3.ctx, ""))


def test_a_token_that_stays_the_same_ends_the_listing_at_once() -> None:
    s3 = Scripted(page(prefix=None, token="same"), max_attempts=1)
    with pytest.raises(ProtocolError, match="the page itself"):
        _ = s3.run(Operations(s3.store).list_by_prefix(s3.ctx, ""))
    assert len(s3.requests) == 2


def test_pages_without_a_key_are_passed_over() -> None:
    s3, _ = deleting(
        page(prefix=None, token="1"),
        page("mine/a", prefix="mine/", token="2"),
        page(prefix=None, token="3"),
        page("mine/b", prefix=None),
    )
    assert s3.run(Operations(s3.store).list_by_prefix(s3.ctx, "")) == ["a", "b"]
    tokens = [
        parse_qs(urlsplit(each.target).query).get("continuation-token") for each in s3.requests
    ]
    assert tokens == [None, ["1"], ["2"], ["3"]]


@pytest.mark.parametrize("encoding", ["EncodingType", "Encoding-Type"])
@pytest.mark.parametrize("written", ["d/a+b%2Bc", "d/a%20b%2bc", "d%2Fa+b%2Bc"])
def test_the_encoding_is_known_by_both_its_names(encoding: str, written: str) -> None:
    """Google's differs: https://github.com/minio/minio-go/pull/1410."""
    s3 = Scripted(page(written, prefix="d%2F", encoding=encoding))
    assert s3.run(Operations(s3.store).list_by_prefix(s3.ctx, "d/")) == ["d/a b+c"]


# Deletes.


@pytest.mark.parametrize("answer", [EMPTY, reply(200, {}, b"")])
def test_a_delete_is_proved_by_an_empty_reply(answer: Response) -> None:
    assert WRITES["delete_block"](Scripted(answer)) is None


@pytest.mark.parametrize("status", [201, 202, 206])
def test_a_delete_that_is_not_done_is_an_error(status: int) -> None:
    with pytest.raises(NotS3Error):
        _ = WRITES["delete_block"](Scripted(reply(status, {}, b"")))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<Error><Code>InternalError</Code></Error>", ServerError),
        (b"<Error><Code>AccessDenied</Code></Error>", AccessDeniedError),
        (b'{"message": "forbidden"}', NotS3Error),
    ],
)
def test_a_delete_whose_reply_says_something_else_is_an_error(
    body: bytes, kind: type[BlockStoreError]
) -> None:
    with pytest.raises(kind, match="delete_block"):
        _ = WRITES["delete_block"](Scripted(reply(200, {}, body)))


def test_an_empty_404_to_a_delete_is_believed_of_a_bucket_that_is_there() -> None:
    s3 = Scripted(s3_error(404), LISTING, s3_error(404))
    _ = WRITES["delete_block"](s3)
    _ = WRITES["delete_block"](s3)
    assert methods(s3) == ["DELETE", "GET", "DELETE"]


# Copies.


def copied(etag: str) -> Response:
    moment = "<LastModified>2024-05-06T07:08:09.000Z</LastModified>"
    body = f"<CopyObjectResult>{moment}<ETag>&quot;{etag}&quot;</ETag></CopyObjectResult>"
    return reply(200, {}, body.encode())


def test_a_copy_is_one_request() -> None:
    s3 = Scripted(copied("e"))
    result = s3.run(s3.store.copy_block(s3.ctx, "k", "l"))
    assert (result.key, result.etag) == ("l", "e")
    assert result.last_modified is not None
    assert methods(s3) == ["PUT"]
