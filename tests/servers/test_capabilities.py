"""The table of capabilities is true of each server, asked by another client than ours."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from blockyard.testing.capabilities import SERVICES, WITHOUT, Capability, held_together, is_held
from servers.endpoint import Endpoint, boto3_client, create_bucket
from tests.docs.markdown_pages import page, table

_FIXTURES = {
    "moto 5": "moto_endpoint",
    "LocalStack 4.13": "localstack_endpoint",
    "MiniStack 1.5": "ministack_endpoint",
    "rclone 1.75": "rclone_endpoint",
    "Ceph 16.2": "ceph_endpoint",
}
_BUCKET = "blockyard-capabilities"


def is_refused(call: Callable[..., Any], **arguments: Any) -> bool:
    try:
        call(Bucket=_BUCKET, **arguments)
    except ClientError:
        return True
    return False


def keeps(client: Any, key: str) -> bool:
    """Whether a block written under the key is listed under it."""
    if is_refused(client.put_object, Key=key, Body=b"block"):
        return False
    listed = client.list_objects_v2(Bucket=_BUCKET).get("Contents", ())
    client.delete_object(Bucket=_BUCKET, Key=key)
    return key in {entry["Key"] for entry in listed}


def honours_conditional_writes(client: Any) -> bool:
    client.put_object(Bucket=_BUCKET, Key="conditional", Body=b"first")
    return is_refused(client.put_object, Key="conditional", Body=b"second", IfNoneMatch="*")


def honours_matching_writes(client: Any) -> bool:
    """Ceph wants the ETag without the quotes that RFC 9110 puts around it; others take both."""
    written = client.put_object(Bucket=_BUCKET, Key="match", Body=b"first")
    etag, another = written["ETag"].strip('"'), '"0123456789abcdef0123456789abcdef"'
    refused = is_refused(client.put_object, Key="match", Body=b"second", IfMatch=another)
    return refused and not is_refused(client.put_object, Key="match", Body=b"third", IfMatch=etag)


def honours_matching_deletes(client: Any) -> bool:
    etag = client.put_object(Bucket=_BUCKET, Key="match", Body=b"first")["ETag"]
    another = '"0123456789abcdef0123456789abcdef"'
    refused = is_refused(client.delete_object, Key="match", IfMatch=another)
    return refused and not is_refused(client.delete_object, Key="match", IfMatch=etag)


def completes(client: Any, **condition: str) -> bool:
    """Whether an upload in one part takes the place of an object, under the condition."""
    named = {"Bucket": _BUCKET, "Key": "uploaded"}
    named["UploadId"] = client.create_multipart_upload(**named)["UploadId"]
    etag = client.upload_part(**named, PartNumber=1, Body=b"part")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    try:
        client.complete_multipart_upload(**named, MultipartUpload=parts, **condition)
    except ClientError:
        client.abort_multipart_upload(**named)
        return False
    return True


def honours_conditional_uploads(client: Any) -> bool:
    client.put_object(Bucket=_BUCKET, Key="uploaded", Body=b"first")
    return not completes(client, IfNoneMatch="*")


def honours_matching_uploads(client: Any) -> bool:
    written = client.put_object(Bucket=_BUCKET, Key="uploaded", Body=b"first")
    if completes(client, IfMatch='"0123456789abcdef0123456789abcdef"'):
        return False
    return completes(client, IfMatch=written["ETag"])


def answers_ranges_with_206(client: Any) -> bool:
    client.put_object(Bucket=_BUCKET, Key="range", Body=b"block")
    reply = client.get_object(Bucket=_BUCKET, Key="range", Range="bytes=1-2")
    assert reply["Body"].read() == b"lo"
    return reply["ResponseMetadata"]["HTTPStatusCode"] == 206


def verifies_checksums(client: Any) -> bool:
    return is_refused(client.put_object, Key="sum", Body=b"block", ChecksumCRC32C="AAAAAA==")


def replaces_atomically(client: Any) -> bool:
    """Whether readers beside 100 writers of two versions get one of them each time."""
    versions = [bytes([number]) * 100_000 for number in range(2)]
    client.put_object(Bucket=_BUCKET, Key="replaced", Body=versions[0])

    def read(_: int) -> bytes | None:
        try:
            return client.get_object(Bucket=_BUCKET, Key="replaced")["Body"].read()
        except (ClientError, BotoCoreError):
            return None

    def write(number: int) -> None:
        with suppress(ClientError):
            client.put_object(Bucket=_BUCKET, Key="replaced", Body=versions[number % 2])

    with ThreadPoolExecutor(4) as threads:
        written = threads.map(write, range(100))
        found = list(threads.map(read, range(200)))
        list(written)
    return all(each in versions for each in found)


def holds_nested_keys(client: Any) -> bool:
    client.put_object(Bucket=_BUCKET, Key="a", Body=b"above")
    return not is_refused(client.put_object, Key="a/b", Body=b"below")


PROBES: dict[Capability, Callable[[Any], bool]] = {
    Capability.CONDITIONAL_WRITES: honours_conditional_writes,
    Capability.MATCHING_WRITES: honours_matching_writes,
    Capability.MATCHING_DELETES: honours_matching_deletes,
    Capability.CONDITIONAL_UPLOADS: honours_conditional_uploads,
    Capability.MATCHING_UPLOADS: honours_matching_uploads,
    Capability.PARTIAL_CONTENT: answers_ranges_with_206,
    Capability.UPLOAD_CHECKSUMS: verifies_checksums,
    Capability.ATOMIC_REPLACEMENT: replaces_atomically,
    Capability.NESTED_KEYS: holds_nested_keys,
    Capability.ODD_PATHS: lambda client: keeps(client, "a//b") and keeps(client, "c/"),
    Capability.SLASHES_ALONE: lambda client: keeps(client, "//"),
}


def check(request: pytest.FixtureRequest, service: str) -> None:
    endpoint: Endpoint = request.getfixturevalue(_FIXTURES[service])
    create_bucket(endpoint, _BUCKET)
    client = boto3_client(endpoint)
    try:
        found = {capability for capability in Capability if PROBES[capability](client)}
    finally:
        client.close()
    missing = set(Capability) - found
    # A race, which one that lacks it may win: only the others must not be seen to lose it.
    missing |= SERVICES[service] & {Capability.ATOMIC_REPLACEMENT}
    assert missing == SERVICES[service]


def test_the_embedded_server_lacks_what_the_table_says(request: pytest.FixtureRequest) -> None:
    check(request, "moto 5")


@pytest.mark.servers
@pytest.mark.parametrize("service", [name for name in SERVICES if name != "moto 5"])
def test_a_server_lacks_what_the_table_says(request: pytest.FixtureRequest, service: str) -> None:
    check(request, service)


@pytest.mark.parametrize(
    ("lacks", "held"),
    [
        (set(), ["a", "a/", "a/b", "//", "..", "k" * 256]),
        ({Capability.SLASHES_ALONE}, ["a", "a/", "a/b", "..", "k" * 256]),
        ({Capability.ODD_PATHS}, ["a", "a/b"]),
        ({Capability.NESTED_KEYS}, ["a/", "a/b", "//", "..", "k" * 256]),
        ({Capability.ODD_PATHS, Capability.NESTED_KEYS}, ["a/b"]),
    ],
)
def test_what_a_service_holds(lacks: set[Capability], held: list[str]) -> None:
    keys = ["a", "a/", "a/b", "//", "..", "k" * 256]

    assert held_together(keys, lacks) == held
    assert all(is_held(key, lacks) for key in held)


def test_the_page_of_services_shows_the_table() -> None:
    assert table(page("docs/services.md"), "what a service may lack") == [
        [
            capability.value,
            ", ".join(name for name in SERVICES if capability in SERVICES[name]),
            WITHOUT[capability],
        ]
        for capability in Capability
    ]
