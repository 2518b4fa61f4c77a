"""How objects are stored: which headers go with which requests, and what comes back of them."""

from __future__ import annotations

import json
import traceback
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import md5
from typing import Any

import pytest

import blockyard
from blockyard import BlockInfo, PutOptions, UnsupportedError
from blockyard.context import Request, Response
from blockyard.s3 import responses
from blockyard.s3.integrity import PAGE_CHECKSUMS
from blockyard.s3.writing import NONCE
from blockyard.stores.base import (
    ListRequest,
    PresignRequest,
    ReadRequest,
    UploadRequest,
    WriteRequest,
)
from blockyard.stores.memory import MemoryStore
from servers.endpoint import Endpoint, boto3_client
from tests.s3.pretend import reply
from tests.s3.scripted_service import EMPTY, LISTING, OK, Scripted, s3_error

KEY = b64encode(bytes(range(32))).decode()
KEY_MD5 = b64encode(md5(bytes(range(32)), usedforsecurity=False).digest()).decode()
DEFAULTS: dict[str, Any] = {
    "storage_class": "STANDARD_IA",
    "encryption": "aws:kms",
    "kms_key_id": "the-key",
    "kms_context": {"of": "films"},
    "acl": "bucket-owner-full-control",
    "content_type": "application/x-block",
    "cache_control": "max-age=60",
    "metadata": {"film": "metropolis", "empty": ""},
    "tags": {"a b": "c&d"},
}
AS_DEFAULTS = {
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "the-key",
    "x-amz-server-side-encryption-context": b64encode(b'{"of": "films"}').decode(),
    "x-amz-acl": "bucket-owner-full-control",
}
OF_CONTENT = {
    "content-type": "application/x-block",
    "cache-control": "max-age=60",
    "x-amz-meta-film": "metropolis",
    "x-amz-meta-empty": "",
    "x-amz-tagging": "a%20b=c%26d",
}
COPIED = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
DELETED = reply(200, {}, b"<DeleteResult><Deleted><Key>key</Key></Deleted></DeleteResult>")
OPERATIONS: dict[str, Any] = {
    "write": (OK, lambda s3: s3.store.write(s3.ctx, WriteRequest("key", b"bytes"))),
    "read": (OK, lambda s3: s3.store.read(s3.ctx, ReadRequest("key"))),
    "stat": (OK, lambda s3: s3.store.stat_block(s3.ctx, "key")),
    "copy": (COPIED, lambda s3: s3.store.copy_block(s3.ctx, "a", "b")),
    "delete": (EMPTY, lambda s3: s3.store.delete_block(s3.ctx, "key")),
    "delete many": (DELETED, lambda s3: s3.store.delete_blocks(s3.ctx, ["key"])),
    "list": (LISTING, lambda s3: s3.store.list(s3.ctx, ListRequest(""))),
    "health": (LISTING, lambda s3: s3.store.health_check(s3.ctx)),
}


def sent(operation: str, **settings: Any) -> Request:
    answer, call = OPERATIONS[operation]
    s3 = Scripted(answer, **settings)
    _ = s3.run(call(s3))
    return s3.requests[-1]


def write(options: PutOptions | None = None, data: bytes = b"bytes", **settings: Any) -> Request:
    s3 = Scripted(OK, **settings)
    _ = s3.run(s3.store.write(s3.ctx, WriteRequest("key", data, options=options)))
    return s3.requests[-1]


def signed(request: Request) -> set[str]:
    names = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    return set(names.split(";"))


def held(request: Request, headers: dict[str, str]) -> dict[str, str]:
    return {name: request.headers.get(name, "") for name in headers}


def test_without_settings_nothing_is_sent() -> None:
    for operation in OPERATIONS:
        request = sent(operation)
        names = {"x-amz-acl", "x-amz-storage-class", "x-amz-tagging", "x-amz-request-payer"}
        assert not names & request.headers.keys()
        assert not [name for name in request.headers if name.startswith("x-amz-server-side")]


def test_the_stores_options_go_with_writes_and_but_for_the_content_with_copies() -> None:
    put, copy = sent("write", put=DEFAULTS), sent("copy", put=DEFAULTS)
    assert held(put, AS_DEFAULTS | OF_CONTENT) == AS_DEFAULTS | OF_CONTENT
    assert held(copy, AS_DEFAULTS) == AS_DEFAULTS
    assert not OF_CONTENT.keys() & copy.headers.keys()
    assert signed(put) >= AS_DEFAULTS.keys()
    assert PAGE_CHECKSUMS in put.headers
    for operation in ("read", "stat", "delete", "delete many", "list"):
        assert not AS_DEFAULTS.keys() & sent(operation, put=DEFAULTS).headers.keys()


def test_what_a_write_says_of_metadata_and_tags_is_all_of_them() -> None:
    headers = write(PutOptions(metadata={"own": "1"}), put=DEFAULTS).headers
    assert {"x-amz-meta-film", "x-amz-meta-empty"}.isdisjoint(headers)
    assert (headers["x-amz-meta-own"], headers["x-amz-tagging"]) == ("1", "a%20b=c%26d")
    none = PutOptions(metadata={}, tags={}, kms_context={})
    headers = write(none, put=DEFAULTS).headers
    names = OF_CONTENT.keys() - {"content-type", "cache-control"}
    assert not names & headers.keys()
    assert "x-amz-server-side-encryption-context" not in headers
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "the-key"


def test_a_write_with_an_encryption_of_its_own_has_no_context_of_the_stores() -> None:
    for encryption in ("AES256", "aws:kms"):
        headers = write(PutOptions(encryption=encryption), put=DEFAULTS).headers
        assert headers["x-amz-server-side-encryption"] == encryption
        assert "x-amz-server-side-encryption-context" not in headers


def test_options_of_a_write_win_over_the_stores() -> None:
    options = PutOptions(
        storage_class="GLACIER_IR",
        encryption="AES256",
        content_disposition="attachment",
        content_encoding="gzip",
        content_language="de",
        metadata={"film": "one", "empty": ""},
        tags={"a b": "c&d", "ä": "="},
    )
    headers = write(options, put=DEFAULTS).headers
    assert headers["x-amz-storage-class"] == "GLACIER_IR"
    assert headers["x-amz-server-side-encryption"] == "AES256"
    assert "x-amz-server-side-encryption-aws-kms-key-id" not in headers
    assert headers["x-amz-acl"] == "bucket-owner-full-control"
    assert headers["content-type"] == "application/x-block"
    assert headers["content-disposition"] == "attachment"
    assert headers["content-encoding"] == "gzip"
    assert headers["content-language"] == "de"
    assert headers["x-amz-meta-film"] == "one"
    assert headers["x-amz-meta-empty"] == ""
    assert headers["x-amz-tagging"] == "a%20b=c%26d&%C3%A4=%3D"


def test_what_a_key_of_kms_goes_with() -> None:
    options = PutOptions(encryption="aws:kms", kms_key_id="other", kms_context={"of": "films"})
    headers = write(options, put=DEFAULTS).headers
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "other"
    context = json.loads(b64decode(headers["x-amz-server-side-encryption-context"]))
    assert context == {"of": "films"}


def test_an_own_key_goes_with_all_that_is_about_an_object_and_twice_with_a_copy() -> None:
    name = "x-amz-server-side-encryption-customer-"
    own = {f"{name}algorithm": "AES256", f"{name}key": KEY, f"{name}key-md5": KEY_MD5}
    for operation in ("write", "read", "stat", "copy"):
        assert held(sent(operation, put={"customer_key": KEY}), own) == own
    source = {name.replace("x-amz-", "x-amz-copy-source-"): value for name, value in own.items()}
    assert held(sent("copy", put={"customer_key": KEY}), source) == source
    for operation in ("delete", "delete many", "list"):
        assert not own.keys() & sent(operation, put={"customer_key": KEY}).headers.keys()


def test_a_ranged_read_and_the_question_after_a_refused_head_have_the_key() -> None:
    s3 = Scripted(s3_error(403), s3_error(403, "AccessDenied"), put={"customer_key": KEY})
    with pytest.raises(blockyard.AccessDeniedError):
        _ = s3.run(s3.store.stat_block(s3.ctx, "key"))
    head, question = s3.requests[:2]
    assert (head.method, question.method) == ("HEAD", "GET")
    for request in (head, question):
        assert request.headers["x-amz-server-side-encryption-customer-key"] == KEY


@pytest.mark.parametrize("operation", OPERATIONS)
def test_payer_and_owner_go_with_every_request(operation: str) -> None:
    request = sent(operation, request_payer=True, expected_bucket_owner="111122223333")
    assert request.headers["x-amz-request-payer"] == "requester"
    assert request.headers["x-amz-expected-bucket-owner"] == "111122223333"
    assert {"x-amz-request-payer", "x-amz-expected-bucket-owner"} <= signed(request)


def test_metadata_that_does_not_fit_beside_the_checksums_is_refused_before_it_is_sent() -> None:
    fits = PutOptions(metadata={"a": "x" * 500})
    assert write(fits, bytes(4 * 2**20)).headers["x-amz-meta-a"] == "x" * 500
    s3 = Scripted(OK)
    request = WriteRequest("key", bytes(4 * 2**20), options=PutOptions(metadata={"a": "x" * 600}))
    with pytest.raises(ValueError, match=r"'key': options: metadata: .* the limit is 2048"):
        _ = s3.run(s3.store.write(s3.ctx, request))
    assert s3.requests == []


def test_metadata_of_the_settings_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    s3 = Scripted(OK, put={"metadata": {"a": "x" * 600}})
    request = WriteRequest("key", bytes(4 * 2**20))
    for call in (
        lambda: s3.store.check_write(request),
        lambda: s3.run(s3.store.write(s3.ctx, request)),
    ):
        with pytest.raises(ValueError, match=r"'key': the setting put\.metadata: .* limit is 2048"):
            call()
    assert s3.requests == []
    assert s3.run(s3.store.write(s3.ctx, WriteRequest("key", b"small"))).size == 5


def test_metadata_of_an_upload_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    options = PutOptions(metadata={"a": "x" * 2040})
    s3 = Scripted()
    for if_absent in (False, True):
        request = UploadRequest("key", if_absent=if_absent, options=options)
        with pytest.raises(ValueError, match=r"write_object 'key': options: metadata: .* is 2048"):
            _ = s3.run(s3.store.start_upload(s3.ctx, request))
    long = PutOptions(metadata={"a": "x" * 2048})
    with pytest.raises(ValueError, match=r"presign 'key': options: metadata: .* is 2048"):
        _ = s3.run(s3.store.presign(s3.ctx, PresignRequest("key", "PUT", 60, long)))
    assert s3.requests == []


def test_metadata_that_is_changed_in_place_is_looked_at_again() -> None:
    options = PutOptions(metadata={"a": "b"})
    assert isinstance(options.metadata, dict)
    for name, value in (("x: 1\r\nx-evil", "1"), ("a", "x\r\nx-evil: 1"), ("blockyard-sums", "x")):
        options.metadata.clear()
        options.metadata[name] = value
        with pytest.raises(ValueError, match=r"metadata(\['a'\])?: expected"):
            _ = write(options)


@pytest.mark.parametrize(
    ("put", "options", "said"),
    [
        ({"customer_key": KEY}, PutOptions(encryption="aws:kms"), "the store has a customer_key"),
        ({"encryption": "AES256"}, PutOptions(kms_key_id="k"), "expected aws:kms with a key"),
        ({}, PutOptions(kms_context={"a": "b"}), "expected aws:kms with a key of KMS"),
    ],
)
def test_kinds_of_encryption_are_not_mixed(
    put: dict[str, Any], options: PutOptions, said: str
) -> None:
    with pytest.raises(ValueError, match=f"write_block 'key': options: encryption: .*{said}"):
        _ = write(options, put=put)
    request = write(PutOptions(kms_key_id="k"), put={"encryption": "aws:kms"})
    assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "k"


@pytest.mark.parametrize(
    "put", [{"encryption": "AES256"}, {"encryption": "aws:kms"}, {"customer_key": KEY}]
)
@pytest.mark.parametrize("operation", ["write", "copy"])
def test_what_the_service_does_not_encrypt_is_told_of(operation: str, put: dict[str, Any]) -> None:
    """Ceph 16 takes `AES256` and stores the object as it is; moto a customer's key."""
    answer, call = OPERATIONS[operation]
    for told in ({}, {"x-amz-server-side-encryption": "aws:fsx"}):
        answered = replace(answer, headers={**answer.headers, **told})
        s3 = Scripted(lambda _, answered=answered: answered, put=put)
        with pytest.raises(
            UnsupportedError, match="stored: the service does not say that it is encrypted: "
        ) as raised:
            _ = s3.run(call(s3))
        assert raised.value.unknown_attempts == 1
        assert len(s3.requests) == 1


def test_a_write_that_was_done_before_its_reply_was_lost_is_held_to_its_encryption() -> None:
    there: dict[str, str] = {}

    def answer(request: Request) -> Response:
        there.update(request.headers)
        if request.method == "PUT" and len(s3.requests) == 1:
            raise blockyard.TransportError("lost")
        if request.method == "PUT":
            return s3_error(412, "PreconditionFailed")
        return reply(200, {"etag": '"e"', NONCE: there[NONCE]}, b"")

    s3 = Scripted(answer, put={"encryption": "AES256"})
    s3.store._caller.capabilities.conditional_writes = True
    with pytest.raises(UnsupportedError, match="does not say that it is encrypted") as raised:
        _ = s3.run(s3.store.write(s3.ctx, WriteRequest("key", b"bytes", if_absent=True)))
    assert raised.value.unknown_attempts == 1
    assert [each.method for each in s3.requests] == ["PUT", "PUT", "HEAD"]


@pytest.mark.parametrize("operation", ["write", "read", "stat", "copy"])
def test_an_own_key_is_not_in_a_traceback(operation: str) -> None:
    _, call = OPERATIONS[operation]
    s3 = Scripted(s3_error(403, "AccessDenied"), put={"customer_key": KEY})
    with pytest.raises(blockyard.AccessDeniedError) as raised:
        _ = s3.run(call(s3))
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    shown = "".join(told.format())
    assert "operation" in shown
    assert KEY not in shown


def test_a_section_that_is_no_mapping_is_not_shown() -> None:
    with pytest.raises(blockyard.ConfigError, match="a value that is not shown") as raised:
        _ = blockyard.open_store("s3://bucket", put=KEY)  # pyright: ignore[reportArgumentType]
    assert KEY not in str(raised.value)


def test_stat_tells_what_the_object_is_stored_with() -> None:
    headers = {
        "etag": '"e"',
        "content-type": "text/plain",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-meta-film": "one",
        "x-amz-meta-blockyard-nonce": "1",
    }
    s3 = Scripted(reply(200, headers, b""))
    info = s3.run(s3.store.stat_block(s3.ctx, "key"))
    assert info.metadata == {"film": "one"}
    assert (info.content_type, info.storage_class) == ("text/plain", "STANDARD_IA")


@pytest.mark.parametrize("asked", [{}, {"offset": 1, "length": 2}, {"suffix": 3}], ids=str)
def test_a_read_tells_it_as_well_where_it_is_asked(
    asked: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {
        "etag": '"e"',
        "content-type": "text/plain",
        "x-amz-meta-film": "one",
        "x-amz-meta-blockyard-nonce": "1",
    }
    part = {"content-range": "bytes 0-4/5"} if asked else {}
    s3 = Scripted(reply(206 if asked else 200, headers | part, b"bytes"))
    block = s3.run(s3.store.read(s3.ctx, ReadRequest("key", **asked)))
    assert block.info == BlockInfo("key", 5, "e", None, {"film": "one"}, "text/plain", "STANDARD")
    monkeypatch.delattr(responses, "read_result")  # nobody calls it for bytes alone
    block = s3.run(s3.store.read(s3.ctx, ReadRequest("key", **asked)))
    assert block.size == (asked.get("length") or asked.get("suffix") or 5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"customer_key": "short"}, r"put.customer_key .*the base64 of 32 bytes"),
        ({"customer_key": KEY, "encryption": "AES256"}, r"put.customer_key .*encryption is given"),
        ({"kms_key_id": "k"}, r"put.kms_key_id .*encryption is not aws:kms"),
        ({"kms_context": {"a": "b"}}, r"put.kms_context .*encryption is not aws:kms"),
        (
            {"kms_context": {"a": "b"}, "encryption": "AES256"},
            r"put.kms_context .*encryption is not aws:kms",
        ),
        ({"kms_context": {"a": "\udc00"}}, r"put.kms_context .*expected text that UTF-8 can hold"),
        ({"metadata": {"Film": "a"}}, r"put.metadata .*expected names of lower-case letters"),
        ({"metadata": {"blockyard-a": "a"}}, r"put.metadata .*do not begin with blockyard-"),
        ({"metadata": {"a": "grün"}}, r"put.metadata .*expected printable ASCII"),
        ({"metadata": {"a": 1}}, r"put.metadata .*expected a mapping of texts"),
        ({"tags": {str(n): "" for n in range(11)}}, r"put.tags .*expected at most 10 tags"),
        ({"tags": {"": "a"}}, r"put.tags .*expected names of 1 to 128 characters"),
        ({"tags": "a=b"}, r"put.tags .*expected a mapping of texts, or a JSON object"),
        ({"storage_class": "cold"}, r"put.storage_class .*capital letters"),
        ({"acl": "everyone"}, r"put.acl .*expected a canned ACL"),
        ({"content_type": "a\x00b"}, r"put.content_type"),
        ({"cache_control": "grün"}, r"put.cache_control .*printable ASCII"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(blockyard.ConfigError, match=said) as raised:
        _ = blockyard.open_store("s3://bucket", **settings)
    assert KEY not in str(raised.value)


def test_an_owner_is_an_account() -> None:
    with pytest.raises(blockyard.ConfigError, match=r"expected_bucket_owner .*12 digits"):
        _ = blockyard.open_store("s3://bucket", expected_bucket_owner="me")


def test_an_own_key_is_not_sent_in_the_clear() -> None:
    with pytest.raises(blockyard.ConfigError, match="customer_key would be sent unencrypted"):
        _ = blockyard.open_store("s3://bucket?endpoint=http://s3.example", customer_key=KEY)
    for endpoint in ("http://127.0.0.1:9", "http://localhost:9", "https://s3.example"):
        source = f"s3://bucket?endpoint={endpoint}"
        with blockyard.open_store(source, customer_key=KEY) as store:
            assert KEY not in repr(store._source)


def test_memory_keeps_what_it_can_and_a_folder_nothing(tmp_path: Any) -> None:
    with blockyard.open_store("memory://") as store:
        options = PutOptions(content_type="text/plain", metadata={"a": "b"})
        _ = store.write_block("a", b"1", options=options)
        _ = store.copy_block("a", "b")
        for key in ("a", "b"):
            info = store.stat_block(key)
            assert (info.content_type, info.metadata) == ("text/plain", {"a": "b"})
        with pytest.raises(UnsupportedError, match="'c': options: tags: this store"):
            _ = store.write_block("c", b"1", options=PutOptions(tags={"a": "b"}))
        assert store.list_by_prefix() == ["a", "b"]
    with blockyard.open_store(tmp_path.as_uri()) as store:
        with pytest.raises(UnsupportedError, match="options: content_type: this store"):
            _ = store.write_blocks([("a", b"1")], options=PutOptions(content_type="text/plain"))
        assert store.write_blocks([("a", b"1")], options=PutOptions())
        assert store.list_by_prefix() == ["a"]


def test_options_are_of_their_class() -> None:
    with (
        blockyard.open_store(MemoryStore()) as store,
        pytest.raises(TypeError, match="write_block: options: expected PutOptions, got"),
    ):
        _ = store.write_block("a", b"1", options={"content_type": "text/plain"})  # pyright: ignore[reportArgumentType]


def test_a_service_keeps_them(moto_endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    settings = moto_endpoint.s3_settings(bucket, key_prefix)
    with blockyard.open_store(**settings, put={"storage_class": "STANDARD_IA"}) as store:
        options = PutOptions(
            content_type="text/plain",
            cache_control="no-store",
            metadata={"film": "one"},
            tags={"of": "films"},
            encryption="AES256",
        )
        _ = store.write_block("a", bytes(100_000), options=options)
        _ = store.copy_block("a", "b")
        for key in ("a", "b"):
            info = store.stat_block(key)
            assert info == BlockInfo(
                key, 100_000, info.etag, info.last_modified, {"film": "one"}, "text/plain",
                "STANDARD_IA",
            )  # fmt: skip
            assert store.read_block_range(key, 90_000) == bytes(10_000)
            for asked in ({}, {"offset": 90_000}, {"suffix": 7}, {"length": 0}):
                assert store.read_block_with_info(key, **asked)[1] == info  # pyright: ignore[reportArgumentType]
    client = boto3_client(moto_endpoint)
    head = client.head_object(Bucket=bucket, Key=f"{key_prefix}a")
    assert head["CacheControl"] == "no-store"
    assert head["ServerSideEncryption"] == "AES256"
    tags = client.get_object_tagging(Bucket=bucket, Key=f"{key_prefix}a")["TagSet"]
    assert tags == [{"Key": "of", "Value": "films"}]
