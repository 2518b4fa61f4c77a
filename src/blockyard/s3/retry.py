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
    S3Error,
    ServerError,
    ThrottledError,
    TLSError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)

_TRANSIENT_STATUS = frozenset({500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "RequestTimeout",
        "InternalError",
        "OperationAborted",
        "ConditionalRequestConflict",
        # the body was damaged on its way, which its checksum showed
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
    }
)
_DOUBLINGS = 20
"""Past this many the delay has reached any sensible cap; larger powers only cost time."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard a call tries.

    `attempts` counts all requests, the first included; `before_contact` is the limit for an
    endpoint that was never reached, which is more likely a wrong address than an outage.
    Delays grow from `base` seconds to `cap` seconds.
    """

    attempts: int = 10
    before_contact: int = 3
    base: float = 0.1
    cap: float = 30.0


def is_transient(error: BlockStoreError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, (TLSError, DeadlineExceededError)):
        return False
    if isinstance(error, (TransportError, ThrottledError)):
        return True
    if isinstance(error, ServerError):
        return error.status in _TRANSIENT_STATUS
    return isinstance(error, S3Error) and error.code in _TRANSIENT_CODES


def delay_before_next(
    policy: RetryPolicy,
    failed: int,
    error: BlockStoreError,
    *,
    contacted: bool,
    jitter: float,
) -> float | None:
    """Seconds to wait before the next attempt, or None to give up.

    `failed` counts the attempts so far; `contacted` is whether the endpoint ever answered;
    `jitter` is in [0, 1). The wait that the service asked for is honoured up to the cap.
    """
    limit = policy.attempts
    if not contacted and _never_connected(error):
        limit = min(limit, policy.before_contact)
    if failed >= limit or not is_transient(error):
        return None
    backoff = jitter * min(policy.cap, policy.base * 2 ** min(failed - 1, _DOUBLINGS))
    asked = error.retry_after if isinstance(error, S3Error) else None
    return max(backoff, min(asked or 0.0, policy.cap))


def _never_connected(error: BlockStoreError) -> bool:
    return (
        isinstance(error, (TransportConnectionError, TransportTimeoutError))
        and not error.established
    )
