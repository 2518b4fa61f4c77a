"""`verify_by_prefix` and `blockyard verify`: what is right, what is damaged, what can't be told."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blockyard import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStore,
    DeadlineExceededError,
    IntegrityError,
    S3Config,
    StoreClosedError,
    StoreConfig,
    VerifyReport,
    open_async_store,
    open_store,
)
from blockyard.cli.app import app
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.model import MAX_BLOCK_SIZE, MIB, BlockInfo, Page
from blockyard.operations import Operations
from blockyard.s3.integrity import service_checksum_or_etag
from blockyard.stores.base import ListRequest
from blockyard.stores.memory import MemoryStore
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from blockyard.verifying import Verifier
from blockyard_faults import FaultProxy, FlipBit, Match, Script, SeenRequest, Status
from servers.endpoint import Endpoint, boto3_client

BLOCK = bytes(range(256)) * 300
MD5 = md5(BLOCK, usedforsecurity=False).hexdigest()


@pytest.fixture
def endpoint(moto_endpoint: Endpoint) -> Endpoint:
    return moto_endpoint


@pytest.fixture
def config(endpoint: Endpoint, bucket: str, key_prefix: str) -> StoreConfig:
    return StoreConfig(s3=S3Config(**endpoint.s3_settings(bucket, key_prefix)))


@pytest.fixture
def store(config: StoreConfig) -> Iterator[BlockStore]:
    with open_store(config) as store:
        yield store


class Others:
    """Another program, which puts objects into the same place."""

    def __init__(self, endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
        self._boto = boto3_client(endpoint)
        self._bucket, self._prefix = bucket, key_prefix

    def put(self, key: str, body: bytes, **settings: Any) -> None:
        self._boto.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body, **settings)

    def damage(self, key: str) -> None:
        """Other bytes, in place of a block's own."""
        where = {"Bucket": self._bucket, "Key": self._prefix + key}
        found = self._boto.get_object(**where)
        body = bytearray(found["Body"].read())
        body[len(body) // 2] ^= 4
        self.put(key, bytes(body), Metadata=found["Metadata"])

    def put_in_parts(self, key: str, *bodies: bytes) -> None:
        where = {"Bucket": self._bucket, "Key": self._prefix + key}
        upload = self._boto.create_multipart_upload(**where)["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "ETag": self._boto.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=body
                )["ETag"],
            }
            for number, body in enumerate(bodies, 1)
        ]
        self._boto.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": parts}
        )


@pytest.fixture
def others(endpoint: Endpoint, bucket: str, key_prefix: str) -> Others:
    return Others(endpoint, bucket, key_prefix)


@pytest.fixture
def mixture(store: BlockStore, others: Others) -> None:
    _ = store.write_blocks((f"share/{number:02}", BLOCK) for number in range(30))
    _ = store.write_block("share/empty", b"")
    _ = store.write_block("elsewhere", BLOCK)
    others.put("share/md5", BLOCK)
    others.put("share/sha256", BLOCK, ChecksumAlgorithm="SHA256")
    others.put_in_parts("share/parts", bytes(5 * MIB), BLOCK)


@pytest.mark.usefixtures("mixture")
def test_what_is_right_is_counted_by_what_it_was_held_to(store: BlockStore) -> None:
    seen: list[int] = []
    report = store.verify_by_prefix("share/", progress=seen.append)
    assert report == VerifyReport(
        verified={"page checksums": 31, "ETag": 1, "x-amz-checksum-sha256": 1},
        unverifiable=1,
        damaged={},
        unreadable={},
        size=33 * len(BLOCK) + 5 * MIB,
    )
    assert seen == sorted(seen)
    assert seen[-1] == report.size


@pytest.mark.usefixtures("mixture")
def test_what_is_damaged_is_named_by_both_clients(
    store: BlockStore, config: StoreConfig, others: Others
) -> None:
    others.damage("share/07")
    others.damage("share/23")
    report = store.verify_by_prefix("share/")
    assert list(report.damaged) == ["share/07", "share/23"]
    for key, error in report.damaged.items():
        assert isinstance(error, IntegrityError)
        assert f"verify_block {key!r}: page 2: " in str(error)
    assert report.verified["page checksums"] == 29
    assert report.size == 31 * len(BLOCK) + 5 * MIB

    async def under_asyncio() -> VerifyReport:
        async with await open_async_store(config) as other:
            return await other.verify_by_prefix("share/")

    again = asyncio.run(under_asyncio())
    assert list(again.damaged) == list(report.damaged)
    assert again.verified == report.verified


def test_a_damaged_object_of_others_is_found(
    config: StoreConfig, endpoint: Endpoint, others: Others
) -> None:
    """moto gives each object the MD5 of what it holds, so the damage is done on the way."""
    others.put("md5", BLOCK)
    with (
        FaultProxy(endpoint.url, _flip_all) as proxy,
        open_store(through(proxy, config)) as store,
    ):
        report = store.verify_by_prefix()
        assert store.read_block("md5") != BLOCK  # an ordinary read trusts no ETag
    found = report.damaged["md5"]
    assert f"the block: the checksum stored is ETag {MD5}, that of the bytes " in str(found)
    assert len([seen for seen in proxy.requests if seen.reads_object]) == 3


def through(proxy: FaultProxy, config: StoreConfig) -> StoreConfig:
    assert config.s3 is not None
    return StoreConfig(s3=replace(config.s3, endpoint=proxy.url))


def _flip_all(seen: SeenRequest) -> FlipBit | None:
    return FlipBit(0.5) if seen.reads_object else None


def test_a_bit_that_flips_on_the_way_is_no_damage(
    config: StoreConfig, endpoint: Endpoint, store: BlockStore
) -> None:
    _ = store.write_block("k", BLOCK)
    with FaultProxy(endpoint.url, Script([FlipBit(0.5)], Match(target="/k$"))) as proxy:
        with open_store(through(proxy, config)) as other:
            assert other.verify_by_prefix().verified == {"page checksums": 1}
        assert proxy.counts["flip_bit"] == 1


def test_what_can_not_be_read_is_told_and_the_others_are_verified(
    config: StoreConfig, endpoint: Endpoint, store: BlockStore
) -> None:
    for key in ("a", "b", "c"):
        _ = store.write_block(key, BLOCK)
    with FaultProxy(
        endpoint.url, Script([Status(403, "AccessDenied")], Match(target="/b$"))
    ) as proxy:
        assert config.s3 is not None
        settings = replace(config.s3, endpoint=proxy.url)
        with open_store(StoreConfig(s3=settings)) as through:
            report = through.verify_by_prefix()
    assert report.verified == {"page checksums": 2}
    assert list(report.unreadable) == ["b"]
    assert isinstance(report.unreadable["b"], AccessDeniedError)
    assert report.damaged == {}


@pytest.mark.parametrize(
    ("headers", "held_to"),
    [
        ({"etag": f'"{MD5}"'}, "ETag"),
        ({"etag": MD5}, "ETag"),
        ({"etag": f'"{MD5}"', "x-amz-server-side-encryption": "AES256"}, "ETag"),
        ({"etag": f'"{MD5}"', "x-amz-server-side-encryption": "aws:kms"}, None),
        ({"etag": f'"{MD5}"', "x-amz-server-side-encryption": "aws:kms:dsse"}, None),
        ({"etag": f'"{MD5}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"}, None),
        ({"etag": f'"{MD5}-2"'}, None),
        ({"etag": f'W/"{MD5}"'}, None),
        ({"etag": f'"{MD5.upper()}"'}, None),
        ({"etag": '"65f2-1c9"'}, None),
        ({}, None),
        ({"etag": f'"{MD5}"', "x-amz-checksum-crc32c": "AAAAAA=="}, "x-amz-checksum-crc32c"),
        ({"etag": f'"{MD5}"', "x-amz-checksum-crc32c": "AAAAAA==-2"}, "ETag"),
        ({"etag": f'"{MD5}-2"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, None),
    ],
)
def test_which_etags_are_taken_for_an_md5(headers: dict[str, str], held_to: str | None) -> None:
    claim = service_checksum_or_etag(headers)
    assert (None if claim is None else claim.name) == held_to
    if held_to == "ETag":
        assert claim is not None
        assert claim.mismatch(memoryview(BLOCK)) is None
        assert claim.mismatch(memoryview(BLOCK[:-1])) is not None


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_where_no_checksums_are_kept_that_is_what_is_said(kind: str, tmp_path: Path) -> None:
    source = "memory://" if kind == "memory" else tmp_path.as_uri()
    with open_store(source) as store:
        for key in ("a/1", "a/2", "b"):
            _ = store.write_block(key, BLOCK)
        assert store.verify_by_prefix("a/") == VerifyReport({}, 2, {}, {}, 2 * len(BLOCK))
        assert store.verify_by_prefix("c") == VerifyReport({}, 0, {}, {}, 0)
        store.close()
        with pytest.raises(StoreClosedError):
            _ = store.verify_by_prefix()


# The walk, over a store made up for it.


class Made(MemoryStore):
    """Blocks of the sizes given, and how many bytes are being verified at a time."""

    def __init__(self, sizes: list[int], error: Exception | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.error = error
        self.held = self.most = self.most_blocks = self.blocks = 0
        self.bodies: list[weakref.ref[Body]] = []

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        begin = int(request.token or 0)
        end = begin + request.page_size
        infos = [
            BlockInfo(str(number), size, "")
            for number, size in enumerate(self.sizes[begin:end], begin)
        ]
        return Page(infos, str(end) if end < len(self.sizes) else None)

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        size = self.sizes[int(key)]
        body = Body()
        self.bodies.append(weakref.ref(body))
        self.blocks += 1
        self.held += size
        self.most = max(self.most, self.held)
        self.most_blocks = max(self.most_blocks, self.blocks)
        await asyncio.sleep(0)
        self.held -= size
        self.blocks -= 1
        if self.error is not None:
            raise self.error.with_traceback(None)
        return "made up"


class Body:
    """Stands for the bytes of a block."""


def verify(store: Made, concurrency: int = 32) -> VerifyReport:
    async def main() -> VerifyReport:
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        ctx = Context(runtime, concurrency=concurrency)
        return await Verifier(Operations(store)).verify_by_prefix(ctx, "")

    return asyncio.run(main())


def test_every_page_of_a_listing_is_verified() -> None:
    store = Made([1] * 2500)
    assert verify(store).verified == {"made up": 2500}
    assert store.most_blocks == 32


@pytest.mark.parametrize("concurrency", [1, 8, 32, 1000])
@pytest.mark.parametrize(
    "sizes",
    [
        [4 * MIB] * 300,
        [100 * MIB] * 20,
        [1, 500 * MIB, 4 * MIB] * 20,
        [MAX_BLOCK_SIZE, 9 * MIB, 1] * 5,
        [64 * MIB] * 9,
    ],
)
def test_memory_is_bounded(sizes: list[int], concurrency: int) -> None:
    store = Made(sizes)
    assert verify(store, concurrency).verified == {"made up": len(sizes)}
    assert store.most <= max(256 * MIB, *sizes)


def test_blocks_that_are_no_blocks_are_not_read() -> None:
    store = Made([1, MAX_BLOCK_SIZE + 1, 5000 * MAX_BLOCK_SIZE])
    report = verify(store)
    assert (report.verified, report.unverifiable) == ({"made up": 1}, 2)


def test_what_was_deleted_meanwhile_is_nothing() -> None:
    report = verify(Made([1, 1], BlockNotFoundError("gone")))
    assert report == VerifyReport({}, 0, {}, {}, 0)


@pytest.mark.parametrize("error", [DeadlineExceededError("late"), StoreClosedError("closed")])
def test_the_end_of_the_call_is_no_fault_of_its_blocks(error: Exception) -> None:
    with pytest.raises(type(error)):
        _ = verify(Made([1] * 10, error))


def test_a_report_does_not_hold_the_bytes_of_damaged_blocks() -> None:
    store = Made([1] * 10, IntegrityError("wrong"))
    report = verify(store)
    assert len(report.damaged) == 10
    _ = gc.collect()
    assert [body() for body in store.bodies] == [None] * 10


# The command.


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def url(endpoint: Endpoint, bucket: str, key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    return endpoint.store_url(bucket, key_prefix)


@pytest.mark.usefixtures("mixture")
def test_the_command_says_what_it_found(url: str) -> None:
    result = run("--store", url, "verify", "share/")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "33 verified: 1 by ETag, 31 by page checksums, 1 by x-amz-checksum-sha256",
        "1 unverifiable",
        "0 damaged",
        "0 unreadable",
        "7.4 MiB read",
    ]


@pytest.mark.usefixtures("mixture")
def test_the_command_fails_when_a_block_is_damaged(url: str, others: Others) -> None:
    others.damage("share/05")
    result = run("--store", url, "verify")
    assert (result.exit_code, result.stderr) == (1, "")
    told = result.stdout.splitlines()
    assert told[2] == "1 damaged"
    assert told[3].startswith(
        "  share/05: verify_block 'share/05': page 2: the checksum stored is "
    )

    result = run("--store", url, "verify", "share/", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verified"]["page checksums"] == 30
    assert list(report["damaged"]) == ["share/05"]
    assert (report["unverifiable"], report["unreadable"]) == (1, {})
    assert report["bytes"] == 32 * len(BLOCK) + 5 * MIB

    assert run("--store", url, "verify", "elsewhere").exit_code == 0


def test_the_command_fails_when_a_block_can_not_be_read(
    config: StoreConfig, endpoint: Endpoint, store: BlockStore, bucket: str, key_prefix: str
) -> None:
    _ = store.write_block("k", BLOCK)
    with FaultProxy(
        endpoint.url, Script([Status(403, "AccessDenied")], Match(target="/k$"))
    ) as proxy:
        url = f"s3://{bucket}/{key_prefix}?endpoint={proxy.url}&force_path_style=true"
        keys = f"&access_key={endpoint.access_key}&secret_key={endpoint.secret_key}"
        result = run("verify", "--store", url + keys)
    assert result.exit_code == 1
    assert "1 unreadable\n  k: verify_block 'k': " in result.stdout


def test_the_command_over_a_folder(tmp_path: Path) -> None:
    with open_store(tmp_path.as_uri()) as store:
        _ = store.write_block("k", BLOCK)
    result = run("--store", tmp_path.as_uri(), "verify")
    assert result.exit_code == 0
    assert result.stdout.startswith("0 verified\n1 unverifiable\n0 damaged\n")


def test_a_bucket_that_is_not_there_is_an_error(url: str) -> None:
    result = run("--store", url.replace("s3://", "s3://no-such-"), "verify")
    assert result.exit_code == 3
    assert result.stdout == ""
