"""The S3 service of the emulated path, held to what another client makes of it."""

from __future__ import annotations

import asyncio
import http.client
import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from bench.path.objects import Bucket
from bench.path.service import Conversation
from bench.path.worker import Worker
from bench.path.works import WORKS
from bench.workloads import split_contender
from servers.endpoint import Endpoint, boto3_client

pytestmark = pytest.mark.thorough

MIB = 1 << 20
PEERS_HERE = ("blockyard", "boto3")
"""obstore is installed only where benchmarks are."""


class Watched(Conversation):
    """A conversation that is listed while it lasts."""

    def __init__(self, bucket: Bucket, listed: set[asyncio.BaseTransport]) -> None:
        super().__init__(bucket)
        self._listed = listed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listed.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listed.discard(self._transport)


async def ended(server: asyncio.Server, transports: set[asyncio.BaseTransport]) -> None:
    server.close()
    for transport in list(transports):
        transport.close()
    while transports:  # noqa: ASYNC110 - the test's own timeout ends a wait in vain
        await asyncio.sleep(0.01)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """The service on loopback, on a thread of its own."""
    bucket, transports = Bucket(), set[asyncio.BaseTransport]()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        serving = loop.create_server(lambda: Watched(bucket, transports), "127.0.0.1", 0)
        server = loop.run_until_complete(serving)
        port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield Endpoint("memory", f"http://127.0.0.1:{port}", "testing", "testing")
        asyncio.run_coroutine_threadsafe(ended(server, transports), loop).result()
        _ = loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Any]:
    client = boto3_client(endpoint)
    yield client
    client.close()


def test_objects_come_back_as_they_were_stored(client: Any) -> None:
    key = "a b/ü+%&"
    _ = client.put_object(Bucket="bucket", Key=key, Body=b"0123456789", Metadata={"name": "value"})
    found = client.get_object(Bucket="bucket", Key=key)
    assert found["Body"].read() == b"0123456789"
    assert found["Metadata"] == {"name": "value"}
    part = client.get_object(Bucket="bucket", Key=key, Range="bytes=7-99")
    assert part["Body"].read() == b"789"
    assert part["ContentRange"] == "bytes 7-9/10"
    assert client.head_object(Bucket="bucket", Key=key)["ContentLength"] == 10
    with pytest.raises(client.exceptions.ClientError, match="InvalidRange"):
        _ = client.get_object(Bucket="bucket", Key=key, Range="bytes=10-")
    with pytest.raises(client.exceptions.NoSuchKey):
        _ = client.get_object(Bucket="bucket", Key="absent")


def test_conditions(client: Any) -> None:
    first = client.put_object(Bucket="bucket", Key="key", Body=b"1")
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        _ = client.put_object(Bucket="bucket", Key="key", Body=b"2", IfNoneMatch="*")
    _ = client.put_object(Bucket="bucket", Key="key", Body=b"2")
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        _ = client.get_object(Bucket="bucket", Key="key", IfMatch=first["ETag"])


def test_copies_and_deletes(client: Any) -> None:
    _ = client.put_object(Bucket="bucket", Key="key", Body=b"data")
    _ = client.copy_object(Bucket="bucket", Key="copy", CopySource="bucket/key")
    _ = client.delete_object(Bucket="bucket", Key="key")
    assert client.get_object(Bucket="bucket", Key="copy")["Body"].read() == b"data"
    outcome = client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "copy"}]})
    assert [deleted["Key"] for deleted in outcome["Deleted"]] == ["copy"]
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_a_listing_comes_in_pages(client: Any, endpoint: Endpoint) -> None:
    address = http.client.HTTPConnection(endpoint.url.partition("://")[2])
    address.request("POST", "/bucket?fill=2500&prefix=d/")
    assert address.getresponse().status == 200
    address.close()
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="d/"))
    assert [len(page["Contents"]) for page in pages] == [1000, 1000, 500]
    keys = [found["Key"] for page in pages for found in page["Contents"]]
    assert keys == [f"d/block-{number:06}" for number in range(2500)]
    assert client.list_objects_v2(Bucket="bucket", Prefix="e")["KeyCount"] == 0


def test_an_upload_in_parts(client: Any) -> None:
    data = bytes(range(256)) * (12 * MIB // 256 + 1)
    client.upload_fileobj(
        io.BytesIO(data), "bucket", "key", Config=TransferConfig(multipart_threshold=5 * MIB)
    )
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == data


@pytest.mark.parametrize("peer", PEERS_HERE)
def test_each_work_is_done_and_held_to_its_length(peer: str, endpoint: Endpoint) -> None:
    worker = Worker(peer, endpoint.url)
    try:
        _ = worker.run({"work": None})
        for work in WORKS:
            for contender in work.contenders:
                if split_contender(contender)[0] == peer:
                    command = {"contender": contender, "seconds": 0}
                    assert worker.run({"work": work.as_json(), **command}).operations > 0
    finally:
        worker.close()
