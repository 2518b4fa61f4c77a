"""The proxy's connection to the server behind it: one for each client connection, kept open."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from blockyard.testing.loopback import BUFFER
from blockyard.testing.messages import (
    Framing,
    Head,
    Message,
    read_body,
    read_head,
    reply_framing,
    whole,
)


class UpstreamLostError(Exception):
    """The server behind the proxy could not be reached, or broke off."""


@dataclass(frozen=True)
class Address:
    """Where the server behind the proxy listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> Address:
        """From a URL; `tls` is for https, by default with the system's certificates."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"upstream_url: expected http(s)://host[:port], got {url!r}")
        if parts.scheme == "http":
            return cls(parts.hostname, parts.port or 80, None)
        return cls(parts.hostname, parts.port or 443, tls or ssl.create_default_context())


class Upstream:
    """Asks the server behind the proxy, over one connection after the other.

    `took_all` tells whether the last request was sent to its end before its reply came.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.took_all = True

    async def ask(self, head: Head, body: AsyncIterator[bytes]) -> Head:
        """Send a request and return the head of its reply, whose body is `answer`'s.

        A server may answer before it has read the whole request: the rest is then not sent.
        """
        reader, writer = await self._connected()
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(writer, head, body))
            reply = await _final_head(reader)
            self.took_all = sending.done()
            _ = sending.cancel()
        if reply is None:
            raise UpstreamLostError("the connection ended before a reply")
        return reply

    async def ask_whole(self, request: Message) -> Message:
        """Send a request, and return its reply with all of its body."""
        reply = await self.ask(request.head, _one_piece(request.body))
        framing = reply_framing(reply, request.head.method)
        return await whole(reply, framing, self.answer(reply, framing))

    async def answer(self, reply: Head, framing: Framing) -> AsyncIterator[bytes]:
        """The body of the reply, to its end; then the connection is ready for the next request."""
        assert self._streams is not None, "`ask` comes first"
        reader, _ = self._streams
        try:
            async for piece in read_body(reader, framing):
                yield piece
        except (ConnectionError, asyncio.IncompleteReadError) as lost:
            raise UpstreamLostError("the reply broke off") from lost
        if not self.took_all or framing == "until close" or not reply.keeps_open:
            await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()  # nothing is left to be said, and TLS could take its time
            with contextlib.suppress(OSError):  # that it was lost before is no news
                await writer.wait_closed()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None:
            reader, writer = self._streams
            if reader.at_eof() or writer.is_closing():  # the server ended it while it was idle
                await self.close()
        if self._streams is None:
            where = self._address
            try:
                self._streams = await asyncio.open_connection(
                    where.host, where.port, ssl=where.tls, limit=BUFFER
                )
            except OSError as error:
                raise UpstreamLostError(f"connecting to {where.host}:{where.port}") from error
        return self._streams


async def _one_piece(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _send(writer: asyncio.StreamWriter, head: Head, body: AsyncIterator[bytes]) -> None:
    try:
        writer.write(head.encode())
        async for piece in body:
            writer.write(piece)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        return  # what comes, or does not come, in reply says what became of the request


async def _final_head(reader: asyncio.StreamReader) -> Head | None:
    """The head of the reply, after interim ones (100 Continue); None when the connection ended."""
    try:
        head = await read_head(reader)
        while head is not None and 100 <= head.status < 200:
            head = await read_head(reader)
    except ConnectionError:
        return None
    return head
