"""The pages of a listing, each verified against what was requested.

A listing decides what is deleted, so nothing of it is believed that the next line may disprove:
every key begins with the prefix requested, the prefix that the service says it listed is that one
too, keys only ever increase, and the listing ends. What breaks one of these, such as a cache that
does not look at the query, is a `ProtocolError`.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

from itertools import islice
from operator import ge
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

from blockyard.errors import ProtocolError
from blockyard.model import BlockInfo, Page, Upload, UploadPage
from blockyard.s3.dates import iso_date
from blockyard.s3.error_responses import showable
from blockyard.s3.responses import result_document, size_of, unquoted, without_entries
from blockyard.s3.xml import Entries, cut_entries

if TYPE_CHECKING:
    from blockyard.context import Response
    from blockyard.s3.xml import Document
    from blockyard.stores.base import ListRequest

_MOST_EMPTY = 1000
"""Pages without a key that may follow one another: a bucket of deleted versions has some."""
_END = "\0"
"""Ends a part of a token: no key holds it, since neither a path nor XML can."""


class PageRequest(NamedTuple):
    """Which page of a listing: all keys below `prefix`, which begins with the store's own.

    `token` is the service's for this page, None for the first; `after` is the last key or folder of
    the pages before, or what the listing starts after; `empty` counts the pages right before that
    held none. `delimiter` is "" or "/".
    """

    prefix: str
    token: str | None = None
    after: str = ""
    empty: int = 0
    delimiter: str = ""

    @classmethod
    def of(cls, request: ListRequest, key_prefix: str) -> PageRequest:
        """From the token that the page before gave."""
        prefix, delimiter = key_prefix + request.prefix, request.delimiter
        if request.token is None:
            after = key_prefix + request.start_after if request.start_after else ""
            return cls(prefix, after=after, delimiter=delimiter)
        empty, _, rest = request.token.partition(_END)
        after, _, service_token = rest.partition(_END)
        return cls(prefix, service_token, after, int(empty), delimiter)

    def next_token(self, service_token: str, last: str) -> str:
        """Our token of the next page; `last` is the last key of this one, "" for an empty page."""
        empty = 0 if last else self.empty + 1
        if empty > _MOST_EMPTY:
            raise ProtocolError(f"the listing goes on, but its last {empty} pages held no key")
        return f"{empty}{_END}{last or self.after}{_END}{service_token}"


def list_page(response: Response, page: PageRequest, key_prefix: str = "") -> Page:
    """One page of a ListObjectsV2 reply, its keys without `key_prefix`.

    An object whose key is `key_prefix` itself, as consoles make to show a folder, is left
    out: it is no block.
    """
    entries, keys, folders, token = _page(response, page)
    short = _without(key_prefix, keys)
    blocks = map(BlockInfo, short, entries.sizes, entries.etags, entries.moments)
    return Page([block for block in blocks if block.key], token, _without(key_prefix, folders))


def list_keys(
    response: Response, page: PageRequest, key_prefix: str = ""
) -> tuple[list[str], str | None]:
    """Only the keys and the next token of what `list_page` reads, which is faster."""
    _, keys, _, token = _page(response, page)
    return list(filter(None, _without(key_prefix, keys))), token


def uploads_page(
    response: Response, prefix: str, after: tuple[str, str] | None, key_prefix: str
) -> UploadPage:
    """One page of a ListMultipartUploads reply, its keys without `key_prefix`.

    `after` are key and id of the last upload of the page before. Its token is those of this one's.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html
    """
    document = result_document(response, "list_uploads", None, "ListMultipartUploadsResult")
    encoded = "url" in (document.text("EncodingType"), document.text("Encoding-Type"))
    uploads: list[Upload] = []
    for key, upload_id, initiated in document.entries("Upload", "Key", "UploadId", "Initiated"):
        name = _url_decoded(key) if encoded else key
        if not name.startswith(prefix) or not upload_id:
            raise ProtocolError(f"the listing holds {name!r}, which {prefix!r} does not begin")
        uploads.append(Upload(name[len(key_prefix) :], upload_id, iso_date(initiated)))
    if document.text("IsTruncated") != "true":
        return UploadPage(uploads, None)
    marker = document.text("NextKeyMarker")
    following = _url_decoded(marker) if encoded else marker, document.text("NextUploadIdMarker")
    if not marker or following == after:
        raise ProtocolError("the reply does not say how the listing of uploads goes on")
    return UploadPage(uploads, _END.join(following))


def _page(
    response: Response, page: PageRequest
) -> tuple[Entries, list[str], list[str], str | None]:
    """Parse and check a page: entries, keys, folders, token of the next page."""
    document, entries = _canonical_listing(response) or _listing(response)
    encoded = "url" in (document.text("EncodingType"), document.text("Encoding-Type"))  # GCS's
    keys = [_url_decoded(key) for key in entries.keys] if encoded else entries.keys
    if page.after and page.token is None and keys[:1] == [page.after]:
        entries, keys = entries.behind_first(), keys[1:]  # LocalStack takes "after" as "from"
    folders = [folder for (folder,) in document.entries("CommonPrefixes", "Prefix")]
    if encoded:
        folders = [_url_decoded(folder) for folder in folders]
    if page.after and folders[:1] == [page.after]:  # some services begin a page with it once more
        del folders[0]
    _check_prefix(document, page.prefix, encoded)
    _check_keys(keys, page)
    _check_folders(keys, folders, page)
    token = _service_token(document, page.token)
    if token is not None:
        last = max(keys[-1] if keys else "", folders[-1] if folders else "")
        token = page.next_token(token, last)
    return entries, keys, folders, token


def _check_prefix(document: Document, requested: str, encoded: bool) -> None:
    said = document.find("Prefix")  # some services leave it out
    if said is None or requested in (said, _url_decoded(said) if encoded else said):
        return
    raise ProtocolError(f"the listing is of the prefix {showable(said)!r}, not {requested!r}")


def _check_keys(keys: list[str], page: PageRequest) -> None:
    """Between two keys that begin with a prefix all do, since they are in order."""
    if not keys:
        return
    if keys[0] <= page.after or any(map(ge, keys, islice(keys, 1, None))):
        raise ProtocolError(
            "the keys of the listing do not increase: it repeats itself, or is out of order"
        )
    for key in (keys[0], keys[-1]):
        if not key.startswith(page.prefix) or not key:
            raise ProtocolError(f"the listing holds {key!r}, which {page.prefix!r} does not begin")


def _check_folders(keys: list[str], folders: list[str], page: PageRequest) -> None:
    """Each is a prefix up to the first delimiter behind the one requested, which no key has."""
    behind = len(page.prefix)
    if not page.delimiter:
        if folders:
            raise ProtocolError("the listing has common prefixes, without a delimiter requested")
        return
    for key in keys:
        if page.delimiter in key[behind:]:
            raise ProtocolError(f"the listing holds {key!r}, which lies in a folder")
    if any(map(ge, folders, islice(folders, 1, None))):
        raise ProtocolError("the common prefixes of the listing do not increase")
    for folder in folders:
        known = folder <= page.after and not page.after.startswith(folder)
        if known or folder.find(page.delimiter, behind) != len(folder) - 1:
            raise ProtocolError(f"the listing has the common prefix {folder!r}: not requested")
        if not folder.startswith(page.prefix):
            raise ProtocolError(f"{page.prefix!r} does not begin the common prefix {folder!r}")


def _service_token(document: Document, requested: str | None) -> str | None:
    """The service's token of the next page; refused is what would end the listing early or never.

    A page with the token it was itself requested with would come again and again.
    """
    truncated = document.text("IsTruncated")
    if truncated == "false":
        return None
    token = document.text("NextContinuationToken")
    if truncated != "true" or not token:
        raise ProtocolError(
            "the reply does not say how the listing goes on; the service may not know ListObjectsV2"
        )
    if token in (requested, document.text("ContinuationToken")):
        raise ProtocolError("the reply's next page is the page itself")
    return token


def _canonical_listing(response: Response) -> tuple[Document, Entries] | None:
    """Fast path of `_listing`; None where the XML is not written as `cut_entries` expects."""
    return without_entries(response, cut_entries(response.body), "Contents", _document)


def _listing(response: Response) -> tuple[Document, Entries]:
    """The document and its entries."""
    document = _document(response)
    entries = list(document.entries("Contents", "Key", "Size", "ETag", "LastModified"))
    return document, Entries(
        [key for key, _, _, _ in entries],
        [size_of(size, key) for key, size, _, _ in entries],
        [unquoted(etag) for _, _, etag, _ in entries],
        [iso_date(last_modified) for _, _, _, last_modified in entries],
    )


def _document(response: Response) -> Document:
    return result_document(response, "list_by_prefix", None, "ListBucketResult")


def _without(key_prefix: str, keys: list[str]) -> list[str]:
    return [key[len(key_prefix) :] for key in keys] if key_prefix else keys


def _url_decoded(key: str) -> str:
    """Decode `encoding-type=url`: AWS encodes a blank as `+`, others as `%20`; plus is `%2B`."""
    key = key.replace("%2F", "/")  # alone in most keys, and the rest costs twenty times as much
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise ProtocolError(f"the reply holds {key!r}, a key that is not UTF-8") from None
