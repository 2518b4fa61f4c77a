"""The pages of a listing, each held to what was asked for.

A listing decides what is deleted, so nothing of it is believed that the next line may disprove:
every key begins with the prefix asked for, the prefix that the service says it listed is that one
too, keys only ever increase, and the listing ends. What breaks one of these, such as a cache that
does not look at the query, is a `ProtocolError`.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from operator import ge
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from blockyard.errors import ProtocolError
from blockyard.model import BlockInfo, Page
from blockyard.s3.dates import iso_date
from blockyard.s3.refusals import showable
from blockyard.s3.responses import result_document, size_of, unquoted
from blockyard.s3.rows import Rows, cut_rows

if TYPE_CHECKING:
    from blockyard.context import Response
    from blockyard.s3.xml import Document
    from blockyard.stores.base import ListRequest

_MOST_EMPTY = 1000
"""Pages without a key that may follow one another: a bucket of deleted versions has some."""
_END = "\0"
"""Ends a part of a token: no key holds it, since neither a path nor XML can."""


@dataclass(frozen=True, slots=True)
class PageAsked:
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
    def of(cls, request: ListRequest, key_prefix: str) -> PageAsked:
        """From the token that the page before gave."""
        prefix, delimiter = key_prefix + request.prefix, request.delimiter
        if request.token is None:
            after = key_prefix + request.start_after if request.start_after else ""
            return cls(prefix, after=after, delimiter=delimiter)
        empty, _, rest = request.token.partition(_END)
        after, _, service_token = rest.partition(_END)
        return cls(prefix, service_token, after, int(empty), delimiter)

    def next_token(self, service_token: str, last: str) -> str:
        """What the next page is asked for with; `last` is the last of this one, "" for none."""
        empty = 0 if last else self.empty + 1
        if empty > _MOST_EMPTY:
            raise ProtocolError(f"the listing goes on, but its last {empty} pages held no key")
        return f"{empty}{_END}{last or self.after}{_END}{service_token}"


def list_page(response: Response, asked: PageAsked, key_prefix: str = "") -> Page:
    """One page of a ListObjectsV2 reply, its keys without `key_prefix`.

    An object whose key is `key_prefix` itself, as consoles make to show a folder, is left
    out: it is no block.
    """
    rows, keys, folders, token = _page(response, asked)
    short = _without(key_prefix, keys)
    blocks = map(BlockInfo, short, rows.sizes, rows.etags, rows.moments)
    return Page([block for block in blocks if block.key], token, _without(key_prefix, folders))


def list_keys(
    response: Response, asked: PageAsked, key_prefix: str = ""
) -> tuple[list[str], str | None]:
    """The keys and the next token of what `list_page` reads, in less time."""
    _, keys, _, token = _page(response, asked)
    return list(filter(None, _without(key_prefix, keys))), token


def _page(response: Response, asked: PageAsked) -> tuple[Rows, list[str], list[str], str | None]:
    """The rows, their keys, the folders, and the next page's token; all held to what was asked."""
    document, rows = _plain_listing(response) or _listing(response)
    encoded = "url" in (document.text("EncodingType"), document.text("Encoding-Type"))  # GCS's
    keys = [_url_decoded(key) for key in rows.keys] if encoded else rows.keys
    if asked.after and asked.token is None and keys[:1] == [asked.after]:
        rows, keys = rows.behind_first(), keys[1:]  # LocalStack takes "after" as "from"
    folders = [folder for (folder,) in document.rows("CommonPrefixes", "Prefix")]
    if encoded:
        folders = [_url_decoded(folder) for folder in folders]
    if asked.after and folders[:1] == [asked.after]:  # some services begin a page with it once more
        del folders[0]
    _check_prefix(document, asked.prefix, encoded)
    _check_keys(keys, asked)
    _check_folders(keys, folders, asked)
    token = _service_token(document, asked.token)
    if token is not None:
        last = max(keys[-1] if keys else "", folders[-1] if folders else "")
        token = asked.next_token(token, last)
    return rows, keys, folders, token


def _check_prefix(document: Document, asked: str, encoded: bool) -> None:
    said = document.find("Prefix")  # some services leave it out
    if said is None or asked in (said, _url_decoded(said) if encoded else said):
        return
    raise ProtocolError(f"the listing is of the prefix {showable(said)!r}, asked was {asked!r}")


def _check_keys(keys: list[str], asked: PageAsked) -> None:
    """Between two keys that begin with a prefix all do, since they are in order."""
    if not keys:
        return
    if keys[0] <= asked.after or any(map(ge, keys, islice(keys, 1, None))):
        raise ProtocolError(
            "the keys of the listing do not increase: it repeats itself, or is out of order"
        )
    for key in (keys[0], keys[-1]):
        if not key.startswith(asked.prefix) or not key:
            raise ProtocolError(f"the listing holds {key!r}, which {asked.prefix!r} does not begin")


def _check_folders(keys: list[str], folders: list[str], asked: PageAsked) -> None:
    """Each is a prefix up to the first delimiter behind the one asked for, which no key has."""
    behind = len(asked.prefix)
    if not asked.delimiter:
        if folders:
            raise ProtocolError("the listing has common prefixes, without a delimiter asked for")
        return
    for key in keys:
        if asked.delimiter in key[behind:]:
            raise ProtocolError(f"the listing holds {key!r}, which lies in a folder")
    if any(map(ge, folders, islice(folders, 1, None))):
        raise ProtocolError("the common prefixes of the listing do not increase")
    for folder in folders:
        known = folder <= asked.after and not asked.after.startswith(folder)
        if known or folder.find(asked.delimiter, behind) != len(folder) - 1:
            raise ProtocolError(f"the listing has the common prefix {folder!r}: not asked for")
        if not folder.startswith(asked.prefix):
            raise ProtocolError(f"{asked.prefix!r} does not begin the common prefix {folder!r}")


def _service_token(document: Document, asked: str | None) -> str | None:
    """The service's token of the next page; refused is what would end the listing early or never.

    A page with the token it was itself asked for with would come again and again.
    """
    truncated = document.text("IsTruncated")
    if truncated == "false":
        return None
    token = document.text("NextContinuationToken")
    if truncated != "true" or not token:
        raise ProtocolError(
            "the reply does not say how the listing goes on; the service may not know ListObjectsV2"
        )
    if token in (asked, document.text("ContinuationToken")):
        raise ProtocolError("the reply's next page is the page itself")
    return token


def _plain_listing(response: Response) -> tuple[Document, Rows] | None:
    """The listing and its rows where these are written plainly, as `rows.py` has it."""
    cut = cut_rows(response.body)
    if cut is None:
        return None
    rest, rows = cut
    document = _document(replace(response, body=rest))
    return (document, rows) if any(True for _ in document.rows("Contents")) else None


def _listing(response: Response) -> tuple[Document, Rows]:
    """The listing and its rows, however these are written."""
    document = _document(response)
    rows = list(document.rows("Contents", "Key", "Size", "ETag", "LastModified"))
    return document, Rows(
        [key for key, _, _, _ in rows],
        [size_of(size, key) for key, size, _, _ in rows],
        [unquoted(etag) for _, _, etag, _ in rows],
        [iso_date(last_modified) for _, _, _, last_modified in rows],
    )


def _document(response: Response) -> Document:
    return result_document(response, "list_by_prefix", None, "ListBucketResult")


def _without(key_prefix: str, keys: list[str]) -> list[str]:
    return [key[len(key_prefix) :] for key in keys] if key_prefix else keys


def _url_decoded(key: str) -> str:
    """AWS writes a blank as `+`, others as `%20`; a plus sign is `%2B` to all."""
    key = key.replace("%2F", "/")  # alone in most keys, and the rest costs twenty times as much
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise ProtocolError(f"the reply holds {key!r}, a key that is not UTF-8") from None
