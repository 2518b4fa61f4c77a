"""Successful responses: what proves a success, and the results in them.

A proxy, a login page, a console port or a web server answers `200` to anything. The response of an
S3 service to a write, and to a read or HEAD of an object, has an ETag; that to a delete is empty
(see `error_responses.may_be_from_intermediary`); the others are XML (`listing.py` reads listings).
What differs from what S3 documents is a `ProtocolError` or `NotS3Error`, never read as something
near it.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import md5
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from blockyard.context import Response
from blockyard.errors import (
    BlockStoreError,
    IntegrityError,
    NotS3Error,
    ProtocolError,
    UnsupportedError,
)
from blockyard.model import BlockInfo
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from blockyard.model import Part

Cut = TypeVar("Cut")


def block_info(key: str, response: Response, size: int | None = None) -> BlockInfo:
    """The info of the block `key` from the headers of a HEAD, GET or PUT.

    `size` is its size in bytes where the caller knows it, as after a PUT; else it is the
    reply's `Content-Length`.
    """
    headers = response.headers
    if size is None:
        size = size_of(headers.get("content-length", ""), key)
    last_modified = http_date(headers.get("last-modified", ""))
    return BlockInfo(key, size, unquoted(headers.get("etag", "")), last_modified)


def with_object_headers(info: BlockInfo, response: Response) -> BlockInfo:
    """`info` with metadata, content type and storage class from a reply to a HEAD or GET."""
    headers = response.headers
    return info._replace(
        metadata=metadata_of(headers),
        content_type=showable(headers.get("content-type", "")),
        storage_class=showable(headers.get("x-amz-storage-class", "STANDARD")),
    )


def read_result(key: str, response: Response, size: int) -> BlockInfo:
    """The full info of the block `key` of `size` bytes from the reply to a GET."""
    return with_object_headers(block_info(key, response, size), response)


def stat_result(response: Response, operation: str, key: str) -> BlockInfo:
    """The full info of the block `key` from the reply to a HEAD.

    Raises `IntegrityError` where the object has another size than the block was stored with: a
    service may have lost the end of a write.
    """
    check_object(response)
    info = block_info(key, response)
    try:
        sums = PageChecksums.of(response.headers)
        if sums is not None:
            sums.check_size(info.size)
    except ValueError as error:
        raise IntegrityError(f"{operation} {key!r}: {error}") from None
    return with_object_headers(info, response)


def delete_outcome(
    response: Response, keys: Sequence[str], key_prefix: str = ""
) -> tuple[list[str], dict[str, BlockStoreError]]:
    """Parse a DeleteObjects reply: the `keys` that are gone, in order, and the errors of others.

    `keys` come without `key_prefix`, those in the reply with it. A key that did not exist counts as
    gone; one that the reply does not mention has failed.
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
    """Fast path of `_deletion`; None where the XML is not written as `cut_deleted` expects."""
    return without_entries(response, cut_deleted(response.body), "Deleted", _deletion_document)


def _deletion(response: Response) -> tuple[Document, list[str]]:
    """The document and the keys that it lists as deleted."""
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
    """The tags of an object; none for an empty reply, which Ceph gives for an object without tags.

    Raises `UnsupportedError` where the reply is the object itself, as of rclone.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectTagging.html
    """
    if not response.body:
        return []
    try:
        document = result_document(response, operation, key, "Tagging")
    except ProtocolError as error:
        if "etag" not in response.headers:
            raise
        raise no_tags_error(operation, key) from error
    return [(name, value) for name, value in document.entries("TagSet/Tag", "Key", "Value")]


def no_tags_error(operation: str, key: str) -> UnsupportedError:
    """The error for a service without object tags."""
    return UnsupportedError(f"{operation} {key!r}: the service has no tags of objects")


class UploadResult(NamedTuple):
    """The reply to CompleteMultipartUpload: ETag without quotes, and CRC32C in base64, of the
    object or composite; "" where there is none."""

    etag: str
    checksum: str


def upload_id(response: Response, operation: str, key: str) -> str:
    """The upload id in a CreateMultipartUpload reply.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html
    """
    roots = ("InitiateMultipartUploadResult", "InitiateMultipartUpload")  # the latter of rclone
    document = result_document(response, operation, key, *roots)
    found = document.text("UploadId")
    if not found:
        raise ProtocolError("the reply to the beginning of an upload holds no UploadId")
    return found


def complete_result(response: Response, operation: str, key: str | None) -> UploadResult:
    """Parse a CompleteMultipartUpload reply. Raises the error that a 200 may hold instead.

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
    """The rest of a document and the entries `name` that the fast path of `xml.py` cut out of it.

    None where nothing was cut, or the entries were no children of the root.
    """
    if cut is None:
        return None
    rest, found = cut
    document = read(replace(response, body=rest))
    return (document, found) if any(True for _ in document.entries(name)) else None


def result_document(response: Response, operation: str, key: str | None, *roots: str) -> Document:
    """The XML in a successful reply, whose root is one of `roots`; raises the error it may hold."""
    check_not_html(response)
    document = read_xml(response.body)
    if document.name == "Error":
        raise error_from(response, operation, key)
    if document.name not in roots:
        raise ProtocolError(f"the reply is <{showable(document.name)}>, expected <{roots[0]}>")
    return document


def size_of(text: str, key: str) -> int:
    """Parse a size in bytes. Raises `ProtocolError`."""
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
    if reply.status != _CREATED and is_html(reply):  # WebDAV servers send a page with their 201
        raise _not_s3(reply, "the reply to a write is a web page")


def check_accepted(reply: Response) -> None:
    """`check_stored` for a service that sends no ETag: at least the reply has to be empty."""
    if reply.status == _ACCEPTED or (reply.status != _CREATED and reply.body):
        raise _not_s3(reply, "the reply to a write is not empty")


def check_object(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a GET or HEAD is about an object."""
    if reply.headers.get("etag") in _NO_ETAG:
        raise _not_s3(reply, "the reply has no ETag")


def check_done(reply: Response, operation: str, key: str | None) -> None:
    """Raise unless the reply to a DELETE, or to a PUT of tags, is an empty 200 or 204.

    Raises the error that the body holds, or `NotS3Error` for any other body.
    """
    if reply.body and read_error_response(reply).code:
        raise error_from(reply, operation, key)
    if reply.status not in {200, 204} or reply.body:
        raise _not_s3(reply, f"the reply to {operation} is not that of a service that has done it")


def check_not_html(reply: Response) -> None:
    """Raise `NotS3Error` for HTML where S3 answers with XML."""
    if is_html(reply):
        raise _not_s3(reply, "the reply is a web page")


def is_html(reply: Response) -> bool:
    """Whether the body is HTML."""
    if not reply.body:
        return False
    start = reply.body[:_SNIFFED].lstrip().lower()
    return start.startswith(_HTML) or "html" in reply.headers.get("content-type", "").lower()


def _not_s3(reply: Response, what: str, unless: str = "") -> NotS3Error:
    kind = reply.headers.get("content-type", "")
    of_type = f" of type {kind[:60]!r}" if kind else ""
    return NotS3Error(f"{what} ({reply.status}{of_type}): is this an S3 endpoint?{unless}")
