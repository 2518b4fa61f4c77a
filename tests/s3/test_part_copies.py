"""Copies in parts: what goes with them, what holds them to their source, what a failure leaves."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from blockyard import PutOptions, S3Config, StoreConfig, large_copies
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockTooLargeError,
    DeadlineExceededError,
    IntegrityError,
    OversizedBodyError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    ServerError,
    ThrottledError,
    TransportConnectionError,
    UnsupportedError,
)
from blockyard.fsspec import BlockyardFileSystem
from blockyard.large_copies import copy_in_parts
from blockyard.model import BlockInfo, CopyResult, Part
from blockyard.s3 import part_copies
from blockyard.stores.base import OpenUpload, ReadRequest, UploadRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.samples import content
from blockyard.transport.blocking import run_to_end
from blockyard_faults import FaultProxy, LoseReply, Plan, ResetBefore, SeenRequest, Status
from servers.endpoint import Endpoint, boto3_client
from tests.s3.pretend import Stored, reply, s3_error
from tests.s3.pretend_uploads import Uploading, base64_crc, short, tagging

BODY = b"0123456789abcdefghij"
COPY = "copy"
ALL = ["HEAD", "tags", "create", "part 1", "part 2", "part 3", "HEAD", "complete", "HEAD"]
KEY = b64encode(bytes(range(32))).decode()


def what(request: Request) -> str:
    return "tags" if request.target.endswith("?tagging=") else short(request)


class Copying(Uploading):
    """A store whose service copies 8 bytes at a time, and an object of 20."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # pyright: ignore[reportArgumentType]
        self.s3.copy_limit = 8
        self.place()

    def place(self, body: bytes = BODY, key: str = "a b", **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.s3.objects[f"/bucket/{key.replace(' ', '%20')}"] = Stored(body, named)
        self.s3.objects[f"/bucket/{key}"] = Stored(body, named)

    def copied_in_parts(self) -> CopyResult:
        return run_to_end(copy_in_parts(self.store, self.ctx, "a b", COPY))

    def change(self, name: str, twist: Callable[[Request, Response], Any], times: int = 1) -> None:
        """What becomes of the reply to a request of that kind, so many times."""
        left = [times]

        def always(request: Request, sent: Response) -> Any:
            if what(request) != name or not left[0]:
                return sent
            left[0] -= 1
            return twist(request, sent)

        self.s3.always = always

    @property
    def steps(self) -> list[str]:
        return [what(each) for each in self.requests]

    def asked(self, name: str) -> Request:
        return next(each for each in self.requests if what(each) == name)

    @property
    def copied(self) -> Stored | None:
        return self.s3.objects.get(f"/bucket/{COPY}")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_copies, "LARGEST_COPY", 8)
    monkeypatch.setattr(large_copies, "COPIED_PART", 8)


@pytest.mark.parametrize("sums", ["whole", "parts", "none"])
def test_a_copy_is_its_parts_and_no_more(sums: Any) -> None:
    s3 = Copying()
    s3.s3.sums = sums
    copy = s3.copied_in_parts()
    assert s3.steps == ALL
    assert s3.copied is not None
    assert (s3.copied.body, s3.copied.etag) == (BODY, f'"{copy.etag}"')
    part = s3.asked("part 2")
    assert part.headers["x-amz-copy-source"] == "bucket/a%20b"
    assert part.headers["x-amz-copy-source-range"] == "bytes=8-15"
    assert part.headers["x-amz-copy-source-if-match"] == s3.s3.objects["/bucket/a b"].etag
    assert part.body == b""
    assert "x-amz-checksum-algorithm" not in s3.asked("create").headers


def test_the_checksum_that_a_source_has_is_that_of_the_copy() -> None:
    s3 = Copying()
    s3.learnt.checksum_mode = True
    s3.s3.sums = "whole"
    s3.place(x_amz_checksum_crc32c=base64_crc(BODY), x_amz_checksum_type="FULL_OBJECT")
    _ = s3.copied_in_parts()
    assert s3.steps == ALL
    assert s3.asked("HEAD").headers["x-amz-checksum-mode"] == "ENABLED"
    assert s3.asked("create").headers["x-amz-checksum-algorithm"] == "CRC32C"
    assert s3.asked("complete").headers["x-amz-checksum-crc32c"] == base64_crc(BODY)


def test_parts_of_which_the_service_tells_no_checksum_are_put_together() -> None:
    s3 = Copying()
    s3.learnt.checksum_mode = True
    s3.place(x_amz_checksum_crc32c=base64_crc(BODY), x_amz_checksum_type="FULL_OBJECT")
    _ = s3.copied_in_parts()
    assert s3.copied is not None
    assert s3.copied.body == BODY


def test_parts_of_other_bytes_are_not_put_together() -> None:
    s3 = Copying()
    s3.s3.sums = "whole"
    s3.place(x_amz_checksum_crc32c=base64_crc(BODY))
    said, wrong = base64_crc(BODY[8:16]).encode(), base64_crc(b"other").encode()
    s3.change(
        "part 2",
        lambda _, sent: Response(200, {}, sent.body.replace(said, wrong), sent.size),
    )
    with pytest.raises(IntegrityError, match=f"other bytes: .*source {base64_crc(BODY)}"):
        _ = s3.copied_in_parts()
    assert s3.steps == [*ALL[:7], "abort"]
    assert s3.copied is None
    assert not s3.s3.uploads


@pytest.mark.parametrize("says", ["size", "checksum"])
def test_a_copy_that_turns_out_to_be_of_other_bytes(says: str) -> None:
    s3 = Copying()
    s3.place(x_amz_checksum_crc64nvme="AAAAAAAAAAA=")
    there = {"content-length": "21"} if says == "size" else {}
    there |= {"x-amz-checksum-crc64nvme": "AAAAAAAAAAB=" if says == "checksum" else "AAAAAAAAAAA="}

    def other(request: Request, sent: Response) -> Response:
        if not request.target.endswith(COPY):
            return sent
        return Response(200, {**sent.headers, **there}, b"", 0)

    s3.change("HEAD", other, times=9)
    with pytest.raises(IntegrityError, match=f"the copy 'copy' has other bytes: .*{says}?.*delete"):
        _ = s3.copied_in_parts()


@pytest.mark.parametrize("of_parts", [{"x_amz_checksum_type": "COMPOSITE"}, {}])
def test_a_checksum_of_the_parts_checksums_is_not_that_of_a_copy(of_parts: dict[str, str]) -> None:
    """Other parts have another one. Services that tell no type append the number of parts."""
    s3 = Copying()
    s3.place(x_amz_checksum_crc64nvme="AAAAAAAAAAA=-3", **of_parts)

    def another(request: Request, sent: Response) -> Response:
        if not request.target.endswith(COPY):
            return sent
        return replace(sent, headers={**sent.headers, "x-amz-checksum-crc64nvme": "B" * 11 + "=-2"})

    s3.change("HEAD", another, times=9)
    assert s3.copied_in_parts().key == COPY


def test_what_replaced_the_copy_since_says_nothing_of_it() -> None:
    s3 = Copying()

    def replaced(_: Request, sent: Response) -> Response:
        s3.s3.objects[f"/bucket/{COPY}"] = Stored(b"other")
        return sent

    s3.learnt.upload_etags = True
    s3.change("complete", replaced)
    assert s3.copied_in_parts().key == COPY


def test_what_a_copy_takes_along() -> None:
    kept = {
        "content-type": "text/plain",
        "cache-control": "max-age=60",
        "content-disposition": "inline",
        "content-encoding": "gzip",
        "content-language": "de",
        "expires": "Thu, 01 Dec 1994 16:00:00 GMT",
        "x-amz-meta-own": "value",
    }
    others = {
        "x-amz-meta-blockyard-nonce": "of another",
        "x-amz-meta-blockyard-replaces": "another",
        "x-amz-server-side-encryption": "AES256",
        "x-amz-storage-class": "GLACIER",
        "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT",
    }
    put = {
        "storage_class": "STANDARD_IA",
        "encryption": "aws:kms",
        "kms_key_id": "the-key",
        "kms_context": {"of": "films"},
        "acl": "bucket-owner-full-control",
        "content_type": "application/x-block",
        "metadata": {"own": "the store's", "other": "the store's"},
        "tags": {"the": "store's"},
    }
    s3 = Copying(put=put, request_payer=True)
    s3.place(BODY, **kept, **others)
    s3.s3.tags["/bucket/a b"] = tagging("a=1%20%26%202&b=")
    _ = s3.copied_in_parts()
    create = s3.asked("create").headers
    assert {name: create.get(name) for name in kept} == kept
    assert create["x-amz-tagging"] == "a=1%20%26%202&b="
    assert create["x-amz-storage-class"] == "STANDARD_IA"
    assert create["x-amz-server-side-encryption"] == "aws:kms"
    assert create["x-amz-server-side-encryption-aws-kms-key-id"] == "the-key"
    assert b64decode(create["x-amz-server-side-encryption-context"]) == b'{"of": "films"}'
    assert create["x-amz-acl"] == "bucket-owner-full-control"
    assert "x-amz-meta-other" not in create
    assert create["x-amz-meta-blockyard-nonce"] != "of another"
    assert "x-amz-meta-blockyard-replaces" not in create
    assert all(each.headers["x-amz-request-payer"] == "requester" for each in s3.requests)


def test_the_owners_key_goes_with_every_request_and_twice_with_parts() -> None:
    s3 = Copying(put={"customer_key": KEY})
    _ = s3.copied_in_parts()
    own = "x-amz-server-side-encryption-customer-key"
    source = "x-amz-copy-source-server-side-encryption-customer-key"
    for request in s3.requests:
        name = what(request)
        assert (request.headers.get(own) == KEY) == (name != "tags"), name
        assert (request.headers.get(source) == KEY) == name.startswith("part"), name


def test_metadata_that_no_header_holds_is_not_left_out() -> None:
    s3 = Copying()
    s3.place(x_amz_missing_meta="1")
    with pytest.raises(UnsupportedError, match="'a b': it has metadata that no header can hold"):
        _ = s3.copied_in_parts()
    assert s3.steps == ["HEAD"]


@pytest.mark.parametrize(
    "answer", [s3_error(501, "NotImplemented"), reply(200, {"etag": '"e"'}, b"the object")]
)
def test_a_service_that_has_no_tags(answer: Response) -> None:
    """rclone gives the object for them."""
    s3 = Copying()
    s3.change("tags", lambda _, __: answer)
    _ = s3.copied_in_parts()
    assert s3.copied is not None
    assert s3.steps == ALL
    s3.change("tags", lambda _, __: answer)
    with pytest.raises(UnsupportedError, match="'k': the service has no tags of objects") as raised:
        _ = s3.upload(options=PutOptions(tags={"own": "tag"}))
    assert raised.value.unknown_attempts == 1
    assert s3.steps[-2:] == ["complete", "tags"]


def test_an_object_too_large_for_tags_is_none() -> None:
    s3 = Copying()
    s3.change("tags", lambda _, __: OversizedBodyError("too much", status=200, size=10**8))
    assert s3.copied_in_parts().key == COPY
    assert s3.steps == ALL


def test_tags_are_not_left_out_either() -> None:
    s3 = Copying()
    s3.place(x_amz_tagging_count="1")
    s3.change("tags", lambda _, __: s3_error(501, "NotImplemented"), times=99)
    with pytest.raises(UnsupportedError) as raised:
        _ = s3.copied_in_parts()
    assert any("tags" in note for note in raised.value.__notes__)
    s3 = Copying()
    s3.change("tags", lambda _, __: s3_error(403, "AccessDenied"), times=99)
    with pytest.raises(AccessDeniedError):
        _ = s3.copied_in_parts()
    assert "create" not in s3.steps


def test_what_a_copy_elsewhere_has_besides_the_bytes() -> None:
    """Tags that may not be read are left out only where there seem to be none."""
    s3 = Copying()
    s3.place(content_type="text/css", x_amz_meta_own="1", x_amz_meta_blockyard_nonce="n")
    s3.s3.tags["/bucket/a b"] = tagging("a=1&b=")
    options, info = run_to_end(s3.store.options_of(s3.ctx, "a b"))
    tags = {"a": "1", "b": ""}
    assert options == PutOptions(content_type="text/css", metadata={"own": "1"}, tags=tags)
    assert (info.size, s3.steps) == (20, ["HEAD", "tags"])
    s3.change("tags", lambda _, __: s3_error(403, "AccessDenied"), times=99)
    options, _ = run_to_end(s3.store.options_of(s3.ctx, "a b"))
    assert options == PutOptions(content_type="text/css", metadata={"own": "1"})
    for hidden, error in (("tagging_count", AccessDeniedError), ("missing_meta", UnsupportedError)):
        s3.place(**{f"x_amz_{hidden}": "1"})
        with pytest.raises(error):
            _ = run_to_end(s3.store.options_of(s3.ctx, "a b"))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_service_that_passes_over_the_tags_of_an_upload(keeps: bool) -> None:
    s3 = Copying()
    s3.s3.keeps_tags = keeps
    s3.s3.tags["/bucket/a b"] = tagging("a=1%20%26%202&b=")
    _ = s3.copied_in_parts()
    assert s3.steps == [*ALL[:-1], "tags", *([] if keeps else ["tags"]), "HEAD"]
    assert s3.s3.tags[f"/bucket/{COPY}"].endswith(s3.s3.tags["/bucket/a b"][len("<Tagging>") :])
    assert s3.learnt.upload_tags is keeps
    _ = s3.upload(options=PutOptions(tags={"own": "tag"}))
    assert b"own" in s3.s3.tags["/bucket/k"]
    assert s3.steps[-1] == ("complete" if keeps else "tags")
    assert s3.requests[-1].method == ("POST" if keeps else "PUT")


@pytest.mark.parametrize("honours", [True, False])
def test_a_source_that_is_replaced_meanwhile(honours: bool) -> None:
    s3 = Copying()
    s3.s3.honours = honours

    def replaced(_: Request, sent: Response) -> Response:
        s3.place(BODY[::-1])
        return sent

    s3.change("part 1", replaced)
    with pytest.raises(PreconditionFailedError, match="'a b': it was replaced while"):
        _ = s3.copied_in_parts()
    assert s3.steps == [*ALL[: 5 if honours else 7], "abort"]
    assert s3.copied is None
    assert not s3.s3.uploads


def test_a_source_that_is_not_there() -> None:
    s3 = Copying()
    s3.s3.objects.clear()
    with pytest.raises(BlockNotFoundError, match="'a b'"):
        _ = s3.copied_in_parts()
    assert "create" not in s3.steps


@pytest.mark.parametrize("lost", list(dict.fromkeys(ALL)))
def test_a_lost_reply_of_each_kind(lost: str) -> None:
    s3 = Copying()
    s3.change(lost, lambda _, __: TransportConnectionError("reset"))
    copy = s3.copied_in_parts()
    assert s3.copied is not None
    assert (s3.copied.body, s3.copied.etag) == (BODY, f'"{copy.etag}"')
    assert "abort" not in s3.steps


@pytest.mark.parametrize("failed", ["part 1", "part 3", "complete"])
def test_a_failure_gives_the_parts_up(failed: str) -> None:
    s3 = Copying(max_attempts=1)
    s3.change(failed, lambda _, __: s3_error(500, "InternalError"), times=99)
    if failed == "complete":
        before = s3.s3.answer
        s3.s3.answer = lambda request: (  # pyright: ignore[reportAttributeAccessIssue]
            s3_error(403, "AccessDenied") if short(request) == failed else before(request)
        )
    with pytest.raises((ServerError, AccessDeniedError)):
        _ = s3.copied_in_parts()
    assert s3.steps[-1] == "abort"
    assert s3.copied is None
    assert not s3.s3.uploads


@pytest.mark.parametrize(
    "body",
    [
        b"<CopyPartResult/>",
        b"<Other/>",
        b"<CopyPartResult><ETag>e</ETag><ChecksumCRC32C>what</ChecksumCRC32C></CopyPartResult>",
    ],
)
def test_a_reply_that_says_nothing_of_the_part_is_not_believed(body: bytes) -> None:
    s3 = Copying(max_attempts=1)
    s3.change("part 2", lambda _, __: Response(200, {}, body, len(body)), times=99)
    with pytest.raises(ProtocolError):
        _ = s3.copied_in_parts()
    assert s3.steps[-1] == "abort"


def test_an_error_within_a_success_is_tried_again() -> None:
    s3 = Copying()
    body = b"<Error><Code>InternalError</Code></Error>"
    s3.change("part 2", lambda _, __: Response(200, {}, body, len(body)))
    _ = s3.copied_in_parts()
    assert s3.steps == [*ALL[:5], *ALL[4:]]


@pytest.mark.parametrize("status", [400, 413])
def test_what_is_not_too_large_is_refused_as_it_was(status: int) -> None:
    for there, error in ((BODY[:8], S3Error), (BODY, BlockTooLargeError), (None, S3Error)):
        s3 = Copying()
        s3.place(there or BODY)
        s3.s3.answers["PUT"] = lambda _: s3_error(status, "EntityTooLarge")
        if there is None:
            s3.change("HEAD", lambda _, __: s3_error(403, ""), times=99)
        with pytest.raises(error) as raised:
            _ = run_to_end(s3.store.copy_block(s3.ctx, "a b", COPY))
        assert isinstance(raised.value, BlockTooLargeError) == (there == BODY)
        refused = raised.value.__cause__ if there == BODY else raised.value
        assert isinstance(refused, S3Error)
        assert (refused.status, refused.code) == (status, "EntityTooLarge")


def test_no_more_parts_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_copies, "MAX_PARTS", 2)
    s3 = Copying()
    _ = s3.copied_in_parts()
    assert s3.asked("part 2").headers["x-amz-copy-source-range"] == "bytes=10-19"
    assert "part 3" not in s3.steps


class Large(WrapperStore):
    """Refuses to copy in one request; its parts wait until two are under way."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.under_way = self.most = 0
        self.both = asyncio.Event()

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        raise BlockTooLargeError("too large")

    async def start_copy(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        opened = await self.inner.start_upload(ctx, UploadRequest(target_key))
        return opened, await self.inner.stat_block(ctx, source_key)

    async def copy_part(
        self, ctx: Context, upload: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way == 2:
            self.both.set()
        _ = await self.both.wait()
        self.under_way -= 1
        request = ReadRequest(source.key, span.start, len(span))
        data = (await self.inner.read(ctx, request)).data
        return await self.inner.upload_part(ctx, upload, number, span.start, data)


@pytest.mark.parametrize("client", CLIENTS)
def test_parts_are_copied_side_by_side(client: ClientName) -> None:
    store = Large()
    with open_client(client, store) as opened:
        _ = opened.store.write_block("from", BODY)
        copy = opened.store.with_options(concurrency=2, deadline=30).copy_block("from", "to")
        assert opened.store.read_block("to") == BODY
        assert opened.store.stat_block("to").etag == copy.etag
    assert store.most == 2


# Over moto, by a proxy that refuses a CopyObject as S3 does, and makes faults.

PART = 5 * 1024 * 1024
LARGE = content(2 * PART + 12345)


class Refusing:
    """Refuses every CopyObject; what else goes wrong with parts is `then`'s."""

    def __init__(self, then: Plan = lambda _: None) -> None:
        self.then = then
        self.copies = self.under_way = 0

    def __call__(self, request: SeenRequest) -> Any:
        if "x-amz-copy-source" not in request.headers:
            return None
        if "partNumber" not in request.target:
            self.copies += 1
            return Status(400, "InvalidRequest")
        return self.then(request)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_copies, "LARGEST_COPY", 2 * PART)
    monkeypatch.setattr(large_copies, "COPIED_PART", PART)


class Service:
    """moto, in front of it a proxy with a plan."""

    def __init__(self, endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
        self.endpoint = endpoint
        self.bucket = bucket
        self.key_prefix = key_prefix
        self.s3: Any = boto3_client(endpoint)

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "endpoint": url,
            "region": self.endpoint.region,
            "force_path_style": True,
            "access_key": self.endpoint.access_key,
            "secret_key": self.endpoint.secret_key,
        }

    def config(self, url: str) -> StoreConfig:
        place = {"bucket": self.bucket, "key_prefix": self.key_prefix}
        return StoreConfig(s3=S3Config(**place, **self.settings(url)))

    def put(self, key: str, data: bytes, **options: Any) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=self.key_prefix + key, Body=data, **options)

    def get(self, key: str) -> Any:
        return self.s3.get_object(Bucket=self.bucket, Key=self.key_prefix + key)

    def left(self) -> list[str]:
        found = self.s3.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key_prefix)
        return [each["Key"] for each in found.get("Uploads", ())]


@pytest.fixture
def service(moto_endpoint: Endpoint, bucket: str, key_prefix: str) -> Service:
    return Service(moto_endpoint, bucket, key_prefix)


def copied_with_what_belongs_to_it(client: ClientName, service: Service) -> None:
    metadata = {"Metadata": {"own": "value"}, "ContentType": "text/plain", "Tagging": "a=1&b=2"}
    service.put("a b", LARGE, **metadata)
    with (
        FaultProxy(service.endpoint.url, Refusing()) as proxy,
        open_client(client, service.config(proxy.url)) as opened,
    ):
        copy = opened.store.copy_block("a b", "to")
        stat = opened.store.stat_block("to")
    assert (copy.key, copy.etag, copy.last_modified) == ("to", stat.etag, stat.last_modified)
    there = service.get("to")
    assert there["Body"].read() == LARGE
    assert (there["Metadata"]["own"], there["ContentType"]) == ("value", "text/plain")
    tags = service.s3.get_object_tagging(Bucket=service.bucket, Key=service.key_prefix + "to")
    assert {each["Key"]: each["Value"] for each in tags["TagSet"]} == {"a": "1", "b": "2"}
    assert not service.left()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.usefixtures("large")
def test_a_large_object_is_copied_with_what_belongs_to_it(
    client: ClientName, service: Service
) -> None:
    copied_with_what_belongs_to_it(client, service)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.usefixtures("large")
def test_a_large_object_is_copied_on_ceph(
    client: ClientName, ceph_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    """Which passes over the tags that an upload begins with."""
    copied_with_what_belongs_to_it(client, Service(ceph_endpoint, bucket, key_prefix))


@pytest.mark.usefixtures("large")
def test_a_file_system_copies_and_moves_large_files(service: Service) -> None:
    service.put("from", LARGE)
    with FaultProxy(service.endpoint.url, Refusing()) as proxy:
        fs = BlockyardFileSystem(**service.settings(proxy.url))
        base = f"{service.bucket}/{service.key_prefix}"
        fs.cp_file(base + "from", base + "copy")
        assert service.get("copy")["Body"].read() == LARGE
        fs.mv(base + "from", base + "moved")
        assert sorted(fs.ls(base.rstrip("/"), detail=False)) == [base + "copy", base + "moved"]
    assert service.get("moved")["Body"].read() == LARGE
    assert not service.left()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.usefixtures("large")
def test_a_part_that_fails_leaves_nothing(
    client: ClientName, status: int, service: Service
) -> None:
    service.put("from", LARGE)
    service.put("to", b"before")

    def fails(request: SeenRequest) -> Any:
        return Status(status) if "partNumber=2&" in request.target else None

    with (
        FaultProxy(service.endpoint.url, Refusing(fails)) as proxy,
        open_client(client, service.config(proxy.url)) as opened,
        pytest.raises((AccessDeniedError, DeadlineExceededError, ThrottledError)),
    ):
        _ = opened.store.with_options(deadline=2).copy_block("from", "to")
    assert service.get("to")["Body"].read() == b"before"
    assert not service.left()


@pytest.mark.thorough
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.usefixtures("large")
def test_a_copy_under_faults_is_whole(client: ClientName, service: Service) -> None:
    service.put("from", LARGE)
    seen = random.Random(17)  # noqa: S311 - to be repeatable

    def faulty(request: SeenRequest) -> Any:
        return seen.choice([None, LoseReply(), ResetBefore(), Status(500), Status(200, "SlowDown")])

    def plan(request: SeenRequest) -> Any:
        refused = Refusing(faulty)(request)
        if refused is None and "uploadId" in request.target and request.method == "POST":
            return seen.choice([None, LoseReply()])
        return refused

    with (
        FaultProxy(service.endpoint.url, plan) as proxy,
        open_client(client, service.config(proxy.url)) as opened,
    ):
        for number in range(5):
            _ = opened.store.copy_block("from", f"to {number}")
    for number in range(5):
        assert service.get(f"to {number}")["Body"].read() == LARGE
    assert not service.left()
