"""How hard a store leans on its service: one `Pace` for all of its calls.

A service that throttles is sent fewer requests at a time: each bout of throttling halves the
number, each success raises it a little (additive increase, multiplicative decrease: RFC 5681,
section 3.1). Retries are paid for from a bucket of tokens that successes fill again, so that a
service in trouble does not get several times its usual load.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html

Threads and event loops share a pace without a lock: a race costs a little precision.
"""

from __future__ import annotations

import os

from blockyard.context import Context
from blockyard.errors import BlockStoreError, ThrottledError, TransportTimeoutError

_TOKENS = 500
_RETRY_COST = 5
_TIMEOUT_COST = 10
_THROTTLED_COST = 1
"""Little, since the limit keeps throttled requests from becoming a storm."""
_UNLIMITED_FROM = 256.0
"""A limit that has grown to this many requests is lifted."""
_BOUT = 0.5
"""Seconds in which several throttled replies count as one bout."""
_LOOK_AGAIN = 0.02
"""Seconds, on average, between looks for a free place."""


class Pace:
    """The limit on requests under way (None while the service keeps up), and retry tokens."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.tokens = _TOKENS
        self._under_way: set[object] = set()
        self._process = os.getpid()
        self._bout_ends = 0.0

    async def enter(self, ctx: Context) -> object:
        """Wait for a place under the limit; the ticket goes back by `leave`."""
        if self._process != os.getpid():  # what is under way in the parent never ends here
            self._process = os.getpid()
            self._under_way = set()
        while self.limit is not None and len(self._under_way) >= max(self.limit, 1.0):
            await ctx.sleep(2 * _LOOK_AGAIN * ctx.runtime.jitter())
        ticket = object()
        self._under_way.add(ticket)
        return ticket

    def leave(self, ticket: object) -> None:
        self._under_way.discard(ticket)

    def throttled(self, ctx: Context) -> None:
        """The service asked to slow down."""
        now = ctx.runtime.now()
        if now < self._bout_ends:
            return
        self._bout_ends = now + _BOUT
        self.limit = max((self.limit or float(ctx.concurrency)) / 2, 1.0)

    def succeeded(self, paid: int) -> None:
        """A call succeeded whose last retry, if any, had `paid` that many tokens."""
        self.tokens = min(self.tokens + max(paid, 1), _TOKENS)
        if self.limit is not None:
            grown = self.limit + 1 / self.limit
            self.limit = None if grown >= _UNLIMITED_FROM else grown

    def pay(self, error: BlockStoreError) -> int:
        """The tokens that a retry after `error` cost; 0 when there are too few left."""
        cost = _cost(error)
        if self.tokens < cost:
            return 0
        self.tokens -= cost
        return cost


def _cost(error: BlockStoreError) -> int:
    if isinstance(error, ThrottledError):
        return _THROTTLED_COST
    return _TIMEOUT_COST if isinstance(error, TransportTimeoutError) else _RETRY_COST
