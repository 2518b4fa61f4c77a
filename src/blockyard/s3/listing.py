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

_MOST_EMPTY = 1000
"""Pages without a key that may follow one another: a bucket of deleted versions has some."""
_END = "\0"
"""Ends a part of a token: no key holds it, since neither a path nor XML can."""


@dataclass(frozen=True, slots=True)
class PageAsked:
    """Which page of a listing: all keys below `prefix`, which begins with the store's own.

    `token` is the service's for this page, None for the first; `after` is the last key of the
    pages before; `empty` counts those right before that held none.
    """

    prefix: str
    token: str | None = None
    after: str = ""
    empty: int = 0

    @classmethod
    def of(cls, prefix: str, token: str | None) -> PageAsked:
        """From the token that the page before gave."""
        if token is None:
            return cls(prefix)
        empty, _, rest = token.partition(_END)
        after, _, service_token = rest.partition(_END)
        return cls(prefix, service_token, after, int(empty))

    def next_token(self, service_token: str, keys: list[str]) -> str:
        """What the next page is asked for with, after this one held `keys`."""
        empty = 0 if keys else self.empty + 1
        if empty > _MOST_EMPTY:
            raise ProtocolError(f"the listing goes on, but its last {empty} pages held no key")
        return f"{empty}{_END}{keys[-1] if keys else self.after}{_END}{service_token}"


def list_page(response: Response, asked: PageAsked, key_prefix: str = "") -> Page:
    """One page of a ListObjectsV2 reply, its keys without `key_prefix`.

    An object whose key is `key_prefix` itself, as consoles make to show a folder, is left
    out: it is no block.
    """
    rows, keys, token = _page(response, asked)
    short = _without(key_prefix, keys)
    blocks = map(BlockInfo, short, rows.sizes, rows.etags, rows.moments)
    return Page([block for block in blocks if block.key], token)


def list_keys(
    response: Response, asked: PageAsked, key_prefix: str = ""
) -> tuple[list[str], str | None]:
    """The keys and the next token of what `list_page` reads, in less time."""
    _, keys, token = _page(response, asked)
    return list(filter(None, _without(key_prefix, keys))), token


def _page(response: Response, asked: PageAsked) -> tuple[Rows, list[str], str | None]:
    """The rows, their keys, and the token of the next page; all held to what was asked."""
    document, rows = _plain_listing(response) or _listing(response)
    encoded = "url" in (document.text("EncodingType"), document.text("Encoding-Type"))  # GCS's
    keys = [_url_decoded(key) for key in rows.keys] if encoded else rows.keys
    _check_prefix(document, asked.prefix, encoded)
    _check_keys(keys, asked)
    token = _service_token(document, asked.token)
    return rows, keys, None if token is None else asked.next_token(token, keys)


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
