"""Two requests for one reply, on one thread: the reply that begins first is read."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence

from blockyard.context import Response
from blockyard.errors import TransportConnectionError, TransportError
from blockyard.transport.blocking_connection import BlockingConnection
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
    def stale(self) -> bool:
        """Whether the connection turned out to have been closed while it was idle."""
        closed = isinstance(self.error, TransportConnectionError)
        return closed and self._reused and not self.reply.begun

    @property
    def read_whole(self) -> bool:
        """Whether the connection is ready for another request."""
        return self.reply.complete and self.reply.keep_alive

    def read(self, patience: Patience) -> Response:
        """The rest of a reply that has begun. Raises `TransportError`."""
        return self.connection.receive(self.reply, patience)

    def look(self, patience: Patience) -> bool:
        """Take what has come; whether the reply has begun. Over TLS it need not have."""
        try:
            self.connection.receive_some(self.reply, patience)
        except TransportError as error:
            self.error = error
        return self.error is None and self.reply.begun


def first_to_begin(tries: Sequence[Try], patience: Patience, seconds: float) -> Try | None:
    """The one whose reply begins first; None when all have failed, or none has in `seconds`."""
    ends = time.monotonic() + seconds
    while True:
        waiting = select.poll()
        by_descriptor = {each.connection.fileno(): each for each in tries if each.error is None}
        for descriptor in by_descriptor:
            waiting.register(descriptor, select.POLLIN)
        left = max(ends - time.monotonic(), 0.0)
        ready = waiting.poll(left * 1000) if by_descriptor else []
        if not ready:
            return None
        for descriptor, _ in ready:
            if by_descriptor[descriptor].look(patience):
                return by_descriptor[descriptor]
