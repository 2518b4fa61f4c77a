"""Checksums on real servers: kept, given back with every reply, and verified where a server can."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from crc32c import crc32c

from blockyard import (
    BlockStore,
    IntegrityError,
    S3Config,
    StoreConfig,
    open_async_store,
    open_store,
)
from blockyard.errors import BlockStoreError
from blockyard.model import KIB, MIB
from blockyard_faults import (
    FaultProxy,
    FlipBit,
    FlipHeaderBit,
    FlipUploadBit,
    Match,
    Plan,
    Script,
    SeenRequest,
)
from servers.endpoint import Endpoint, boto3_client

pytestmark = pytest.mark.thorough

PAGE = 16 * KIB
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, 4 * MIB, 4 * MIB + 1, 64 * MIB]
PATTERN = bytes(range(251)) * 4200
OURS = "blockyard-"


def some_bytes(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


BLOCK = some_bytes(60 * PAGE + 5)


class Server:
    """An endpoint, a bucket of it, and a plain client as its judge."""

    def __init__(self, endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
        self.endpoint = endpoint
        self.kind = endpoint.kind
        self._bucket = bucket
        self._prefix = key_prefix
        self.boto = boto3_client(endpoint)

    def config(self, url: str | None = None, **settings: Any) -> StoreConfig:
        given = self.endpoint.s3_settings(self._bucket, self._prefix) | settings
        return StoreConfig(s3=S3Config(**given | ({"endpoint": url} if url else {})))

    def where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def metadata(self, key: str) -> dict[str, str]:
        return self.boto.head_object(**self.where(key))["Metadata"]

    def replace(self, key: str, body: bytes) -> None:
        """Other bytes under the metadata that the block was stored with."""
        self.boto.put_object(**self.where(key), Body=body, Metadata=self.metadata(key))


@pytest.fixture(
    params=[
        "moto_endpoint",
        pytest.param("localstack_endpoint", marks=pytest.mark.servers),
        pytest.param("ceph_endpoint", marks=pytest.mark.servers),
    ]
)
def server(request: pytest.FixtureRequest, bucket: str, key_prefix: str) -> Iterator[Server]:
    server = Server(request.getfixturevalue(request.param), bucket, key_prefix)
    yield server
    server.boto.close()


@pytest.fixture
def localstack(localstack_endpoint: Endpoint, bucket: str, key_prefix: str) -> Iterator[Server]:
    server = Server(localstack_endpoint, bucket, key_prefix)
    yield server
    server.boto.close()


@pytest.fixture
def store(server: Server) -> Iterator[BlockStore]:
    with open_store(server.config()) as store:
        yield store


@pytest.mark.parametrize("size", SIZES)
def test_the_sums_come_back_and_the_bytes_stay_plain(
    server: Server, store: BlockStore, size: int
) -> None:
    data = some_bytes(size)
    _ = store.write_block("k", data)
    metadata = server.metadata("k")
    assert metadata[f"{OURS}sums"].startswith(f"2 {size} ")
    pages = [value for name, value in metadata.items() if name.startswith(f"{OURS}pages-")]
    assert len(pages) == {4 * MIB: 6, 4 * MIB + 1: 3, 64 * MIB: 6, PAGE + 1: 1}.get(size, 0)
    assert server.boto.get_object(**server.where("k"))["Body"].read() == data
    assert store.read_block("k") == data
    if size:
        assert store.read_block_range("k", size // 2) == data[size // 2 :]
        ranged = server.boto.get_object(**server.where("k"), Range="bytes=0-0")
        assert ranged["Metadata"] == metadata


def test_a_copy_keeps_the_sums(server: Server, store: BlockStore) -> None:
    _ = store.write_block("k", BLOCK)
    _ = store.copy_block("k", "copy")
    assert server.metadata("copy") == server.metadata("k")
    server.replace("copy", BLOCK[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="'copy': page 60"):
        _ = store.read_block_range("copy", len(BLOCK) - 1)
    assert store.read_block("k") == BLOCK


def test_a_conditional_write_has_room_for_its_nonce(server: Server, store: BlockStore) -> None:
    block = some_bytes(4 * MIB)  # the most pages there can be
    _ = store.write_block("k", block, if_absent=True)
    assert len(server.metadata("k")) == 8
    assert store.read_block_range("k", 3 * MIB + 1, 5) == block[3 * MIB + 1 :][:5]


def test_damage_at_rest_is_found_by_both_clients(server: Server, store: BlockStore) -> None:
    _ = store.write_block("k", BLOCK)
    at = 50 * PAGE + 7
    server.replace("k", BLOCK[:at] + bytes([BLOCK[at] ^ 1]) + BLOCK[at + 1 :])
    ranges = [("k", 0, 10), ("k", at + 1, 1)]
    for read in (
        lambda: store.read_block("k"),
        lambda: store.read_block_into("k", bytearray(len(BLOCK))),
        lambda: store.read_block_range("k", at + 1, 1),
        lambda: store.read_blocks(["k"]),
        lambda: store.read_block_ranges(ranges),
    ):
        with pytest.raises(IntegrityError, match="'k': page 50: "):
            _ = read()
    assert store.read_block_range("k", 0, 10) == BLOCK[:10]

    async def under_asyncio() -> None:
        async with await open_async_store(server.config()) as other:
            for read in (other.read_block("k"), other.read_block_range("k", at, 1)):
                with pytest.raises(IntegrityError, match="'k': page 50: "):
                    _ = await read

    asyncio.run(under_asyncio())


@contextmanager
def proxied(
    server: Server, plan: Plan, **settings: Any
) -> Generator[tuple[BlockStore, FaultProxy], None, None]:
    with (
        FaultProxy(server.endpoint.url, plan) as proxy,
        open_store(server.config(proxy.url, **settings)) as store,
    ):
        yield store, proxy


def sent(proxy: FaultProxy, method: str) -> list[SeenRequest]:
    return [seen for seen in proxy.requests if seen.method == method]


def test_a_flipped_bit_is_read_again_on_another_connection(server: Server) -> None:
    plan = Script([FlipBit(0.5), None, FlipBit(0.5)], Match("GET"))
    with proxied(server, plan) as (store, proxy):
        _ = store.write_block("k", BLOCK)
        assert store.read_block("k") == BLOCK
        assert store.read_block_range("k", PAGE + 1, PAGE) == BLOCK[PAGE + 1 :][:PAGE]
        assert proxy.counts["flip_bit"] == 2
        first, again, second, once_more = [seen.connection for seen in sent(proxy, "GET")]
        assert first != again
        assert second != once_more


def test_a_flipped_bit_in_the_sums_is_read_again(server: Server) -> None:
    sums, pages = (FlipHeaderBit(f"x-amz-meta-{OURS}{name}", bit=2) for name in ("sums", "pages-0"))
    plan = Script([sums, None, pages], Match("GET"))
    with proxied(server, plan) as (store, proxy):
        _ = store.write_block("k", BLOCK)
        for _ in range(2):
            assert store.read_block_range("k", 5, 10) == BLOCK[5:15]
        assert proxy.counts["flip_header_bit"] == 2
        assert len(sent(proxy, "GET")) == 4


def test_a_wrong_checksum_is_refused_by_servers_that_verify(server: Server) -> None:
    """A body damaged on its way up is sent again. Elsewhere the next read tells."""
    with proxied(server, Script([FlipUploadBit(0.5)], Match("PUT"))) as (store, proxy):
        _ = store.write_block("k", BLOCK)
        puts = sent(proxy, "PUT")
        assert all("x-amz-checksum-crc32c" in seen.headers for seen in puts)
        if server.kind == "moto":  # verifies nothing
            assert len(puts) == 1
            with pytest.raises(IntegrityError, match="'k': page 30: "):
                _ = store.read_block("k")
        else:
            assert len(puts) == 2
            assert store.read_block("k") == BLOCK


def test_where_bodies_are_not_signed_the_checksum_protects(localstack: Server) -> None:
    plan = Script([FlipUploadBit(0.5)], Match("PUT"))
    with proxied(localstack, plan, sign_payload="never") as (store, proxy):
        _ = store.write_block("k", BLOCK)
        assert store.read_block("k") == BLOCK
        assert len(sent(proxy, "PUT")) == 2


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_what_others_wrote_is_held_to_the_checksum_that_the_server_keeps(
    localstack: Server, algorithm: str
) -> None:
    checksum = {"ChecksumAlgorithm": algorithm}
    if algorithm == "CRC32C":  # which boto3 computes only with a package of its own
        checksum = {"ChecksumCRC32C": b64encode(crc32c(BLOCK).to_bytes(4, "big")).decode()}
    localstack.boto.put_object(**localstack.where("k"), Body=BLOCK, **checksum)
    plan = Script([None, FlipBit(0.3), FlipBit(0.3), FlipBit(0.3)], Match("GET"))
    with proxied(localstack, plan) as (store, _):
        assert store.read_block("k") == BLOCK
        with pytest.raises(IntegrityError, match=f"x-amz-checksum-{algorithm.lower()} "):
            _ = store.read_block("k")
        assert store.read_block("k") == BLOCK  # the second try came right


def test_parts_of_a_multipart_upload_are_read(server: Server, store: BlockStore) -> None:
    """Their ETag and their checksum are not of the bytes."""
    where = server.where("k")
    upload = server.boto.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, body in enumerate((some_bytes(5 * MIB), BLOCK), 1):
        part = server.boto.upload_part(
            **where, UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256"
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
        if "ChecksumSHA256" in part:
            parts[-1]["ChecksumSHA256"] = part["ChecksumSHA256"]
    server.boto.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert store.read_block("k") == some_bytes(5 * MIB) + BLOCK
    assert store.read_block_range("k", 5 * MIB - 1, 2) == some_bytes(5 * MIB)[-1:] + BLOCK[:1]


def test_a_truncated_object_is_no_block(server: Server, store: BlockStore) -> None:
    _ = store.write_block("k", BLOCK)
    server.replace("k", BLOCK[:PAGE])
    for read in (lambda: store.read_block("k"), lambda: store.read_block_range("k", 0, 1)):
        with pytest.raises(BlockStoreError, match=f"stored with {len(BLOCK)} bytes and has {PAGE}"):
            _ = read()
