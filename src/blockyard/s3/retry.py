"""When requests are sent again, how many at a time, and which reads twice.

Retries are pure functions, tested as a table: exponential backoff with full jitter
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/). There is
no other retry in blockyard: a call makes at most `attempts` requests that fail, whatever fails
in them, and ends when its deadline does.

Client-side rate control is an AIMD concurrency limit and a retry token bucket, one a store. Each
bout of throttling halves the number of requests in flight, each success raises it a little
(additive increase, multiplicative decrease: RFC 5681, section 3.1). Retries are paid for from a
bucket of tokens that successes fill again, so that a service in trouble does not get several times
its usual load. An empty bucket fills slowly by itself: calls wait for their tokens, and so outlast
a service that restarts, without a storm.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html

A few slow replies make the tail of a service's latency; a read whose first byte is later than that
of 95 in 100 is sent again on another connection, where most come at once (Dean and Barroso, "The
Tail at Scale", 2013). At most one read in twenty, however slow the service becomes, so that
hedging never doubles its load.

Threads and event loops share all of it without a lock: a race costs a little precision.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from itertools import count
from weakref import ref

from blockyard.context import Context, Hedge
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
    """How hard a call tries.

    `attempts` counts all requests, the first included; `before_contact` is the limit where the
    endpoint never answered and refuses connections, has no address, or is no S3 service: that is
    more likely a wrong address than an outage. One that stays silent is waited for as later: so
    does an outage look. Delays grow from `base` seconds to `cap` seconds; to
    `cap_before_contact` while the endpoint never answered.
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
    """Whether the request that this is the outcome of may have been carried out all the same.

    Not where nothing can have been sent, nor where the service itself refused: a proxy that says
    so, or a service that failed, may have passed on what it was sent. What it stored otherwise than
    it was asked to is stored.
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
    if not contacted and _looks_wrong(error):
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


def _looks_wrong(error: BlockStoreError) -> bool:
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
_BOUT = 0.5
"""Seconds in which several throttled replies count as one bout."""
_LOOK_AGAIN = 0.02
"""Seconds, on average, between looks for a free permit."""
_LOOK_FOR_TOKENS = 0.1
"""Seconds, on average, between looks for tokens."""
_SHARE = 8
"""One in so many permits, and one at least, is left to those who have looked in vain."""
_MANY = 50
"""Where more than so many wait each looks less often: all together look no more than those do."""
_LOOK_AT_LAST = 1.0
"""Seconds, on average, between looks, however many wait."""


class Permit:
    """For one request under a concurrency limit. Dropped unreleased, as when a signal handler
    raises on the way to that, it is free as well.
    """

    __slots__ = ("__weakref__",)


class RateLimiter:
    """An AIMD concurrency limit (None while the service keeps up) and a retry token bucket."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.tokens: float = _TOKENS
        self._filled = 0.0
        self._under_way: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._for_permits: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._in_vain: PerProcess[set[ref[Permit]]] = PerProcess(set)
        """Those of them who have looked again, and found none."""
        self._for_tokens: PerProcess[set[ref[Permit]]] = PerProcess(set)
        self._bout_ends = 0.0

    async def acquire(self, ctx: Context) -> Permit:
        """Wait for a permit under the concurrency limit; give it back by `release`, or drop it.

        Who comes first to a free permit gets it, though others wait: these sleep between two looks,
        and it would lie idle. But a few are left to those who have looked in vain: else one that
        gives back a permit, and asks for the next at once, would always be before them.
        """
        under_way, permit = self._under_way.here(), Permit()  # a parent's never end here
        if self.limit is not None:
            await self._wait_for_permit(ctx, under_way, permit)
        under_way.add(ref(permit, under_way.discard))
        return permit

    async def _wait_for_permit(
        self, ctx: Context, under_way: set[ref[Permit]], permit: Permit
    ) -> None:
        waiting, in_vain, own = self._for_permits.here(), self._in_vain.here(), ref(permit)
        try:
            while self.limit is not None:
                limit = max(self.limit, 1.0)
                others = 0 if own in in_vain else len(in_vain)
                if len(under_way) + min(others, max(limit / _SHARE, 1.0)) < limit:
                    return
                looked = in_vain if own in waiting else waiting
                looked.add(ref(permit, looked.discard))
                await ctx.sleep(_until_next_look(ctx, _LOOK_AGAIN, len(waiting)))
        finally:
            waiting.discard(own)
            in_vain.discard(own)

    def release(self, permit: Permit) -> None:
        self._under_way.here().discard(ref(permit))

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
        if self.tokens < _TOKENS:
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
        waiting, permit = self._for_tokens.here(), Permit()
        try:
            while not self._take(ctx.runtime.now(), cost):
                if ctx.deadline is None and ctx.runtime.now() >= give_up:
                    return 0
                waiting.add(ref(permit, waiting.discard))
                await ctx.sleep(_until_next_look(ctx, _LOOK_FOR_TOKENS, len(waiting)))
        finally:
            waiting.discard(ref(permit))
        return cost

    def _take(self, now: float, cost: int) -> bool:
        refilled = self.tokens + (now - self._filled) * _TOKENS_A_SECOND
        self._filled = now
        self.tokens = min(refilled, _TOKENS)
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


def _until_next_look(ctx: Context, seconds: float, waiting: int) -> float:
    """Seconds that one of so many who wait sleeps until it looks again: `seconds` on average.

    Longer where many wait, but not so that a deadline passes meanwhile.
    """
    chance = 2 * ctx.runtime.jitter()
    pause = chance * min(max(_LOOK_AT_LAST, seconds), seconds * max(1.0, waiting / _MANY))
    if ctx.deadline is not None:
        pause = min(pause, max(chance * seconds, (ctx.deadline - ctx.runtime.now()) / 2))
    return pause


def _cost(error: BlockStoreError) -> int:
    if isinstance(error, ThrottledError) or never_connected(error):
        return _LEAST_COST
    return _TIMEOUT_COST if isinstance(error, TransportTimeoutError) else _RETRY_COST


# Hedging

_REMEMBERED = 512
_ENOUGH = 64
"""Reads to have seen before the first hedge."""
_RECOUNT = 32
"""Reads between two looks at the 95th percentile."""
_PRICE = 20
"""Reads that pay for one hedge. No more than those remembered count."""


class Hedging:
    """What one store has seen of its reads. `sent` counts the second requests, and `won` those
    that were answered first.

    `hedge` is for the next read; None while too few have been seen. Threads share this without a
    lock: taking from the credit is one step, and the rest may lose a count.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.sent = 0
        self.won = 0
        self.hedge: Hedge | None = None
        self._reads = count(1)
        self._credit: deque[None] = deque(maxlen=_REMEMBERED // _PRICE)
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)

    def answered(self, waited: float) -> None:
        """A read's first byte came `waited` seconds after it was first requested."""
        self.reads = reads = next(self._reads)
        self._waits.append(waited)
        if reads % _PRICE == 0:
            self._credit.append(None)
        if reads >= _ENOUGH and reads % _RECOUNT == 0:
            waits = sorted(self._waits)
            self.hedge = Hedge(waits[len(waits) * 95 // 100], self._pay, self._count_won)

    def _count_won(self) -> None:
        self.won += 1

    def _pay(self) -> bool:
        """Whether there is credit for one hedge, which is then used up. Never waits."""
        try:
            _ = self._credit.pop()
        except IndexError:
            return False
        self.sent += 1
        _log.debug("a read is sent a second time: its first byte is late")
        return True
