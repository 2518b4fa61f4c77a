"""The part of an HTTP proxy that passes requests on: those whose target is in absolute form."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from blockyard.testing.loopback import Connection
from blockyard.testing.messages import (
    Head,
    framed,
    read_body,
    read_head,
    reply_framing,
    request_framing,
)


async def pass_on(client: Connection, head: Head) -> None:
    """Serve `client`, whose first request begins with `head`, until either side closes."""
    url = urlsplit(head.target)
    assert url.scheme == "http", head.target
    assert url.hostname is not None
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        request: Head | None = head
        while request is not None:
            method, framing = request.method, request_framing(request)
            writer.write(in_origin_form(request).encode())
            async for piece in framed(framing, read_body(client.reader, framing)):
                writer.write(piece)
                await writer.drain()
            reply = await read_head(reader)
            if reply is None:
                return
            await client.send(reply.encode())
            framing = reply_framing(reply, method)
            async for piece in framed(framing, read_body(reader, framing)):
                await client.send(piece)
            if framing == "until close":
                return
            request = await read_head(client.reader)
    except (asyncio.IncompleteReadError, ValueError):  # it broke off, or is no HTTP
        return
    finally:
        writer.close()


def in_origin_form(request: Head) -> Head:
    """As the server that is asked for gets it: the proxy's password is not for it."""
    path = request.target.split("/", 3)[3]
    line = f"{request.method} /{path} HTTP/1.1".encode("latin-1")
    return Head((line, *request.without("proxy-authorization").lines[1:]))
