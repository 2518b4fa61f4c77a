"""A bucket in memory: what an S3 service answers to each request, and no more than clients need.

Pure: a request in, a reply out. It looks at no signature and verifies no checksum, but keeps
them; `service.py` puts it behind a socket.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_KEPT = ("x-amz-meta-", "x-amz-checksum-", "content-type")
_TIME = "2026-01-02T03:04:05.000Z"
_HTTP_TIME = formatdate(1767323045, usegmt=True)
"""When every object was last written."""

Body = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """Names of headers are in lower case, `target` is as on the wire."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def bucket_and_key(self) -> tuple[str, str]:
        bucket, _, key = self.target.partition("?")[0].removeprefix("/").partition("/")
        return bucket, unquote(key)

    @property
    def query(self) -> dict[str, str]:
        query = self.target.partition("?")[2]
        return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """`size` is that of the object, where a HEAD leaves its body away."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = b""
    size: int | None = None

    def head(self) -> bytes:
        """The first line and the headers, as they go on the wire."""
        length = len(self.body) if self.size is None else self.size
        lines = [f"HTTP/1.1 {self.status} Reply", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join((*lines, "", "")).encode("latin-1")


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    headers: dict[str, str]
    etag: str


@dataclass(frozen=True, slots=True)
class _Upload:
    headers: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])


class Bucket:
    """Every object in it; all names of buckets are its own.

    ETags are numbered from `first` on.
    """

    def __init__(self, first: int = 1) -> None:
        self._objects: dict[str, _Object] = {}
        self._uploads: dict[str, _Upload] = {}
        self._numbers = itertools.count(first)

    def take_all_of(self, other: Bucket) -> None:
        """Have the objects of another bucket too, with their ETags."""
        self._objects.update(other._objects)

    def put(
        self, key: str, body: bytes, headers: Mapping[str, str] | None = None, etag: str = ""
    ) -> str:
        """Store an object with the headers that a service keeps; returns its ETag.

        `etag` is that of the object it is a copy of.
        """
        kept = {name: value for name, value in (headers or {}).items() if name.startswith(_KEPT)}
        etag = etag or f'"{next(self._numbers):x}-0"'  # not the form of an MD5, which it is not
        self._objects[key] = _Object(body, kept, etag)
        return etag

    def answer(self, request: Request) -> Reply:
        """The reply to a request; 501 to what no client here asks."""
        _, key = request.bucket_and_key
        answers = _OF_OBJECTS if key else _OF_BUCKETS
        return answers.get(request.method, Bucket.unknown)(self, request, key, request.query)

    def get(self, request: Request, key: str, _query: dict[str, str]) -> Reply:
        found = self._objects.get(key)
        if found is None:
            return _refusal(404, "NoSuchKey")
        if request.headers.get("if-match", found.etag) != found.etag:
            return _refusal(412, "PreconditionFailed")
        headers = {**found.headers, "ETag": found.etag, "Last-Modified": _HTTP_TIME}
        asked = _RANGE.fullmatch(request.headers.get("range", ""))
        if asked is None:
            return Reply(200, headers, found.body)
        size, first = len(found.body), int(asked[1])
        if first >= size:
            return _refusal(416, "InvalidRange")
        end = min(int(asked[2]) + 1, size) if asked[2] else size
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        return Reply(206, headers, memoryview(found.body)[first:end])

    def head(self, request: Request, key: str, query: dict[str, str]) -> Reply:
        reply = self.get(request, key, query)
        return Reply(reply.status, reply.headers, b"", len(reply.body))

    def write(self, request: Request, key: str, query: dict[str, str]) -> Reply:
        if "partNumber" in query:
            self._uploads[query["uploadId"]].parts[int(query["partNumber"])] = request.body
            return Reply(200, {"ETag": f'"{query["partNumber"]}-0"'})
        found = self._objects.get(key)
        expected = request.headers.get("if-match")
        if found is None and expected is not None:
            return _refusal(404, "NoSuchKey")
        unless_absent = "if-none-match" in request.headers
        if found is not None and (unless_absent or expected not in {None, found.etag}):
            return _refusal(412, "PreconditionFailed")
        if "x-amz-copy-source" not in request.headers:
            return Reply(200, {"ETag": self.put(key, request.body, request.headers)})
        source = unquote(request.headers["x-amz-copy-source"]).removeprefix("/").partition("/")[2]
        found = self._objects.get(source)
        if found is None:
            return _refusal(404, "NoSuchKey")
        etag = self.put(key, found.body, found.headers, found.etag)
        return _xml(
            "CopyObjectResult", f"<LastModified>{_TIME}</LastModified><ETag>{escape(etag)}</ETag>"
        )

    def delete(self, request: Request, key: str, query: dict[str, str]) -> Reply:
        if "uploadId" in query:
            _ = self._uploads.pop(query["uploadId"], None)
            return Reply(204)
        found = self._objects.get(key)
        expected = request.headers.get("if-match")
        if expected is not None and found is None:
            return _refusal(404, "NoSuchKey")
        if expected is not None and found is not None and expected != found.etag:
            return _refusal(412, "PreconditionFailed")
        _ = self._objects.pop(key, None)
        return Reply(204)

    def post(self, request: Request, key: str, query: dict[str, str]) -> Reply:
        """Begin an upload in parts, or complete one with all of its parts."""
        if "uploads" in query:
            upload = str(next(self._numbers))
            self._uploads[upload] = _Upload(request.headers)
            begun = _xml("InitiateMultipartUploadResult", _named(key) + _tag("UploadId", upload))
            kind = request.headers.get("x-amz-checksum-type")
            return replace(begun, headers={"x-amz-checksum-type": kind}) if kind else begun
        found = self._uploads.pop(query["uploadId"], None)
        if found is None:
            return _refusal(404, "NoSuchUpload")
        body = b"".join(found.parts[number] for number in sorted(found.parts))
        etag = self.put(key, body, found.headers)
        checksum = request.headers.get("x-amz-checksum-crc32c", "")
        told = _tag("ETag", etag) + (_tag("ChecksumCRC32C", checksum) if checksum else "")
        return _xml("CompleteMultipartUploadResult", _named(key) + told)

    def listing(self, _request: Request, _key: str, query: dict[str, str]) -> Reply:
        prefix, most = query.get("prefix", ""), int(query.get("max-keys", "1000"))
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        more = len(keys) > most
        url = query.get("encoding-type") == "url"
        return _xml(
            "ListBucketResult",
            _tag("Name", "bucket") + _tag("Prefix", quote(prefix) if url else prefix),
            _tag("KeyCount", str(len(keys[:most]))) + _tag("MaxKeys", str(most)),
            "<EncodingType>url</EncodingType>" if url else "",
            _tag("IsTruncated", str(more).lower()),
            _tag("NextContinuationToken", keys[most - 1]) if more else "",
            *(self._row(key, quote(key) if url else key) for key in keys[:most]),
        )

    def _row(self, key: str, shown: str) -> str:
        found = self._objects[key]
        return (
            f"<Contents>{_tag('Key', shown)}<LastModified>{_TIME}</LastModified>"
            f"{_tag('ETag', found.etag)}<Size>{len(found.body)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    def delete_many(self, request: Request, _key: str, query: dict[str, str]) -> Reply:
        if "delete" not in query:
            return _refusal(501, "NotImplemented")
        root = ElementTree.fromstring(request.body)
        keys = [found.text or "" for found in root.iterfind("{*}Object/{*}Key")]
        for key in keys:
            _ = self._objects.pop(key, None)
        quiet = root.findtext("{*}Quiet") == "true"
        return _xml(
            "DeleteResult",
            *(f"<Deleted>{_tag('Key', key)}</Deleted>" for key in keys if not quiet),
        )

    def bucket(self, _request: Request, _key: str, _query: dict[str, str]) -> Reply:
        return Reply(200, {"x-amz-bucket-region": "us-east-1"})

    def unknown(self, request: Request, _key: str, _query: dict[str, str]) -> Reply:
        return _refusal(501, "NotImplemented", request.method)


_Answer = Callable[[Bucket, Request, str, dict[str, str]], Reply]
_OF_OBJECTS: dict[str, _Answer] = {
    "GET": Bucket.get,
    "HEAD": Bucket.head,
    "PUT": Bucket.write,
    "POST": Bucket.post,
    "DELETE": Bucket.delete,
}
_OF_BUCKETS: dict[str, _Answer] = {
    "GET": Bucket.listing,
    "HEAD": Bucket.bucket,
    "POST": Bucket.delete_many,
}


def _xml(root: str, *parts: str) -> Reply:
    document = "".join((f'<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">', *parts))
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{document}</{root}>'.encode()
    return Reply(200, {"Content-Type": "application/xml"}, body)


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _named(key: str) -> str:
    return _tag("Bucket", "bucket") + _tag("Key", key)


def _refusal(status: int, code: str, message: str = "") -> Reply:
    body = f"<Error>{_tag('Code', code)}{_tag('Message', message)}</Error>".encode()
    return Reply(status, {"Content-Type": "application/xml"}, body)


def keys_below(prefix: str, count: int) -> Iterable[str]:
    """Keys for a prefix to be listed or deleted by."""
    return (f"{prefix}block-{number:06}" for number in range(count))
