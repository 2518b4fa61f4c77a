"""A pretended S3 service with multipart uploads, whose habits a test chooses."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import md5
from typing import Literal
from urllib.parse import parse_qs, parse_qsl, unquote
from xml.sax.saxutils import escape

from blockyard.context import Request, Response
from blockyard.crc32c import crc32c
from blockyard.model import BlockInfo, Part
from blockyard.stores.base import OpenUpload, UploadRequest
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import Pretended, PretendS3, Stored, reply, s3_error

PARTS = (b"first part", b"second part", b"third")
WHOLE = b"".join(PARTS)
NONCE = "x-amz-meta-blockyard-nonce"


def base64_crc(data: bytes) -> str:
    return b64encode(crc32c(data).to_bytes(4, "big")).decode()


@dataclass
class Begun:
    """An upload under way."""

    target: str
    headers: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])


class PretendUploads(PretendS3):
    """`sums` is what it says of checksums; `honours` whether it looks at conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Literal["whole", "parts", "none"] = "none"
        self.honours = True
        self.copy_limit = 2**62
        self.keeps_tags = True
        self.tags: dict[str, bytes] = {}
        self.uploads: dict[str, Begun] = {}
        self._number = 0
        self.answers |= {"POST": self.post, "DELETE": self.delete}

    def get(self, request: Request) -> Response:
        if request.target.endswith("?tagging="):
            return reply(200, {}, self.tags.get(split(request)[0], b""))
        if request.target.endswith("uploads="):
            return self._listed()
        return super().get(request)

    def _listed(self) -> Response:
        each = [
            f"<Upload><Key>{escape(begun.target.removeprefix('/bucket/'))}</Key>"
            f"<UploadId>{name}</UploadId></Upload>"
            for name, begun in self.uploads.items()
        ]
        root = "ListMultipartUploadsResult"
        return reply(200, {}, f"<{root}>{''.join(each)}</{root}>".encode())

    def put(self, request: Request) -> Response:
        path, query = split(request)
        if "tagging" in query:
            self.tags[path] = bytes(request.body)
            return reply(200, {}, b"")
        source = self.objects.get("/" + unquote(request.headers.get("x-amz-copy-source", "")))
        if "partNumber" not in query:
            if source is not None and len(source.body) > self.copy_limit:
                return s3_error(400, "InvalidRequest")
            return super().put(request)
        if source is not None:
            return self._copied_part(request, source, query)
        begun = self.uploads.get(query["uploadId"])
        if begun is None:
            return s3_error(404, "NoSuchUpload")
        body = bytes(request.body)
        begun.parts[int(query["partNumber"])] = body
        headers = {"etag": f'"{md5(body, usedforsecurity=False).hexdigest()}"'}
        if self.sums != "none":
            headers["x-amz-checksum-crc32c"] = base64_crc(body)
        assert path == begun.target
        return reply(200, headers, b"")

    def _copied_part(self, request: Request, source: Stored, query: dict[str, str]) -> Response:
        if self.honours and request.headers["x-amz-copy-source-if-match"] != source.etag:
            return s3_error(412, "PreconditionFailed")
        if query["uploadId"] not in self.uploads:
            return s3_error(404, "NoSuchUpload")
        first, last = request.headers["x-amz-copy-source-range"].partition("=")[2].split("-")
        body = source.body[int(first) : int(last) + 1]
        self.uploads[query["uploadId"]].parts[int(query["partNumber"])] = body
        etag = md5(body, usedforsecurity=False).hexdigest()
        said = f"<ChecksumCRC32C>{base64_crc(body)}</ChecksumCRC32C>" if self.sums != "none" else ""
        root = "CopyPartResult"
        return reply(200, {}, f'<{root}><ETag>"{etag}"</ETag>{said}</{root}>'.encode())

    def post(self, request: Request) -> Response:
        path, query = split(request)
        if "uploads" in query:
            self._number += 1
            name = f"upload/{self._number}+"
            self.uploads[name] = Begun(path, request.headers)
            headers = {"x-amz-checksum-type": "FULL_OBJECT"} if self.sums == "whole" else {}
            body = (
                "<InitiateMultipartUploadResult><UploadId>"
                f"{name}</UploadId></InitiateMultipartUploadResult>"
            )
            return reply(200, headers, body.encode())
        return self._complete(request, path, query["uploadId"])

    def _complete(self, request: Request, path: str, name: str) -> Response:
        begun = self.uploads.get(name)
        if begun is None:
            return s3_error(404, "NoSuchUpload")
        asked = Request(request.origin, "PUT", path, request.headers)
        refused = self.condition(asked) if self.honours else None
        if refused is not None:
            return refused
        numbers = [int(each) for each in re.findall(rb"<PartNumber>(\d+)<", bytes(request.body))]
        parts = [begun.parts[number] for number in numbers]
        del self.uploads[name]
        kept = {
            each: begun.headers[each] for each in begun.headers if each.startswith("x-amz-meta")
        }
        digest = md5(b"".join(md5(part).digest() for part in parts)).hexdigest()  # noqa: S324
        etag = f'"{digest}-{len(parts)}"'
        self.objects[path] = Stored(b"".join(parts), {**kept, "etag": etag})
        if self.keeps_tags:
            self.tags[path] = tagging(begun.headers.get("x-amz-tagging", ""))
        checksum = ""
        if self.sums != "none":
            value = base64_crc(b"".join(parts))
            if self.sums == "parts":
                sums = b"".join(crc32c(part).to_bytes(4, "big") for part in parts)
                value = f"{base64_crc(sums)}-{len(parts)}"
            checksum = f"<ChecksumCRC32C>{value}</ChecksumCRC32C>"
        root = "CompleteMultipartUploadResult"
        return reply(200, {}, f"  \n<{root}><ETag>{etag}</ETag>{checksum}</{root}>".encode())

    def delete(self, request: Request) -> Response:
        path, query = split(request)
        if "uploadId" not in query:
            _ = self.objects.pop(path, None)
        elif self.uploads.pop(query["uploadId"], None) is None:
            return s3_error(404, "NoSuchUpload")
        return reply(204, {}, b"")


class Uploading(Pretended):
    """A store over it; `of_aws` says that nothing has to be found out."""

    def __init__(self, *, of_aws: bool = True, **settings: object) -> None:
        super().__init__(**settings)
        self.s3 = self.service = PretendUploads()
        self.runtime.service = self.s3
        self.learnt = self.store._caller.capabilities  # pyright: ignore[reportPrivateUsage]
        if of_aws:
            self.learnt.conditional_uploads = self.learnt.matching_uploads = True
            self.learnt.upload_etags = self.learnt.uploads = True

    @property
    def sent(self) -> list[str]:
        """The requests in short: method, and what of an upload they are."""
        return [short(each) for each in self.requests]

    def start(self, key: str = "k", /, **wanted: object) -> OpenUpload:
        request = UploadRequest(key, **wanted)  # pyright: ignore[reportArgumentType]
        return run_to_end(self.store.start_upload(self.ctx, request))

    def send(self, opened: OpenUpload, parts: Sequence[bytes] = PARTS) -> list[Part]:
        offset, sent = 0, list[Part]()
        for number, data in enumerate(parts, 1):
            sent.append(run_to_end(self.store.upload_part(self.ctx, opened, number, offset, data)))
            offset += len(data)
        return sent

    def complete(self, opened: OpenUpload, parts: Sequence[Part]) -> BlockInfo:
        return run_to_end(self.store.complete_upload(self.ctx, opened, parts))

    def upload(self, key: str = "k", /, **wanted: object) -> BlockInfo:
        opened = self.start(key, **wanted)
        return self.complete(opened, self.send(opened))


def tagging(query: str) -> bytes:
    tags = [
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>"
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"<Tagging><TagSet>{''.join(tags)}</TagSet></Tagging>".encode()


def split(request: Request) -> tuple[str, dict[str, str]]:
    path, _, query = request.target.partition("?")
    named = parse_qs(query, keep_blank_values=True)
    return unquote(path), {name: values[0] for name, values in named.items()}


def short(request: Request) -> str:
    _, query = split(request)
    what = {"uploads": "create", "partNumber": f"part {query.get('partNumber')}"}
    named = next((what[name] for name in what if name in query), None)
    if named is None and "uploadId" in query:
        named = "complete" if request.method == "POST" else "abort"
    return named or request.method
