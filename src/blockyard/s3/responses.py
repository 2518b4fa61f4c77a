"""From a reply that succeeded to its result, but for listings (`listing.py`).

What is not what S3 says at its place is refused with `ProtocolError`, never read as something
near it: a success without its ETag, a delete that does not account for every key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockyard.errors import BlockStoreError, IntegrityError, ProtocolError
from blockyard.model import BlockInfo
from blockyard.s3.dates import http_date, iso_date
from blockyard.s3.error_responses import ErrorResponse, error_from, showable
from blockyard.s3.integrity import PageChecksums
from blockyard.s3.proof import check_object, check_page
from blockyard.s3.xml import Document, read_xml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from blockyard.context import Response


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
    return info


def delete_outcome(
    response: Response, keys: Sequence[str], key_prefix: str = ""
) -> tuple[list[str], dict[str, BlockStoreError]]:
    """Which of `keys` are gone, in the order requested, and the error of every other one.

    `keys` come without `key_prefix`, which the service's have. A key that was not there counts
    as gone; one that the reply passes over has failed.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    document = result_document(response, "delete_blocks", None, "DeleteResult")
    requested = {key_prefix + key: key for key in keys}
    request_id = showable(response.headers.get("x-amz-request-id", ""))
    failed: dict[str, BlockStoreError] = {}
    gone: set[str] = set()
    for (full_key,) in document.entries("Deleted", "Key"):
        if full_key:
            gone.add(_requested(requested, full_key))
    for full_key, code, message in document.entries("Error", "Key", "Code", "Message"):
        key = _requested(requested, full_key)
        if code == "NoSuchKey":
            gone.add(key)
            continue
        failure = ErrorResponse(response.status, showable(code), showable(message), request_id)
        failed[key] = failure.error("delete_blocks", key)
    for key in keys:
        if key not in gone and key not in failed:
            failed[key] = ProtocolError(
                f"delete_blocks {key!r}: the reply does not say what became of it"
            )
    return [key for key in keys if key not in failed], failed


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


def result_document(response: Response, operation: str, key: str | None, root: str) -> Document:
    """The XML in a successful reply, whose root is `root`; raises the error it may hold instead."""
    check_page(response)
    document = read_xml(response.body)
    if document.name == "Error":
        raise error_from(response, operation, key)
    if document.name != root:
        raise ProtocolError(f"the reply is <{showable(document.name)}>, expected <{root}>")
    return document


def size_of(text: str, key: str) -> int:
    """The size in bytes that `text` says the block has."""
    if len(text) <= 18 and text.isascii() and text.isdigit():
        return int(text)
    raise ProtocolError(f"the reply gives no valid size for {key!r}")


def unquoted(etag: str) -> str:
    """The ETag without its quotes, and without the mark of a weak one."""
    return etag.removeprefix("W/").strip('"')


def _requested(requested: dict[str, str], full_key: str) -> str:
    key = requested.get(full_key)
    if key is None:
        raise ProtocolError(f"the reply names {full_key!r}, which was not requested")
    return key
