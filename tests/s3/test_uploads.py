"""Multipart uploads: what is sent, what proves them, and what is known after a lost reply."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockTooLargeError,
    BucketNotFoundError,
    BufferTooSmallError,
    DeadlineExceededError,
    IncompleteBodyError,
    IntegrityError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    ServerError,
    TransportConnectionError,
    TransportError,
    UnsupportedError,
)
from blockyard.model import Upload, UploadPage
from blockyard.put_options import PutOptions
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import Twist, broken_off, reply, s3_error
from tests.s3.pretend_uploads import NONCE, PARTS, WHOLE, Uploading, base64_crc, short

ALL = ["create", "part 1", "part 2", "part 3", "complete"]


def lose(_: Request, __: Response) -> TransportConnectionError:
    return TransportConnectionError("reset")


def on(what: str, *twists: Twist | None) -> Twist:
    """The twists for the requests of one kind, one after the other; the last for all the rest."""
    left = list(twists)

    def twist(request: Request, sent: Response) -> Response | TransportError:
        if short(request) != what or not left:
            return sent
        made = left.pop(0)
        return sent if made is None else made(request, sent)

    return twist


def answer(response: Response) -> Twist:
    return lambda _, __: response


def answering(wanted: Uploading, what: str, response: Response) -> None:
    """From now on the service itself answers so, and does nothing."""
    before = wanted.s3.answer

    def answer(request: Request) -> Response:
        if short(request) != what:
            return before(request)
        wanted.s3.requests.append(request)
        return response

    wanted.s3.answer = answer  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("sums", ["whole", "parts", "none"])
def test_an_upload_is_its_parts_and_no_more(sums: str) -> None:
    s3 = Uploading()
    s3.s3.sums = sums  # pyright: ignore[reportAttributeAccessIssue]

    info = s3.upload(options=PutOptions(content_type="text/plain", metadata={"a": "b"}))

    assert s3.sent == ALL
    assert (info.key, info.size) == ("k", len(WHOLE))
    assert s3.stored("k").body == WHOLE
    assert s3.stored("k").etag == f'"{info.etag}"'
    create, first, *_, complete = s3.requests
    assert create.headers["content-type"] == "text/plain"
    assert create.headers["x-amz-meta-a"] == "b"
    assert create.headers["x-amz-checksum-algorithm"] == "CRC32C"
    assert create.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert first.headers["x-amz-checksum-crc32c"] == base64_crc(PARTS[0])
    assert complete.target == "/bucket/k?uploadId=upload%2F1%2B"
    whole = base64_crc(WHOLE) if sums == "whole" else None
    assert complete.headers.get("x-amz-checksum-crc32c") == whole
    told = [f"<ChecksumCRC32C>{base64_crc(part)}<".encode() in complete.body for part in PARTS]
    assert told == [sums != "none"] * 3


@pytest.mark.parametrize("put", [{"encryption": "AES256"}, {"customer_key": "A" * 43 + "="}])
def test_an_upload_that_the_service_would_not_encrypt_is_not_begun(put: dict[str, str]) -> None:
    s3 = Uploading(put=put)
    s3.s3.always = lambda _, sent: replace(sent, headers={"etag": "e"})
    with pytest.raises(
        UnsupportedError, match="'k': not stored: the service does not say that it is encrypted"
    ):
        _ = s3.upload()
    assert s3.sent == ["create", "abort"]
    assert s3.s3.uploads == {}


def test_the_owners_key_goes_with_every_request() -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    settings = {"customer_key": key, "storage_class": "STANDARD_IA", "metadata": {"a": "b"}}
    s3 = Uploading(put=settings, request_payer=True, expected_bucket_owner="123456789012")
    opened = s3.start()
    _ = s3.complete(opened, s3.send(opened))
    run_to_end(s3.store.abort_upload(s3.ctx, opened.upload))

    assert s3.sent == [*ALL, "abort"]
    for request in s3.requests[:-1]:
        assert request.headers["x-amz-server-side-encryption-customer-key"] == key
    for request in s3.requests:
        assert request.headers["x-amz-request-payer"] == "requester"
        assert request.headers["x-amz-expected-bucket-owner"] == "123456789012"
    for name, value in (("x-amz-storage-class", "STANDARD_IA"), ("x-amz-meta-a", "b")):
        assert [each.headers.get(name) for each in s3.requests] == [value, *[None] * 5]


@pytest.mark.parametrize("lost", ALL)
def test_a_lost_reply_of_each_kind(lost: str) -> None:
    s3 = Uploading()
    s3.s3.always = on(lost, lose)

    info = s3.upload()

    assert (info.key, info.size) == ("k", len(WHOLE))
    assert s3.stored("k").body == WHOLE
    at = ALL.index(lost)
    after = ["complete", "HEAD"] if lost == "complete" else [lost, *ALL[at + 1 :]]
    assert s3.sent == [*ALL[: at + 1], *after]
    assert s3.ctx.unknown_attempts == (lost == "complete")


def test_a_request_that_did_not_come_to_its_end_is_sent_again() -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    answering(s3, "complete", s3_error(500, "InternalError"))
    with pytest.raises(OutcomeUnknownError) as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 10
    assert "there is none now" in str(raised.value)
    assert isinstance(raised.value.__cause__, ServerError)


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_an_error_inside_a_200_is_tried_again(code: str) -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    failed, before = [2], s3.s3.answer

    def answer(request: Request) -> Response:
        if short(request) != "complete" or not failed[0]:
            return before(request)
        failed[0] -= 1
        s3.requests.append(request)
        return reply(200, {}, b"   \n" + s3_error(0, code).body)

    s3.s3.answer = answer  # pyright: ignore[reportAttributeAccessIssue]

    assert s3.complete(opened, parts).size == len(WHOLE)
    assert s3.sent[4:] == ["complete"] * 3


def test_a_refusal_inside_a_200_is_raised() -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    answering(s3, "complete", reply(200, {}, s3_error(0, "AccessDenied").body))

    with pytest.raises(AccessDeniedError, match="write_object 'k'") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 0
    assert s3.sent[4:] == ["complete"]


@pytest.mark.parametrize(
    "body", [b"", b"<html>ok</html>", b"<CompleteMultipartUploadResult/>", b"<Other/>"]
)
def test_what_does_not_say_that_it_was_done_is_no_success(body: bytes) -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    answering(s3, "complete", reply(200, {}, body))

    with pytest.raises(OutcomeUnknownError, match="no reply says whether the object was put"):
        _ = s3.complete(opened, parts)


def test_an_object_that_another_wrote_since_does_not_tell() -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)

    def lose_and_replace(_: Request, __: Response) -> TransportConnectionError:
        s3.put("k", b"another's", etag='"other"')
        return TransportConnectionError("reset")

    s3.s3.always = on("complete", lose_and_replace)

    with pytest.raises(OutcomeUnknownError, match=r"write_object 'k': .*'other' now") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 1
    assert s3.stored("k").body == b"another's"


def test_an_upload_that_is_gone_was_not_done() -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    s3.s3.uploads.clear()

    with pytest.raises(S3Error, match="NoSuchUpload") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 0
    assert s3.sent[4:] == ["complete", "HEAD"]
    with pytest.raises(S3Error, match="NoSuchUpload"):
        _ = s3.send(opened)


def test_no_head_after_a_lost_reply_leaves_it_unknown() -> None:
    s3 = Uploading()
    opened = s3.start()
    parts = s3.send(opened)
    s3.s3.always = on("complete", lose)
    answering(s3, "HEAD", reply(403, {}, b""))

    with pytest.raises(OutcomeUnknownError, match="can't be found out") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 1


# What proves an upload.


@pytest.mark.parametrize("sums", ["whole", "parts"])
def test_a_part_that_came_damaged_is_sent_again(sums: str) -> None:
    s3 = Uploading()
    s3.s3.sums = sums  # pyright: ignore[reportAttributeAccessIssue]

    def damaged(_: Request, sent: Response) -> Response:
        return Response(200, {**sent.headers, "x-amz-checksum-crc32c": "AAAAAA=="}, b"", 0)

    s3.s3.always = on("part 2", damaged)

    assert s3.upload().size == len(WHOLE)
    assert s3.sent == ["create", "part 1", "part 2", "part 2", "part 3", "complete"]


@pytest.mark.parametrize(
    ("sums", "told"), [("whole", "CRC32C is"), ("parts", "CRC32C is .*-3"), ("none", "ETag is")]
)
def test_a_whole_that_is_not_what_was_sent_is_an_integrity_error(sums: str, told: str) -> None:
    s3 = Uploading()
    s3.s3.sums = sums  # pyright: ignore[reportAttributeAccessIssue]
    opened = s3.start()
    parts = s3.send(opened)
    s3.s3.uploads["upload/1+"].parts[2] = b"Second part"

    with pytest.raises(IntegrityError, match=f"write_object 'k': .*{told}"):
        _ = s3.complete(opened, parts)


def test_an_etag_of_another_kind_is_looked_up() -> None:
    s3 = Uploading()
    etag = "<ETag>opaque</ETag>"
    other = f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>".encode()
    s3.s3.always = on("complete", answer(reply(200, {}, other)))

    info = s3.upload()

    assert s3.sent == [*ALL, "HEAD"]
    assert (f'"{info.etag}"', info.size) == (s3.stored("k").etag, len(WHOLE))


def test_what_is_there_has_the_size_that_was_sent() -> None:
    s3 = Uploading(of_aws=False)

    def short_by_one(request: Request, sent: Response) -> Response:
        stored = s3.stored("k")
        stored.body = stored.body[:-1]
        return s3.s3.head(request)

    s3.s3.always = on("HEAD", short_by_one)
    with pytest.raises(IntegrityError, match="has 25 of them, not 26"):
        _ = s3.upload()


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("write_proof", ["etag", "head"])
def test_what_is_not_there_was_lost_unless_the_reply_proves_it(
    replaced: bool, write_proof: str
) -> None:
    s3 = Uploading(of_aws=False, write_proof=write_proof)

    def change(request: Request, sent: Response) -> Response:
        s3.s3.objects.clear()
        if replaced:
            s3.put("k", WHOLE, **{NONCE: "another's"})
        return s3.s3.head(request)

    s3.s3.always = on("HEAD", change)
    if write_proof == "etag":
        assert s3.upload().size == len(WHOLE)
        return
    with pytest.raises(ProtocolError, match="it was lost, or replaced since") as raised:
        _ = s3.upload()
    assert raised.value.unknown_attempts == 1


@pytest.mark.parametrize("write_proof", ["etag", "head"])
def test_a_service_that_keeps_no_metadata_of_uploads(write_proof: str) -> None:
    s3 = Uploading(of_aws=False, write_proof=write_proof)

    def without(_: Request, sent: Response) -> Response:
        headers = {name: text for name, text in sent.headers.items() if name != NONCE}
        return Response(sent.status, headers, b"", 0)

    s3.s3.always = on("HEAD", without)
    assert s3.upload().size == len(WHOLE)


def test_a_head_that_is_refused_leaves_it_unknown() -> None:
    s3 = Uploading(write_proof="head")
    answering(s3, "HEAD", reply(403, {}, b""))
    with pytest.raises(AccessDeniedError) as raised:
        _ = s3.upload()
    assert raised.value.unknown_attempts == 1


def test_it_is_learnt_whether_the_reply_has_the_objects_etag() -> None:
    """rclone's has another one; then each object is looked up."""
    s3 = Uploading(of_aws=False)
    _ = s3.upload()
    _ = s3.upload()
    assert s3.sent == [*ALL, "HEAD", *ALL]
    assert s3.learnt.upload_etags is True

    other = Uploading(of_aws=False)

    def own_etag(request: Request, _: Response) -> Response:
        other.stored("k").headers["etag"] = '"its-own"'
        return other.s3.head(request)

    other.s3.always = on("HEAD", own_etag, own_etag)
    assert [other.upload().etag for _ in range(2)] == ["its-own"] * 2
    assert other.sent == [*ALL, "HEAD"] * 2
    assert other.learnt.upload_etags is False


def test_a_service_that_refuses_checksums_gets_none() -> None:
    s3 = Uploading()

    def refuse(request: Request, sent: Response) -> Response:
        if "x-amz-checksum-algorithm" not in request.headers:
            return sent
        return s3_error(400, "InvalidArgument")

    s3.s3.always = on("create", refuse, refuse, refuse)

    assert s3.upload().size == s3.upload().size == len(WHOLE)

    assert s3.sent == ["create", *ALL, *ALL]
    assert s3.learnt.part_checksums is False
    assert not any("x-amz-checksum-crc32c" in each.headers for each in s3.requests)


def test_a_refusal_for_another_reason_teaches_nothing() -> None:
    s3 = Uploading()
    s3.s3.always = on("create", *[answer(s3_error(400, "InvalidArgument"))] * 2)
    with pytest.raises(S3Error, match="InvalidArgument"):
        _ = s3.upload()
    assert s3.learnt.part_checksums is None


@pytest.mark.parametrize(
    ("sign", "sums", "hashed"),
    [("always", "none", 0), ("never", "none", 3), ("never", "parts", 1), ("never", "whole", 1)],
)
def test_a_part_that_nothing_else_holds_goes_with_its_md5(
    sign: str, sums: str, hashed: int
) -> None:
    """Until the service has shown that it verifies the CRC32C of a part."""
    s3 = Uploading(sign_payload=sign)
    s3.s3.sums = sums  # pyright: ignore[reportAttributeAccessIssue]
    _ = s3.upload()
    assert sum("content-md5" in each.headers for each in s3.requests) == hashed


def test_a_service_without_uploads() -> None:
    s3 = Uploading(of_aws=False)
    s3.s3.always = on("create", *[answer(s3_error(501, "NotImplemented"))] * 2)
    with pytest.raises(UnsupportedError, match="write_object 'k': the service has no multipart"):
        _ = s3.start()


# Conditions.


def test_a_condition_that_does_not_hold_is_refused_before_anything_is_sent() -> None:
    s3 = Uploading()
    s3.put("k", b"there", etag='"one"')
    for wanted, error in (
        ({"if_absent": True}, BlockExistsError),
        ({"if_match": "two"}, PreconditionFailedError),
    ):
        with pytest.raises(error, match="write_object 'k'"):
            _ = s3.start(**wanted)
    with pytest.raises(BlockNotFoundError, match="write_object 'absent'"):
        _ = s3.start("absent", if_match="one")
    assert s3.sent == ["HEAD"] * 3


@pytest.mark.parametrize("wanted", [{"if_absent": True}, {"if_match": "one"}])
def test_a_condition_holds_at_the_end(wanted: dict[str, object]) -> None:
    s3 = Uploading()
    if "if_match" in wanted:
        s3.put("k", b"there", etag='"one"')
    opened = s3.start(**wanted)
    parts = s3.send(opened)
    s3.put("k", b"another's", etag='"two"')

    error = BlockExistsError if "if_absent" in wanted else PreconditionFailedError
    with pytest.raises(error, match="write_object 'k'") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 0
    assert s3.stored("k").body == b"another's"


def test_a_version_that_is_gone_at_the_end() -> None:
    s3 = Uploading()
    s3.put("k", b"there", etag='"one"')
    opened = s3.start(if_match="one")
    parts = s3.send(opened)
    s3.s3.objects.clear()

    with pytest.raises(BlockNotFoundError, match="write_object 'k'") as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 0


@pytest.mark.parametrize("wanted", [{"if_absent": True}, {"if_match": "one"}])
def test_a_retry_that_meets_its_own_object_has_succeeded(wanted: dict[str, object]) -> None:
    s3 = Uploading()
    if "if_match" in wanted:
        s3.put("k", b"there", etag='"one"')
    opened = s3.start(**wanted)
    parts = s3.send(opened)
    s3.s3.always = on("complete", lose, answer(s3_error(412, "PreconditionFailed")))

    assert s3.complete(opened, parts).size == len(WHOLE)
    assert s3.sent[-3:] == ["complete", "complete", "HEAD"]


def test_a_conflict_that_another_won_is_a_block_that_exists() -> None:
    """AWS answers 409, and then knows the upload no more."""
    s3 = Uploading()
    opened = s3.start(if_absent=True)
    parts = s3.send(opened)

    def conflict(_: Request, __: Response) -> Response:
        s3.put("k", b"another's", etag='"two"')
        return s3_error(409, "ConditionalRequestConflict")

    s3.s3.always = on("complete", conflict)

    with pytest.raises(BlockExistsError) as raised:
        _ = s3.complete(opened, parts)
    assert raised.value.unknown_attempts == 0


def test_the_quotes_of_an_etag_may_be_too_many() -> None:
    s3 = Uploading()
    s3.put("k", b"there", etag='"one"')
    opened = s3.start(if_match="one")
    parts = s3.send(opened)
    before = s3.s3.answer

    def answer(request: Request) -> Response:
        if short(request) == "complete":
            if request.headers["if-match"] == '"one"':
                s3.requests.append(request)
                return s3_error(412, "PreconditionFailed")
            request.headers["if-match"] = '"one"'
        return before(request)

    s3.s3.answer = answer  # pyright: ignore[reportAttributeAccessIssue]

    assert s3.complete(opened, parts).size == len(WHOLE)
    assert s3.learnt.bare_etags
    assert s3.sent[-3:] == ["complete", "HEAD", "complete"]


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
@pytest.mark.parametrize("honours", [True, False])
def test_it_is_found_out_whether_the_service_holds_uploads_to_conditions(
    condition: str, honours: bool
) -> None:
    s3 = Uploading(of_aws=False)
    s3.s3.honours = honours
    wanted: dict[str, object] = {"if_absent": True}
    if condition == "if_match":
        s3.put("k", b"there", etag='"one"')
        wanted = {"if_match": "one"}

    for _ in range(2):
        if honours:
            opened = s3.start(**wanted)
            run_to_end(s3.store.abort_upload(s3.ctx, opened.upload))
        else:
            with pytest.raises(
                UnsupportedError, match=f"write_object 'k': not stored.*{condition}"
            ):
                _ = s3.start(**wanted)

    learnt = s3.learnt.conditional_uploads, s3.learnt.matching_uploads
    assert learnt == ((honours, None) if condition == "if_absent" else (None, honours))
    assert s3.s3.uploads == {}
    assert [key for key in s3.s3.objects if "probe" in key] == []
    assert s3.sent.count("PUT") == 1


def test_what_is_found_out_is_no_outcome_of_the_callers() -> None:
    s3 = Uploading(of_aws=False)
    s3.s3.always = on("complete", *[answer(s3_error(500, "InternalError"))] * 99)
    with pytest.raises(TransportError, match="no reply says whether the object was put") as raised:
        _ = s3.start(if_absent=True)
    assert not isinstance(raised.value, OutcomeUnknownError)
    assert s3.s3.uploads == s3.s3.objects == {}


@pytest.mark.parametrize("late", ["PUT", "create", "part 1", "complete"])
def test_what_is_found_out_leaves_nothing_after_the_deadline(late: str) -> None:
    s3 = Uploading(of_aws=False)
    s3.ctx.deadline = 5.0

    def too_late(request: Request, sent: Response) -> Response | TransportError:
        if short(request) != late or s3.runtime.clock:
            return sent
        s3.runtime.clock = 5.0
        return DeadlineExceededError("the deadline of this call has passed")

    s3.s3.always = too_late
    with pytest.raises(DeadlineExceededError) as raised:
        _ = s3.start(if_absent=True)
    assert s3.s3.uploads == {}
    assert s3.s3.objects == {}
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 0
    assert not [note for note in raised.value.__notes__ if "may" in note]


# Those that were left.


def test_uploads_are_listed_below_the_prefix() -> None:
    s3 = Uploading(key_prefix="own")
    page = reply(
        200,
        {},
        b"<ListMultipartUploadsResult><EncodingType>url</EncodingType>"
        b"<IsTruncated>true</IsTruncated><NextKeyMarker>own/a+b</NextKeyMarker>"
        b"<NextUploadIdMarker>two</NextUploadIdMarker>"
        b"<Upload><Key>own/a%20b</Key><UploadId>one</UploadId>"
        b"<Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>"
        b"<Upload><Key>own/a+b</Key><UploadId>two</UploadId></Upload>"
        b"</ListMultipartUploadsResult>",
    )
    answering(s3, "create", page)

    found = run_to_end(s3.store.list_uploads(s3.ctx, "a", None))

    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found.uploads == [Upload("a b", "one", started), Upload("a b", "two")]
    assert s3.requests[0].target == (
        "/bucket?encoding-type=url&max-uploads=1000&prefix=own%2Fa&uploads="
    )
    with pytest.raises(ProtocolError, match="how the listing of uploads goes on"):
        _ = run_to_end(s3.store.list_uploads(s3.ctx, "a", found.next_token))
    assert "key-marker=own%2Fa%20b" in s3.requests[1].target
    assert "upload-id-marker=two" in s3.requests[1].target


def test_a_listing_of_other_keys_is_refused() -> None:
    s3 = Uploading(key_prefix="own")
    root = "ListMultipartUploadsResult"
    other = f"<{root}><Upload><Key>other/a</Key><UploadId>one</UploadId></Upload></{root}>"
    answering(s3, "create", reply(200, {}, other.encode()))
    with pytest.raises(ProtocolError, match="'own/' does not begin"):
        _ = run_to_end(s3.store.list_uploads(s3.ctx, "", None))


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (404, "NoSuchKey"), (404, "NoSuchUpload")]
)
def test_a_service_that_lists_no_uploads_has_none(status: int, code: str) -> None:
    s3 = Uploading()
    answering(s3, "create", s3_error(status, code))
    assert run_to_end(s3.store.list_uploads(s3.ctx, "", None)) == UploadPage([], None)


def test_a_bucket_that_is_not_there_is_told() -> None:
    s3 = Uploading()
    answering(s3, "create", s3_error(404, "NoSuchBucket"))
    with pytest.raises(BucketNotFoundError):
        _ = run_to_end(s3.store.list_uploads(s3.ctx, "", None))


def test_an_upload_is_aborted_once() -> None:
    s3 = Uploading()
    opened = s3.start()
    for _ in range(2):
        run_to_end(s3.store.abort_upload(s3.ctx, opened.upload))
    answering(s3, "abort", s3_error(403, "AccessDenied"))
    with pytest.raises(AccessDeniedError, match="abort_upload 'k'"):
        run_to_end(s3.store.abort_upload(s3.ctx, opened.upload))
    assert s3.s3.uploads == {}


def test_the_nonce_is_in_the_metadata() -> None:
    s3 = Uploading()
    _ = s3.upload()
    assert s3.stored("k").headers[NONCE] == s3.runtime.nonce()
    info = run_to_end(s3.store.stat_block(s3.ctx, "k"))
    assert info.metadata == {}


# Reads of what is larger than a block.


def test_a_large_object_is_read_in_ranges_and_into_a_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockyard.s3.read_steps.MAX_BLOCK_SIZE", 10)
    monkeypatch.setattr("blockyard.s3.ranges.MAX_BLOCK_SIZE", 10)
    s3 = Uploading()
    _ = s3.upload()

    assert s3.read_range("k", 3, 7) == WHOLE[3:10]
    assert s3.read_with("k", suffix=5).data == WHOLE[-5:]
    assert s3.read_into("k", 100) == WHOLE
    for call in (lambda: s3.read("k"), lambda: s3.read_range("k", 3)):
        with pytest.raises(BlockTooLargeError, match=r"read_block.* 'k'"):
            _ = call()
    with pytest.raises(BufferTooSmallError):
        _ = s3.read_into("k", 12)


def test_a_large_read_into_a_buffer_is_taken_up_where_it_broke_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockyard.s3.read_steps.MAX_BLOCK_SIZE", 10)
    s3 = Uploading()
    _ = s3.upload()
    broken = [15, 5]

    def break_off(_: Request, sent: Response) -> Response | IncompleteBodyError:
        return broken_off(sent, broken.pop(0)) if broken else sent

    s3.s3.always = break_off
    assert s3.read_into("k", len(WHOLE)) == WHOLE
    assert broken == []


def test_a_copy_of_what_no_copy_takes_says_so() -> None:
    s3 = Uploading()
    s3.put("k", b"large", etag='"one"')
    refused = s3_error(400, "InvalidRequest")
    length = str(5 * 2**30 + 1)

    def large(_: Request, sent: Response) -> Response:
        return Response(200, {**sent.headers, "content-length": length}, b"", 0)

    s3.s3.always = on("PUT", answer(refused), answer(refused))
    with pytest.raises(S3Error, match="InvalidRequest"):
        s3.copy("k", "copy")
    s3.s3.always = lambda request, sent: (
        refused if request.method == "PUT" else large(request, sent)
    )
    with pytest.raises(BlockTooLargeError, match=rf"copy_block 'k': {length} bytes"):
        s3.copy("k", "copy")
