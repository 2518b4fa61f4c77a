"""Empty replies that something between here and the service has sent: a portal, a broken gateway.

They look like those of S3 to a delete, or for a block that is not there. Those of nearly every
service have a request id, though, and these have not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from blockyard.context import Response
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    NotS3Error,
    TransportError,
    UnsupportedError,
)
from blockyard.model import DeleteResult, Upload, UploadPage
from blockyard.operations import Operations
from blockyard.stores.base import WriteRequest
from tests.s3.pretend import reply
from tests.s3.scripted_service import LISTING, Answer, Scripted, amazon, s3_error

OBJECT = Response(200, {"etag": '"e"', "content-length": "4"}, b"", 0)
COPIED = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
DELETED = reply(200, {}, b"<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>")
NO_TAGS = reply(200, {}, b"<Tagging><TagSet/></Tagging>")
STORED = reply(200, {"etag": '"e"'}, b"")
DONE = reply(204, {}, b"")
DENIED = s3_error(403, "AccessDenied")
CONDITIONAL = WriteRequest("k", b"data", if_absent=True)


def with_id(answer: Response, name: str = "x-amz-request-id") -> Response:
    return replace(answer, headers={**answer.headers, name: "R1"})


def empty(status: int) -> Response:
    return Response(status, {}, b"", 0)


def known(*answers: Answer, **settings: object) -> Scripted:
    """A service that has shown that its replies have a request id: by an object."""
    s3 = Scripted(with_id(OBJECT), *answers, **settings)
    assert exists(s3) is True
    s3.requests.clear()
    return s3


def exists(s3: Scripted) -> object:
    return s3.run(Operations(s3.store).block_exists(s3.ctx, "k"))


def delete(s3: Scripted) -> object:
    return s3.run(s3.store.delete_block(s3.ctx, "k"))


def copy(s3: Scripted) -> object:
    return s3.run(s3.store.copy_block(s3.ctx, "k", "l")).etag


def methods(s3: Scripted) -> list[str]:
    return [each.method for each in s3.requests]


Operation = Callable[[Scripted], object]
OPERATIONS: dict[str, tuple[Operation, list[int], Response, object]] = {
    "exists": (exists, [404, 412, 405, 501], OBJECT, True),
    "read": (Scripted.read, [404, 405, 501], reply(200, {"etag": '"e"'}, b"data"), b"data"),
    "delete": (delete, [200, 204, 404, 405, 412, 501], DONE, None),
    "delete many": (
        lambda s3: s3.run(s3.store.delete_blocks(s3.ctx, ["k"])),
        [200, 204, 404, 405, 501],
        DELETED,
        DeleteResult(["k"], {}),
    ),
    "copy": (copy, [200, 204, 404, 405, 501], COPIED, "e"),
    "write": (
        lambda s3: s3.run(s3.store.write(s3.ctx, CONDITIONAL)).etag,
        [200, 204, 404, 412, 501],
        STORED,
        "e",
    ),
    "tags": (
        lambda s3: s3.run(s3.store._tags.read(s3.ctx, "copy_block", "k")),
        [200, 404, 405, 501],
        NO_TAGS,
        [],
    ),
    "abort": (
        lambda s3: s3.run(s3.store.abort_upload(s3.ctx, Upload("k", "id"))),
        [200, 204, 404],
        DONE,
        None,
    ),
}
CASES = [
    pytest.param(operation, status, answer, result, id=f"{name}-{status}")
    for name, (operation, statuses, answer, result) in OPERATIONS.items()
    for status in statuses
]


@pytest.mark.parametrize(("operation", "status", "answer", "result"), CASES)
def test_such_a_reply_is_no_answer(
    operation: Operation, status: int, answer: Response, result: object
) -> None:
    s3 = known(empty(status), with_id(LISTING), with_id(answer))
    s3.store._caller.capabilities.conditional_writes = True
    before = replace(s3.store._caller.capabilities)
    assert operation(s3) == result
    first, look, again = s3.requests
    assert (first.method, first.target) == (again.method, again.target)
    assert (look.method, "list-type=2" in look.target) == ("GET", True)
    after = s3.store._caller.capabilities
    known_of = ("request_ids", "copies", "delete_objects", "conditional_writes")
    assert all(getattr(after, name) in {getattr(before, name), True} for name in known_of)


@pytest.mark.parametrize("name", ["x-amz-request-id", "x-amz-id-2", "x-amzn-requestid"])
@pytest.mark.parametrize("status", [200, 204, 404])
def test_with_a_request_id_it_is_one_at_once(status: int, name: str) -> None:
    s3 = known(with_id(empty(status), name))
    _ = delete(s3)
    assert methods(s3) == ["DELETE"]


def test_a_change_that_it_answered_may_have_been_made() -> None:
    s3 = known(empty(204), with_id(LISTING), with_id(DENIED))
    with pytest.raises(BlockStoreError) as raised:
        _ = delete(s3)
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 1


def test_once_is_once() -> None:
    s3 = known(empty(204), with_id(LISTING))
    s3.ctx.once = True
    with pytest.raises(NotS3Error, match=r"delete_block 'k'.*204.*did a proxy or gateway send it"):
        _ = delete(s3)
    assert methods(s3) == ["DELETE", "GET"]


@pytest.mark.parametrize("operation", [exists, delete])
def test_a_portal_for_good_is_an_error(operation: Operation) -> None:
    s3 = known(empty(404))
    with pytest.raises(TransportError):
        _ = operation(s3)
    assert len(s3.requests) == 20  # a listing with each of ten tries


def test_a_page_of_it_that_refuses_teaches_nothing() -> None:
    page = reply(405, {"content-type": "text/html"}, b"<html>405 Not Allowed</html>")
    s3 = known(page, with_id(LISTING), with_id(COPIED))
    assert copy(s3) == "e"


@pytest.mark.parametrize("operation", [exists, Scripted.read, delete])
def test_a_page_that_is_not_found_is_no_sign_that_the_service_sends_no_ids(
    operation: Operation,
) -> None:
    """It is no missing block anyhow, and needs no listing."""
    s3 = known(*[reply(404, {}, b"<html>404</html>")] * 3, with_id(s3_error(404, "NoSuchKey")))
    with suppress(BlockNotFoundError):
        _ = operation(s3)
    assert len(s3.requests) == 4
    assert not any("list-type=2" in each.target for each in s3.requests)
    assert s3.store._caller.capabilities.request_ids is True


def test_amazon_s_replies_are_known_to_have_a_request_id() -> None:
    s3 = amazon(with_id(OBJECT))
    s3.script.request_ids = False
    s3.script.answers = [empty(204), with_id(LISTING), with_id(DONE)]
    _ = delete(s3)
    assert methods(s3) == ["DELETE", "GET", "DELETE"]


def test_the_first_absent_block_tells_too() -> None:
    """Where the listing that proves the bucket has a request id."""
    s3 = Scripted(empty(404), with_id(LISTING), with_id(OBJECT))
    assert exists(s3) is True
    assert methods(s3) == ["HEAD", "GET", "HEAD"]


# Services that send none, at least not always, are believed.


def test_a_service_that_sends_none_is_believed() -> None:
    s3 = Scripted(OBJECT, empty(404), DONE)
    assert [exists(s3), exists(s3), delete(s3)] == [True, False, None]
    assert methods(s3) == ["HEAD", "HEAD", "DELETE"]


def test_one_whose_listing_has_none_is_believed_from_then_on() -> None:
    """As behind a gateway that takes it away, or adds it to some."""
    s3 = known(empty(404), LISTING, empty(404))
    assert exists(s3) is False
    assert methods(s3) == ["HEAD", "GET", "HEAD"]
    assert exists(s3) is False
    assert len(s3.requests) == 4


def test_one_that_keeps_on_sending_such_replies_is_believed_from_then_on() -> None:
    s3 = known(*[empty(404), with_id(LISTING)] * 3, empty(404))
    assert exists(s3) is False
    assert methods(s3) == ["HEAD", "GET"] * 3 + ["HEAD"]
    assert exists(s3) is False
    assert len(s3.requests) == 8


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize(("operation", "status"), [(exists, 404), (delete, 204)])
def test_it_is_believed_by_calls_of_few_attempts_too(
    operation: Operation, status: int, attempts: int
) -> None:
    s3 = known(*[empty(status), with_id(LISTING)] * 6, max_attempts=attempts)
    for _ in range(3 if attempts < 3 else 1):
        with pytest.raises(NotS3Error):
            _ = operation(s3)
    s3.script.answers = [empty(status)]
    assert not operation(s3)


def test_nor_does_a_change_that_is_made_once_fail_for_good() -> None:
    s3 = known(*[empty(204), with_id(LISTING)] * 3, empty(204))
    s3.ctx.once = True
    for _ in range(3):
        with pytest.raises(NotS3Error):
            _ = delete(s3)
    assert delete(s3) is None


@pytest.mark.parametrize("status", [405, 501])
def test_so_is_one_that_lists_no_uploads(status: int) -> None:
    """Which no call on a block would tell: `clean_contents` asks for them."""
    s3 = known(*[empty(status), with_id(LISTING)] * 3, empty(status))
    assert s3.run(s3.store.list_uploads(s3.ctx, "", None)) == UploadPage([], None)


def test_one_that_may_not_be_listed_is_there() -> None:
    s3 = known(empty(404), with_id(DENIED), with_id(s3_error(404)))
    assert exists(s3) is False
    assert methods(s3) == ["HEAD", "GET", "HEAD"]


def test_an_empty_reply_to_a_delete_proves_no_bucket() -> None:
    s3 = Scripted(empty(204), empty(404), LISTING)
    assert [delete(s3), exists(s3)] == [None, False]
    assert methods(s3) == ["DELETE", "HEAD", "GET"]


# Copies.


def test_an_empty_reply_to_a_copy_does_not_show_that_there_are_none() -> None:
    s3 = Scripted(OBJECT, empty(200), COPIED)
    assert [exists(s3), copy(s3)] == [True, "e"]


@pytest.mark.parametrize("there", [empty(404), OBJECT], ids=["none", "another"])
def test_nor_with_a_service_that_sends_no_etags(there: Response) -> None:
    s3 = Scripted(OBJECT, empty(200), there, COPIED, write_proof="head")
    assert exists(s3) is True
    with pytest.raises(NotS3Error, match="no empty object is there") as raised:
        _ = copy(s3)
    assert raised.value.unknown_attempts == 1
    assert copy(s3) == "e"


def test_an_empty_object_that_is_there_then_shows_it() -> None:
    nothing = replace(OBJECT, headers={"etag": '"e"', "content-length": "0"})
    s3 = Scripted(OBJECT, empty(200), nothing, write_proof="head")
    assert exists(s3) is True
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="no CopyObject"):
            _ = copy(s3)
    assert methods(s3) == ["HEAD", "PUT", "HEAD"]


def test_a_missing_source_is_missing() -> None:
    s3 = known(with_id(s3_error(404, "NoSuchKey")))
    with pytest.raises(BlockNotFoundError):
        _ = copy(s3)
    assert methods(s3) == ["PUT"]
