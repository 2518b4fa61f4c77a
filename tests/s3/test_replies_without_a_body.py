"""Error responses to a HEAD have only a status: the reason is found out, the call recovers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from blockyard.context import Context, Request, Response
from blockyard.errors import AccessDeniedError, BlockStoreError
from blockyard.operations import Operations
from blockyard.s3.credentials import Credentials, CredentialSource
from tests.s3.pretend import reply
from tests.s3.scripted_service import LISTING, Scripted, s3_error

NOW = 1.7e9
"""The time of `PretendRuntime`'s clock when it begins."""
OBJECT = Response(200, {"etag": '"e"', "content-length": "4"}, b"", 0)

Operation = Callable[[Scripted], object]
OPERATIONS: dict[str, Operation] = {
    "stat_block": lambda s3: s3.run(s3.store.stat_block(s3.ctx, "k")),
    "block_exists": lambda s3: s3.run(Operations(s3.store).block_exists(s3.ctx, "k")),
    "health_check": lambda s3: s3.run(s3.store.health_check(s3.ctx)),
}
all_operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


class Service:
    """Keeps to a clock and a token; an error response to a HEAD has no body."""

    def __init__(self, ahead: float = 0.0, status: int = 403) -> None:
        self.now = NOW + ahead
        self.status = status
        self.token = "the-token"
        self.listable = True
        self.denied = ""

    def __call__(self, request: Request) -> Response:
        code = self.why_not(request)
        date = format_datetime(datetime.fromtimestamp(self.now, UTC), usegmt=True)
        if code and request.method == "HEAD":
            return Response(self.status, {"date": date}, b"", 0)
        if code:
            return s3_error(self.status, code, date=date)
        if request.method == "HEAD":
            return OBJECT
        return LISTING if "?" in request.target else reply(206, {"etag": '"e"'}, b"d")

    def why_not(self, request: Request) -> str:
        written = request.headers["x-amz-date"].replace("Z", "+0000")
        signed = datetime.strptime(written, "%Y%m%dT%H%M%S%z")
        if abs(signed.timestamp() - self.now) > 900:
            return "RequestTimeTooSkewed"
        if request.headers["x-amz-security-token"] != self.token:
            return "ExpiredToken"
        return self.denied


class Renewable(CredentialSource):
    """Its token is renewed when that is asked for."""

    def __init__(self) -> None:
        self.renewals = 0
        self._now = Credentials("AKID", "secret", "the-old-token")

    async def current(self, ctx: Context) -> Credentials | None:
        return self._now

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        self.renewals += 1
        self._now = Credentials("AKID", "secret", "the-token")
        return True


@all_operations
@pytest.mark.parametrize("ahead", [-7200.0, -901.0, 901.0, 7200.0, 10 * 365 * 86_400.0])
def test_a_skewed_clock_is_mended(operation: Operation, ahead: float) -> None:
    s3 = Scripted(Service(ahead))
    _ = operation(s3)
    assert len(s3.requests) == 2  # the date of the error response says it all
    _ = operation(s3)
    assert len(s3.requests) == 3


@all_operations
@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_token_is_mended(operation: Operation, status: int) -> None:
    credentials = Renewable()
    s3 = Scripted(Service(status=status), credentials=credentials)
    _ = operation(s3)
    _ = operation(s3)
    assert credentials.renewals == 1


@all_operations
def test_a_permanent_error_response_says_why(operation: Operation) -> None:
    service = Service()
    service.denied = "AccessDenied"
    credentials = Renewable()
    service.token = "the-old-token"
    s3 = Scripted(service, credentials=credentials)
    with pytest.raises(AccessDeniedError, match="403 AccessDenied"):
        _ = operation(s3)
    assert credentials.renewals == 0
    assert len(s3.requests) <= 2


def test_a_head_that_is_refused_where_reading_is_allowed_stays_refused() -> None:
    def answer(request: Request) -> Response:
        if request.method == "HEAD":
            return s3_error(403)
        assert request.headers["range"] == "bytes=0-0"
        return reply(206, {"etag": '"e"'}, b"d")

    s3 = Scripted(answer)
    with pytest.raises(AccessDeniedError, match="stat_block 'k'"):
        _ = OPERATIONS["stat_block"](s3)
    assert [each.method for each in s3.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("lost", [s3_error(500), s3_error(404), reply(200, {}, b"<html></html>")])
def test_a_question_that_is_not_answered_changes_nothing(lost: Response) -> None:
    s3 = Scripted(s3_error(403), lost)
    with pytest.raises(AccessDeniedError):
        _ = OPERATIONS["stat_block"](s3)
    assert len(s3.requests) == 2


def test_a_bucket_that_may_not_be_asked_for_is_healthy_when_it_can_be_listed() -> None:
    def answer(request: Request) -> Response:
        return s3_error(403) if request.method == "HEAD" else LISTING

    s3 = Scripted(answer)
    _ = OPERATIONS["health_check"](s3)
    assert [each.method for each in s3.requests] == ["GET"]


def test_a_health_check_that_was_mended_raises_nothing_stale() -> None:
    s3 = Scripted(s3_error(503, "SlowDown"), s3_error(500), LISTING)
    _ = OPERATIONS["health_check"](s3)


def test_a_bucket_that_may_not_be_listed_is_one_that_is_there() -> None:
    s3 = Scripted(s3_error(404), s3_error(403, "AccessDenied"), s3_error(404))
    assert OPERATIONS["block_exists"](s3) is False
    assert OPERATIONS["block_exists"](s3) is False
    assert len(s3.requests) == 3


def test_an_absent_key_is_one_request_once_the_bucket_is_known() -> None:
    s3 = Scripted(OBJECT, s3_error(404))
    assert OPERATIONS["block_exists"](s3) is True
    assert OPERATIONS["block_exists"](s3) is False
    assert len(s3.requests) == 2


def test_a_clock_that_is_right_is_not_changed() -> None:
    """Within what every service allows: 15 minutes."""
    service = Service(ahead=-299.0)
    service.denied = "AccessDenied"
    s3 = Scripted(service)
    with pytest.raises(BlockStoreError):
        _ = OPERATIONS["stat_block"](s3)
    assert len({each.headers["x-amz-date"] for each in s3.requests}) == 1
