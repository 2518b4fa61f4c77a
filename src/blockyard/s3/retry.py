"""Whether to try again, and after how long: pure functions, tested as a table.

Exponential backoff with full jitter
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/). There is
no other retry in blockyard: a call makes at most `attempts` requests that fail, whatever fails
in them, and ends when its deadline does.
"""

from __future__ import annotations

from dataclasses import dataclass

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
)

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
    so, or a service that failed, may have passed on what it was sent.
    """
    if isinstance(error, TransportError):
        return not never_connected(error)
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
