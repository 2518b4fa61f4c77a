"""Whether to try again and after how long, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    ConfigError,
    DeadlineExceededError,
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    LocalStorageError,
    NotS3Error,
    OversizedBodyError,
    ProtocolError,
    S3Error,
    ServerError,
    StoreClosedError,
    ThrottledError,
    TLSError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.s3.retry import RetryPolicy, delay_before_next, is_transient, never_connected

POLICY = RetryPolicy()
RESET = TransportConnectionError("reset")


def incomplete() -> IncompleteBodyError:
    return IncompleteBodyError(
        "cut", headers={}, status=200, received=1, expected=2, partial=b"x", cause=RESET
    )


TRANSIENT: list[BlockStoreError] = [
    TransportConnectionError("reset"),
    TransportConnectionError("refused", established=False),
    TransportTimeoutError("no byte moved"),
    TransportTimeoutError("connecting", established=False),
    ProtocolError("garbage"),
    OversizedBodyError("too much", status=206, size=9),
    incomplete(),
    ThrottledError("slow down", status=503, code="SlowDown"),
    ThrottledError("slow down", status=429),
    NotS3Error("a web page"),
    *(S3Error("failed", status=status) for status in (408, 425, 499)),
    *(ServerError("failed", status=status) for status in (500, 502, 503, 504, 509, 599)),
    *(ServerError("failed", status=status) for status in range(520, 531)),
    S3Error("cut short", status=400, code="IncompleteBody"),
    S3Error("idle", status=400, code="RequestTimeoutException"),
    S3Error("idle", status=400, code="RequestTimeout"),
    S3Error("late", status=200, code="InternalError"),
    S3Error("busy", status=409, code="OperationAborted"),
    S3Error("race", status=409, code="ConditionalRequestConflict"),
    S3Error("damaged", status=400, code="BadDigest"),
    S3Error("damaged", status=400, code="XAmzContentSHA256Mismatch"),
]
LASTING: list[BlockStoreError] = [
    TLSError("certificate"),
    TLSError("certificate", established=False),
    DeadlineExceededError("too late"),
    AccessDeniedError("no", status=403, code="AccessDenied"),
    BucketNotFoundError("none", status=404, code="NoSuchBucket"),
    BlockNotFoundError("none"),
    BlockExistsError("there"),
    InvalidRangeError("past"),
    IntegrityError("sums"),
    ConfigError("wrong"),
    StoreClosedError("closed"),
    LocalStorageError("full"),
    *(ServerError("failed", status=status) for status in (501, 505, 507)),
    *(S3Error("odd", status=status) for status in (301, 307, 400, 405, 409, 411, 412, 413)),
    S3Error("odd", status=400, code="SlowDownNot"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_may_pass_is_tried_again(error: BlockStoreError) -> None:
    assert is_transient(error)
    delay = delay_before_next(POLICY, 1, error, contacted=True, jitter=0.5)
    assert delay == pytest.approx(0.075 if never_connected(error) else 0.05)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_lasts_is_told_at_once(error: BlockStoreError) -> None:
    assert not is_transient(error)
    assert delay_before_next(POLICY, 1, error, contacted=True, jitter=0.5) is None


@pytest.mark.parametrize(
    ("failed", "longest"),
    [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (8, 12.8), (9, 25.6), (10, None), (11, None)],
)
def test_the_delay_doubles_and_is_drawn_from_nothing_up(failed: int, longest: float | None) -> None:
    for jitter in (0.0, 0.25, 0.5, 0.999):
        delay = delay_before_next(POLICY, failed, RESET, contacted=True, jitter=jitter)
        assert delay == (None if longest is None else pytest.approx(jitter * longest))


@pytest.mark.parametrize(
    ("attempts", "failed", "again"),
    [(1, 1, False), (2, 1, True), (2, 2, False), (10, 9, True), (10, 10, False), (1000, 999, True)],
)
def test_the_attempts_are_counted_with_the_first(attempts: int, failed: int, again: bool) -> None:
    policy = RetryPolicy(attempts=attempts)
    delay = delay_before_next(policy, failed, RESET, contacted=True, jitter=0.5)
    assert (delay is not None) == again


@pytest.mark.parametrize(
    ("error", "contacted", "most"),
    [
        (TransportConnectionError("refused", established=False), False, 3),
        (TransportConnectionError("refused", established=False), True, 10),
        (NotS3Error("a web page"), False, 3),
        (NotS3Error("a web page"), True, 10),
        (TransportTimeoutError("connecting", established=False), False, 10),
        (TransportConnectionError("reset"), False, 10),
        (TransportTimeoutError("no byte moved"), False, 10),
        (ServerError("failed", status=500), False, 10),
    ],
)
def test_an_endpoint_that_never_answered_is_given_up_sooner(
    error: BlockStoreError, contacted: bool, most: int
) -> None:
    tries = [
        delay_before_next(POLICY, failed, error, contacted=contacted, jitter=0.5)
        for failed in range(1, 12)
    ]
    assert [delay is not None for delay in tries].count(True) == most - 1
    assert tries[most - 1] is None


def test_a_limit_below_that_for_unreached_endpoints_holds_for_them_too() -> None:
    refused = TransportConnectionError("refused", established=False)
    policy = RetryPolicy(attempts=1)
    assert delay_before_next(policy, 1, refused, contacted=False, jitter=0.5) is None


@pytest.mark.parametrize(
    ("asked", "jitter", "delay"),
    [(None, 0.5, 0.05), (0.0, 0.5, 0.05), (2.0, 0.5, 2.0), (3600.0, 0.5, 30.0), (0.01, 0.9, 0.09)],
)
def test_the_service_may_ask_for_a_longer_wait_but_not_for_any(
    asked: float | None, jitter: float, delay: float
) -> None:
    error = ThrottledError("slow down", status=503)
    error.retry_after = asked
    found = delay_before_next(POLICY, 1, error, contacted=True, jitter=jitter)
    assert found == pytest.approx(delay)


@given(
    failed=st.integers(1, 2000),
    jitter=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(1, 1000),
    asked=st.none() | st.floats(0, 1e9),
)
def test_no_delay_is_negative_or_over_the_cap(
    failed: int, jitter: float, attempts: int, asked: float | None
) -> None:
    error = ThrottledError("slow down", status=503)
    error.retry_after = asked
    policy = RetryPolicy(attempts=attempts)
    delay = delay_before_next(policy, failed, error, contacted=True, jitter=jitter)
    if delay is None:
        assert failed >= attempts
    else:
        assert 0 <= delay <= policy.cap
