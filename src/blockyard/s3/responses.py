"""From a reply that succeeded to its result.

What is not what S3 says at its place is refused with `ProtocolError`, never read as something
near it: a listing that may have been cut short, a delete that does not account for every key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from blockyard.errors import BlockStoreError, ProtocolError
from blockyard.model import BlockInfo, Page
from blockyard.s3.dates import http_date, iso_date
from blockyard.s3.refusals import Refusal, error_from, showable
from blockyard.s3.rows import Rows, cut_rows
from blockyard.s3.xml import Document, read_xml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from blockyard.context import Response

_LISTING = ("list_by_prefix", None, "ListBucketResult")


def block_info(key: str, response: Response, size: int | None = None) -> BlockInfo:
    """What the headers of a HEAD, GET or PUT say of the block `key`.

    `size` is its size in bytes where the caller knows it, as after a PUT; else it is the
    reply's `Content-Length`.
    """
    headers = response.headers
    if size is None:
        size = _size(headers.get("content-length", ""), key)
    last_modified = http_date(headers.get("last-modified", ""))
    return BlockInfo(key, size, _unquoted(headers.get("etag", "")), last_modified)


def list_page(response: Response, key_prefix: str) -> Page:
    """One page of a ListObjectsV2 reply, its keys without `key_prefix`.

    An object whose key is `key_prefix` itself, as consoles make to show a folder, is left
    out: it is no block. https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    document, rows = _plain_listing(response) or _listing(response)
    keys = _keys(document, rows, key_prefix)
    blocks = map(BlockInfo, keys, rows.sizes, rows.etags, rows.moments)
    return Page([block for block in blocks if block.key], _next_token(document))


def list_keys(response: Response, key_prefix: str) -> tuple[list[str], str | None]:
    """The keys and the next token of what `list_page` reads, in less time."""
    document, rows = _plain_listing(response) or _listing(response)
    return list(filter(None, _keys(document, rows, key_prefix))), _next_token(document)


def delete_outcome(
    response: Response, keys: Sequence[str], key_prefix: str = ""
) -> tuple[list[str], dict[str, BlockStoreError]]:
    """Which of `keys` are gone, in the order asked, and the error of every other one.

    `keys` come without `key_prefix`, which the service's have. A key that was not there counts
    as gone; one that the reply passes over has failed.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    document = _document(response, "delete_blocks", None, "DeleteResult")
    asked = {key_prefix + key: key for key in keys}
    request_id = showable(response.headers.get("x-amz-request-id", ""))
    failed: dict[str, BlockStoreError] = {}
    gone: set[str] = set()
    for (full_key,) in document.rows("Deleted", "Key"):
        gone.add(_asked(asked, full_key))
    for full_key, code, message in document.rows("Error", "Key", "Code", "Message"):
        key = _asked(asked, full_key)
        if code == "NoSuchKey":
            gone.add(key)
            continue
        refusal = Refusal(response.status, showable(code), showable(message), request_id)
        failed[key] = refusal.error("delete_blocks", key)
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
    document = _document(response, "copy_block", source_key, "CopyObjectResult")
    etag = _unquoted(document.text("ETag"))
    if not etag:
        raise ProtocolError("the reply to a copy holds no ETag")
    return etag, iso_date(document.text("LastModified"))


def _plain_listing(response: Response) -> tuple[Document, Rows] | None:
    """The listing and its rows where these are written plainly, as `rows.py` has it."""
    cut = cut_rows(response.body)
    if cut is None:
        return None
    rest, rows = cut
    document = _document(replace(response, body=rest), *_LISTING)
    return (document, rows) if any(True for _ in document.rows("Contents")) else None


def _listing(response: Response) -> tuple[Document, Rows]:
    """The listing and its rows, however these are written."""
    document = _document(response, *_LISTING)
    rows = list(document.rows("Contents", "Key", "Size", "ETag", "LastModified"))
    return document, Rows(
        [key for key, _, _, _ in rows],
        [_size(size, key) for key, size, _, _ in rows],
        [_unquoted(etag) for _, _, etag, _ in rows],
        [iso_date(last_modified) for _, _, _, last_modified in rows],
    )


def _keys(document: Document, rows: Rows, key_prefix: str) -> list[str]:
    """The key of each row without `key_prefix`, so that nothing is left of that itself."""
    keys = rows.keys
    if document.text("EncodingType") == "url":
        keys = [_url_decoded(key) for key in keys]
    for key in keys:
        if not key.startswith(key_prefix) or not key:
            raise ProtocolError(f"the reply holds {key!r}, a key that was not asked for")
    return [key[len(key_prefix) :] for key in keys] if key_prefix else keys


def _document(response: Response, operation: str, key: str | None, root: str) -> Document:
    """The XML in a successful reply, whose root is `root`; raises the error it may hold instead."""
    document = read_xml(response.body)
    if document.name == "Error":
        raise error_from(response, operation, key)
    if document.name != root:
        raise ProtocolError(f"the reply is <{showable(document.name)}>, expected <{root}>")
    return document


def _next_token(document: Document) -> str | None:
    """The token of the next page; refused is what would end the listing early or never."""
    truncated = document.text("IsTruncated")
    if truncated == "false":
        return None
    token = document.text("NextContinuationToken")
    if truncated != "true" or not token:
        raise ProtocolError(
            "the reply does not say how the listing goes on; the service may not know ListObjectsV2"
        )
    if token == document.text("ContinuationToken"):
        raise ProtocolError("the reply's next page is the page itself")
    return token


def _asked(asked: dict[str, str], full_key: str) -> str:
    key = asked.get(full_key)
    if key is None:
        raise ProtocolError(f"the reply names {full_key!r}, which was not asked for")
    return key


def _url_decoded(key: str) -> str:
    """AWS writes a blank as `+`, others as `%20`; a plus sign is `%2B` to all."""
    key = key.replace("%2F", "/")  # alone in most keys, and the rest costs twenty times as much
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise ProtocolError(f"the reply holds {key!r}, a key that is not UTF-8") from None


def _size(text: str, key: str) -> int:
    if len(text) <= 18 and text.isascii() and text.isdigit():
        return int(text)
    raise ProtocolError(f"the reply gives no valid size for {key!r}")


def _unquoted(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
