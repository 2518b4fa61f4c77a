"""From a reply that is no success to the error that says so, and to what may mend it.

The kind of error follows from the parsed `<Code>`, or from the status where the reply has none
that is known; no other text is ever looked at, so a key or a message may say anything.
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    InvalidRangeError,
    NotS3Error,
    ProtocolError,
    S3Error,
    ServerError,
    ThrottledError,
)
from blockyard.s3.dates import http_date
from blockyard.s3.xml import read_xml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blockyard.context import Request, Response

REQUEST_IDS = ("x-amz-request-id", "x-amz-id-2", "x-amzn-requestid")
"""Headers of which a reply of AWS, Ceph, MinIO, LocalStack, moto or rclone has one at least."""
MAX_ERROR_BODY = 64 * 1024
"""The longest error body that is read, in bytes; of a longer one only the status counts."""

_ACCESS = """AccessDenied AccountProblem AllAccessDisabled AuthenticationFailed ExpiredToken
    InvalidAccessKeyId InvalidSecurity InvalidToken MissingAuthenticationToken NotSignedUp
    RequestExpired RequestTimeTooSkewed SignatureDoesNotMatch TokenRefreshRequired
    UnauthorizedAccess"""
_THROTTLED = """BandwidthLimitExceeded EC2ThrottledException LimitExceededException
    PriorRequestNotComplete RequestLimitExceeded RequestThrottled RequestThrottledException
    ServiceUnavailable SlowDown SlowDownRead SlowDownWrite ThrottledException Throttling
    ThrottlingException TooManyRequests TooManyRequestsException"""
_FAILED = "InternalError InternalFailure InternalServerError"

_Kind = type[BlockStoreError]
_KINDS: dict[str, tuple[_Kind, int]] = {
    **dict.fromkeys(_ACCESS.split(), (AccessDeniedError, 403)),
    **dict.fromkeys(_THROTTLED.split(), (ThrottledError, 503)),
    **dict.fromkeys(_FAILED.split(), (ServerError, 500)),
    "NoSuchKey": (BlockNotFoundError, 404),
    "NoSuchBucket": (BucketNotFoundError, 404),
    "InvalidRange": (InvalidRangeError, 416),
    "PreconditionFailed": (S3Error, 412),
    "InvalidObjectState": (S3Error, 403),
    "QuotaExceeded": (S3Error, 403),
}
"""What a code means, and the status it stands for where it comes inside a 200."""

_REASONS: dict[_Kind, str] = {
    AccessDeniedError: "access denied",
    BlockNotFoundError: "there is no such block",
    BucketNotFoundError: "there is no such bucket",
    InvalidRangeError: "the range starts at or past the end of the block",
    ServerError: "the service failed",
    ThrottledError: "the service asks to slow down",
}
_FULL = "the service has no room left"
_REASON_OF_CODE = {
    "InvalidObjectState": "the block is archived",
    "QuotaExceeded": "the quota is used up",
    "XMinioAdminBucketQuotaExceeded": "the quota is used up",
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
}
_OWN_WORDS = (BlockNotFoundError, BucketNotFoundError, InvalidRangeError)
"""Kinds that say all there is to say; of others the service's message tells more."""

_HINTS = {
    "SignatureDoesNotMatch": "check secret_key",
    "InvalidAccessKeyId": "check access_key, and that it belongs to this endpoint",
    "ExpiredToken": "the temporary credentials need renewing",
    "RequestTimeTooSkewed": "check this machine's clock",
    "InvalidObjectState": "restore it from its archive first",
}
_MAYBE_MISSING = "a missing block is answered so too, unless the credentials may list the bucket"
_NOT_ALLOWED = "the policies of the credentials and of the bucket have to allow it"
OTHER_REGION = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
    }
)
"""Codes for a bucket in another region than the request was sent to."""
_REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
_SECONDS = re.compile(r"[0-9]{1,9}")
_CLIPPED = 300


class ErrorResponse(NamedTuple):
    """What a service says when it refuses a request, or one key of it; fit to be shown.

    `status` is 200 where the error came inside a success. `location` is where a redirect leads;
    `foreign` is whether the reply holds something that no S3 service says, such as a web page.
    """

    status: int
    code: str
    message: str
    request_id: str
    host_id: str = ""
    region: str | None = None
    location: str = ""
    foreign: bool = False

    def error(
        self,
        operation: str,
        key: str | None,
        *,
        bucket: str = "",
        on_bucket: bool | None = None,
        ranged: bool = False,
        absent: bool | None = True,
        reads: bool = False,
    ) -> BlockStoreError:
        """The error for this response to `operation` on `key`, or on the bucket when None.

        `bucket` is to be named where it is what is missing; with `on_bucket` the bucket was what
        the request was about, though the operation is on `key`. What is said of a range means
        one only where the request was `ranged`; a 404 means a missing block where that may be
        `absent`, None: where the code says so. One that `reads` a block may be refused because
        there is none.
        """
        kind, status = self._meaning(key is None if on_bucket is None else on_bucket)
        if kind is InvalidRangeError and not ranged:
            kind = S3Error
        if kind is BlockNotFoundError and not (bool(self.code) if absent is None else absent):
            kind = S3Error
        subject = operation if key is None else f"{operation} {key!r}"
        reason = self._reason(kind, bucket)
        request_id = f", request id {self.request_id}" if self.request_id else ""
        hint = self._hint(kind, reads)
        message = (
            f"{subject}: {reason} ({' '.join(filter(None, (str(self.status), self.code)))}"
            f"{request_id}){hint and f'; {hint}'}"
        )
        if not issubclass(kind, S3Error):
            return kind(message)
        return kind(
            message,
            status=status,
            code=self.code,
            request_id=self.request_id,
            host_id=self.host_id,
        )

    def _reason(self, kind: _Kind, bucket: str) -> str:
        if kind is BucketNotFoundError and bucket:
            return f"there is no bucket {bucket!r}"
        message = "" if kind in _OWN_WORDS else self.message
        special = _REASON_OF_CODE.get(self.code, _FULL if self.status == 507 else "")
        if special:
            return f"{special}: {message}" if message else special
        return message or _REASONS.get(kind, "the service refused")

    def _meaning(self, on_bucket: bool) -> tuple[_Kind, int]:
        inside_success = self.status < 300
        known = _KINDS.get(self.code)
        if known is not None:
            kind, status = known
            return kind, status if inside_success else self.status
        # What S3 could not finish inside a 200 is to be tried again, so it counts as a 500.
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
        status = 500 if inside_success else self.status
        if status == 404 and self.foreign:
            return NotS3Error, status
        return _kind_of_status(status, self.code, on_bucket), status

    def _hint(self, kind: _Kind, reads: bool) -> str:
        if self.location:
            return f"it redirects to {self.location!r}: set endpoint to where that leads"
        if self.foreign:
            return "the reply is no error of S3's: is this an S3 endpoint, with no proxy before it?"
        if self.code in OTHER_REGION or self.status in (301, 302, 307, 308):
            where = f"set region to {self.region!r}" if self.region else "check region"
            return f"the bucket is elsewhere: {where}, and check endpoint"
        if kind is AccessDeniedError and self.code in ("", "AccessDenied"):
            return _MAYBE_MISSING if reads else _NOT_ALLOWED
        if kind is BucketNotFoundError:
            return (
                "check bucket, region and endpoint; "
                "services other than AWS often need force_path_style: true"
            )
        return _HINTS.get(self.code, "")


def error_from(
    response: Response,
    operation: str,
    key: str | None,
    *,
    bucket: str = "",
    on_bucket: bool | None = None,
    ranged: bool = False,
    absent: bool | None = True,
    reads: bool = False,
) -> BlockStoreError:
    """The error that `response` stands for; see `ErrorResponse.error`.

    A 404 that gives no reason, as every reply to HEAD, is a missing block where the request was
    about one, and else a missing bucket. One that holds a web page is neither.
    """
    return read_error_response(response).error(
        operation,
        key,
        bucket=bucket,
        on_bucket=on_bucket,
        ranged=ranged,
        absent=absent,
        reads=reads,
    )


def can_miss_block(request: Request) -> bool | None:
    """Whether a 404 to this request can mean that a block is missing.

    None: only where the error code says so. A write needs no block unless it has an `If-Match`, and
    services that compare ETags then say which code it is.
    """
    if request.method not in {"PUT", "POST"} or "x-amz-copy-source" in request.headers:
        return True
    return None if "if-match" in request.headers else False


def reads_block(request: Request) -> bool:
    """Whether the request reads an existing block, which the source of a copy is as well."""
    return request.method in {"GET", "HEAD"} or "x-amz-copy-source" in request.headers


def read_error_response(response: Response) -> ErrorResponse:
    """Parse an error response; everything but the status may be missing from it."""
    headers = response.headers
    code = message = request_id = host_id = ""
    foreign = response.size > 0
    try:
        document = read_xml(response.body, MAX_ERROR_BODY)
    except ProtocolError:
        pass  # a proxy's page, or no body: the status alone has to do
    else:
        if document.name == "Error":
            foreign = False
            code, message = document.text("Code"), document.text("Message")
            request_id, host_id = document.text("RequestId"), document.text("HostId")
    return ErrorResponse(
        status=response.status,
        code=showable(code),
        message=showable(message),
        request_id=showable(request_id or headers.get("x-amz-request-id", "")),
        host_id=showable(host_id or headers.get("x-amz-id-2", "")),
        region=region_hint(response),
        location=_location(response),
        foreign=foreign,
    )


def has_request_id(headers: Mapping[str, str]) -> bool:
    """Whether the reply has a request id, as those of S3 services do."""
    return any(name in headers for name in REQUEST_IDS)


def may_be_from_intermediary(response: Response) -> bool:
    """Whether an intermediary (RFC 9110, section 3.7) may have sent a reply that matters.

    That is one without a request id which would still be taken for an answer of the service: a
    success with neither ETag nor body, or an error response without a code whose status means a
    missing block, an unsupported operation or another version. A 404 with a web page is not taken
    for such an answer anyway.
    """
    if has_request_id(response.headers):
        return False
    if response.status < 300:
        return not response.size and "etag" not in response.headers
    if response.status not in {404, 405, 412, 501}:
        return False
    parsed = read_error_response(response)
    return not parsed.code and not (parsed.foreign and response.status == 404)


def intermediary_error(response: Response) -> NotS3Error:
    """The error for a reply that a proxy or gateway may have sent in place of the service."""
    return NotS3Error(
        f"the reply says no more than its status ({response.status}) and lacks the request id that "
        "others of this service have: did a proxy or gateway send it?"
    )


def _location(response: Response) -> str:
    """The target of a redirect, "" where it is one to another region."""
    if not 300 <= response.status < 400 or region_hint(response):
        return ""
    return showable(response.headers.get("location", "").partition("?")[0])


def region_hint(response: Response) -> str | None:
    """The region the bucket is in, where the reply to a misdirected request says so.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
    """
    region = response.headers.get("x-amz-bucket-region", "")
    if not region:
        try:
            region = read_xml(response.body, MAX_ERROR_BODY).text("Region")
        except ProtocolError:
            return None
    return region if _REGION.fullmatch(region) else None


def server_time(response: Response) -> float | None:
    """The service's clock, in seconds since the epoch, when the reply has a valid `Date`."""
    moment = http_date(response.headers.get("date", ""))
    return None if moment is None else moment.timestamp()


def retry_after(response: Response, now: float) -> float | None:
    """How many seconds the service asks to wait; `now` is in seconds since the epoch.

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    value = response.headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    moment = http_date(value)
    return None if moment is None else max(0.0, moment.timestamp() - now)


def showable(text: str) -> str:
    """`text` from the service without control characters, clipped, fit for a message."""
    clipped = text if len(text) <= _CLIPPED else text[: _CLIPPED - 3] + "..."
    return "".join(character if character.isprintable() else " " for character in clipped).strip()


def _kind_of_status(status: int, code: str, on_bucket: bool) -> _Kind:
    match status:
        case 401 | 403:
            return AccessDeniedError
        case 404 if not code:
            return BucketNotFoundError if on_bucket else BlockNotFoundError
        case 416:
            return InvalidRangeError
        case 429 | 503:
            return ThrottledError
        case _:
            return ServerError if status >= 500 else S3Error
