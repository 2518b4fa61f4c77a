"""A stand-in for the S3 calls that nginx has no answer to: listing, deleting many, copying.

`python -m bench.pages PORT` prepares the pages of a listing and then only replays them, one
`send` a page, so that what is timed is the client. It checks no signature and stores nothing.
A delete is answered with the keys that it named, a copy with a fixed ETag.
"""

from __future__ import annotations

import re
import socket
import sys
from contextlib import AbstractContextManager
from functools import partial

from bench.data import LISTED_KEYS
from bench.stand_in import answer_at, serving
from bench.workloads import LISTED
from servers.endpoint import Endpoint

_PAGE = 1000
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_ETAG = "&quot;0123456789abcdef0123456789abcdef&quot;"
_TIME = "2026-01-02T03:04:05.000Z"
_TOKEN = re.compile(rb"[?&]continuation-token=page-(\d+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COPY = re.compile(rb"\r\nx-amz-copy-source:", re.IGNORECASE)
_KEY = re.compile(rb"<Key>.*?</Key>", re.DOTALL)


class Pages:
    """The replies, made once."""

    def __init__(self) -> None:
        self._plain = _listing(url_encoded=False)
        self._encoded = _listing(url_encoded=True)
        self._copied = _reply(
            f"<CopyObjectResult {_XMLNS}><LastModified>{_TIME}</LastModified>"
            f"<ETag>{_ETAG}</ETag></CopyObjectResult>".encode()
        )
        self._object_head = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\nConnection: keep-alive\r\n"
            b'ETag: "0123456789abcdef0123456789abcdef"\r\n'
            b"Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n"
        )

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The reply to one request."""
        method, target, _ = head.split(b" ", 2)
        if method == b"GET":
            token = _TOKEN.search(target)
            pages = self._encoded if b"encoding-type=url" in target else self._plain
            return pages[int(token[1]) if token else 0]
        if method == b"POST":
            deleted = b"".join(b"<Deleted>%b</Deleted>" % key for key in _KEY.findall(body))
            quiet = b"<Quiet>true</Quiet>" in body
            return _reply(b"<DeleteResult>%b</DeleteResult>" % (b"" if quiet else deleted))
        if method == b"PUT" and _COPY.search(head):
            return self._copied
        if method == b"HEAD":
            return self._object_head
        raise ValueError(f"no answer to {head[:200]!r}")


def _listing(*, url_encoded: bool) -> list[bytes]:
    return [_page(first, url_encoded=url_encoded) for first in range(0, LISTED, _PAGE)]


def _page(first: int, *, url_encoded: bool) -> bytes:
    keys = LISTED_KEYS[first : first + _PAGE]
    rows = "".join(
        f"<Contents><Key>{key.replace('/', '%2F') if url_encoded else key}</Key>"
        f"<LastModified>{_TIME}</LastModified><ETag>{_ETAG}</ETag><Size>4194304</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    more = first + _PAGE < LISTED
    token = f"<NextContinuationToken>page-{first // _PAGE + 1}</NextContinuationToken>"
    return _reply(
        f"<ListBucketResult {_XMLNS}><Name>bench</Name><Prefix></Prefix>"
        f"<KeyCount>{len(keys)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"{'<EncodingType>url</EncodingType>' if url_encoded else ''}"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token if more else ''}"
        f"{rows}</ListBucketResult>".encode()
    )


def _reply(document: bytes) -> bytes:
    body = b'<?xml version="1.0" encoding="UTF-8"?>\n' + document
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nx-amz-request-id: BENCH\r\n\r\n%b" % (len(body), body)
    )


def _converse(pages: Pages, connection: socket.socket) -> None:
    """Answer one connection until the client closes it."""
    with connection, connection.makefile("rb") as incoming:
        while True:
            head = b""
            while (line := incoming.readline()) not in {b"\r\n", b""}:
                head += line
            if not head.startswith((b"GET", b"PUT", b"POST", b"HEAD")):
                return
            length = _LENGTH.search(head)
            body = incoming.read(int(length[1])) if length else b""
            connection.sendall(pages.answer(head, body))


def main() -> None:
    answer_at(int(sys.argv[1]), partial(_converse, Pages()))


def serve() -> AbstractContextManager[Endpoint]:
    """The page server in a process of its own, until the end of the context."""
    return serving("pages", "bench.pages")


if __name__ == "__main__":
    main()
