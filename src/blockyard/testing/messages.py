"""HTTP/1.1 messages for the test servers: kept as they came, so that faults can be exact.

A head keeps each line byte for byte, so that what is not touched goes on as it was. This is no
validating parser: it reads what well-behaved clients and servers send (RFC 9112).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

Framing = int | Literal["chunked", "until close"]
"""How a body's end is known: its length in bytes, chunks, or the end of the connection."""

_PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the header lines of a message, without their line ends."""

    lines: tuple[bytes, ...]

    @property
    def method(self) -> str:
        """Of a request: its method."""
        return self._words()[0]

    @property
    def target(self) -> str:
        """Of a request: its path and query."""
        return self._words()[1]

    @property
    def status(self) -> int:
        """Of a reply: its status."""
        return int(self._words()[1])

    @property
    def keeps_open(self) -> bool:
        """Whether its sender means to keep the connection (RFC 9112, section 9.3)."""
        said = self.get("connection").lower()
        return "close" not in said and ("keep-alive" in said or b"HTTP/1.0" not in self.lines[0])

    def get(self, name: str, default: str = "") -> str:
        """The value of the first header `name` (in any case), or `default`."""
        for key, value in self.items():
            if key == name.lower():
                return value
        return default

    def items(self) -> list[tuple[str, str]]:
        """The headers in order, their names in lower case."""
        pairs = [line.decode("latin-1").partition(":") for line in self.lines[1:]]
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    def without(self, *names: str) -> Head:
        """A copy that lacks these headers (lower case)."""
        kept = [line for line in self.lines[1:] if _name(line) not in names]
        return Head((self.lines[0], *kept))

    def with_header(self, name: str, value: str) -> Head:
        """A copy in which `value` is the only value of the header `name`."""
        line = f"{name}: {value}".encode("latin-1")
        return Head((*self.without(name.lower()).lines, line))

    def encode(self) -> bytes:
        """As it goes on the wire."""
        return b"\r\n".join((*self.lines, b"", b""))

    def _words(self) -> list[str]:
        return self.lines[0].decode("latin-1").split(" ", 2)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply, its body whole and decoded."""

    head: Head
    body: bytes

    def with_body(self, body: bytes) -> Message:
        """A copy with another body, and the `Content-Length` that belongs to it."""
        head = self.head.without("transfer-encoding")
        return Message(head.with_header("Content-Length", str(len(body))), body)

    def encode(self) -> bytes:
        """As it goes on the wire."""
        return self.head.encode() + self.body


def _name(line: bytes) -> str:
    return line.partition(b":")[0].decode("latin-1").lower()


def request_framing(head: Head) -> Framing:
    """How long the body of this request is: none without a header that says so."""
    if "chunked" in head.get("transfer-encoding").lower():
        return "chunked"
    return int(head.get("content-length", "0"))


def reply_framing(head: Head, method: str) -> Framing:
    """How long the body of this reply to a `method` request is (RFC 9112, section 6.3)."""
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if "chunked" in head.get("transfer-encoding").lower():
        return "chunked"
    length = head.get("content-length")
    return int(length) if length else "until close"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None when the other side closed the connection before the end of one."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    return Head(tuple(raw[:-4].split(b"\r\n")))


async def read_body(reader: asyncio.StreamReader, framing: Framing) -> AsyncIterator[bytes]:
    """The pieces of a body, decoded; `IncompleteReadError` when it breaks off."""
    if framing == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await reader.readexactly(size)
            _ = await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers are not passed on
    elif framing == "until close":
        while piece := await reader.read(_PIECE):
            yield piece
    else:
        left = framing
        while left:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece


async def whole(head: Head, framing: Framing, pieces: AsyncIterator[bytes]) -> Message:
    """The message of this head and body; a body without a stated length is given one."""
    message = Message(head, b"".join([piece async for piece in pieces]))
    return message if isinstance(framing, int) else message.with_body(message.body)


async def framed(framing: Framing, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body as they go on the wire: as chunks, where that is the framing."""
    async for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece
    if framing == "chunked":
        yield b"0\r\n\r\n"
