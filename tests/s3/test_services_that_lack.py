"""What a service lacks is found out once, got around where that is safe, and named where not."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from re import findall

import pytest

from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    ProtocolError,
    S3Error,
    ThrottledError,
    UnsupportedError,
)
from blockyard.model import DeleteResult
from blockyard.stores.base import ListRequest
from tests.s3.pretend import Pretended, reply, s3_error
from tests.s3.scripted_service import EMPTY, Answer, Scripted

KEYS = [f"k{n}" for n in range(5)]
LACKING = {
    "501 NotImplemented": s3_error(501, "NotImplemented"),
    "501": Response(501, {}, b"", 0),
    "405 MethodNotAllowed": s3_error(405, "MethodNotAllowed"),
    "405": Response(405, {}, b"", 0),
    "400 NotImplemented": s3_error(400, "NotImplemented"),
}
NAMES_NO_KEY = {
    "no key": reply(200, {}, b"<DeleteResult/>"),
    "empty records": reply(200, {}, b"<DeleteResult><Deleted/><Deleted/></DeleteResult>"),
}
lacking = pytest.mark.parametrize("answer", LACKING.values(), ids=LACKING.keys())


def methods(s3: Scripted) -> list[str]:
    return [each.method for each in s3.requests]


def without_batches(answer: Answer, gone: list[str]) -> Callable[[Request], Response]:
    def answered(request: Request) -> Response:
        if request.method == "POST":
            assert isinstance(answer, Response)
            return answer
        gone.append(request.target.rpartition("/")[2])
        return EMPTY

    return answered


@pytest.mark.parametrize(
    "answer", (LACKING | NAMES_NO_KEY).values(), ids=(LACKING | NAMES_NO_KEY).keys()
)
def test_without_delete_objects_keys_are_deleted_one_by_one(answer: Response) -> None:
    gone: list[str] = []
    s3 = Scripted(without_batches(answer, gone))
    for _ in range(2):
        assert s3.run(s3.store.delete_blocks(s3.ctx, KEYS)) == DeleteResult(KEYS, {})
    assert gone == KEYS * 2
    assert methods(s3).count("POST") == 1  # remembered
    assert s3.pauses == []


def test_each_key_has_its_outcome_then_too() -> None:
    def answer(request: Request) -> Response:
        if request.method == "POST":
            return LACKING["501"]
        return s3_error(403, "AccessDenied") if request.target.endswith("k3") else EMPTY

    s3 = Scripted(answer)
    result = s3.run(s3.store.delete_blocks(s3.ctx, KEYS))
    assert result.deleted == ["k0", "k1", "k2", "k4"]
    assert type(result.failed["k3"]) is AccessDeniedError


def asked(request: Request) -> list[str]:
    return [unescape(key) for key in findall("<Key>(.*?)</Key>", bytes(request.body).decode())]


def test_a_service_that_deleted_a_batch_before_has_delete_objects() -> None:
    """A reply that names no key is odd then, and asked for again."""

    def obey(request: Request) -> Response:
        rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in asked(request))
        return reply(200, {}, f"<DeleteResult>{rows}</DeleteResult>".encode())

    s3 = Scripted(obey, NAMES_NO_KEY["no key"], LACKING["501"], obey, max_attempts=2)
    _ = s3.run(s3.store.delete_blocks(s3.ctx, KEYS))
    with pytest.raises(S3Error):
        _ = s3.run(s3.store.delete_blocks(s3.ctx, KEYS))
    assert s3.run(s3.store.delete_blocks(s3.ctx, KEYS)) == DeleteResult(KEYS, {})
    assert methods(s3) == ["POST"] * 4


# Copies.


def copy(s3: Scripted) -> object:
    return s3.run(s3.store.copy_block(s3.ctx, "source", "target"))


@lacking
def test_without_copies_an_error_says_so_at_once(answer: Response) -> None:
    s3 = Scripted(answer)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="copy_block 'source': the service has no Copy"):
            _ = copy(s3)
    assert methods(s3).count("PUT") == 1  # remembered


def test_a_service_that_copies_no_encrypted_object_copies_others() -> None:
    """Ceph 16 answers 501."""
    encrypted = {"x-amz-server-side-encryption": "aws:kms", "etag": '"e"'}
    copied = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    refused = (LACKING["501 NotImplemented"], reply(200, encrypted, b""))
    s3 = Scripted(*refused, copied, *refused, copied)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="'source': the service copies no encrypted"):
            _ = copy(s3)
        _ = copy(s3)
    assert methods(s3) == ["PUT", "HEAD", "PUT"] * 2


def test_a_copy_taken_for_the_write_of_nothing_is_no_copy() -> None:
    """Some ignore x-amz-copy-source, and store an empty object."""
    s3 = Scripted(reply(200, {"etag": '"d41d8cd98f00b204e9800998ecf8427e"'}, b""))
    for _ in range(2):
        with pytest.raises(UnsupportedError):
            _ = copy(s3)
    assert methods(s3).count("PUT") == 1


def test_a_copy_that_failed_otherwise_says_nothing_of_copies() -> None:
    for answer in (
        s3_error(404, "NoSuchKey"),
        s3_error(503, "SlowDown"),
        s3_error(403, "Denied"),
    ):
        s3 = Scripted(answer, max_attempts=1)
        with pytest.raises((BlockNotFoundError, ThrottledError, AccessDeniedError)):
            _ = copy(s3)
        with pytest.raises((BlockNotFoundError, ThrottledError, AccessDeniedError)):
            _ = copy(s3)


def test_a_service_that_copied_before_has_copies() -> None:
    copied = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    s3 = Scripted(copied, LACKING["501"])
    _ = copy(s3)
    with pytest.raises(S3Error):
        _ = copy(s3)


# x-amz-checksum-mode, which Backblaze B2 refuses.


@pytest.mark.parametrize(
    "answer",
    [
        s3_error(400, "InvalidArgument"),
        s3_error(400, "InvalidRequest"),
        s3_error(501, "NotImplemented"),
        Response(501, {}, b"", 0),
    ],
    ids=repr,
)
def test_without_checksum_mode_reads_go_on(answer: Response) -> None:
    s3 = Pretended()
    s3.write("k", b"data")

    def twist(request: Request, sent: Response) -> Response:
        return answer if "x-amz-checksum-mode" in request.headers else sent

    s3.service.always = twist
    for _ in range(3):
        assert s3.read("k") == b"data"
        assert s3.read_into("k", 9) == b"data"
    modes = ["x-amz-checksum-mode" in each.headers for each in s3.requests[1:]]
    assert modes == [True] + [False] * 6  # remembered
    assert s3.runtime.pauses == []


def test_a_read_refused_for_something_else_tells_what() -> None:
    s3 = Scripted(s3_error(400, "InvalidArgument"))
    for _ in range(2):
        with pytest.raises(S3Error, match="InvalidArgument"):
            _ = s3.read()
    modes = ["x-amz-checksum-mode" in each.headers for each in s3.requests]
    assert modes == [True, False] * 2  # nothing was learnt


def test_a_service_that_took_the_header_once_takes_it() -> None:
    s3 = Scripted(reply(200, {"etag": "e"}, b"hello"), s3_error(400, "InvalidArgument"))
    _ = s3.read()
    with pytest.raises(S3Error):
        _ = s3.read()
    assert len(s3.requests) == 2


def test_a_listing_of_version_1_is_refused() -> None:
    first = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    s3 = Scripted(reply(200, {}, first), max_attempts=1)
    with pytest.raises(ProtocolError, match="ListObjectsV2"):
        _ = s3.run(s3.store.list(s3.ctx, ListRequest("", None, 10)))
