"""Client-side rate control: an AIMD concurrency limit and a retry token bucket, one a store.

A service that throttles is sent fewer requests at a time: each bout of throttling halves the
number, each success raises it a little (additive increase, multiplicative decrease: RFC 5681,
section 3.1). Retries are paid for from a bucket of tokens that successes fill again, so that a
service in trouble does not get several times its usual load. An empty bucket fills slowly by
itself: calls wait for their tokens, and so outlast a service that restarts, without a storm.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html

Threads and event loops share it without a lock: a race costs a little precision.
"""

from __future__ import annotations

import logging

from blockyard.context import Context
from blockyard.errors import BlockStoreError, ThrottledError, TransportTimeoutError
from blockyard.process import PerProcess
from blockyard.s3.retry import never_connected

_log = logging.getLogger("blockyard.s3")
_TOKENS = 500
_RETRY_COST = 5
_TIMEOUT_COST = 10
_LEAST_COST = 1
"""Of throttled requests, which the limit keeps from becoming a storm, and of those that never
reached the service: they cost it nothing."""
_TOKENS_A_SECOND = 50
"""What time alone gives back: ten retries a second, for all calls together."""
_LONGEST_WAIT = 60.0
"""Seconds that a call without a deadline waits for tokens before it gives up: as long as a path
may be silent, after which hundreds of calls want theirs at once."""
_UNLIMITED_FROM = 256.0
"""A limit that has grown to this many requests is lifted."""
_BOUT = 0.5
"""Seconds in which several throttled replies count as one bout."""
_LOOK_AGAIN = 0.02
"""Seconds, on average, between looks for a free permit."""
_LOOK_FOR_TOKENS = 0.1
"""Seconds, on average, between looks for tokens."""


class RateLimiter:
    """An AIMD concurrency limit (None while the service keeps up) and a retry token bucket."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.tokens: float = _TOKENS
        self._filled = 0.0
        self._under_way: PerProcess[set[object]] = PerProcess(set)
        self._bout_ends = 0.0

    async def acquire(self, ctx: Context) -> object:
        """Wait for a permit under the concurrency limit; give it back by `release`."""
        under_way = self._under_way.here()  # what is under way in a parent never ends here
        while self.limit is not None and len(under_way) >= max(self.limit, 1.0):
            await ctx.sleep(2 * _LOOK_AGAIN * ctx.runtime.jitter())
        permit = object()
        under_way.add(permit)
        return permit

    def release(self, permit: object) -> None:
        self._under_way.here().discard(permit)

    def throttled(self, ctx: Context) -> None:
        """The service asked to slow down."""
        now = ctx.runtime.now()
        if now < self._bout_ends:
            return
        self._bout_ends = now + _BOUT
        self.limit = max((self.limit or float(ctx.concurrency)) / 2, 1.0)
        _log.info("the service throttles: %.0f requests at a time, at most", self.limit)

    def succeeded(self, paid: int) -> None:
        """A call succeeded whose last retry, if any, had `paid` that many tokens."""
        self.tokens = min(self.tokens + max(paid, 1), _TOKENS)
        if self.limit is not None:
            grown = self.limit + 1 / self.limit
            if grown >= _UNLIMITED_FROM:
                _log.info("the service keeps up: requests are not limited any more")
            self.limit = None if grown >= _UNLIMITED_FROM else grown

    async def take_tokens(self, ctx: Context, error: BlockStoreError) -> int:
        """The tokens that a retry after `error` cost, waited for; 0 when that was in vain.

        A call with a deadline waits until that, which raises `DeadlineExceededError`.
        """
        cost = _cost(error)
        give_up = ctx.runtime.now() + _LONGEST_WAIT
        while not self._take(ctx.runtime.now(), cost):
            if ctx.deadline is None and ctx.runtime.now() >= give_up:
                return 0
            await ctx.sleep(2 * _LOOK_FOR_TOKENS * ctx.runtime.jitter())
        return cost

    def _take(self, now: float, cost: int) -> bool:
        refilled = self.tokens + (now - self._filled) * _TOKENS_A_SECOND
        self._filled = now
        self.tokens = min(refilled, _TOKENS)
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


def _cost(error: BlockStoreError) -> int:
    if isinstance(error, ThrottledError) or never_connected(error):
        return _LEAST_COST
    return _TIMEOUT_COST if isinstance(error, TransportTimeoutError) else _RETRY_COST
