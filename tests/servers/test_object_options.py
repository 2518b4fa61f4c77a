"""What is asked for with an object is what each server keeps, as another client sees it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest

import blockyard
from blockyard import BlockStore, PresignedRequest, PutOptions, large_copies
from blockyard.large_copies import copy_in_parts
from blockyard.model import MIN_PART_SIZE
from blockyard.transport.blocking import run_to_end
from servers.ceph import KMS_KEY
from servers.endpoint import Endpoint, boto3_client

pytestmark = pytest.mark.servers

DATA = bytes(range(250)) * 400
LARGE = DATA * (MIN_PART_SIZE // len(DATA) + 2)
SEAM = slice(MIN_PART_SIZE - 500, MIN_PART_SIZE + 500)
CUSTOMER_KEY = b64encode(bytes(range(32))).decode()
REFUSED = {
    ("ceph", "storage_class"): (blockyard.S3Error, "400 InvalidArgument"),
    ("ministack", "acl"): (blockyard.S3Error, "400 AccessControlListNotSupported"),
    ("ceph", "AES256"): (blockyard.UnsupportedError, "does not say that it is encrypted"),
    ("moto", "customer_key"): (blockyard.UnsupportedError, "does not say that it is encrypted"),
}
"""What a server does not know, and is told of."""
COPIES_NO_ENCRYPTED = {"ceph"}


@dataclass(frozen=True)
class Server:
    """A server, and what boto3 says of the objects there."""

    endpoint: Endpoint
    bucket: str
    prefix: str
    client: Any

    def open(self, **put: Any) -> BlockStore:
        return blockyard.open_store(put=put, **self.endpoint.s3_settings(self.bucket, self.prefix))

    def ask(self, operation: str, key: str, **customer: Any) -> dict[str, Any]:
        call = getattr(self.client, operation)
        return call(Bucket=self.bucket, Key=self.prefix + key, **customer)

    def refuses(self, what: str) -> bool:
        """Whether the server lacks what the store asks of it; then it has to tell, and does."""
        refusal = REFUSED.get((self.endpoint.kind, what))
        if refusal is None:
            return False
        with self.open(**WHAT[what]) as store:
            for write in (store.write_block, store.write_object):
                with pytest.raises(refusal[0], match=refusal[1]):
                    _ = write("refused", LARGE)
        return True


WHAT: dict[str, dict[str, Any]] = {
    "storage_class": {"storage_class": "STANDARD_IA"},
    "acl": {"acl": "public-read"},
    "AES256": {"encryption": "AES256"},
    "aws:kms": {"encryption": "aws:kms", "kms_key_id": KMS_KEY},
    "customer_key": {"customer_key": CUSTOMER_KEY},
}
"""Settings of a store, for all that it writes and copies."""


@pytest.fixture(params=["moto", "localstack", "ministack", "ceph"])
def server(request: pytest.FixtureRequest, bucket: str, key_prefix: str) -> Server:
    endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    return Server(endpoint, bucket, key_prefix, boto3_client(endpoint))


def written(store: BlockStore, options: PutOptions | None = None) -> list[str]:
    """Write a block, and an object in parts: their keys. They are read as they were written."""
    _ = store.write_block("block", DATA, options=options)
    _ = store.write_object("object", LARGE, part_size=MIN_PART_SIZE, options=options)
    assert store.read_block("block") == DATA
    return _read(store, ["block", "object"])


def copied(store: BlockStore, keys: list[str]) -> list[str]:
    """Copy each: the keys of the copies."""
    for key in keys:
        _ = store.copy_block(key, f"copy-of-{key}")
    return _read(store, [f"copy-of-{key}" for key in keys])


def _read(store: BlockStore, keys: list[str]) -> list[str]:
    for key in keys:
        data = LARGE if key.endswith("object") else DATA
        at = SEAM if data is LARGE else slice(90_000, 91_000)
        assert store.read_block_range(key, at.start, 1000) == data[at]
    return keys


def kept(server: Server, what: str) -> Iterator[tuple[BlockStore, str]]:
    """A store that asks for something, and each key that it has written, or copied then.

    None where the server refuses that.
    """
    if not server.refuses(what):
        with server.open(**WHAT[what]) as store:
            keys = written(store)
            for key in [*keys, *copied(store, keys)]:
                yield store, key


@pytest.mark.parametrize("of_the_store", [False, True])
def test_headers_metadata_and_tags(server: Server, of_the_store: bool) -> None:
    tags = {"of": "films", "a b": "c d=e+f"}
    options: dict[str, Any] = {
        "content_type": "text/plain",
        "cache_control": "no-store",
        "metadata": {"film": "1"},
        "tags": tags,
    }
    with server.open(**options if of_the_store else {}) as store:
        keys = written(store, None if of_the_store else PutOptions(**options))
        for key in [*keys, *copied(store, keys)]:
            head = server.ask("head_object", key)
            assert (head["ContentType"], head["CacheControl"]) == ("text/plain", "no-store")
            assert head["Metadata"]["film"] == "1"
            info = store.stat_block(key)
            assert (info.content_type, info.metadata) == ("text/plain", {"film": "1"})
            found = server.ask("get_object_tagging", key)["TagSet"]
            assert {tag["Key"]: tag["Value"] for tag in found} == tags


def test_storage_class(server: Server) -> None:
    for store, key in kept(server, "storage_class"):
        assert server.ask("head_object", key)["StorageClass"] == "STANDARD_IA"
        assert store.stat_block(key).storage_class == "STANDARD_IA"


def test_acl(server: Server) -> None:
    for _, key in kept(server, "acl"):
        grants = server.ask("get_object_acl", key)["Grants"]
        uris = {grant["Grantee"].get("URI"): grant["Permission"] for grant in grants}
        assert uris["http://acs.amazonaws.com/groups/global/AllUsers"] == "READ"


@pytest.mark.parametrize("kind", ["AES256", "aws:kms", "customer_key"])
def test_encryption(server: Server, kind: str) -> None:
    if server.refuses(kind):
        return
    by_customer: dict[str, Any] = {}
    if kind == "customer_key":
        by_customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b64decode(CUSTOMER_KEY)}
    with server.open(**WHAT[kind]) as store:
        keys = written(store)
        _ = store.write_content("content", LARGE)
        assert store.read_content("content") == LARGE
        if server.endpoint.kind not in COPIES_NO_ENCRYPTED:
            keys += copied(store, keys)
            _ = store.copy_content("content", "copied")
            assert store.read_content("copied") == LARGE
        for key in [*keys, *store.list_by_prefix("content"), *store.list_by_prefix("copied")]:
            head = server.ask("head_object", key, **by_customer)
            told = "SSECustomerAlgorithm" if by_customer else "ServerSideEncryption"
            assert head[told] == ("AES256" if by_customer else kind)
            if kind == "aws:kms":
                assert head["SSEKMSKeyId"].endswith(KMS_KEY)
    if by_customer:
        with server.open() as without, pytest.raises(blockyard.S3Error):
            _ = without.read_block("block")


@pytest.mark.parametrize("kind", ["AES256", "aws:kms", "customer_key"])
def test_encryption_of_copies_in_parts(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph, which has no copies of encrypted objects, copies them in parts."""
    if server.refuses(kind):
        return
    monkeypatch.setattr(large_copies, "COPIED_PART", MIN_PART_SIZE)
    with server.open(**WHAT[kind]) as store:
        _ = store.write_object("object", LARGE, part_size=MIN_PART_SIZE)
        copying = copy_in_parts(store._operations.store, store._context(), "object", "its-object")  # pyright: ignore[reportPrivateUsage]
        assert run_to_end(copying).key == "its-object"
        _ = _read(store, ["its-object"])


@pytest.mark.parametrize("kind", ["aws:kms", "customer_key"])
def test_what_goes_with_a_presigned_request(server: Server, kind: str) -> None:
    if server.endpoint.kind == "ministack":
        pytest.skip("MiniStack holds a presigned request to a secret of its own; boto3's, too")
    options = PutOptions(content_type="text/plain", metadata={"a": "b"}, tags={"a b": "c d"})
    with server.open(**WHAT[kind]) as store:
        _ = sent(store.presign("signed ä+b", "PUT", 100, options=options), DATA)
        assert sent(store.presign("signed ä+b", "GET", 100)) == DATA
        assert store.read_block("signed ä+b") == DATA
        assert store.stat_block("signed ä+b").metadata == {"a": "b"}
        found = server.ask("get_object_tagging", "signed ä+b")["TagSet"]
        assert found == [{"Key": "a b", "Value": "c d"}]


def sent(request: PresignedRequest, body: bytes | None = None) -> bytes:
    """What comes back when another program sends a presigned request."""
    call = Request(request.url, data=body, headers=dict(request.headers), method=request.method)  # noqa: S310 - to a server of ours
    with urlopen(call) as reply:  # noqa: S310
        return reply.read()


def test_a_server_that_copies_no_encrypted_object_copies_others(server: Server) -> None:
    with server.open() as store:
        options = PutOptions(encryption="aws:kms", kms_key_id=KMS_KEY)
        _ = store.write_block("encrypted", DATA, options=options)
        _ = store.write_block("plain", DATA)
        if server.endpoint.kind in COPIES_NO_ENCRYPTED:
            for _ in range(2):
                with pytest.raises(blockyard.UnsupportedError, match="copies no encrypted objects"):
                    _ = store.copy_block("encrypted", "copy")
        else:
            _ = store.copy_block("encrypted", "copy")
        _ = store.copy_block("plain", "copy")
        assert store.read_block("copy") == DATA
