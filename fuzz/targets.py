"""The targets: functions of any bytes at all, which raise `AssertionError` or what has escaped.

Only blockyard's own errors may come out of what is called here, and each target catches those.
"""

from __future__ import annotations

import contextlib
import string
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

from crc32c import crc32c

from blockyard.config import S3Config
from blockyard.config.loading import load_config
from blockyard.context import Request, Response
from blockyard.errors import BlockStoreError, ConfigError, InvalidKeyError, TransportError
from blockyard.keys import check_key, check_prefix
from blockyard.model import KIB, MAX_BLOCK_SIZE
from blockyard.s3 import requests
from blockyard.s3.endpoints import Address, bucket_address
from blockyard.s3.error_responses import error_from, region_hint, retry_after, server_time
from blockyard.s3.integrity import (
    PageChecksums,
    page_size,
    service_checksum_or_etag,
    upload_headers,
)
from blockyard.s3.listing import PageRequest, list_page
from blockyard.s3.ranges import Span, check_range_reply
from blockyard.s3.reading import Read, verify
from blockyard.s3.responses import block_info, copy_result, delete_outcome
from blockyard.stores.base import ReadRequest
from blockyard.stores.paths import entry_of, folders_of, path_of
from blockyard.transport.http1 import ReplyReader, encode_head


class Target(NamedTuple):
    """`seeds` are inputs to begin with: near to what is valid, so that more is reached."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


# Replies as they come over a connection.

_LIMIT = 4096
_METHODS = ("GET", "HEAD", "PUT", "CONNECT")


def replies(data: bytes) -> None:
    """However a reply is cut into pieces, it is the same reply, or the same kind of error."""
    if len(data) < 2:
        return
    method, piece, stream = _METHODS[data[0] % 4], data[1] % 64 + 1, data[2:]
    into = memoryview(bytearray(_LIMIT)) if data[0] & 4 else None
    whole = _outcome(method, into, stream, max(len(stream), 1))
    assert _outcome(method, into, stream, piece) == whole
    assert _outcome(method, into, stream, 1) == whole


def _outcome(method: str, into: memoryview | None, stream: bytes, piece: int) -> object:
    if into is not None:
        into[:] = bytes(len(into))
    reply = ReplyReader(method, into, _LIMIT)
    try:
        _receive(reply, stream, piece)
    except TransportError as error:
        return type(error), reply.status
    response = reply.response()
    assert response.size <= max(_LIMIT, KIB * KIB)
    assert all(name == name.lower() for name in response.headers)
    body = response.body if into is None else bytes(into)
    return response.status, dict(response.headers), body, response.size


def _receive(reply: ReplyReader, stream: bytes, piece: int) -> None:
    """As a connection does."""
    begin = 0
    while not reply.complete:
        part = stream[begin : begin + piece]
        if not part:
            return reply.end_of_stream()
        view = reply.destination
        if view is None:
            reply.feed(bytearray(part), len(part))
        else:
            part = part[: len(view)]
            view[: len(part)] = part
            reply.filled(len(part))
        begin += len(part)
    return None


# What the body of a reply says.

_ASKED = ("a", "b/c", "SlowDown")
_STATUSES = (200, 204, 206, 301, 307, 400, 403, 404, 412, 416, 429, 500, 503)


def xml(data: bytes) -> None:
    """Listings, deletes, copies and errors are read, or refused with an error of ours."""
    if not data:
        return
    response = Response(_STATUSES[data[0] % len(_STATUSES)], {}, data[1:], len(data) - 1)
    with contextlib.suppress(BlockStoreError):
        prefix = "p/" if data[0] & 16 else ""
        page = list_page(response, PageRequest(prefix), prefix)
        assert all(block.key and block.size >= 0 for block in page.blocks)
    with contextlib.suppress(BlockStoreError):
        _ = copy_result(response, "k")
    with contextlib.suppress(BlockStoreError):
        gone, failed = delete_outcome(response, _ASKED)
        assert sorted([*gone, *failed]) == sorted(_ASKED)
    error = error_from(response, "read_block", "k" if data[0] & 32 else None)
    assert isinstance(error, BlockStoreError)
    assert str(error).isprintable()
    assert isinstance(region_hint(response), str | None)


_IN_REGIONS = {*string.ascii_letters, *string.digits, "-"}
_HEADERS = [
    "content-length",
    "last-modified",
    "date",
    "retry-after",
    "x-amz-bucket-region",
    "content-range",
    "etag",
]


def headers(data: bytes) -> None:
    """Dates, sizes, ranges and regions in headers."""
    values = data.decode("latin-1").split("\n")
    given: dict[str, str] = dict(zip(_HEADERS, values, strict=False))
    response = Response(206, given, b"", 0)
    with contextlib.suppress(BlockStoreError):
        assert block_info("k", response).size >= 0
    moment, wait = server_time(response), retry_after(response, 1.7e9)
    assert moment is None or abs(moment) < 1e12
    assert wait is None or 0 <= wait < 1e12
    region = region_hint(response)
    assert region is None or set(region) <= _IN_REGIONS
    for first, length, size in ((0, 10, 10), (5, None, 3), (10**6, 1, 1)):
        with contextlib.suppress(BlockStoreError):
            _ = check_range_reply(Response(206, given, b"", size), Span(first, length))
            stated, _, _ = given["content-range"].removeprefix("bytes ").partition("/")
            assert [int(each) for each in stated.split("-")] == [first, first + size - 1]


# Checksums in metadata.

_BLOCK = bytes(range(251)) * 150
_SUMS = upload_headers(_BLOCK)
_NAMES = ("sums", "pages-0", "pages-1")


def sums(data: bytes) -> None:
    """What is accepted under made-up sums has those sums."""
    first, *values = data.decode("latin-1").split("\n")
    given = {
        f"x-amz-meta-blockyard-{name}": value for name, value in zip(_NAMES, values, strict=False)
    }
    body = first.encode("latin-1")
    _held(body, given)
    _held(_BLOCK, {**_SUMS, **given})
    _held(_damaged(_BLOCK, body), _SUMS)


def _damaged(block: bytes, changes: bytes) -> bytes:
    """`block`, with other bytes where `changes` says."""
    changed = bytearray(block)
    for place, value in zip(changes[::3], changes[1::3], strict=False):
        changed[place * len(block) // 256] = value
    return bytes(changed)


def _held(body: bytes, given: Mapping[str, str]) -> None:
    size = len(body)
    with contextlib.suppress(BlockStoreError):
        reply = Response(200, given, body, size)
        found = verify(Read(ReadRequest("k"), "k", 1), reply, service_checksum_or_etag)
        if isinstance(found, PageChecksums):
            assert (found.size, found.whole) == (size, crc32c(body))
    first = min(size, 16 * KIB)
    ranged = {**given, "content-range": f"bytes {first}-{size - 1}/{size}"}
    with contextlib.suppress(BlockStoreError):
        part = Response(206, ranged, body[first:], size - first)
        read = Read(ReadRequest("k", first), "k", 1)
        read.content_range = first, size
        found = verify(read, part, service_checksum_or_etag)
        if isinstance(found, PageChecksums):
            assert found.size == size <= MAX_BLOCK_SIZE
            assert found.page_size == page_size(size)
            if first < size and first % found.page_size == 0:
                assert found.whole == crc32c(body[first:], found.up_to(first, ranged))


# What a user says.


def urls(data: bytes) -> None:
    """A store URL is a configuration that makes sound requests, or a `ConfigError`."""
    try:
        config = load_config(data.decode("latin-1"), {}, {})
    except ConfigError:
        return
    if config.s3 is not None:
        _check_requests(config.s3, "k")


def yaml(data: bytes) -> None:
    """A file is a configuration that makes sound requests, or a `ConfigError`."""
    file = _folder() / "store.yaml"
    _ = file.write_bytes(data)
    try:
        config = load_config(file, {}, {})
    except ConfigError:
        return
    if config.s3 is not None:
        _check_requests(config.s3, "k")


@cache
def _folder() -> Path:
    """One for all the runs of a process: another each time would be most of their time."""
    return Path(tempfile.mkdtemp())


def _check_requests(config: S3Config, key: str) -> None:
    try:
        address = bucket_address(
            config.endpoint, config.region, config.bucket, path_style=config.force_path_style
        )
    except ConfigError:
        return
    for request in (
        requests.put_object(address, config.key_prefix + key, b"x"),
        requests.list_objects(address, config.key_prefix, token=None, max_keys=7),
    ):
        _check_head(request)


def _check_head(request: Request) -> None:
    """One request line, and each header as it was given: nothing that ends a line got in."""
    first, *lines = encode_head(request).split(b"\r\n")
    assert first.count(b" ") == 2
    assert b"\n" not in first
    assert b"\r" not in first
    named = [line.partition(b": ")[0].decode() for line in lines[:-2]]
    assert [name for name in named if name != "content-length"] == list(request.headers)
    assert not any(b"\n" in line or b"\r" in line for line in lines)


_ADDRESS = Address(bucket_address("http://h:1", "r", "b", path_style=True).origin, "h:1", "/b", "b")


def keys(data: bytes) -> None:
    """A key that is taken comes back from every place that it is put into."""
    key = data.decode(errors="surrogateescape")
    with contextlib.suppress(InvalidKeyError):
        check_prefix(key)
    try:
        check_key(key)
    except InvalidKeyError:
        return
    for request in (
        requests.put_object(_ADDRESS, key, b""),
        requests.get_object(_ADDRESS, key, byte_range=(0, 1)),
        requests.copy_object(_ADDRESS, key, key),
    ):
        _check_head(request)
        assert unquote_to_bytes(request.target) == b"/b/" + data
    copy = requests.copy_object(_ADDRESS, key, "k")
    assert unquote_to_bytes(copy.headers["x-amz-copy-source"]) == b"b/" + data
    if requests.xml_safe(key):
        body = requests.delete_objects(_ADDRESS, [key]).body
        found = ElementTree.fromstring(bytes(body)).findtext(".//{*}Key")  # noqa: S314 - our own
        assert found == key
    _check_path(key)


def _check_path(key: str) -> None:
    """A file below the root, whose names spell the key."""
    path = path_of(key)
    spelt = b""
    for name in (*path.folders, path.name):
        assert name not in {"", ".", "..", ".blockyard"}
        assert "/" not in name
        assert len(name) < 255
        entry = entry_of(name)
        assert entry is not None
        spelt += entry.adds
    assert spelt.decode() == key
    assert folders_of(b"") == ()


TARGETS: dict[str, Target] = {
    "replies": Target(
        replies,
        (
            b'\0\7HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello',
            b"\4\7HTTP/1.1 206 Part\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"\1\1HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 No\r\nConnection: keep-alive\r\n\r\n",
            b"\2\5HTTP/1.1 503 Slow\r\nA: b\r\na: c\r\n\r\nto the end",
            b"\3\5HTTP/1.1 200 OK\r\n\r\n",
        ),
    ),
    "xml": Target(
        xml,
        (
            b"\0<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>p/a%20b</Key>"
            b"<Size>5</Size><ETag>&quot;x&quot;</ETag><LastModified>2026-01-02T03:04:05.000Z"
            b"</LastModified></Contents><IsTruncated>false</IsTruncated></ListBucketResult>",
            b'\0<?xml version="1.0"?><DeleteResult xmlns="x"><Deleted><Key>a</Key></Deleted><Error>'
            b"<Key>b/c</Key><Code>AccessDenied</Code></Error></DeleteResult>",
            b"\0<CopyObjectResult><ETag>x</ETag></CopyObjectResult>",
            b"\x2b<Error><Code>SlowDown</Code><Message>&#x1;</Message><Region>r-1</Region></Error>",
        ),
    ),
    "headers": Target(
        headers,
        (
            b"5\nWed, 21 Oct 2026 07:28:00 GMT\nWed, 21 Oct 2026 07:28:00 GMT\n120\neu-west-1\n"
            b'bytes 0-9/10\n"x"',
        ),
    ),
    "sums": Target(
        sums,
        (
            b"hello\n1 5 16384 9a71bb4c",
            b"a\5\0\n" + "\n".join(_SUMS[f"x-amz-meta-blockyard-{n}"] for n in _NAMES[:2]).encode(),
        ),
    ),
    "urls": Target(
        urls,
        (
            b"s3://bucket/a%20b/?endpoint=http://127.0.0.1:9000&region=r&force_path_style=true",
            b"s3://b.c?access_key=a&secret_key=b&session_token=c&http.proxy=http://u:p@h:1",
            b"file:///folder",
            b"memory://",
        ),
    ),
    "yaml": Target(
        yaml,
        (
            b"block_store:\n  type: s3\n  s3:\n    bucket: b\n    timeouts: {connect: 5}\n",
            b"block_store: {type: file, file: {path: /x}}",
            b"a: &a [*a, !x y]\n",
        ),
    ),
    "keys": Target(keys, (b"share/content/chunk-0/block-0", "a//b/../%41+\u00e4 ".encode(), b"..")),
}
