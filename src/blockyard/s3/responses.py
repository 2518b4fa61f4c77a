"""Successful responses: what proves a success, the range that it holds, the results in it.

A proxy, a login page, a console port or a web server answers `200` to anything. The response of an
S3 service to a write, and to a read or HEAD of an object, has an ETag; that to a delete is empty
(`error_responses.is_anyones` says what that is worth); the others are XML (`listing.py` reads those
of listings). What is not what S3 documents is a `ProtocolError` or `NotS3Error`, and never read as
something near it. Ranges: RFC 9110, sections 14 and 15.3.7.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import md5
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from blockyard.context import Response
from blockyard.errors import (
    BlockStoreError,
    IntegrityError,
    InvalidRangeError,
    NotS3Error,
    ProtocolError,
    UnsupportedError,
)
from blockyard.model import MAX_BLOCK_SIZE, BlockInfo
from blockyard.s3.dates import http_date, iso_date
from blockyard.s3.error_responses import (
    ErrorResponse,
    error_from,
    read_error_response,
    showable,
)
from blockyard.s3.integrity import PageChecksums
from blockyard.s3.object_headers import metadata_of
from blockyard.s3.xml import Document, cut_deleted, read_xml
from blockyard.stores.base import within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from blockyard.model import Part

Cut = TypeVar("Cut")


def block_info(key: str, response: Response, size: int | None = None) -> BlockInfo:
    """What the headers of a HEAD, GET or PUT say of the block `key`.

    `size` is its size in bytes where the caller knows it, as after a PUT; else it is the
    reply's `Content-Length`.
    """
    headers = response.headers
    if size is None:
        size = size_of(headers.get("content-length", ""), key)
    last_modified = http_date(headers.get("last-modified", ""))
    return BlockInfo(key, size, unquoted(headers.get("etag", "")), last_modified)


def described(info: BlockInfo, response: Response) -> BlockInfo:
    """`info`, with what the reply to a HEAD or GET says of the object besides."""
    headers = response.headers
    return info._replace(
        metadata=metadata_of(headers),
        content_type=showable(headers.get("content-type", "")),
        storage_class=showable(headers.get("x-amz-storage-class", "STANDARD")),
    )


def read_result(key: str, response: Response, size: int) -> BlockInfo:
    """What the reply to a GET says of the block `key`, of `size` bytes."""
    return described(block_info(key, response, size), response)


def stat_result(response: Response, operation: str, key: str) -> BlockInfo:
    """What the reply to a HEAD says of the block `key`.

    Raises `IntegrityError` for an object of another size than the block was stored with, as a
    service leaves that lost the end of a write.
    """
    check_object(response)
    info = block_info(key, response)
    try:
        sums = PageChecksums.of(response.headers)
        if sums is not None:
            sums.check_size(info.size)
    except ValueError as error:
        raise IntegrityError(f"{operation} {key!r}: {error}") from None
    return described(info, response)


def delete_outcome(
    response: Response, keys: Sequence[str], key_prefix: str = ""
) -> tuple[list[str], dict[str, BlockStoreError]]:
    """Which of `keys` are gone, in the order requested, and the error of every other one.

    `keys` come without `key_prefix`, which the service's have. A key that was not there counts
    as gone; one that the reply passes over has failed.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    document, deleted = _canonical_deletion(response) or _deletion(response)
    errors = list(document.entries("Error", "Key", "Code", "Message"))
    full_keys = [key_prefix + key for key in keys]
    if deleted == full_keys and not errors:
        return list(keys), {}
    requested = dict(zip(full_keys, keys, strict=True))
    gone = set(deleted) - {""}
    request_id = showable(response.headers.get("x-amz-request-id", ""))
    failed: dict[str, BlockStoreError] = {}
    for full_key, code, message in errors:
        if code == "NoSuchKey":
            gone.add(full_key)
            continue
        failure = ErrorResponse(response.status, showable(code), showable(message), request_id)
        key = requested.get(full_key, full_key)
        failed[full_key] = failure.error("delete_blocks", key)
    for full_key in (gone | failed.keys()) - requested.keys():
        raise ProtocolError(f"the reply names {full_key!r}, which was not requested")
    for full_key in requested.keys() - gone - failed.keys():
        key = requested[full_key]
        failed[full_key] = ProtocolError(
            f"delete_blocks {key!r}: DeleteObjects response has no result for this key"
        )
    return (
        [key for full_key, key in requested.items() if full_key not in failed],
        {key: failed[full_key] for full_key, key in requested.items() if full_key in failed},
    )


def _canonical_deletion(response: Response) -> tuple[Document, list[str]] | None:
    """The reply and the keys it calls deleted, where these are written as `cut_deleted` expects."""
    return without_entries(response, cut_deleted(response.body), "Deleted", _deletion_document)


def _deletion(response: Response) -> tuple[Document, list[str]]:
    """The reply and the keys it calls deleted, however these are written."""
    document = _deletion_document(response)
    return document, [key for (key,) in document.entries("Deleted", "Key")]


def _deletion_document(response: Response) -> Document:
    return result_document(response, "delete_blocks", None, "DeleteResult")


def copy_result(response: Response, source_key: str) -> tuple[str, datetime | None]:
    """The ETag, without quotes, and the time of the copy that a CopyObject reply reports.

    Raises the error of a reply that turns out to hold one after all.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
    """
    document = result_document(response, "copy_block", source_key, "CopyObjectResult")
    etag = unquoted(document.text("ETag"))
    if not etag:
        raise ProtocolError("the reply to a copy holds no ETag")
    return etag, iso_date(document.text("LastModified"))


def copied_part(response: Response, operation: str, key: str) -> tuple[str, str]:
    """The ETag of a part that was copied, without quotes, and its CRC32C in base64, "" for none.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html
    """
    document = result_document(response, operation, key, "CopyPartResult")
    etag, checksum = unquoted(document.text("ETag")), document.text("ChecksumCRC32C")
    if not etag:
        raise ProtocolError("the reply to the copy of a part holds no ETag")
    if checksum and not _CRC32C.fullmatch(checksum):
        raise ProtocolError(f"the reply to the copy of a part has no CRC32C in {checksum[:40]!r}")
    return etag, checksum


Tag: TypeAlias = tuple[str, str]


def tags(response: Response, operation: str, key: str) -> list[Tag]:
    """The tags of an object, none where the reply is empty: of Ceph, for one without.

    Raises `UnsupportedError` for the object itself, with its ETag, which rclone gives.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectTagging.html
    """
    if not response.body:
        return []
    try:
        document = result_document(response, operation, key, "Tagging")
    except ProtocolError as error:
        if "etag" not in response.headers:
            raise
        raise without_tags(operation, key) from error
    return [(name, value) for name, value in document.entries("TagSet/Tag", "Key", "Value")]


def without_tags(operation: str, key: str) -> UnsupportedError:
    """The error for a service that keeps no tags, or takes a request for them for a read."""
    return UnsupportedError(f"{operation} {key!r}: the service has no tags of objects")


class UploadResult(NamedTuple):
    """What the reply to the end of an upload says of the object: its ETag, without quotes, and its
    CRC32C in base64, or that of its parts; "" where it says none."""

    etag: str
    checksum: str


def upload_id(response: Response, operation: str, key: str) -> str:
    """The id of the upload that the reply to CreateMultipartUpload says was begun.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html
    """
    roots = ("InitiateMultipartUploadResult", "InitiateMultipartUpload")  # the latter of rclone
    document = result_document(response, operation, key, *roots)
    found = document.text("UploadId")
    if not found:
        raise ProtocolError("the reply to the beginning of an upload holds no UploadId")
    return found


def complete_result(response: Response, operation: str, key: str | None) -> UploadResult:
    """What the reply to CompleteMultipartUpload says; raises the error it may hold instead.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
    """
    document = result_document(response, operation, key, "CompleteMultipartUploadResult")
    etag = unquoted(document.text("ETag"))
    if not etag:
        raise ProtocolError("the reply to the end of an upload holds no ETag")
    checksum = document.text("ChecksumCRC32C") or response.headers.get("x-amz-checksum-crc32c", "")
    return UploadResult(etag, checksum)


_MD5 = re.compile(r"[0-9a-f]{32}")
_CRC32C = re.compile(r"[A-Za-z0-9+/]{6}==")


def etag_of_parts(parts: Sequence[Part]) -> str | None:
    """The ETag that most services give an object of these parts; None where theirs are no MD5."""
    if not all(_MD5.fullmatch(part.etag) for part in parts):
        return None
    digests = b"".join([bytes.fromhex(part.etag) for part in parts])
    return f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def is_etag_of_parts(etag: str, count: int) -> bool:
    """Whether an ETag looks like that of an object of so many parts."""
    digest, dash, number = etag.partition("-")
    return bool(dash and _MD5.fullmatch(digest)) and number == str(count)


def without_entries(
    response: Response,
    cut: tuple[bytes, Cut] | None,
    name: str,
    read: Callable[[Response], Document],
) -> tuple[Document, Cut] | None:
    """The document that is left of a reply, and what was cut out of it: the entries `name`.

    None where there was nothing to be cut, or it was no child of the root: see `xml.py`.
    """
    if cut is None:
        return None
    rest, found = cut
    document = read(replace(response, body=rest))
    return (document, found) if any(True for _ in document.entries(name)) else None


def result_document(response: Response, operation: str, key: str | None, *roots: str) -> Document:
    """The XML in a successful reply, whose root is one of `roots`; raises the error it may hold."""
    check_page(response)
    document = read_xml(response.body)
    if document.name == "Error":
        raise error_from(response, operation, key)
    if document.name not in roots:
        raise ProtocolError(f"the reply is <{showable(document.name)}>, expected <{roots[0]}>")
    return document


def size_of(text: str, key: str) -> int:
    """The size in bytes that `text` says the block has."""
    if len(text) <= 18 and text.isascii() and text.isdigit():
        return int(text)
    raise ProtocolError(f"the reply gives no valid size for {key!r}")


def unquoted(etag: str) -> str:
    """The ETag without its quotes, and without the mark of a weak one."""
    return etag.removeprefix("W/").strip('"')


_ACCEPTED = 202
"""Taken in, but not done: RFC 9110, section 15.3.3."""
_CREATED = 201
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")
_SNIFFED = 64
_NO_ETAG = (None, "", '""')


def check_stored(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a PUT shows that the object was stored."""
    if reply.headers.get("etag") in _NO_ETAG:
        raise _not_s3(reply, "the reply to a write has no ETag", " If so: write_proof: head")
    if reply.status == _ACCEPTED:
        raise _not_s3(reply, "the reply does not say that the write is done")
    if reply.status != _CREATED and is_page(reply):  # WebDAV servers send a page with their 201
        raise _not_s3(reply, "the reply to a write is a web page")


def check_taken(reply: Response) -> None:
    """`check_stored` for a service that sends no ETag: the reply is empty, at least."""
    if reply.status == _ACCEPTED or (reply.status != _CREATED and reply.body):
        raise _not_s3(reply, "the reply to a write is not empty")


def check_object(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a GET or HEAD is about an object."""
    if reply.headers.get("etag") in _NO_ETAG:
        raise _not_s3(reply, "the reply has no ETag")


def check_done(reply: Response, operation: str, key: str | None) -> None:
    """Raise unless the reply to a DELETE, or to a PUT of tags, shows that it was done: it is empty.

    Raises the error of one that holds one after all, and `NotS3Error` for any other.
    """
    if reply.body and read_error_response(reply).code:
        raise error_from(reply, operation, key)
    if reply.status not in {200, 204} or reply.body:
        raise _not_s3(reply, f"the reply to {operation} is not that of a service that has done it")


def check_page(reply: Response) -> None:
    """Raise `NotS3Error` for a web page where S3 answers with XML."""
    if is_page(reply):
        raise _not_s3(reply, "the reply is a web page")


def is_page(reply: Response) -> bool:
    """Whether the reply holds a web page."""
    if not reply.body:
        return False
    start = reply.body[:_SNIFFED].lstrip().lower()
    return start.startswith(_HTML) or "html" in reply.headers.get("content-type", "").lower()


def _not_s3(reply: Response, what: str, unless: str = "") -> NotS3Error:
    kind = reply.headers.get("content-type", "")
    told = f" of type {kind[:60]!r}" if kind else ""
    return NotS3Error(f"{what} ({reply.status}{told}): is this an S3 endpoint?{unless}")


# Ranges

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(slots=True, eq=False)
class Span:
    """Bytes of an object: `length` from `first` (to the end when None), or the last `suffix`."""

    first: int = 0
    length: int | None = None
    suffix: int | None = None

    def __str__(self) -> str:
        if self.suffix is not None:
            return f"the last {self.suffix} bytes"
        return f"{'all' if self.length is None else self.length} bytes from {self.first}"

    @property
    def most(self) -> int:
        """The most bytes that an honest reply holds."""
        return self.length or self.suffix or MAX_BLOCK_SIZE

    def of(self, size: int) -> tuple[int, int]:
        """The first byte, and the one after the last, in an object of `size` bytes."""
        return within(size, self.first, self.length, self.suffix)


def check_range_reply(response: Response, span: Span) -> tuple[int, int]:
    """The first byte and the object's size, of a reply that holds the range requested.

    Raises `ProtocolError` for any other.

    Fewer bytes than requested are right only at the object's end. Some services answer 200 and yet
    no more than the range, as its Content-Range says.
    """
    if response.status not in {200, 206}:
        raise ProtocolError(f"status {response.status} for a range request, expected 206")
    if span.suffix is not None and response.size == 0:
        raise InvalidRangeError("the service has no bytes at the object's end")
    stated = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    if match is None:
        raise ProtocolError(f"Content-Range {stated!r}: expected 'bytes FIRST-LAST/SIZE'")
    begin, last, size = int(match[1]), int(match[2]), int(match[3])
    if (begin, last + 1) != span.of(size) or last + 1 - begin != response.size:
        raise ProtocolError(
            f"Content-Range {stated!r} with a body of {response.size} bytes does not answer "
            f"a request for {span}"
        )
    return begin, size


def stated_range(response: Response) -> tuple[int, int]:
    """The first byte and the object's size, by the Content-Range of a reply that was checked."""
    stated = response.headers["content-range"]
    first, _, rest = stated[6:].partition("-")  # behind "bytes "
    return int(first), int(rest[rest.index("/") + 1 :])


def cut_from_whole(whole: Response, span: Span) -> Response:
    """The reply of a service that ignores ranges, as if it had not.

    Raises `InvalidRangeError` at or past the object's end.
    """
    first, end = span.of(whole.size)
    if first >= whole.size:
        raise InvalidRangeError(f"{span}: the object has {whole.size}")
    stated = {"content-range": f"bytes {first}-{end - 1}/{whole.size}"}
    return Response(206, {**whole.headers, **stated}, whole.body[first:end], end - first)
