"""Retry policy and client-side rate control.

Retries are pure functions, tested as a table: exponential backoff with full jitter
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/). There is
no other retry in blockyard: a call makes at most `attempts` requests that fail, whatever fails
in them, and ends when its deadline does.

Client-side rate control is an AIMD concurrency limit and a retry token bucket, one a store. Each
episode of throttling halves the number of requests in flight, each success raises it a little
(additive increase, multiplicative decrease: RFC 5681, section 3.1). Retries are paid for from a
bucket of tokens that successes fill again, so that a service in trouble does not get several times
its usual load. An empty bucket fills slowly by itself: calls wait for their tokens, and so outlast
a service that restarts, without a storm.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html

Threads and event loops share all of it without a lock: a race costs a little precision.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from weakref import ref

from blockyard.context import Context
from blockyard.errors import (
    BlockStoreError,
    DeadlineExceededError,
    NotS3Error,
    S3Error,
    StoreClosedError,
    ThrottledError,
    TLSError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
    UnsupportedError,
)
from blockyard.process import PerProcess

_log = logging.getLogger("blockyard.s3")
_TRANSIENT_STATUS = frozenset({408, 425, 499, 500, 502, 503, 504, 509, *range(520, 531), 599})
"""Besides HTTP's own: what proxies answer that gave up on the service (nginx 499, Cloudflare 520
to 530, others 509 and 599). Those that last are 501, 505 and 507, whatever sends them."""
_TRANSIENT_CODES = frozenset(
    {
        "RequestTimeout",
        "RequestTimeoutException",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "ConditionalRequestConflict",
        # the body was damaged on its way, which its checksum showed
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
    }
)
_NOT_DONE = frozenset(
    {"RequestTimeout", "RequestTimeoutException", "IncompleteBody", "NotImplemented"}
)
"""Codes of a request that had not come whole."""
_DOUBLINGS = 20
"""Past this many the delay has reached any sensible cap; larger powers only cost time."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is attempted, and the backoff between attempts.

    attempts: limit of all requests of a call, the first included
    before_contact: the limit while the endpoint has never answered and it refuses connections, has
        no address, or is no S3 service: more likely a wrong address than an outage. Timeouts keep
        the limit of `attempts`, since they look like an outage.
    base, cap: the backoff grows from `base` to `cap` seconds
    cap_before_contact: the cap while the endpoint has never answered
    """

    attempts: int = 10
    before_contact: int = 3
    base: float = 0.1
    cap: float = 30.0
    cap_before_contact: float = 10.0


def is_transient(error: BlockStoreError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, (TLSError, DeadlineExceededError)):
        return False
    if isinstance(error, (TransportError, ThrottledError)):
        return True
    if not isinstance(error, S3Error):
        return False
    return error.status in _TRANSIENT_STATUS or error.code in _TRANSIENT_CODES


def may_have_taken_effect(error: BlockStoreError) -> bool:
    """Whether a request that ended with this error may have been carried out all the same.

    No where nothing can have been sent, or where the service itself refused the request. Yes where
    a proxy gave up or the service failed, since either may have passed the request on, and where
    the object was stored without the options requested.
    """
    if isinstance(error, TransportError):
        return not never_connected(error)
    if isinstance(error, UnsupportedError):
        return error.of_options
    if not isinstance(error, S3Error):
        return isinstance(error, StoreClosedError)  # which cuts off what is under way
    if isinstance(error, ThrottledError):
        return error.status == 503 and not error.code
    return error.status in _TRANSIENT_STATUS and error.code not in _NOT_DONE


def delay_before_next(
    policy: RetryPolicy,
    failed: int,
    error: BlockStoreError,
    *,
    contacted: bool,
    jitter: float,
) -> float | None:
    """Seconds to wait before the next attempt, or None to give up.

    `failed` counts the attempts so far; `contacted` is whether the endpoint ever sent a reply
    that an S3 service sends; `jitter` is in [0, 1). The wait that the service requested is
    honoured up to the cap.
    """
    limit = policy.attempts
    if not contacted and _suggests_wrong_address(error):
        limit = min(limit, policy.before_contact)
    if failed >= limit or not is_transient(error):
        return None
    if never_connected(error):
        jitter = (1 + jitter) / 2  # nobody is spared load, and the tries last through an outage
    cap = policy.cap if contacted else min(policy.cap, policy.cap_before_contact)
    backoff = jitter * min(cap, policy.base * 2 ** min(failed - 1, _DOUBLINGS))
    requested = error.retry_after if isinstance(error, S3Error) else None
    return max(backoff, min(requested or 0.0, policy.cap))


def never_connected(error: BlockStoreError) -> bool:
    """Whether nothing can have been sent."""
    kinds = (TransportConnectionError, TransportTimeoutError)
    return isinstance(error, kinds) and not error.established


def _suggests_wrong_address(error: BlockStoreError) -> bool:
    """Whether the address is more likely at fault than the service."""
    refused = isinstance(error, TransportConnectionError) and not error.established
    return refused or isinstance(error, NotS3Error)


# Client-side rate control

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
_EPISODE = 0.5
"""Seconds in which several throttled replies count as one episode."""
_PERMIT_POLL = 0.02
"""Mean seconds between polls for a free permit."""
_TOKEN_POLL = 0.1
"""Mean seconds between polls for tokens."""
_SHARE = 8
"""One in so many permits, and one at least, is left to those who have polled in vain."""
_MANY_WAITING = 50
"""Where more than so many wait each polls less often: together they poll no more than so many."""
_LONGEST_POLL = 1.0
"""Mean seconds between polls, however many wait."""


class Permit:
    """One request under the concurrency limit.

    It is given back by `RateLimiter.release`, or when it is garbage collected, as after a signal
    handler that raised before the release.
    """

    __slots__ = ("__weakref__",)


class RateLimiter:
    """An AIMD concurrency limit (None while the service keeps up) and a retry token bucket."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.tokens: float = _TOKENS
        self._filled = 0.0
        self._permits: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._for_permits: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._in_vain: PerProcess[set[ref[Permit]]] = PerProcess(set)
        """Those of them who have polled again, and found none."""
        self._for_tokens: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._episode_ends = 0.0

    async def acquire(self, ctx: Context) -> Permit:
        """Wait for a permit under the concurrency limit, to be given back by `release`.

        A newcomer gets a free permit even while others wait: these sleep between two polls, and it
        would lie idle. But a few are left to those who have polled in vain: else a caller that
        gives back a permit, and asks for the next at once, would always be served before them.
        """
        permits, permit = self._permits.here(), Permit()  # a parent process's are never released
        if self.limit is not None:
            await self._wait_for_permit(ctx, permits, permit)
        permits.add(ref(permit, permits.discard))
        return permit

    async def _wait_for_permit(
        self, ctx: Context, permits: set[ref[Permit]], permit: Permit
    ) -> None:
        waiting, in_vain = self._for_permits.here(), self._in_vain.here()
        try:
            await self._permitted(ctx, permit, permits, waiting, in_vain)
        finally:
            waiting.discard(ref(permit))
            in_vain.discard(ref(permit))

    async def _permitted(
        self,
        ctx: Context,
        permit: Permit,
        permits: set[ref[Permit]],
        waiting: set[ref[Permit]],
        in_vain: set[ref[Permit]],
    ) -> None:
        """Poll until one more request is within the limit."""
        own = ref(permit)
        while self.limit is not None:
            limit = max(self.limit, 1.0)
            others = 0 if own in in_vain else len(in_vain)
            if len(permits) + min(others, max(limit / _SHARE, 1.0)) < limit:
                return
            polled = in_vain if own in waiting else waiting
            polled.add(ref(permit, polled.discard))
            await ctx.sleep(_until_next_poll(ctx, _PERMIT_POLL, len(waiting)))

    def release(self, permit: Permit) -> None:
        self._permits.here().discard(ref(permit))

    def throttled(self, ctx: Context) -> None:
        """Halve the limit, once an episode: the service asked to slow down."""
        now = ctx.runtime.now()
        if now < self._episode_ends:
            return
        self._episode_ends = now + _EPISODE
        self.limit = max((self.limit or float(ctx.concurrency)) / 2, 1.0)
        _log.info("the service throttles: %.0f requests at a time, at most", self.limit)

    def succeeded(self, paid: int) -> None:
        """Record a success; `paid` is the price in tokens of the last retry of its call, if any."""
        if self.tokens < _TOKENS:
            self.tokens = min(self.tokens + max(paid, 1), _TOKENS)
        if self.limit is not None:
            grown = self.limit + 1 / self.limit
            if grown >= _UNLIMITED_FROM:
                _log.info("the service keeps up: requests are not limited any more")
            self.limit = None if grown >= _UNLIMITED_FROM else grown

    async def take_tokens(self, ctx: Context, error: BlockStoreError) -> int:
        """Wait for the tokens that a retry after `error` costs, and return how many those are.

        Returns 0 after `_LONGEST_WAIT` without enough of them; a call with a deadline waits until
        that and raises `DeadlineExceededError`.
        """
        waiting, permit = self._for_tokens.here(), Permit()
        try:
            return await self._taken(ctx, _cost(error), permit, waiting)
        finally:
            waiting.discard(ref(permit))

    async def _taken(
        self, ctx: Context, cost: int, permit: Permit, waiting: set[ref[Permit]]
    ) -> int:
        """See `take_tokens`."""
        give_up = ctx.runtime.now() + _LONGEST_WAIT
        while not self._take(ctx.runtime.now(), cost):
            if ctx.deadline is None and ctx.runtime.now() >= give_up:
                return 0
            waiting.add(ref(permit, waiting.discard))
            await ctx.sleep(_until_next_poll(ctx, _TOKEN_POLL, len(waiting)))
        return cost

    def _take(self, now: float, cost: int) -> bool:
        refilled = self.tokens + (now - self._filled) * _TOKENS_A_SECOND
        self._filled = now
        self.tokens = min(refilled, _TOKENS)
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


def _until_next_poll(ctx: Context, seconds: float, waiting: int) -> float:
    """Seconds until one of so many waiting callers polls again: `seconds` on average.

    Longer where many wait, but not so that a deadline passes meanwhile.
    """
    chance = 2 * ctx.runtime.jitter()
    pause = chance * min(max(_LONGEST_POLL, seconds), seconds * max(1.0, waiting / _MANY_WAITING))
    if ctx.deadline is not None:
        pause = min(pause, max(chance * seconds, (ctx.deadline - ctx.runtime.now()) / 2))
    return pause


def _cost(error: BlockStoreError) -> int:
    if isinstance(error, ThrottledError) or never_connected(error):
        return _LEAST_COST
    return _TIMEOUT_COST if isinstance(error, TransportTimeoutError) else _RETRY_COST
