"""One S3 call: tried again, signed anew, recovered, and told in full."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    DeadlineExceededError,
    InvalidRangeError,
    ProtocolError,
    S3Error,
    ServerError,
    StoreClosedError,
    ThrottledError,
    TLSError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)
from blockyard.s3.credentials import Credentials, CredentialSource
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from tests.s3.pretend import reply
from tests.s3.scripted_service import DATE, EMPTY, OK, Scripted, amazon, s3_error

EXPIRED = s3_error(400, "ExpiredToken")
SKEWED = s3_error(403, "RequestTimeTooSkewed", date="Tue, 14 Nov 2023 23:13:20 GMT")
RESET = TransportConnectionError("reset by the test")


def region_of(request: Request) -> str:
    match = re.search(r"Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request", authorization(request))
    assert match is not None
    return match[1]


def authorization(request: Request) -> str:
    return request.headers["authorization"]


@pytest.mark.parametrize(
    "failure",
    [
        *(s3_error(status) for status in (429, 500, 502, 503, 504)),
        s3_error(503, "SlowDown"),
        s3_error(500, "InternalError"),
        s3_error(400, "RequestTimeout"),
        reply(206, {"etag": '"e"'}, b"hello"),
        RESET,
        TransportTimeoutError("no byte moved"),
        ProtocolError("garbage"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_until_it_has_passed(failure: Response | BlockStoreError) -> None:
    s3 = Scripted(*[failure] * 9, OK)
    assert s3.read() == b"hello"
    assert len(s3.requests) == 10
    assert len(s3.pauses) == 9


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (s3_error(400, "InvalidURI"), S3Error),
        (s3_error(507, "InsufficientStorage"), ServerError),
        (s3_error(403), AccessDeniedError),
        (s3_error(404, "NoSuchKey"), BlockNotFoundError),
        (s3_error(404, "NoSuchBucket"), BucketNotFoundError),
        (s3_error(405, "MethodNotAllowed"), S3Error),
        (s3_error(412, "PreconditionFailed"), S3Error),
        (s3_error(505), ServerError),
        (s3_error(301, "PermanentRedirect"), S3Error),
        (s3_error(307), S3Error),
        (TLSError("certificate"), TLSError),
        (StoreClosedError("closed"), StoreClosedError),
        (DeadlineExceededError("late"), DeadlineExceededError),
    ],
    ids=repr,
)
def test_what_lasts_is_told_at_once(
    failure: Response | BlockStoreError, kind: type[BlockStoreError]
) -> None:
    s3 = Scripted(failure)
    with pytest.raises(kind) as raised:
        _ = s3.read()
    assert type(raised.value) is kind
    assert len(s3.requests) == 1
    assert s3.pauses == []


@pytest.mark.parametrize(("max_attempts", "tries"), [(10, 10), (4, 4), (1, 1)])
@pytest.mark.parametrize("failure", [s3_error(500, "InternalError"), s3_error(503, "SlowDown")])
def test_the_tries_are_limited_and_all_of_them_told(
    max_attempts: int, tries: int, failure: Response
) -> None:
    s3 = Scripted(failure, max_attempts=max_attempts)
    with pytest.raises(S3Error) as raised:
        _ = s3.read()
    assert len(s3.requests) == tries
    assert raised.value.attempts == tries
    notes = getattr(raised.value, "__notes__", [])
    assert [note.split(":")[0] for note in notes] == [f"attempt {n}" for n in range(1, tries)]
    assert all("read_block 'key'" in note for note in notes)
    assert "read_block 'key'" in str(raised.value)


def test_ten_tries_are_the_default() -> None:
    s3 = Scripted(s3_error(500))
    with pytest.raises(ServerError):
        _ = s3.read()
    assert len(s3.requests) == 10


@pytest.mark.parametrize(
    ("first", "tries"),
    [(TransportConnectionError("refused", established=False), 3), (RESET, 10)],
)
def test_an_endpoint_that_never_answered_is_given_up_sooner(
    first: BlockStoreError, tries: int
) -> None:
    s3 = Scripted(first)
    with pytest.raises(TransportConnectionError, match="read_block 'key'"):
        _ = s3.read()
    assert len(s3.requests) == tries


def test_an_endpoint_that_answered_once_is_given_more_tries() -> None:
    refused = TransportConnectionError("refused", established=False)
    s3 = Scripted(OK, refused)
    _ = s3.read()
    with pytest.raises(TransportConnectionError):
        _ = s3.read()
    assert len(s3.requests) == 1 + 10


def test_an_error_that_is_an_os_error_too_names_the_operation_once() -> None:
    s3 = Scripted(RESET, max_attempts=3)
    with pytest.raises(TransportConnectionError) as raised:
        _ = s3.read()
    assert str(raised.value) == "read_block 'key': reset by the test"
    assert raised.value.args == ("read_block 'key': reset by the test",)
    assert isinstance(raised.value, ConnectionError)
    assert raised.value.__notes__ == [f"attempt {n}: reset by the test" for n in (1, 2)]


def test_every_try_is_signed_anew() -> None:
    s3 = Scripted(s3_error(503, retry_after="2"), s3_error(503, retry_after="2"), OK)
    assert s3.read() == b"hello"
    dates = [request.headers["x-amz-date"] for request in s3.requests]
    assert dates == ["20231114T221320Z", "20231114T221322Z", "20231114T221324Z"]
    assert len({authorization(request) for request in s3.requests}) == 3


def test_the_deadline_ends_the_tries() -> None:
    s3 = Scripted(s3_error(503, "SlowDown", retry_after="2"))
    s3.ctx = Context(s3.runtime, deadline=5.0)
    with pytest.raises(DeadlineExceededError) as raised:
        _ = s3.read()
    assert len(s3.requests) == 3
    assert s3.pauses == [2.0, 2.0]
    assert "read_block 'key'" in str(raised.value)
    assert isinstance(raised.value.__cause__, ThrottledError)
    assert len(raised.value.__notes__) == 3


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_interruption_passes_and_leaves_nothing_counted(interruption: BaseException) -> None:
    s3 = Scripted(s3_error(503, "SlowDown"), interruption, OK)
    with pytest.raises(type(interruption)):
        _ = s3.read()
    assert len(s3.requests) == 2
    assert s3.read() == b"hello"


class Renewable(CredentialSource):
    """Credentials that are renewed when asked to, and how often they were."""

    def __init__(self, lasting: bool = False) -> None:
        self.renewals = 0
        self._lasting = lasting
        self._now = Credentials("AKID0", "secret0", "token0")

    async def current(self, ctx: Context) -> Credentials | None:
        return self._now

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        if self._lasting:
            return False
        if stale == self._now:
            self.renewals += 1
            number = self.renewals
            self._now = Credentials(f"AKID{number}", f"secret{number}", f"token{number}")
        return True


def test_expired_credentials_are_renewed_once() -> None:
    source = Renewable()
    s3 = Scripted(EXPIRED, OK, credentials=source)
    assert s3.read() == b"hello"
    assert s3.pauses == []
    tokens = [request.headers["x-amz-security-token"] for request in s3.requests]
    assert tokens == ["token0", "token1"]
    assert "Credential=AKID1/" in authorization(s3.requests[1])
    assert source.renewals == 1


@pytest.mark.parametrize("lasting", [True, False])
def test_credentials_that_stay_expired_are_an_error(lasting: bool) -> None:
    source = Renewable(lasting)
    s3 = Scripted(EXPIRED, credentials=source)
    with pytest.raises(AccessDeniedError, match="ExpiredToken"):
        _ = s3.read()
    assert len(s3.requests) == (1 if lasting else 2)


def test_calls_that_find_the_same_credentials_expired_renew_them_once() -> None:
    """The second call is answered while the first one, signed as it was, is still under way."""
    source = Renewable()

    def meanwhile(_: Request) -> Response:
        assert s3.read("second") == b"hello"
        return EXPIRED

    s3 = Scripted(meanwhile, EXPIRED, OK, credentials=source)
    assert s3.read("first") == b"hello"
    assert source.renewals == 1
    assert len(s3.requests) == 4


def test_the_clock_of_the_service_is_learnt_once_and_used_by_later_calls() -> None:
    s3 = Scripted(SKEWED, OK)
    assert s3.read() == b"hello"
    assert s3.read() == b"hello"
    dates = [request.headers["x-amz-date"] for request in s3.requests]
    assert dates == ["20231114T221320Z", "20231114T231320Z", "20231114T231320Z"]
    assert s3.pauses == []


def test_a_clock_that_stays_skewed_is_an_error() -> None:
    s3 = Scripted(SKEWED)
    with pytest.raises(AccessDeniedError, match="clock"):
        _ = s3.read()
    assert len(s3.requests) == 2


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_service_that_does_not_tell_its_time_teaches_nothing(date: str) -> None:
    s3 = Scripted(s3_error(403, "RequestTimeTooSkewed", date=date), OK)
    with pytest.raises(AccessDeniedError):
        _ = s3.read()
    assert s3.read() == b"hello"
    assert [each.headers["x-amz-date"] for each in s3.requests] == ["20231114T221320Z"] * 2


def test_a_wait_until_a_date_is_measured_by_the_services_clock() -> None:
    later = s3_error(503, "SlowDown", retry_after="Tue, 14 Nov 2023 23:13:25 GMT")
    s3 = Scripted(SKEWED, later, OK)
    assert s3.read() == b"hello"
    assert s3.pauses == [5.0]


ELSEWHERE = {
    "301 with a header": s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
    "301 to a HEAD": s3_error(301, x_amz_bucket_region="eu-west-1"),
    "307": s3_error(307, "TemporaryRedirect", x_amz_bucket_region="eu-west-1"),
    "400 to a HEAD": s3_error(400, x_amz_bucket_region="eu-west-1"),
    "400 with its name": reply(
        400,
        {},
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
    ),
}


@pytest.mark.parametrize("answer", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_the_region_is_learnt_once_and_used_by_later_calls(answer: Response) -> None:
    s3 = Scripted(answer, OK)
    assert s3.read() == b"hello"
    assert s3.read() == b"hello"
    assert [region_of(each) for each in s3.requests] == ["us-east-1", "eu-west-1", "eu-west-1"]
    assert s3.pauses == []


def test_the_region_is_part_of_amazons_own_host_names() -> None:
    s3 = Scripted(ELSEWHERE["301 with a header"], OK, endpoint="", force_path_style=False)
    assert s3.read() == b"hello"
    assert [each.origin.host for each in s3.requests] == [
        "bucket.s3.us-east-1.amazonaws.com",
        "bucket.s3.eu-west-1.amazonaws.com",
    ]
    assert s3.requests[1].headers["host"] == s3.requests[1].origin.host


def test_calls_that_find_the_same_region_wrong_all_go_on() -> None:
    """The second call has learnt the region when the first one hears that it was wrong."""

    def meanwhile(_: Request) -> Response:
        assert s3.read("second") == b"hello"
        return ELSEWHERE["301 with a header"]

    s3 = Scripted(meanwhile, ELSEWHERE["301 with a header"], OK)
    assert s3.read("first") == b"hello"
    assert [region_of(each) for each in s3.requests] == [
        "us-east-1",
        "us-east-1",
        "eu-west-1",
        "eu-west-1",
    ]


def test_a_service_that_sends_calls_from_region_to_region_is_an_error() -> None:
    def wander(request: Request) -> Response:
        there = "eu-west-2" if region_of(request) == "eu-west-1" else "eu-west-1"
        return s3_error(301, "PermanentRedirect", x_amz_bucket_region=there)

    s3 = Scripted(wander)
    with pytest.raises(S3Error, match="elsewhere"):
        _ = s3.read()
    assert len(s3.requests) == 2


def test_a_region_that_is_named_though_it_is_the_right_one_is_no_reason_to_try_again() -> None:
    s3 = Scripted(s3_error(400, "InvalidURI", x_amz_bucket_region="us-east-1"))
    with pytest.raises(S3Error):
        _ = s3.read()
    assert len(s3.requests) == 1


@pytest.mark.parametrize("region", ["", "a b", "x" * 41, "eu-west-1\r\nx: y"])
def test_what_is_no_region_is_not_learnt(region: str) -> None:
    s3 = Scripted(s3_error(301, "PermanentRedirect", x_amz_bucket_region=region), OK)
    with pytest.raises(S3Error):
        _ = s3.read()
    assert s3.read() == b"hello"
    assert {region_of(each) for each in s3.requests} == {"us-east-1"}


def test_all_that_can_be_healed_is_healed_in_one_call() -> None:
    source = Renewable()
    elsewhere = ELSEWHERE["301 with a header"]
    s3 = Scripted(elsewhere, EXPIRED, SKEWED, s3_error(503), OK, credentials=source)
    assert s3.read() == b"hello"
    assert len(s3.requests) == 5
    assert len(s3.pauses) == 1


def test_a_range_that_nobody_asked_for_is_not_what_was_wrong() -> None:
    refused = s3_error(416, "InvalidRange")
    s3 = Scripted(refused, reply(200, {"etag": '"e"'}, b""))
    part = ReadRequest("key", 1, 2, operation="read_block_range")
    with pytest.raises(InvalidRangeError):
        _ = s3.run(s3.store.read(s3.ctx, part))
    s3 = Scripted(refused)
    for operation in (
        s3.store.write(s3.ctx, WriteRequest("key", b"block")),
        s3.store.list(s3.ctx, ListRequest("")),
        s3.store.copy_block(s3.ctx, "key", "other"),
    ):
        with pytest.raises(S3Error, match=r"the service refused \(416 InvalidRange\)") as raised:
            _ = s3.run(operation)
        assert raised.value.status == 416


def test_the_ids_of_an_error_response_are_told() -> None:
    answer = s3_error(500, "InternalError", x_amz_request_id="REQ404", x_amz_id_2="HOST")
    s3 = Scripted(answer, max_attempts=2)
    with pytest.raises(ServerError) as raised:
        _ = s3.read()
    error = raised.value
    assert (error.status, error.code, error.request_id, error.host_id, error.attempts) == (
        500,
        "InternalError",
        "REQ404",
        "HOST",
        2,
    )
    assert "REQ404" in str(error)


def test_a_request_that_is_not_signed_has_nothing_of_the_sort() -> None:
    s3 = Scripted(OK)
    anonymous = Scripted(OK, credentials=_Nobody())
    _ = s3.read(), anonymous.read()
    assert "authorization" in s3.requests[0].headers
    assert not {"authorization", "x-amz-date"} & anonymous.requests[0].headers.keys()


class _Nobody(CredentialSource):
    async def current(self, ctx: Context) -> Credentials | None:
        return None

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        return False


def test_every_request_names_its_client() -> None:
    """Firewalls refuse requests without, and operators look for it."""
    s3 = Scripted(reply(503, {}, b""), s3_error(403), s3_error(403, "AccessDenied"))
    with pytest.raises(AccessDeniedError):
        _ = s3.run(s3.store.stat_block(s3.ctx, "key"))
    anonymous = Scripted(OK, credentials=_Nobody())
    _ = anonymous.read()
    assert [each.method for each in s3.requests] == ["HEAD", "HEAD", "GET"]
    agents = {each.headers["user-agent"] for each in [*s3.requests, *anonymous.requests]}
    assert len(agents) == 1
    assert re.fullmatch(r"blockyard/[0-9][\w.]* Python/3\.\d+", agents.pop())
    assert "user-agent" not in authorization(s3.requests[0])  # proxies may change it


def test_each_retry_and_each_recovery_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "blockyard")
    elsewhere = ELSEWHERE["301 with a header"]
    answers = [
        s3_error(503, "SlowDown", retry_after="2"),
        RESET,
        elsewhere,
        EXPIRED,
        SKEWED,
        OK,
    ]
    s3 = Scripted(*answers, credentials=Renewable())
    assert s3.read() == b"hello"
    assert {record.name for record in caplog.records} == {"blockyard.s3"}
    assert [record.getMessage() for record in caplog.records] == [
        "the service throttles: 16 requests at a time, at most",
        "read_block 'key': attempt 1 failed (ThrottledError), the next in 2.00 s",
        "read_block 'key': attempt 2 failed (TransportConnectionError), the next in 0.05 s",
        "read_block 'key': the bucket is in eu-west-1",
        "read_block 'key': ExpiredToken: credentials are renewed",
        "read_block 'key': the clock of the service is +3598 s off",
    ]


def test_a_call_that_goes_well_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _ = Scripted(OK).read()
    assert caplog.records == []


SECRETS = ("the-secret", "the-token", "t0ps3cr3t")


@pytest.mark.parametrize(
    "answer",
    [EXPIRED, SKEWED, *ELSEWHERE.values(), s3_error(403, "SignatureDoesNotMatch"), RESET, OK],
    ids=repr,
)
def test_no_secret_is_in_an_error_a_log_or_a_repr(
    answer: Response | BlockStoreError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    s3 = Scripted(answer, max_attempts=3)
    shown = [repr(s3.store), repr(s3.store._caller), repr(s3.store._caller.site)]
    try:
        _ = s3.read()
    except BlockStoreError as error:
        shown += [repr(error), *traceback.format_exception(error)]
        shown += [repr(vars(error))]
    shown += [record.getMessage() for record in caplog.records]
    for secret in SECRETS:
        assert not [text for text in shown if secret in text]
    assert all(secret not in repr(each.target) for each in s3.requests for secret in SECRETS)


def test_no_secret_is_in_the_repr_of_a_configuration() -> None:
    config = S3Config(
        bucket="bucket", access_key="AKID", secret_key="t0ps3cr3t", session_token="the-token"
    )
    for shown in (repr(config), str(config), repr(Credentials("AKID", "t0ps3cr3t", "the-token"))):
        assert not [secret for secret in SECRETS if secret in shown]


def test_the_time_of_the_tests_is_what_they_say() -> None:
    s3 = Scripted(s3_error(403, "RequestTimeTooSkewed", date=DATE), EMPTY)
    s3.run(s3.store.delete_block(s3.ctx, "key"))
    assert [each.headers["x-amz-date"] for each in s3.requests] == ["20231114T221320Z"] * 2


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda store, ctx: store.read(ctx, ReadRequest("a")), "may list the bucket"),
        (lambda store, ctx: store.stat_block(ctx, "a"), "may list the bucket"),
        (lambda store, ctx: store.copy_block(ctx, "a", "b"), "may list the bucket"),
        (lambda store, ctx: store.write(ctx, WriteRequest("a", b"x")), "have to allow it"),
        (lambda store, ctx: store.delete_block(ctx, "a"), "have to allow it"),
        (lambda store, ctx: store.list(ctx, ListRequest("a")), "have to allow it"),
    ],
)
def test_only_who_reads_is_told_that_a_block_may_be_missing(
    call: Callable[[Any, Any], Any], advice: str
) -> None:
    s3 = amazon(s3_error(403, "AccessDenied"))
    with pytest.raises(AccessDeniedError, match=advice):
        _ = s3.run(call(s3.store, s3.ctx))


def of_name(error: TransportConnectionError) -> TransportConnectionError:
    error.of_name = True
    return error


@pytest.mark.parametrize(
    ("settings", "failure", "advised"),
    [
        ({}, of_name(TLSError("another name")), True),
        ({}, of_name(TransportConnectionError("not resolved", established=False)), True),
        ({}, TransportConnectionError("refused", established=False), False),
        ({}, TransportTimeoutError("connecting", established=False), False),
        ({"force_path_style": True}, of_name(TLSError("another name")), False),
        ({"endpoint": ""}, of_name(TLSError("another name")), False),
        ({"endpoint": "s3.eu-west-1.amazonaws.com"}, of_name(TLSError("another name")), False),
    ],
)
def test_a_bucket_in_a_host_name_that_fails_is_told_of(
    settings: dict[str, Any], failure: TransportError, advised: bool
) -> None:
    given = {"endpoint": "https://minio.example.com", "force_path_style": False, **settings}
    s3 = Scripted(failure, max_attempts=1, **given)
    with pytest.raises(type(failure)) as raised:
        _ = s3.read()
    assert ("set force_path_style: true" in str(raised.value)) == advised
