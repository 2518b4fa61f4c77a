"""AWS Signature Version 4, in the `Authorization` header. No clock: the time is an argument.

Signed are `host`, every `x-amz-*` header, `content-md5` and `content-type`: what the scheme
demands and what guards the stored bytes. `range`, `if-match` and the like are left out, so the
signature of a read depends on nothing but its target and the second: ranges of one block requested
in the same second share one signature, which is kept. docs/decisions/signing.md weighs this.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from blockyard.errors import ConfigError

if TYPE_CHECKING:
    from _hashlib import HASH

    from blockyard.context import Request, Response
    from blockyard.s3.credentials import Credentials

EMPTY_SHA256 = sha256(b"").hexdigest()
"""The payload hash of a request without a body."""

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Stands for the payload hash where TLS, or a checksum, guards the body instead."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_REMEMBERED = 256
"""How many signatures of the current second are kept."""

_SIGNATURE = 64
"""The last characters of an `Authorization`."""
_LEAST_TOKEN = 32
"""Characters: those of STS have hundreds. In a shorter one, such as `test` for an emulator, there
is nothing to hide, and it may well stand in a key or an ETag."""

_CACHEABLE = frozenset(
    {
        "authorization",
        "host",
        "if-match",
        "if-none-match",
        "range",
        "user-agent",
        "x-amz-checksum-mode",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    }
)
"""Headers of requests whose signature is kept for its second, as that of every read."""

_SIGNED = frozenset({"host", "content-md5", "content-type"})

_REGION = re.compile(r"[A-Za-z0-9._-]+")
_VISIBLE = re.compile(r"[\x21-\x7e]*")
_SPACES = re.compile(" +")


class Signer:
    """Signs requests for one region.

    Threads share it without a lock: what it keeps is swapped whole, so a race costs no more
    than work done twice.
    """

    def __init__(self, region: str, service: str = "s3") -> None:
        if not _REGION.fullmatch(region):
            raise ConfigError("region: expected letters, digits, '.', '-' and '_'")
        self._region = region
        self._service = service
        self._moment: _Moment | None = None

    def sign(
        self, request: Request, credentials: Credentials, timestamp: float, payload_hash: str
    ) -> None:
        """Add the signature to `request.headers`, in place of one from an earlier try.

        `timestamp` is in seconds since the epoch; `payload_hash` is the body's SHA-256 in hex,
        `EMPTY_SHA256` or `UNSIGNED_PAYLOAD`. Raises `ConfigError` for credentials that can't
        stand in a header.
        """
        second = int(timestamp)
        moment = self._moment
        if moment is None or moment.second != second or moment.credentials is not credentials:
            moment = self._moment = self._moment_of(second, credentials, moment)
        headers = request.headers
        cacheable = headers.keys() <= _CACHEABLE
        headers["x-amz-content-sha256"] = payload_hash
        headers["x-amz-date"] = moment.amz_date
        if credentials.session_token:
            headers["x-amz-security-token"] = credentials.session_token
        else:
            _ = headers.pop("x-amz-security-token", None)
        headers["authorization"] = (
            _cached_authorization(moment, request, payload_hash)
            if cacheable
            else _authorization(moment, request, *_signed_part(headers), payload_hash)
        )

    def presign(
        self, request: Request, credentials: Credentials, timestamp: float, expires: int
    ) -> str:
        """The query that signs `request`, whose target has none, with all of its headers.

        It holds for `expires` seconds; the body is not signed.
        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
        """
        moment = self._moment_of(int(timestamp), credentials, self._moment)
        names = ";".join(sorted(request.headers))
        lines = [f"{name}:{_single_spaced(request.headers[name])}\n" for name in names.split(";")]
        scope = moment.authorization_prefix.partition("Credential=")[2]
        parameters = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": scope,
            "X-Amz-Date": moment.amz_date,
            "X-Amz-Expires": str(expires),
            "X-Amz-SignedHeaders": names,
        }
        if credentials.session_token:
            parameters["X-Amz-Security-Token"] = credentials.session_token
        query = urlencode(sorted(parameters.items()), quote_via=quote, safe="-._~")
        canonical = (
            f"{request.method}\n{request.target}\n{query}\n{''.join(lines)}\n{names}\n"
            f"{UNSIGNED_PAYLOAD}"
        )
        hashed = sha256(canonical.encode()).hexdigest()
        signature = moment.key.sign(moment.signed_prefix + hashed).hexdigest()
        return f"{query}&X-Amz-Signature={signature}"

    def _moment_of(self, second: int, credentials: Credentials, last: _Moment | None) -> _Moment:
        amz_date = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")
        day = amz_date[:8]
        if last is not None and last.credentials is credentials and last.day == day:
            key = last.key
        else:
            key = self._signing_key(day, credentials)
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        common_names = "x-amz-content-sha256;x-amz-date"
        common_headers = f"x-amz-date:{amz_date}\n"
        if credentials.session_token:
            common_names += ";x-amz-security-token"
            common_headers += f"x-amz-security-token:{credentials.session_token}\n"
        return _Moment(
            second=second,
            credentials=credentials,
            day=day,
            key=key,
            amz_date=amz_date,
            common_names=common_names,
            common_headers=common_headers,
            signed_prefix=f"{_ALGORITHM}\n{amz_date}\n{scope}\n",
            authorization_prefix=f"{_ALGORITHM} Credential={credentials.access_key}/{scope}",
            remembered={},
        )

    def _signing_key(self, day: str, credentials: Credentials) -> _SigningKey:
        _check_visible("access_key", credentials.access_key)
        _check_visible("session_token", credentials.session_token)
        key = f"AWS4{credentials.secret_key}".encode(errors="surrogateescape")
        for part in (day, self._region, self._service, "aws4_request"):
            key = _SigningKey(key).sign(part).digest()
        return _SigningKey(key)


def without_signature(response: Response, request: Request) -> Response:
    """The response without what signed its request: services and gateways quote headers.

    Whoever reads that in an error or a log could make requests, for as long as it holds. It is for
    what may be an error, or hold one, whatever its status, and not for the bytes of a block.
    """
    headers, body = request.headers, response.body
    if not body:
        return response
    signature = headers.get("authorization", "")[-_SIGNATURE:]
    for secret in (headers.get("x-amz-security-token", ""), signature):
        if len(secret) >= _LEAST_TOKEN:
            body = body.replace(secret.encode(), b"...")
    return response if body == response.body else replace(response, body=body)


class _SigningKey:
    """HMAC-SHA256 (RFC 2104) with the key already hashed in.

    Copying the two half-done hashes takes a third of the time of a one-shot HMAC.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, message: str) -> HASH:
        inner = self._inner.copy()
        inner.update(message.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Moment:
    """What the signatures of one second, under one set of credentials, have in common."""

    second: int
    credentials: Credentials
    day: str
    key: _SigningKey
    amz_date: str
    common_names: str
    common_headers: str
    signed_prefix: str
    authorization_prefix: str
    remembered: dict[tuple[str, str, str, str, str], str]


def _cached_authorization(moment: _Moment, request: Request, payload_hash: str) -> str:
    """The value for a request with no headers but those of `_CACHEABLE`: kept for the second."""
    headers = request.headers
    host, checksum_mode = headers["host"], headers.get("x-amz-checksum-mode", "")
    wanted = (request.method, request.target, host, checksum_mode, payload_hash)
    authorization = moment.remembered.get(wanted)
    if authorization is None:
        names, lines = "host;", f"host:{host}\n"
        if checksum_mode:
            names += "x-amz-checksum-mode;"
            lines += f"x-amz-checksum-mode:{checksum_mode}\n"
        authorization = _authorization(
            moment,
            request,
            names + moment.common_names,
            f"{lines}x-amz-content-sha256:{payload_hash}\n{moment.common_headers}",
            payload_hash,
        )
        if len(moment.remembered) < _REMEMBERED:
            moment.remembered[wanted] = authorization
    return authorization


def _signed_part(headers: dict[str, str]) -> tuple[str, str]:
    """The names to sign, and their lines of the canonical request, in order."""
    names = sorted([name for name in headers if name in _SIGNED or name.startswith("x-amz-")])
    lines = [f"{name}:{_single_spaced(headers[name])}\n" for name in names]
    return ";".join(names), "".join(lines)


def _single_spaced(value: str) -> str:
    value = value.strip()
    return _SPACES.sub(" ", value) if "  " in value else value


def _authorization(
    moment: _Moment, request: Request, signed_names: str, signed_headers: str, payload_hash: str
) -> str:
    """The header's value. The target is canonical as sent: `requests.py` encodes and sorts it."""
    path, _, query = request.target.partition("?")
    canonical = (
        f"{request.method}\n{path}\n{query}\n{signed_headers}\n{signed_names}\n{payload_hash}"
    )
    signature = moment.key.sign(moment.signed_prefix + sha256(canonical.encode()).hexdigest())
    return (
        f"{moment.authorization_prefix}, SignedHeaders={signed_names}, "
        f"Signature={signature.hexdigest()}"
    )


def _check_visible(what: str, text: str) -> None:
    if not _VISIBLE.fullmatch(text):
        raise ConfigError(
            f"{what}: expected visible ASCII characters only; is there a space or a line break?"
        )
