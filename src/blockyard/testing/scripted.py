"""A server that says exactly what a test tells it to, byte by byte if need be.

For tests of a transport. What it says need not be HTTP, nor wait for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import Head, Message, read_body, read_head, request_framing, whole
from blockyard.testing.steps import Close, Pause, Reset, Step, Trickle, play

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = [
    "ClientCloses",
    "Close",
    "Head",
    "Message",
    "Pause",
    "Receive",
    "Reset",
    "ScriptedServer",
    "Trickle",
]


@dataclass(frozen=True)
class Receive:
    """Wait for a request and keep it in `ScriptedServer.requests`.

    Without `body` only its head is read, and kept with an empty body. `AssertionError` when the
    client closes before the end of it.
    """

    body: bool = True


@dataclass(frozen=True)
class ClientCloses(Step):
    """Wait for the client to close the connection; `AssertionError` when it sends more."""

    async def play(self, client: Connection) -> None:
        more = await client.reader.read(64)
        _check(not more, f"connection {client.number}: expected its end, got {more!r}")


class ScriptedServer(LoopbackServer):
    """Plays one script to each connection, in the order in which they come.

    A script is a list of steps: `bytes` to send, `Trickle` (send in small pieces), `Receive`,
    `Pause`, `Close`, `Reset`, `ClientCloses`. When it has ended the connection stays open until
    the client closes it. A client that leaves while it is being sent to is no error; a
    connection too many, or one that never came, is: the end of the `with` block raises
    `AssertionError`. `host` may be "::1"; `tls` makes it an HTTPS server.

        with ScriptedServer([Receive(), b"HTTP/1.1 204 No Content\\r\\n\\r\\n"]) as server:
            ...  # a client asks server.url
        assert server.requests[0].head.method == "DELETE"
    """

    def __init__(
        self,
        *scripts: Sequence[bytes | Step | Receive],
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(host=host, tls=tls)
        self._scripts = scripts
        self._begun = 0
        self._requests: list[Message] = []

    @property
    def requests(self) -> list[Message]:
        """The requests received so far, each byte of their heads as it came."""
        return list(self._requests)

    async def serve(self, client: Connection) -> None:
        """Play the script of this connection."""
        _check(client.number <= len(self._scripts), f"connection {client.number} has no script")
        self._begun = client.number
        for step in self._scripts[client.number - 1]:
            if isinstance(step, Receive):
                self._requests.append(await _receive(client, step))
            else:
                await play([step], client)
        if not client.closed:
            await client.gone

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        missing = len(self._scripts) - self._begun
        _check(kind is not None or not missing, f"{missing} connections never came")


def _check(holds: bool, failure: str) -> None:
    """As `assert`, but under `python -O` as well."""
    if not holds:
        raise AssertionError(failure)


async def _receive(client: Connection, step: Receive) -> Message:
    head = await read_head(client.reader)
    if head is None:
        raise AssertionError(f"connection {client.number}: closed where a request was expected")
    framing = request_framing(head) if step.body else 0
    try:
        return await whole(head, framing, read_body(client.reader, framing))
    except asyncio.IncompleteReadError:
        raise AssertionError(f"connection {client.number}: the request's body broke off") from None
