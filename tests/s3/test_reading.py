"""Reads from a service that lies, breaks off and replaces: the right bytes, or an error."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.config import S3Config, StoreConfig, TimeoutConfig
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    BufferTooSmallError,
    InvalidRangeError,
    TransportConnectionError,
)
from blockyard.model import KIB
from blockyard.s3.credentials import StaticCredentials
from blockyard.s3.integrity import upload_headers
from blockyard.s3.store import S3Store
from blockyard.stores.base import ReadRequest
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.scripted import Close, Receive, Reset, ScriptedServer
from blockyard.transport.blocking import run_to_end
from blockyard.transport.http1 import ReplyReader
from tests.s3.pretend import PretendRuntime, PretendS3

RESET = TransportConnectionError("reset by the test")


@dataclass
class Version:
    """An object as it is at one time."""

    body: bytes
    etag: str = '"1"'
    headers: dict[str, str] = field(default_factory=dict[str, str])


def encode(status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def honest(version: Version, request: Request) -> bytes:
    """What S3 answers to a GET of `version`."""
    headers = {"ETag": version.etag, **version.headers}
    if request.headers.get("if-match", version.etag) != version.etag:
        return encode(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
    span = asked_span(request)
    if span is None:
        return encode(200, headers, version.body)
    if span[0] >= len(version.body):
        return encode(416, {}, b"<Error><Code>InvalidRange</Code></Error>")
    return part(version, *span)


def part(version: Version, first: int, end: int | None) -> bytes:
    body = version.body[first:end]
    said = f"bytes {first}-{first + len(body) - 1}/{len(version.body)}"
    return encode(206, {"ETag": version.etag, "Content-Range": said, **version.headers}, body)


def asked_span(request: Request) -> tuple[int, int | None] | None:
    """The first byte asked for, and the one after the last."""
    value = request.headers.get("range")
    if value is None:
        return None
    first, _, last = value.removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1 if last else None


Answer = Callable[[Request], bytes]


class WireRuntime(PretendRuntime):
    """Parses replies from the bytes that `answer` gives, which break off where these end."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(PretendS3())
        self.requests: list[Request] = []
        self._answer = answer

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: object = None,
    ) -> Response:
        self.requests.append(request)
        wire = memoryview(self._answer(request))
        reply = ReplyReader(request.method, into, limit, request.sum_body)
        while wire and not reply.complete:
            view = reply.destination
            size = min(len(wire), 65536 if view is None else len(view))
            if view is None:
                reply.feed(bytearray(wire[:size]), size)
            else:
                view[:size] = wire[:size]
                reply.filled(size)
            wire = wire[size:]
        if not reply.complete:
            raise reply.broken(RESET)
        return reply.response()


class Wired:
    """An S3 store whose replies are bytes that a test makes."""

    def __init__(self, answer: Answer, **settings: Any) -> None:
        self.runtime = WireRuntime(answer)
        self._ctx = Context(self.runtime)
        config = S3Config(bucket="bucket", endpoint="http://127.0.0.1:9", **settings)
        self._store = S3Store(config, StaticCredentials(None))

    def read(self) -> bytes:
        return run_to_end(self._store.read(self._ctx, ReadRequest("k"))).data

    def read_into(self, room: int) -> bytes:
        buffer = bytearray(b"\xaa" * (room + 4))
        operation = self._store.read(
            self._ctx, ReadRequest("k", into=memoryview(buffer)[:room], operation="read_block_into")
        )
        size = run_to_end(operation).size
        assert buffer[room:] == b"\xaa" * 4
        return bytes(buffer[:size])

    def read_range(self, offset: int, length: int | None) -> bytes:
        request = ReadRequest("k", offset, length, operation="read_block_range")
        return run_to_end(self._store.read(self._ctx, request)).data

    @property
    def asked(self) -> list[tuple[int, int | None] | None]:
        return [asked_span(request) for request in self.runtime.requests]


BODY = random.Random(1).randbytes(70_000)  # noqa: S311 - the same in every run


def foreign(body: bytes = BODY, etag: str = '"1"') -> Version:
    """An object that another program wrote: nothing but its length and ETag tell anything."""
    return Version(body, etag)


def ours(body: bytes = BODY, etag: str = '"1"') -> Version:
    """An object with the checksums that we store."""
    return Version(body, etag, upload_headers(body))


def cutting(version: Version, *cuts: int) -> Answer:
    """Break off after so many bytes of the body, one reply after another; then be honest."""
    left = list(cuts)

    def answer(request: Request) -> bytes:
        wire = honest(version, request)
        if not left:
            return wire
        body_begins = wire.index(b"\r\n\r\n") + 4
        return wire[: body_begins + left.pop(0)]

    return answer


@pytest.mark.parametrize("version", [ours(), foreign()], ids=["ours", "foreign"])
def test_a_read_goes_on_from_the_byte_it_had_reached(version: Version) -> None:
    for read in (Wired.read, lambda s3: s3.read_into(len(BODY))):
        s3 = Wired(cutting(version, 1000, 0, 30_000, 1))
        assert read(s3) == BODY
        end = len(BODY)
        assert s3.asked == [None, (1000, end), (1000, end), (31_000, end), (31_001, end)]
        assert all(each.headers["if-match"] == '"1"' for each in s3.runtime.requests[1:])


def test_a_range_goes_on_from_the_byte_it_had_reached() -> None:
    s3 = Wired(cutting(foreign(), 1000, 500), integrity={"verify_ranges": "off"})
    assert s3.read_range(10_000, 20_000) == BODY[10_000:30_000]
    assert s3.asked == [(10_000, 30_000), (11_000, 30_000), (11_500, 30_000)]


@pytest.mark.parametrize("size", [len(BODY), len(BODY) + 1, 2 * len(BODY)])
def test_a_buffer_may_be_larger_and_no_smaller_than_the_block(size: int) -> None:
    assert Wired(cutting(ours(), 777)).read_into(size) == BODY
    for room in (0, 1, len(BODY) - 1):
        with pytest.raises(BufferTooSmallError, match=str(len(BODY))):
            _ = Wired(cutting(ours())).read_into(room)


class Replaced:
    """An object that is replaced after each of its first replies, which break off."""

    def __init__(self, *versions: Version, cut: int = 100) -> None:
        self._versions = list(versions)
        self._cut = cut

    def __call__(self, request: Request) -> bytes:
        version = self._versions[0]
        wire = honest(version, request)
        if len(self._versions) > 1 and wire.startswith(b"HTTP/1.1 20"):
            _ = self._versions.pop(0)
            return wire[: wire.index(b"\r\n\r\n") + 4 + self._cut]
        return wire


@pytest.mark.parametrize("make", [ours, foreign])
@pytest.mark.parametrize("size", [0, 50, 100, 101, 60_000, 70_000, 90_000])
def test_an_object_that_was_replaced_is_read_from_its_beginning(
    make: Callable[..., Version], size: int
) -> None:
    new = random.Random(size).randbytes(size)  # noqa: S311 - to be repeatable
    for read in (Wired.read, lambda s3: s3.read_into(100_000)):
        assert read(Wired(Replaced(make(), make(new, '"2"')))) == new
    s3 = Wired(Replaced(make(), make(new, '"2"')))
    if size > 40:
        assert s3.read_range(40, 30_000) == new[40:30_040]
    else:
        with pytest.raises(InvalidRangeError):
            _ = s3.read_range(40, 30_000)


def test_an_object_that_was_deleted_meanwhile_is_not_found() -> None:
    gone = encode(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
    wires = [honest(ours(), Request(None, "GET", "/", {}))[:500], gone]  # type: ignore[arg-type]
    with pytest.raises(BlockNotFoundError):
        _ = Wired(lambda _: wires.pop(0)).read()


def test_without_a_firm_etag_a_read_begins_anew() -> None:
    s3 = Wired(cutting(foreign(etag='W/"1"'), 1000, 60_000))
    assert s3.read() == BODY
    assert s3.asked == [None, None, None]


def ignoring_range(version: Version) -> Answer:
    def answer(request: Request) -> bytes:
        plain = {name: value for name, value in request.headers.items() if name != "range"}
        return honest(version, Request(request.origin, "GET", request.target, plain))

    return answer


@pytest.mark.parametrize("make", [ours, foreign])
@pytest.mark.parametrize("mode", ["widen", "covered", "off"])
def test_a_service_that_ignores_ranges_gives_the_right_bytes(
    make: Callable[..., Version], mode: str
) -> None:
    for size in (1, 16 * KIB, len(BODY)):
        body = BODY[:size]
        for offset, length in ((0, 1), (0, None), (size - 1, None), (size // 2, 3), (0, 10**6)):
            s3 = Wired(ignoring_range(make(body)), integrity={"verify_ranges": mode})
            end = None if length is None else offset + length
            assert s3.read_range(offset, length) == body[offset:end]
        with pytest.raises(InvalidRangeError):
            _ = Wired(ignoring_range(make(body))).read_range(size, 1)


@st.composite
def lies(draw: st.DrawFn) -> Callable[[Version, Request], bytes]:
    """One way in which a reply is not what it should be."""
    kind = draw(st.sampled_from(["cut", "span", "status", "length", "range", "error", "stale"]))
    number = draw(st.integers(0, 80_000))
    other = draw(st.integers(1, 80_000))

    def lie(version: Version, request: Request) -> bytes:
        wire = honest(version, request)
        head, _, body = wire.partition(b"\r\n\r\n")
        match kind:
            case "cut":
                wire = wire[: len(wire) * number // 80_000]
            case "span":  # another part than the one asked for, rightly described
                first = number % max(len(version.body), 1)
                wire = part(version, first, first + other)
            case "status":
                wire = wire.replace(b" 206", b" 200", 1)
            case "length":  # the body ends early, and says so
                shorter = body[: number % (len(body) + 1)]
                said = b"Content-Length: %d" % len(shorter)
                head = head.replace(b"Content-Length: %d" % len(body), said)
                wire = head + b"\r\n\r\n" + shorter
            case "range":
                wire = encode(206, {"ETag": version.etag, "Content-Range": "bytes 0-9/*"}, body)
            case "error":
                wire = encode(503, {}, b"")
            case _:
                stale = Version(version.body[::-1], '"0"', upload_headers(version.body[::-1]))
                wire = honest(stale, request)
        return wire

    return lie


@settings(deadline=None, max_examples=300)
@given(
    size=st.integers(1, 70_000),
    told=st.lists(lies(), max_size=5),
    read=st.sampled_from(["whole", "into", "range"]),
    mode=st.sampled_from(["widen", "covered"]),
    span=st.tuples(st.integers(0, 70_000), st.none() | st.integers(1, 70_000)),
)
def test_whatever_a_service_says_a_block_of_ours_is_read_right_or_not_at_all(
    size: int,
    told: list[Callable[[Version, Request], bytes]],
    read: str,
    mode: str,
    span: tuple[int, int | None],
) -> None:
    body = BODY[:size]
    offset, length = span
    version = ours(body)
    left = list(told)

    def answer(request: Request) -> bytes:
        return left.pop(0)(version, request) if left else honest(version, request)

    s3 = Wired(answer, integrity={"verify_ranges": mode})
    stale = body[::-1]  # a whole older version is no wrong answer: S3 does not say which is newest
    try:
        if read == "whole":
            assert s3.read() in (body, stale)
        elif read == "into":
            assert s3.read_into(70_000) in (body, stale)
        else:
            end = None if length is None else offset + length
            assert s3.read_range(offset, length) in (body[offset:end], stale[offset:end])
    except BlockStoreError:
        assert told or (read == "range" and offset >= size)


@contextmanager
def opened(client: ClientName, *script: Any) -> Generator[BlockStore, None, None]:
    """A store before a real server, which plays `script` to its connections."""
    with ScriptedServer(*script) as server:
        config = StoreConfig(
            s3=S3Config(
                bucket="bucket",
                endpoint=server.url,
                force_path_style=True,
                anonymous=True,
                timeouts=TimeoutConfig(deadline=20, no_progress=5),
            )
        )
        with open_client(client, config) as opened:
            yield opened.store


GET = Request(None, "GET", "/bucket/k", {})  # type: ignore[arg-type]


def rest(version: Version, first: int) -> bytes:
    return part(version, first, len(version.body))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("end", [Close(), Reset()])
def test_several_breaks_in_one_read_over_real_connections(client: ClientName, end: object) -> None:
    version = ours()
    head = honest(version, GET).index(b"\r\n\r\n") + 4
    begun = honest(version, GET)[: head + 20_000]
    more = rest(version, 20_000)
    more = more[: more.index(b"\r\n\r\n") + 4 + 30_000]
    script = [[Receive(), begun, end], [Receive(), more, end], [Receive(), rest(version, 50_000)]]
    with opened(client, *script) as store:
        assert store.read_block("k") == BODY
    with opened(client, *script) as store:
        buffer = bytearray(len(BODY))
        assert store.read_block_into("k", buffer) == len(BODY)
        assert buffer == BODY


@pytest.mark.parametrize("client", CLIENTS)
def test_a_buffer_that_is_too_small_over_real_connections(client: ClientName) -> None:
    with (
        opened(client, [Receive(), honest(ours(), GET)]) as store,
        pytest.raises(BufferTooSmallError, match=str(len(BODY))),
    ):
        _ = store.read_block_into("k", bytearray(100))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_range_that_is_ignored_over_real_connections(client: ClientName) -> None:
    whole = honest(ours(), GET)
    with opened(client, [Receive(), whole], [Receive(), whole]) as store:
        assert store.read_block_range("k", 100, 50) == BODY[100:150]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("offset", [0, 5, 70_000, 70_001])
def test_a_range_of_no_bytes(client: ClientName, offset: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 70000\r\n\r\n"
    with opened(client, [Receive(), head]) as store:
        if offset < 70_000:
            assert store.read_block_range("k", offset, 0) == b""
        else:
            with pytest.raises(InvalidRangeError):
                _ = store.read_block_range("k", offset, 0)
