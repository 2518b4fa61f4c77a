"""A stand-in for S3's uploads: it takes bodies of any size, and keeps none.

`python -m bench.ecosystem.sink PORT` serves a PutObject, and uploads in parts. Bodies are dropped
by the kernel (MSG_TRUNC of tcp(7)), uncopied, so that what is timed is the client. What it keeps is
what the replies need: the sizes, and the metadata and checksums that a client has sent, which S3
would say back. It checks no signature and no checksum.
"""

from __future__ import annotations

import itertools
import re
import socket
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from bench.stand_in import answer_at, serving
from servers.endpoint import Endpoint

_ETAG = "0123456789abcdef0123456789abcdef"
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_PART = re.compile(r"[?&]partNumber=(\d+)")
_UPLOAD = re.compile(r"[?&]uploadId=(\d+)")
_STARTS = re.compile(r"[?&]uploads(=|&|$)")
_SAID_BACK = ("x-amz-checksum-", "x-amz-meta-")
_AT_ONCE = 4 * 1024 * 1024
Headers = dict[str, str]


class Sink:
    """The uploads under way, and what there is of the objects. Shared by threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._uploads: dict[str, tuple[Headers, dict[int, int]]] = {}
        self._objects: dict[str, tuple[Headers, int]] = {}

    def answer(self, method: str, target: str, headers: Headers, size: int) -> bytes:
        """The reply to a request whose body of so many bytes has come."""
        key = target.partition("?")[0]
        said = {name: value for name, value in headers.items() if name.startswith(_SAID_BACK)}
        upload = _UPLOAD.search(target)
        match method:
            case "PUT" if upload:
                part = _PART.search(target)
                assert part is not None
                self._uploads[upload[1]][1][int(part[1])] = size
                return _reply({"ETag": f'"{_ETAG}"', **said})
            case "PUT":
                self._objects[key] = said, size
                return _reply({"ETag": f'"{_ETAG}"', **said})
            case "POST" if _STARTS.search(target):
                number = str(next(self._numbers))
                self._uploads[number] = said, {}
                return _reply(said, f"<UploadId>{number}</UploadId>", "InitiateMultipartUpload")
            case "POST" if upload:
                created, parts = self._uploads.pop(upload[1])
                self._objects[key] = created, sum(parts.values())
                told = f"<ETag>&quot;{_ETAG}-{len(parts)}&quot;</ETag>"
                if whole := said.get("x-amz-checksum-crc32c"):
                    told += f"<ChecksumCRC32C>{whole}</ChecksumCRC32C>"
                return _reply({}, told, "CompleteMultipartUpload")
            case "HEAD" if key in self._objects:
                stored, size = self._objects[key]
                return _reply({"ETag": f'"{_ETAG}"', **stored}, size=size)
            case _:
                return _reply({}, status="404 Not Found")


def _reply(
    headers: Headers, told: str = "", operation: str = "", *, size: int = 0, status: str = "200 OK"
) -> bytes:
    body = f"<{operation}Result {_XMLNS}>{told}</{operation}Result>".encode() if told else b""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {size or len(body)}",
        "Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _converse(sink: Sink, connection: socket.socket) -> None:
    """Answer one connection until the client closes it."""
    with connection, connection.makefile("rb") as incoming:
        while request := incoming.readline():
            method, target, _ = request.decode().split(" ", 2)
            headers: Headers = {}
            while (line := incoming.readline()) not in {b"\r\n", b""}:
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect"):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = int(headers.get("content-length", "0"))
            _drop(incoming, connection, size)
            connection.sendall(sink.answer(method, target, headers, size))


def _drop(incoming: Any, connection: socket.socket, size: int) -> None:
    """Take a body: what came with the head, and what comes."""
    held = len(incoming.peek()) if size else 0
    size -= len(incoming.read(min(held, size)))
    unused = bytearray(min(size, _AT_ONCE))  # and never written to
    while size:
        dropped = connection.recv_into(unused, min(size, len(unused)), socket.MSG_TRUNC)
        if not dropped:
            return
        size -= dropped


def main() -> None:
    answer_at(int(sys.argv[1]), partial(_converse, Sink()))


def serve() -> AbstractContextManager[Endpoint]:
    """The sink in a process of its own, until the end of the context."""
    return serving("sink", "bench.ecosystem.sink")


if __name__ == "__main__":
    main()
