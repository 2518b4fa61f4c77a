"""An S3 service that counts what an operation costs on a long path: its round trips in a row.

It answers nothing until its client has nothing more to send, and then all that is waiting: one
round. Two requests in one round do not wait for each other; two rounds are two round trips,
whatever the delay of the path.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.path.objects import Bucket, Request
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_body, read_head, request_framing, whole


@dataclass(frozen=True, slots=True)
class Cost:
    """What the client sent: its requests, in how many rounds, and over how many new connections."""

    requests: tuple[str, ...]
    rounds: int
    connections: int


class CountingService(LoopbackServer):
    """One bucket, whatever name it is asked by: an empty one, where none is given.

    `quiet` is how many seconds without a request show that the client waits. One that takes longer
    to send what it could have sent at once makes the rounds more than they are; nothing can make
    them fewer.
    """

    def __init__(self, quiet: float, bucket: Bucket | None = None) -> None:
        super().__init__()
        self.quiet = quiet
        self.bucket = Bucket() if bucket is None else bucket
        self._requests: list[str] = []
        self._rounds = 0
        self._connections = 0

    def reset(self) -> None:
        """Count from zero again. Call it while the client waits for nothing."""
        self._requests.clear()
        self._rounds = self._connections = 0

    @property
    def cost(self) -> Cost:
        """What was counted since the last `reset`."""
        return Cost(tuple(self._requests), self._rounds, self._connections)

    async def serve(self, client: Connection) -> None:
        """Answer one connection until the client closes it."""
        self._connections += 1
        while (head := await read_head(client.reader)) is not None:
            framing = request_framing(head)
            message = await whole(head, framing, read_body(client.reader, framing))
            request = Request(head.method, head.target, dict(head.items()), message.body)
            self._requests.append(_line(request))
            reply = self.bucket.answer(request)
            await self._round_ends()
            await client.send(reply.head() + reply.body)

    async def _round_ends(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting():
            self._round = asyncio.Event()
        else:
            self._timer.cancel()
        self._timer = loop.call_later(self.quiet, self._answer_all, self._round)
        _ = await self._round.wait()

    def _waiting(self) -> bool:
        return hasattr(self, "_round") and not self._round.is_set()

    def _answer_all(self, ended: asyncio.Event) -> None:
        self._rounds += 1
        ended.set()


def _line(request: Request) -> str:
    """The request in short: its method, and what it is about."""
    _, key = request.bucket_and_key
    if key:
        copied = " (copy)" if "x-amz-copy-source" in request.headers else ""
        return f"{request.method} {key}{copied}"
    what = "?delete" if "delete" in request.query else f"?prefix={request.query.get('prefix')}"
    return f"{request.method} {what if request.method != 'HEAD' else 'the bucket'}"
