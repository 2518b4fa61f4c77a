"""An S3 service, and a runtime that reaches it, both in this process: no socket, no clock.

A store over these does all that it does over a network, in microseconds, and a test can change
what any reply says. The coroutines never suspend, and a pause only moves the clock on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Never, TypeVar

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response, UserCode, UserItems
from blockyard.errors import (
    DeadlineExceededError,
    IncompleteBodyError,
    OversizedBodyError,
    TransportConnectionError,
    TransportError,
)
from blockyard.model import Block
from blockyard.s3.credentials import credential_source
from blockyard.s3.store import S3Store
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.transport.blocking import Inline, run_to_end

Item = TypeVar("Item")
Result = TypeVar("Result")

Twist = Callable[[Request, Response], Response | TransportError]
"""What becomes of a reply on its way."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_KEPT = ("x-amz-meta-", "x-amz-checksum-")


@dataclass
class Stored:
    """An object: `headers` are those that come back with it."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def etag(self) -> str:
        """Another one for other bytes; no MD5, since that would be most of a test's time."""
        return self.headers.get("etag", f'"{hash(self.body):x}"')


class PretendS3:
    """Objects by the path they are asked for; `twists` are applied to the replies in order."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.requests: list[Request] = []
        self.twists: list[Twist | None] = []
        self.always: Twist | None = None
        self.answers: dict[str, Callable[[Request], Response]] = {
            "GET": self.get,
            "HEAD": self.head,
            "PUT": self.put,
        }

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        reply = self.answers.get(request.method, self.unknown)(request)
        reply.headers |= encryption_of(request)
        twist = self.twists.pop(0) if self.twists else self.always
        twisted = reply if twist is None else twist(request, reply)
        if not isinstance(twisted, TransportError):
            return twisted
        try:
            raise twisted
        finally:
            del twisted  # which its traceback refers to

    def get(self, request: Request) -> Response:
        stored = self.objects.get(request.target)
        if stored is None:
            return s3_error(404, "NoSuchKey")
        if request.headers.get("if-match", stored.etag) != stored.etag:
            return s3_error(412, "PreconditionFailed")
        if request.headers.get("if-none-match") == stored.etag:
            return reply(304, {"etag": stored.etag}, b"")
        size = len(stored.body)
        headers = {**stored.headers, "etag": stored.etag}
        asked = _RANGE.fullmatch(request.headers.get("range", ""))
        if asked is None:
            return reply(200, headers, stored.body)
        if asked[1]:
            first = int(asked[1])
            end = min(int(asked[2]) + 1, size) if asked[2] else size
        else:
            first, end = max(0, size - int(asked[2])), size
        if first >= size:
            return s3_error(416, "InvalidRange")
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
        return reply(206, headers, stored.body[first:end])

    def unknown(self, request: Request) -> Response:
        return s3_error(501, "NotImplemented")

    def head(self, request: Request) -> Response:
        found = self.get(request)
        return Response(found.status, found.headers, b"", 0)

    def condition(self, request: Request) -> Response | None:
        """The error response to a write that depends on what is there."""
        there = self.objects.get(request.target)
        if "if-match" in request.headers:
            if there is None:
                return s3_error(404, "NoSuchKey")
            if request.headers["if-match"] != there.etag:
                return s3_error(412, "PreconditionFailed")
        if "if-none-match" in request.headers and there is not None:
            return s3_error(412, "PreconditionFailed")
        return None

    def put(self, request: Request) -> Response:
        source = request.headers.get("x-amz-copy-source")
        if source is not None:
            stored = self.objects[f"/{source}"]
            body = f"<CopyObjectResult><ETag>{stored.etag}</ETag></CopyObjectResult>".encode()
        elif refused := self.condition(request):
            return refused
        else:
            kept = {
                name: value for name, value in request.headers.items() if name.startswith(_KEPT)
            }
            stored, body = Stored(bytes(request.body), kept), b""
        self.objects[request.target] = stored
        return reply(200, {"etag": stored.etag}, body)


def reply(status: int, headers: dict[str, str], body: bytes) -> Response:
    return Response(status, {**headers, "content-length": str(len(body))}, body, len(body))


def encryption_of(request: Request) -> dict[str, str]:
    """What S3 says in its reply of how an object is encrypted that is stored, or read."""
    begin = "x-amz-server-side-encryption"
    told = {begin, f"{begin}-aws-kms-key-id", f"{begin}-customer-algorithm"}
    return {name: value for name, value in request.headers.items() if name in told}


def s3_error(status: int, code: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply(status, named, f"<Error><Code>{code}</Code></Error>".encode())


class PretendRuntime:
    """Takes requests to `service`, and keeps to what `Runtime.exchange` says of limits and
    deadlines."""

    def __init__(self, service: PretendS3) -> None:
        self.service = service
        self.clock = 0.0
        self.pauses: list[float] = []

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: object = None,
    ) -> Response:
        if deadline is not None and self.clock >= deadline:
            raise DeadlineExceededError("the deadline of this call has passed")
        try:
            response = self.service.answer(request)
        except IncompleteBodyError as broken:
            if into is not None and broken.partial is not None:
                into[: broken.received] = broken.partial
                broken.partial = None
            raise
        if response.status not in {200, 206}:
            return response
        room = limit if into is None else min(limit, len(into))
        if response.size > room:
            raise OversizedBodyError("too large", status=response.status, size=response.size)
        if into is None:
            return response
        into[: response.size] = response.body
        return Response(response.status, response.headers, b"", response.size)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock += seconds

    async def blocking(self, call: Callable[[], Result]) -> Result:
        return call()

    def user_code(
        self,
        deadline: float | None = None,
        *,
        quick: bool = False,
        close: Callable[[], object] | None = None,
    ) -> UserCode:
        return Inline(None, close)

    def user_task(self, items: AsyncIterable[Item], deadline: float | None = None) -> Never:
        raise NotImplementedError

    awaits = False
    suspends = False

    async def readable(self, file: object, deadline: float | None) -> None:
        pass

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        begun: Future[Result] = Future()
        try:
            begun.set_result(call())
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            begun.set_exception(error)
        return begun

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        return future.result()

    async def once(
        self,
        under_way: object,
        key: object,
        operation: Callable[[], Coroutine[Any, Any, Result]],
        deadline: float | None = None,
    ) -> tuple[Result, bool]:
        return await operation(), False

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | UserItems[Item],
        concurrency: int,
        in_turn: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        assert not isinstance(items, UserItems)
        return [await operation(item) for item in items]

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await operation

    def now(self) -> float:
        return self.clock

    def wall_time(self) -> float:
        return 1.7e9 + self.clock

    def jitter(self) -> float:
        return 0.5

    def nonce(self) -> str:
        return "0123456789abcdef01234567"


class Pretended:
    """An S3 store over a pretended service, its operations run to their end."""

    def __init__(self, **settings: object) -> None:
        config = S3Config(
            bucket="bucket",
            endpoint="http://127.0.0.1:9",
            **{"anonymous": True, **settings},  # pyright: ignore[reportArgumentType]
        )
        self.service = PretendS3()
        self.runtime = PretendRuntime(self.service)
        self.store = S3Store(config, credential_source(config, {}))
        self.ctx = Context(self.runtime)

    @property
    def requests(self) -> list[Request]:
        return self.service.requests

    def stored(self, key: str) -> Stored:
        return self.service.objects[path(key)]

    def put(self, key: str, body: bytes, **headers: str) -> None:
        """Another program's object; `_` in the names of its headers stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.service.objects[path(key)] = Stored(body, named)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        _ = run_to_end(self.store.write(self.ctx, WriteRequest(key, data, if_absent)))

    def copy(self, source: str, target: str) -> None:
        _ = run_to_end(self.store.copy_block(self.ctx, source, target))

    def delete(self, keys: list[str]) -> None:
        _ = run_to_end(self.store.delete_blocks(self.ctx, keys))

    def listed(self) -> list[str]:
        page = run_to_end(self.store.list(self.ctx, ListRequest("", None, 1000)))
        return [block.key for block in page.blocks]

    def read(self, key: str) -> bytes:
        return run_to_end(self.store.read(self.ctx, ReadRequest(key))).data

    def read_into(self, key: str, room: int) -> bytes:
        buffer = bytearray(room)
        request = ReadRequest(key, into=memoryview(buffer), operation="read_block_into")
        return bytes(buffer[: run_to_end(self.store.read(self.ctx, request)).size])

    def read_with(self, key: str, **asked: Any) -> Block:
        return run_to_end(self.store.read(self.ctx, ReadRequest(key, **asked)))

    def read_range(self, key: str, offset: int, length: int | None = None) -> bytes:
        request = ReadRequest(key, offset, length, operation="read_block_range")
        return run_to_end(self.store.read(self.ctx, request)).data


def path(key: str) -> str:
    """The path that an object of the bucket is asked for at."""
    return f"/bucket/{key}"


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    damaged = bytearray(data)
    damaged[at] ^= 1 << bit
    return bytes(damaged)


def with_body(sent: Response, body: bytes) -> Response:
    return Response(sent.status, sent.headers, body, len(body))


def asked_ranges(s3: Pretended) -> list[str | None]:
    return [each.headers.get("range") for each in s3.requests if each.method == "GET"]


def broken_off(sent: Response, received: int) -> IncompleteBodyError:
    """The reply, whose body broke off after so many bytes."""
    return IncompleteBodyError(
        "the body broke off",
        headers=sent.headers,
        status=sent.status,
        received=received,
        expected=sent.size,
        partial=sent.body[:received],
        cause=TransportConnectionError("reset"),
    )


def broken_after(received: int) -> Callable[[Request, Response], IncompleteBodyError]:
    """Every reply breaks off."""
    return lambda _, sent: broken_off(sent, received)
