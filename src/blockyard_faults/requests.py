"""Faults before the request took effect: the server behind the proxy never sees it."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from blockyard.testing.steps import Reset, Steps
from blockyard_faults.fault import Position, RequestFault, offset

_CODES = {429: "TooManyRequests", 500: "InternalError", 502: "BadGateway", 503: "SlowDown"}

INJECTED_REQUEST_ID = "injected-by-the-fault-proxy"
"""The request id in the replies that the proxy makes up."""


@dataclass(frozen=True)
class ResetBefore(RequestFault):
    """RST when the request's head has come; its body is not read."""

    def wanted(self, length: int) -> int:
        return 0

    def steps(self, method: str) -> Steps:
        return [Reset()]


@dataclass(frozen=True)
class ResetDuringRequest(RequestFault):
    """RST when `after` of the request's body has come."""

    after: Position = 0.5

    def wanted(self, length: int) -> int:
        return offset(self.after, length)

    def steps(self, method: str) -> Steps:
        return [Reset()]


@dataclass(frozen=True)
class Status(RequestFault):
    """An error reply as S3 gives it, with `<Code>` in its XML; a `code` of "" gives no body.

    `Status(503)` is SlowDown, `Status(429)` TooManyRequests, `Status(500)` InternalError.
    `Status(200, "InternalError")` is the error in a 200 that CopyObject and DeleteObjects may
    answer. `headers` are added: `Status(503, headers=(("Retry-After", "1"),))`.
    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """

    status: int
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Counted by status: "status_503"."""
        return f"status_{self.status}"

    def steps(self, method: str) -> Steps:
        code = _CODES.get(self.status, "InternalError") if self.code is None else self.code
        body = b"" if method == "HEAD" or not code else _error_xml(code)
        lines = [
            f"HTTP/1.1 {self.status} Injected",
            f"x-amz-request-id: {INJECTED_REQUEST_ID}",
            f"Content-Length: {len(body)}",
            *(["Content-Type: application/xml"] if body else []),
            *(f"{name}: {value}" for name, value in self.headers),
            "\r\n",
        ]
        return ["\r\n".join(lines).encode("latin-1") + body]


def _error_xml(code: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>injected by the fault proxy</Message>"
        f"<RequestId>{INJECTED_REQUEST_ID}</RequestId><HostId>loopback</HostId></Error>"
    ).encode()
