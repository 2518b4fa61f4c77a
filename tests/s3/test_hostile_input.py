"""Services that mean harm, and users' text that could: our errors only, in bounded time and memory.

The parsers have fuzzers (`fuzz/`, `test_fuzz_*`). Here is what takes a connection, or a whole call.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockyard import BlockStoreError, ConfigError, InvalidKeyError, S3Config, open_store
from blockyard.config.loading import load_config
from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
    TransportConnectionError,
    TransportError,
)
from blockyard.model import KIB, MIB
from blockyard.s3.integrity import upload_headers
from blockyard.s3.xml import read_xml
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.scripted import Receive, ScriptedServer
from blockyard.testing.steps import Step
from blockyard.transport.blocking import run_to_end
from blockyard.transport.http1 import encode_head
from tests.config.setting_types import types_below
from tests.s3.pretend import Pretended, Stored, path, reply, s3_error
from tests.transport.runtimes import ask, both_runtimes, driving

PIECE = 64 * KIB


@dataclass(frozen=True)
class Flood(Step):
    """`piece` again and again, until the client leaves. Only a client that gives up ends it."""

    piece: bytes

    async def play(self, client: Connection) -> None:
        with contextlib.suppress(ConnectionError):
            while not client.gone.done():
                await client.send(self.piece)


HEAD = b"HTTP/1.1 200 OK\r\n"
FLOODS: dict[str, tuple[list[object], type[TransportError]]] = {
    "a head without an end": ([HEAD, Flood(b"x-a: " + b"a" * 1000 + b"\r\n")], ProtocolError),
    "a header without an end": ([HEAD + b"x-a: ", Flood(b"a" * PIECE)], ProtocolError),
    "a status line without an end": ([Flood(b"HTTP/1.1 200 " + b"a" * PIECE)], ProtocolError),
    "no line at all": ([Flood(bytes(PIECE))], ProtocolError),
    "interim replies without an end": ([Flood(b"HTTP/1.1 100 Continue\r\n\r\n")], ProtocolError),
    "chunks without an end": (
        [
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
            Flood(b"10000\r\n" + bytes(PIECE) + b"\r\n"),
        ],
        OversizedBodyError,
    ),
    "a chunk size without an end": (
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", Flood(b"0" * PIECE)],
        TransportError,
    ),
    "a chunk extension without an end": (
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", Flood(b"a" * PIECE)],
        TransportError,
    ),
    "trailers without an end": (
        [
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
            Flood(b"x-a: " + b"a" * PIECE + b"\r\n"),
        ],
        TransportError,
    ),
    "an error body without an end": (
        [b"HTTP/1.1 500 Failed\r\n\r\n", Flood(bytes(PIECE))],
        OversizedBodyError,
    ),
    "a body of an exbibyte": (
        [HEAD + b"Content-Length: 1152921504606846976\r\n\r\n", Flood(bytes(PIECE))],
        OversizedBodyError,
    ),
    "an error body of an exbibyte": (
        [b"HTTP/1.1 404 No\r\nContent-Length: 1152921504606846976\r\n\r\n", Flood(bytes(PIECE))],
        OversizedBodyError,
    ),
}


@both_runtimes
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_given_up(runtime: str, name: str) -> None:
    script, error = FLOODS[name]
    with (
        ScriptedServer([Receive(), *script]) as server,  # pyright: ignore[reportArgumentType]
        driving(runtime) as driver,  # pyright: ignore[reportArgumentType]
    ):
        tracemalloc.start()
        try:
            with pytest.raises(error):
                _ = driver.exchange(ask(server.url), limit=4 * MIB)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 24 * MIB  # the server's own buffers are in this process, too


@pytest.mark.parametrize(
    "length",
    ["-1", "+5", "5, 6", "5\r\nContent-Length: 6", "0x5", "5 5", "9" * 30, "", "\u0665", "5;q=1"],
)
@both_runtimes
def test_a_length_that_is_none_is_refused(runtime: str, length: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
    with (
        ScriptedServer([Receive(), head.encode() + b"hello"]) as server,
        driving(runtime) as driver,  # pyright: ignore[reportArgumentType]
        pytest.raises(TransportError),
    ):
        _ = driver.exchange(ask(server.url))


# Whole calls.


def bomb(depth: int) -> bytes:
    return b"<a>" * depth + b"</a>" * depth


XML = {
    "entities that grow": b"<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;'>]><Error>&c;</Error>",
    "an entity from a file": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hosts">]><Error>&b;</Error>',
    "a nest": bomb(200_000),
    "many elements": b"<ListBucketResult>" + b"<a/>" * 500_000 + b"</ListBucketResult>",
    "many attributes": b"<Error " + b" ".join(b"a%d='b'" % n for n in range(50_000)) + b"/>",
    "more than is read": b"<ListBucketResult>" + b" " * (9 * MIB) + b"</ListBucketResult>",
    "no XML": bytes(range(256)) * 4000,
}


@pytest.mark.parametrize("name", XML)
@pytest.mark.parametrize("status", [200, 403, 503])
def test_hostile_xml_is_an_error_of_ours(name: str, status: int) -> None:
    s3 = Pretended(max_attempts=1)
    s3.put("k", b"")
    s3.service.always = lambda *_: reply(status, {}, XML[name])
    for operation in (lambda: s3.copy("k", "l"), s3.listed, lambda: s3.delete(["a", "b"])):
        with pytest.raises(BlockStoreError) as raised:
            _ = operation()
        assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    "opening", ["<a xmlns='{}'>", '<a xmlns="{}">', "<a xmlns:b\n = '{}'>", "<a c='d' xmlns='{}'>"]
)
def test_a_long_namespace_is_not_copied_into_each_name(opening: str) -> None:
    with pytest.raises(ProtocolError, match="namespace"):
        _ = read_xml(f"{opening.format('u>' * 512)}<c/></a>".encode())
    assert read_xml(f"{opening.format('u>' * 511)}<c/></a>".encode()).find("c") in {"", None}


@pytest.mark.parametrize("written", [b"&#1;", b"&#x1f;", b"\x02", b"\xef\xbf\xbe"])
def test_characters_that_xml_forbids_are_read_up_to_a_number(written: bytes) -> None:
    few = read_xml(b"<a><b>" + 1000 * written + b"</b></a>").text("b")
    assert len(few) == 1000
    assert not few.isprintable()
    with pytest.raises(ProtocolError):
        _ = read_xml(b"<a><b>" + 100_001 * written + b"</b></a>")


TEXTS = [
    "x" * 100_000,
    "\x1b[31mred\x1b[0m\r\nforged: line",
    "\x00\u202e\ufffd",
    "<b>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_an_error_response_says_is_fit_to_be_shown(text: str) -> None:
    s3 = Pretended(max_attempts=1)
    said = escape(text.replace("\x00", ""), {"\x1b": "&#27;"})
    body = "".join(f"<{name}>{said}</{name}>" for name in ("Code", "Message", "RequestId"))
    s3.service.always = lambda *_: reply(
        403, {"x-amz-request-id": text, "x-amz-id-2": text}, f"<Error>{body}</Error>".encode()
    )
    with pytest.raises(AccessDeniedError) as raised:
        _ = s3.read("k")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500
    assert raised.value.code.isprintable()
    assert raised.value.request_id.isprintable()


TOKEN = "FwoGZXIvYXdzEBYaD/quoted+token=="


def quoting(s3: Pretended, status: int, quoted: str, secrets: set[str]) -> None:
    """Have all requests refused, by a reply that quotes a header which signed them."""

    def refusal(request: Request, _: Response) -> Response:
        secrets.update((TOKEN, request.headers["authorization"][-64:]))
        said = f"<Message>not good: {request.headers[quoted]}</Message>"
        refused = f"<Error><Key>k</Key><Code>InternalError</Code>{said}</Error>"
        if status < 300 and request.method == "POST":
            refused = f"<DeleteResult>{refused}<Deleted><Key>l</Key></Deleted></DeleteResult>"
        return reply(status, {}, b"" if request.method == "HEAD" else refused.encode())

    s3.service.always = refusal


@pytest.mark.parametrize("quoted", ["x-amz-security-token", "authorization"])
@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ("read", 403),
        ("stat", 403),
        ("write", 500),
        ("copy", 400),
        ("copy", 200),
        ("delete", 403),
        ("delete", 200),
    ],
)
def test_what_signed_a_request_is_not_quoted_from_its_error_response(
    operation: str, status: int, quoted: str
) -> None:
    """As a service or a gateway says which header it does not like."""
    keys = {"access_key": "a", "secret_key": "b", "session_token": TOKEN}
    s3, secrets = Pretended(anonymous=False, max_attempts=1, **keys), set[str]()
    s3.put("k", b"data")
    quoting(s3, status, quoted, secrets)
    operations: dict[str, Callable[[], object]] = {
        "read": lambda: s3.read("k"),
        "stat": lambda: run_to_end(s3.store.stat_block(s3.ctx, "k")),
        "write": lambda: s3.write("k", b""),
        "copy": lambda: s3.copy("k", "l"),
        "delete": lambda: run_to_end(s3.store.delete_blocks(s3.ctx, ["k", "l"])).failed,
    }
    try:
        told = repr(operations[operation]())
    except BlockStoreError as error:
        told = "".join(traceback.format_exception(error)) + repr(vars(error))
    assert "not good: " in told
    assert len(secrets) > 1
    assert not [secret for secret in secrets if secret in told]


def test_a_token_that_is_no_secret_may_stand_in_keys_and_etags() -> None:
    """As that of an emulator, which takes any."""
    keys = {"access_key": "test", "secret_key": "test", "session_token": "e"}
    s3 = Pretended(anonymous=False, **keys)
    s3.put("deleted", b"data", etag='"feed"')
    assert run_to_end(s3.store.copy_block(s3.ctx, "deleted", "copied")).etag == "feed"
    done = b"<DeleteResult><Deleted><Key>deleted</Key></Deleted></DeleteResult>"
    s3.service.always = lambda *_: reply(200, {}, done)
    assert run_to_end(s3.store.delete_blocks(s3.ctx, ["deleted"])).deleted == ["deleted"]


def test_bytes_that_are_read_may_hold_what_signed_the_request() -> None:
    keys = {"access_key": "a", "secret_key": "b", "session_token": TOKEN}
    s3 = Pretended(anonymous=False, **keys)
    s3.put("k", TOKEN.encode())
    assert s3.read("k") == TOKEN.encode()


@pytest.mark.parametrize(
    "told",
    ["9" * 4000, "-5", "1e9", "inf", "nan", "Fri, 31 Dec 99999 23:59:59 GMT", "\xff", "0x10", " 5"],
)
def test_no_wait_is_longer_than_the_cap(told: str) -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    s3.service.twists = [lambda *_: s3_error(503, "SlowDown", retry_after=told)]
    assert s3.read("k") == b"data"
    assert max(s3.runtime.pauses) <= 30.0


@pytest.mark.parametrize(
    "told",
    ["", "never", "Fri, 31 Dec 99999 23:59:59 GMT", "9" * 50, "Thu, 01 Jan 1970 00:00:00 GMT"],
)
def test_a_hostile_clock_does_not_break_signing(told: str) -> None:
    s3 = Pretended(anonymous=False, access_key="a", secret_key="b", max_attempts=2)
    s3.service.always = lambda *_: s3_error(403, "RequestTimeTooSkewed", date=told)
    with pytest.raises(AccessDeniedError):
        _ = s3.read("k")
    assert len(s3.requests) <= 3


@pytest.mark.parametrize(
    "region",
    ["evil.example.com/", "evil.example.com#", "a b", "a\tb", "@evil", "é", "a" * 41, ".."],
)
def test_a_region_can_not_lead_elsewhere(region: str) -> None:
    s3 = Pretended(max_attempts=1)
    s3.service.always = lambda *_: s3_error(301, "PermanentRedirect", x_amz_bucket_region=region)
    with pytest.raises(S3Error):
        _ = s3.read("k")
    assert {each.origin.host for each in s3.requests} == {"127.0.0.1"}
    assert len(s3.requests) == 1


def test_a_redirect_is_not_followed() -> None:
    s3 = Pretended(max_attempts=1)
    s3.service.always = lambda *_: s3_error(307, "", location="http://evil.example.com/")
    with pytest.raises(S3Error):
        _ = s3.read("k")
    assert len(s3.requests) == 1


@pytest.mark.parametrize("etag", ['"\x7f"', '"é"', '"a\tb"', '"' + "x" * 60_000 + '"', '""', "*"])
def test_an_etag_is_not_sent_back_as_something_else(etag: str) -> None:
    """A body that breaks off is taken up again by its ETag."""
    s3 = Pretended(max_attempts=2, integrity={"verify_ranges": "off"})
    s3.put("k", bytes(1000))

    def broken(request: Request, sent: Response) -> IncompleteBodyError:
        return IncompleteBodyError(
            "broke off",
            headers={**sent.headers, "etag": etag},
            status=sent.status,
            received=10,
            expected=sent.size,
            partial=sent.body[:10],
            cause=TransportConnectionError("reset"),
        )

    s3.service.always = broken
    with pytest.raises(BlockStoreError):
        _ = s3.read("k")
    for request in s3.requests:
        assert encode_head(request).isascii()
        assert encode_head(request).count(b"\r\n") == len(request.headers) + 2


# Everything a reply can say, by chance.

SUMS = "x-amz-meta-blockyard-sums"
BLOCK = bytes(range(250)) * 200
reply_headers = st.dictionaries(
    st.sampled_from(
        ["content-range", "etag", SUMS, "x-amz-meta-blockyard-pages-0", "retry-after", "date",
         "x-amz-bucket-region", "x-amz-checksum-crc32c", "x-amz-checksum-sha256", "location"]
    ),
    st.sampled_from(
        ["bytes 0-9/10", "bytes 0-49999/50000", f"2 50000 16384 {'0' * 8}", "2 1 16384 00000000",
         f"2 {8 * MIB} {32 * KIB} 00000000", '"x"', "AAAA", "5", "eu-west-1"]
    )
    | st.text(st.characters(max_codepoint=255), max_size=20),
    max_size=5,
)  # fmt: skip
hostile_replies = st.builds(
    lambda status, given, body: Response(status, given, body, len(body)),
    st.sampled_from([200, 206, 301, 400, 403, 404, 412, 416, 429, 500, 503])
    | st.integers(100, 999),
    reply_headers,
    st.sampled_from([b"", BLOCK, BLOCK[:10], BLOCK[: 16 * KIB]]) | st.binary(max_size=40),
)


@given(replies=st.lists(hostile_replies, max_size=6), data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_replies_to_a_read_come_to_bytes_or_an_error_of_ours(
    replies: list[Response], data: st.DataObject
) -> None:
    s3 = Pretended(
        integrity={"verify_ranges": data.draw(st.sampled_from(["widen", "covered", "off"]))}
    )
    s3.service.objects[path("k")] = Stored(BLOCK, upload_headers(BLOCK))
    s3.service.twists = [lambda *_, sent=sent: sent for sent in replies]
    offset, length = (
        data.draw(st.integers(0, 60_000)),
        data.draw(st.none() | st.integers(1, 60_000)),
    )
    with contextlib.suppress(BlockStoreError):
        part = s3.read_range("k", offset, length)
        assert 0 < len(part) <= (length or len(part))
    with contextlib.suppress(BlockStoreError):
        _ = s3.read("k")
    with contextlib.suppress(BlockStoreError):
        assert len(s3.read_into("k", 60_000)) <= 60_000
    assert s3.runtime.clock < 3600
    s3.service.twists = []
    s3.service.always = None
    assert s3.read("k") == BLOCK  # nothing that it taught stays in the way


# What users say.

CONTROL = ["\r", "\n", "\0", "\r\nx-evil: 1"]


@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize("place", ["{}", "a{}", "{}a", "a{}b"])
def test_no_header_through_a_key(place: str, text: str) -> None:
    key = place.format(text)
    with open_store("memory://") as store:
        for call in (
            lambda: store.read_block(key),
            lambda: store.write_block(key, b""),
            lambda: store.copy_block("a", key),
            lambda: store.copy_block(key, "a"),
            lambda: store.delete_blocks(["a", key]),
            lambda: store.list_by_prefix(key),
            lambda: store.verify_by_prefix(key),
        ):
            with pytest.raises(InvalidKeyError):
                _ = call()


def text_settings() -> list[tuple[str, ...]]:
    return [
        path
        for path, kind in types_below(S3Config).items()
        if kind not in {bool, int, float, float | None}
    ]


@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize("setting", text_settings(), ids=".".join)
def test_no_header_through_a_setting(setting: tuple[str, ...], text: str) -> None:
    assert len(text_settings()) > 8
    for value in (text, f"a{text}", f"{text}a", f"http://a{text}b"):
        given: dict[str, object] = {setting[-1]: value}
        with pytest.raises(ConfigError) as raised:
            _ = load_config("s3://bucket", given, {})
        assert "\r" not in str(raised.value)
        assert "\n" not in str(raised.value).replace("\n  ", "")


@pytest.mark.parametrize("text", CONTROL[:2] + CONTROL[3:])
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])  # what is sent
def test_no_header_through_the_environment(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(each, "text")
    monkeypatch.setenv(name, f"a{text}b")
    with (
        ScriptedServer() as server,
        pytest.raises(ConfigError),
        open_store(f"s3://bucket?endpoint={server.url}") as store,
    ):
        _ = store.read_block("k")


@pytest.mark.parametrize("text", ["\r", "\n", "\r\nx-evil: 1", "%0d%0ax-evil: 1"])
def test_no_header_through_the_proxy_of_the_environment(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    class Proxy(LoopbackServer):
        async def serve(self, client: Connection) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                heads.append(await client.reader.readuntil(b"\r\n\r\n"))

    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://u{text}:p@127.0.0.1:{proxy.port}")
        with (
            open_store("s3://bucket?endpoint=https://h:1&anonymous=true&max_attempts=1") as store,
            pytest.raises(BlockStoreError),
        ):
            _ = store.read_block("k")
    assert all(b"evil" not in head for head in heads)
    assert all(head.count(b"\n") == 4 for head in heads)
