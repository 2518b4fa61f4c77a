"""A small honest S3 in memory: a bucket behind the proxy, in a process of its own.

It verifies what Ceph and AWS verify of an upload, the signed SHA-256 and the CRC32C, but no
signature. The real servers answer a campaign too; this one is quick enough for many requests.
Requests below `rendezvous/` wait for each other, to show how many a client can have in flight.
"""

from __future__ import annotations

import re
from asyncio import Event, IncompleteReadError
from base64 import b64encode
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from hashlib import md5, sha256
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from time import gmtime, strftime, time
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from crc32c import crc32c

from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import Head, Message, read_body, read_head, request_framing, whole

BUCKET = "campaign"
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
_RENDEZVOUS = re.compile(r"/rendezvous/[^/]+/(\d+)/")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_PART = re.compile(r"<PartNumber>(\d+)</PartNumber>\s*<ETag>(.*?)</ETag>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    etag: str
    metadata: dict[str, str]
    modified: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        modified = formatdate(self.modified, usegmt=True)
        return {"ETag": f'"{self.etag}"', "Last-Modified": modified} | self.metadata

    @property
    def modified_xml(self) -> str:
        return f"<LastModified>{_iso(self.modified)}</LastModified>"


def _iso(seconds: float) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(seconds))


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


def _metadata(head: Head) -> dict[str, str]:
    return {name: value for name, value in head.items() if name.startswith("x-amz-meta-")}


_HERE = _Object(b"here", _md5(b"here").hex(), {})


@dataclass(frozen=True, slots=True)
class _Upload:
    key: str
    metadata: dict[str, str]
    began: str
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])


@dataclass(slots=True)
class _Meeting:
    missing: int
    complete: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] | None = None

    def encode(self, method: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status} -", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in (self.headers or {}).items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if method == "HEAD" else head + self.body


class DictBucket(LoopbackServer):
    """Serves one bucket, path style, whatever its name."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, _Object] = {}
        self._uploads: dict[str, _Upload] = {}
        self._upload_ids = count(1)
        self._meetings: dict[str, _Meeting] = {}

    async def serve(self, client: Connection) -> None:
        """Answer requests until the client has had enough, or breaks one off."""
        with suppress(IncompleteReadError):
            while (head := await read_head(client.reader)) is not None:
                framing = request_framing(head)
                request = await whole(head, framing, read_body(client.reader, framing))
                await self._meet(unquote(head.target))
                await client.send(self.answer(request).encode(head.method))

    async def _meet(self, target: str) -> None:
        """Let the requests below `rendezvous/NAME/COUNT/` wait until there are so many of them."""
        found = _RENDEZVOUS.search(target)
        if found is None:
            return
        meeting = self._meetings.setdefault(found[0], _Meeting(int(found[1])))
        meeting.missing -= 1
        if meeting.missing == 0:
            meeting.complete.set()
        _ = await meeting.complete.wait()

    def answer(self, request: Message) -> _Reply:  # noqa: PLR0911 - one for each kind of request
        """The reply to one request."""
        url = urlsplit(request.head.target)
        key = unquote(url.path).removeprefix("/").partition("/")[2]
        query = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        if "uploads" in query or "uploadId" in query:
            return self._in_parts(key, request, query)
        match request.head.method:
            case "PUT":
                return self._put(key, request)
            case "DELETE":
                refused = self._other(key, request.head)
                if refused is None:
                    _ = self.objects.pop(key, None)
                return refused or _Reply(204)
            case "POST" if "delete" in query:
                return self._delete_many(request)
            case "GET" if "list-type" in query:
                return self._list(query)
            case "HEAD" if not key:
                return _Reply(200)
            case _:
                return self._get(key, request.head)

    def _put(self, key: str, request: Message) -> _Reply:
        head = request.head
        if source := head.get("x-amz-copy-source"):
            return self._copy(unquote(source).removeprefix("/").partition("/")[2], key)
        if refused := _damage(request) or self._other(key, head):
            return refused
        metadata = _metadata(head)
        etag = _md5(request.body).hex()
        self.objects[key] = _Object(request.body, etag, metadata, time())
        return _Reply(200, headers={"ETag": f'"{etag}"'})

    def _other(self, key: str, head: Head) -> _Reply | None:
        """The reply to a change whose condition does not hold."""
        if head.get("if-none-match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        expected = head.get("if-match").strip('"')
        if expected and key not in self.objects:
            return _error(404, "NoSuchKey")
        if expected and self.objects[key].etag != expected:
            return _error(412, "PreconditionFailed")
        return None

    def _in_parts(  # noqa: PLR0911 - one for each request of an upload
        self, key: str, request: Message, query: dict[str, str]
    ) -> _Reply:
        """The reply to a request of a multipart upload."""
        number, method = query.get("uploadId", ""), request.head.method
        match method:
            case "GET":
                return self._list_uploads(query.get("prefix", ""))
            case "POST" if not number:
                number = f"upload-{next(self._upload_ids)}"
                self._uploads[number] = _Upload(key, _metadata(request.head), _iso(time()))
                return _xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
            case _ if number not in self._uploads or self._uploads[number].key != key:
                return _error(404, "NoSuchUpload")
            case "PUT":
                if refused := _damage(request):
                    return refused
                self._uploads[number].parts[int(query["partNumber"])] = request.body
                return _Reply(200, headers={"ETag": f'"{_md5(request.body).hex()}"'})
            case "POST":
                return self._complete(number, request)
            case _:
                del self._uploads[number]
                return _Reply(204)

    def _complete(self, number: str, request: Message) -> _Reply:
        upload = self._uploads[number]
        if refused := self._other(upload.key, request.head):
            return refused
        listed = [(int(part), etag) for part, etag in _PART.findall(request.body.decode())]
        sums = [_md5(upload.parts.get(part, b"")) for part, _ in listed]
        if [unescape(etag).strip("\"'") for _, etag in listed] != [each.hex() for each in sums]:
            return _error(400, "InvalidPart")
        del self._uploads[number]
        data = b"".join(upload.parts[part] for part, _ in listed)
        etag = f"{_md5(b''.join(sums)).hex()}-{len(sums)}"
        self.objects[upload.key] = _Object(data, etag, upload.metadata, time())
        return _xml("CompleteMultipartUploadResult", f"<ETag>&quot;{etag}&quot;</ETag>")

    def _list_uploads(self, prefix: str) -> _Reply:
        rows = [
            f"<Upload><Key>{quote(upload.key)}</Key><UploadId>{number}</UploadId>"
            f"<Initiated>{upload.began}</Initiated></Upload>"
            for number, upload in sorted(self._uploads.items(), key=lambda each: each[1].key)
            if upload.key.startswith(prefix)
        ]
        stated = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        return _xml("ListMultipartUploadsResult", "".join([stated, *rows]))

    def _copy(self, source: str, target: str) -> _Reply:
        found = self.objects.get(source)
        if found is None:
            return _error(404, "NoSuchKey")
        copy = self.objects[target] = replace(found, modified=time())
        return _xml("CopyObjectResult", f'{copy.modified_xml}<ETag>"{copy.etag}"</ETag>')

    def _get(self, key: str, head: Head) -> _Reply:
        found = _HERE if _RENDEZVOUS.search(f"/{key}") else self.objects.get(key)
        if found is None:
            return _error(404, "NoSuchKey")
        if head.get("if-match").strip('"') not in ("", found.etag):
            return _error(412, "PreconditionFailed")
        asked = _RANGE.fullmatch(head.get("range"))
        if asked is None:
            return _Reply(200, found.data, found.headers)
        first, size = int(asked[1]), len(found.data)
        end = min(int(asked[2]) + 1, size) if asked[2] else size
        if first >= size:
            return _error(416, "InvalidRange")
        stated = {"Content-Range": f"bytes {first}-{end - 1}/{size}"}
        return _Reply(206, found.data[first:end], found.headers | stated)

    def _list(self, query: dict[str, str]) -> _Reply:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        most = min(int(query.get("max-keys", "1000")), 1000)
        rows: dict[str, str] = {}
        keys = [key for key in self.objects if key.startswith(prefix) and key > after]
        for key in sorted(keys, key=str.encode):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            folder = key[: at + 1] if at >= 0 else ""
            if folder and (folder in rows or folder == after):
                continue
            if len(rows) == most:
                return _page(prefix, rows, token=list(rows)[-1])
            rows[folder or key] = _folder(folder) if folder else _row(key, self.objects[key])
        return _page(prefix, rows, token="")

    def _delete_many(self, request: Message) -> _Reply:
        if refused := _damage(request):
            return refused
        keys = _KEY.findall(request.body.decode())
        for key in keys:
            _ = self.objects.pop(unescape(key), None)
        deleted = [f"<Deleted><Key>{key}</Key></Deleted>" for key in keys]
        return _xml("DeleteResult", "".join(deleted))


def _row(key: str, stored: _Object) -> str:
    return (
        f"<Contents><Key>{quote(key)}</Key>{stored.modified_xml}"
        f'<ETag>"{stored.etag}"</ETag><Size>{len(stored.data)}</Size></Contents>'
    )


def _folder(prefix: str) -> str:
    return f"<CommonPrefixes><Prefix>{quote(prefix)}</Prefix></CommonPrefixes>"


def _page(prefix: str, rows: Mapping[str, str], *, token: str) -> _Reply:
    more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
    stated = f"<Prefix>{quote(prefix)}</Prefix><EncodingType>url</EncodingType>"
    return _xml("ListBucketResult", "".join([truncated, stated, more, *rows.values()]))


def _damage(request: Message) -> _Reply | None:
    """The error response to a body that is not what its headers say."""
    head, body = request.head, request.body
    signed = head.get("x-amz-content-sha256")
    if len(signed) == 64 and signed != sha256(body).hexdigest():
        return _error(400, "XAmzContentSHA256Mismatch")
    stated = head.get("x-amz-checksum-crc32c")
    if stated and stated != b64encode(crc32c(body).to_bytes(4, "big")).decode():
        return _error(400, "BadDigest")
    return None


def _error(status: int, code: str) -> _Reply:
    return _Reply(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def _xml(root: str, inside: str) -> _Reply:
    body = f'<?xml version="1.0"?><{root} xmlns="{_XMLNS}">{inside}</{root}>'
    return _Reply(200, body.encode())


@contextmanager
def serve() -> Generator[str]:
    """A `DictBucket` in a process of its own; gives its URL."""
    spawn = get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve_until_told, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()
        here.close()


def _serve_until_told(pipe: Pipe) -> None:
    with DictBucket() as bucket:
        pipe.send(bucket.url)
        _ = pipe.recv()
