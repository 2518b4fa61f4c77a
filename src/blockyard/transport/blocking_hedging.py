"""Two requests for one reply, on one thread: the reply that begins first is read."""

from __future__ import annotations

import select
from collections.abc import Sequence

from blockyard.context import Response
from blockyard.errors import TransportConnectionError, TransportError
from blockyard.transport.blocking_connection import BlockingConnection
from blockyard.transport.clock import monotonic
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.patience import Patience


class Try:
    """A request that went out over `connection`; `error` is what it came to before a reply."""

    def __init__(self, connection: BlockingConnection, reply: ReplyReader) -> None:
        self.connection = connection
        self.reply = reply
        self.error: TransportError | None = None
        self._reused = connection.used

    @property
    def unanswered(self) -> bool:
        """Whether nothing has come over a connection that had been idle."""
        return self._reused and not self.reply.begun

    @property
    def stale(self) -> bool:
        """Whether the connection turned out to have been closed while it was idle."""
        return isinstance(self.error, TransportConnectionError) and self.unanswered

    @property
    def read_whole(self) -> bool:
        """Whether the connection is ready for another request."""
        return self.reply.complete and self.reply.keep_alive

    def read(self, patience: Patience) -> Response:
        """The rest of a reply that has begun. Raises `TransportError`."""
        return self.connection.receive(self.reply, patience)

    def look(self) -> bool:
        """Take what has come; whether the reply has begun. Over TLS it need not have."""
        try:
            _ = self.connection.take(self.reply)
        except TransportError as error:
            self.error = error
        return self.error is None and self.reply.begun


def first_to_begin(tries: Sequence[Try], seconds: float) -> Try | None:
    """The one whose reply begins first; None when all have failed, or none has in `seconds`."""
    ends = monotonic() + seconds
    for each in tries:
        if each.reply.begun:  # while the request was still being sent
            return each
    while True:
        waiting = select.poll()
        by_descriptor = {each.connection.fileno(): each for each in tries if each.error is None}
        for descriptor in by_descriptor:
            waiting.register(descriptor, select.POLLIN)
        left = max(ends - monotonic(), 0.0)
        ready = waiting.poll(left * 1000) if by_descriptor else []
        if not ready:
            return None
        for descriptor, _ in ready:
            if by_descriptor[descriptor].look():
                return by_descriptor[descriptor]
