"""Each fault of the fault-making endpoint does what it says, in front of moto."""

from __future__ import annotations

import http.client
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from blockyard_faults import (
    INJECTED_REQUEST_ID,
    CachedListing,
    Created,
    EarlyStatus,
    FailKeys,
    Fault,
    FaultProxy,
    FlipBit,
    FlipHeaderBit,
    FlipUploadBit,
    GarbageHead,
    HalfStored,
    IgnoreHeader,
    IgnoreRange,
    LoseReply,
    RangeAs200,
    ResetBefore,
    ResetDuringBody,
    ResetDuringRequest,
    SameToken,
    Script,
    ShortRange,
    ShuffleXml,
    Stall,
    Status,
    TrickleBody,
    Truncate,
    UntilClose,
    WebPage,
    WrongLength,
    WrongRange,
)
from servers.endpoint import Endpoint

BODY = bytes(range(256)) * 400
XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """One connection of an ordinary HTTP client, which signs what it sends for `server`."""

    def __init__(self, url: str, server: Endpoint, timeout: float = 5) -> None:
        self.http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
        self._url = url
        credentials = Credentials(server.access_key, server.secret_key)
        self._signer = S3SigV4Auth(credentials, "s3", server.region)

    def signed(self, method: str, target: str, body: bytes, **headers: str) -> dict[str, str]:
        """The headers of a request, the signature over these and `Host` among them."""
        request = AWSRequest(method, self._url + target, headers, body)
        self._signer.add_auth(request)
        return dict(request.headers)

    def send(self, method: str, target: str, body: bytes = b"", **unsigned: str) -> None:
        headers = self.signed(method, target, body) | unsigned
        self.http.request(method, target, body, headers)

    def ask(self, method: str, target: str, body: bytes = b"", **unsigned: str) -> Reply:
        self.send(method, target, body, **unsigned)
        with self.http.getresponse() as reply:
            return Reply(reply.status, reply.headers, reply.read())

    def expect_reset(self) -> None:
        """A RST in place of a reply; a FIN would be `RemoteDisconnected`."""
        with pytest.raises(ConnectionResetError) as raised:
            _ = self.http.getresponse()
        assert not isinstance(raised.value, http.client.RemoteDisconnected)

    def body_before(self, end: type[Exception]) -> bytes:
        """What comes of the reply's body before `end` is raised."""
        received = bytearray()
        try:
            with self.http.getresponse() as reply:
                while piece := reply.read1(65536):
                    received += piece
        except end:
            return bytes(received)
        raise AssertionError(f"the body ended without {end}")


@contextmanager
def client_of(url: str, server: Endpoint, timeout: float = 5) -> Generator[Client]:
    client = Client(url, server, timeout)
    try:
        yield client
    finally:
        client.http.close()


@pytest.fixture(scope="module")
def upstream(signed_moto_endpoint: Endpoint) -> Endpoint:
    """A server that checks signatures, so that every test shows that they hold."""
    server = signed_moto_endpoint
    with client_of(server.url, server) as client:
        assert client.ask("PUT", "/bucket").status == 200
        assert client.ask("PUT", "/bucket/block", BODY).status == 200
        for key in ("list/a", "list/b", "list/c"):
            assert client.ask("PUT", f"/bucket/{key}", key.encode()).status == 200
    return server


def parse(reply: Reply) -> ElementTree.Element:
    return ElementTree.fromstring(reply.body)  # noqa: S314 - moto's, and our own


@contextmanager
def faulty(
    upstream: Endpoint, *faults: Fault | None, timeout: float = 5
) -> Generator[tuple[FaultProxy, Client]]:
    with (
        FaultProxy(upstream.url, Script(faults)) as proxy,
        client_of(proxy.url, upstream, timeout) as client,
    ):
        yield proxy, client
        assert proxy.upstream_failures == 0


def stored(upstream: Endpoint, key: str) -> bytes | None:
    with client_of(upstream.url, upstream) as client:
        reply = client.ask("GET", f"/bucket/{key}")
        return reply.body if reply.status == 200 else None


def test_without_a_fault_all_is_as_without_a_proxy(upstream: Endpoint) -> None:
    with faulty(upstream) as (proxy, client):
        assert client.ask("PUT", "/bucket/plain", BODY * 40).status == 200
        reply = client.ask("GET", "/bucket/plain")
        assert reply.body == BODY * 40
        assert client.ask("HEAD", "/bucket/plain").headers["content-length"] == str(len(BODY) * 40)
        assert client.ask("DELETE", "/bucket/plain").status == 204
        assert client.ask("GET", "/bucket/plain").status == 404
        assert client.ask("GET", "/bucket/block", Host="other").status == 403
        assert not proxy.counts
        assert {request.connection for request in proxy.requests} == {1}


# Before the request took effect.


def test_reset_before(upstream: Endpoint) -> None:
    with faulty(upstream, ResetBefore()) as (proxy, client):
        client.send("DELETE", "/bucket/block")
        client.expect_reset()
        assert proxy.counts == {"reset_before": 1}
    assert stored(upstream, "block") == BODY


def test_reset_during_request(upstream: Endpoint) -> None:
    with faulty(upstream, ResetDuringRequest(after=0.5)) as (proxy, client):
        client.http.putrequest("PUT", "/bucket/reset-during")
        client.http.putheader("Content-Length", "10")
        client.http.endheaders(b"1234")
        client.http.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):  # not yet: it waits for the fifth byte
            _ = client.http.sock.recv(1)
        client.http.sock.sendall(b"5")
        client.http.sock.settimeout(5)
        with pytest.raises(ConnectionResetError):
            _ = client.http.sock.recv(1)
        assert proxy.counts == {"reset_during_request": 1}
    assert stored(upstream, "reset-during") is None


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Status(500), "InternalError"),
        (Status(502), "BadGateway"),
        (Status(503), "SlowDown"),
        (Status(503, "ServiceUnavailable"), "ServiceUnavailable"),
        (Status(429), "TooManyRequests"),
        (Status(200, "InternalError"), "InternalError"),
    ],
)
def test_status(upstream: Endpoint, fault: Status, code: str) -> None:
    with faulty(upstream, fault) as (proxy, client):
        reply = client.ask("PUT", "/bucket/status", BODY)
        assert reply.status == fault.status
        assert parse(reply).findtext("Code") == code
        assert reply.headers["x-amz-request-id"] == INJECTED_REQUEST_ID
        assert "Retry-After" not in reply.headers
        assert client.ask("GET", "/bucket/status").status == 404  # on the same connection
        assert proxy.counts == {f"status_{fault.status}": 1}
        assert [request.connection for request in proxy.requests] == [1, 1]


def test_status_with_headers_and_without_a_body(upstream: Endpoint) -> None:
    slow = Status(503, code="", headers=(("Retry-After", "7"),))
    with faulty(upstream, slow, Status(503)) as (_, client):
        reply = client.ask("GET", "/bucket/block")
        assert (reply.headers["Retry-After"], reply.body) == ("7", b"")
        assert client.ask("HEAD", "/bucket/block").status == 503
        assert client.ask("HEAD", "/bucket/block").status == 200


# After the request took effect.


def test_lose_reply(upstream: Endpoint) -> None:
    with faulty(upstream, LoseReply()) as (proxy, client):
        client.send("PUT", "/bucket/lost", b"written all the same")
        client.expect_reset()
        assert proxy.counts == {"lose_reply": 1}
    assert stored(upstream, "lost") == b"written all the same"


@pytest.mark.parametrize("after", [0, 1000, 0.75])
def test_reset_during_body(upstream: Endpoint, after: float) -> None:
    with faulty(upstream, ResetDuringBody(after)) as (proxy, client):
        client.send("GET", "/bucket/block")
        expected = 76_800 if after == 0.75 else after
        assert client.body_before(ConnectionResetError) == BODY[: int(expected)]
        assert proxy.counts == {"reset_during_body": 1}


@pytest.mark.parametrize("after", [0, 1000])
def test_truncate(upstream: Endpoint, after: int) -> None:
    with faulty(upstream, Truncate(after)) as (proxy, client):
        client.send("GET", "/bucket/block")
        reply = client.http.getresponse()
        assert reply.headers["Content-Length"] == str(len(BODY))
        with pytest.raises(http.client.IncompleteRead) as broken:
            _ = reply.read()
        assert broken.value.partial == BODY[:after]
        assert proxy.counts == {"truncate": 1}


def test_stall_before_the_head(upstream: Endpoint) -> None:
    with faulty(upstream, Stall(600), timeout=0.1) as (proxy, client):
        client.send("GET", "/bucket/block")
        with pytest.raises(TimeoutError):
            _ = client.http.getresponse()
        client.http.close()
        assert proxy.wait_until_drained()
    with faulty(upstream, Stall(0.01)) as (_, client):
        assert client.ask("GET", "/bucket/block").body == BODY


def test_stall_within_the_body(upstream: Endpoint) -> None:
    with faulty(upstream, Stall(600, after=1000), timeout=0.1) as (_, client):
        client.send("GET", "/bucket/block")
        assert client.body_before(TimeoutError) == BODY[:1000]
    with faulty(upstream, Stall(0.01, after=0.5)) as (_, client):
        assert client.ask("GET", "/bucket/block").body == BODY


def test_trickle_body(upstream: Endpoint) -> None:
    with faulty(upstream, TrickleBody(size=300, tick=600), timeout=0.1) as (_, client):
        client.send("GET", "/bucket/block")
        assert client.body_before(TimeoutError) == BODY[:300]
    with faulty(upstream, TrickleBody(size=1000, tick=0)) as (_, client):
        assert client.ask("GET", "/bucket/block").body == BODY


def test_wrong_length_too_large(upstream: Endpoint) -> None:
    with faulty(upstream, WrongLength(by=5)) as (_, client):
        client.send("GET", "/bucket/block")
        reply = client.http.getresponse()
        with pytest.raises(http.client.IncompleteRead) as broken:
            _ = reply.read()
        assert (broken.value.partial, broken.value.expected) == (BODY, 5)


def test_wrong_length_too_small(upstream: Endpoint) -> None:
    with faulty(upstream, WrongLength(by=-5)) as (_, client):
        client.send("GET", "/bucket/block")
        received = b""
        while not received.endswith(BODY):  # past the stated end, and still open
            received += client.http.sock.recv(65536)
        assert f"Content-Length: {len(BODY) - 5}\r\n".encode() in received
        client.http.sock.sendall(b"GET /moto-api/ HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.http.sock.recv(8) == b"HTTP/1.1"


def test_garbage_head(upstream: Endpoint) -> None:
    with faulty(upstream, GarbageHead(b"\x16\x03\x01 no HTTP\r\n")) as (_, client):
        client.send("GET", "/bucket/block")
        with pytest.raises(http.client.BadStatusLine):
            _ = client.http.getresponse()


def flipped_bits(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def test_flip_bit(upstream: Endpoint) -> None:
    with faulty(upstream, FlipBit(at=17, bit=3), FlipBit(at=0.999999)) as (_, client):
        body = client.ask("GET", "/bucket/block").body
        assert body[17] == BODY[17] ^ 8
        assert flipped_bits(body, BODY) == 1
        assert client.ask("GET", "/bucket/block").body[-1] == BODY[-1] ^ 1


def test_flip_header_bit(upstream: Endpoint) -> None:
    with faulty(upstream, FlipHeaderBit("Content-Type", bit=1)) as (_, client):
        changed = client.ask("GET", "/bucket/block")
        original = client.ask("GET", "/bucket/block").headers["Content-Type"]
        was, now = original.encode(), changed.headers["Content-Type"].encode()
        assert now[0] == was[0] ^ 2
        assert flipped_bits(now, was) == 1
        assert changed.body == BODY


def test_flip_upload_bit(upstream: Endpoint) -> None:
    with faulty(upstream, FlipUploadBit(at=0.5, bit=7)) as (proxy, client):
        assert client.ask("PUT", "/bucket/upload", b"abcd").status == 200
        assert proxy.counts == {"flip_upload_bit": 1}
    assert stored(upstream, "upload") == b"ab\xe3d"


# What a well-formed reply says.


def test_ignore_range(upstream: Endpoint) -> None:
    with faulty(upstream, IgnoreRange(), IgnoreRange()) as (proxy, client):
        reply = client.ask("GET", "/bucket/block", Range="bytes=10-19")
        assert (reply.status, reply.body) == (200, BODY)
        signed = client.signed("GET", "/bucket/block", b"", Range="bytes=10-19")
        reply = client.ask("GET", "/bucket/block", **signed)
        assert (reply.status, reply.body) == (206, BODY[10:20])
        assert proxy.counts == {"ignore_range": 1}


def test_short_range(upstream: Endpoint) -> None:
    with faulty(upstream, ShortRange(missing=4)) as (_, client):
        reply = client.ask("GET", "/bucket/block", Range="bytes=10-19")
        assert (reply.status, reply.body) == (206, BODY[10:16])
        assert reply.headers["Content-Range"] == f"bytes 10-15/{len(BODY)}"


def test_wrong_range(upstream: Endpoint) -> None:
    with faulty(upstream, WrongRange(shift=5)) as (_, client):
        reply = client.ask("GET", "/bucket/block", Range="bytes=10-19")
        assert (reply.status, reply.body) == (206, BODY[10:20])
        assert reply.headers["Content-Range"] == f"bytes 15-24/{len(BODY)}"


LIST = "/bucket?list-type=2&prefix=list/"


def listed(reply: Reply) -> list[str | None]:
    root = parse(reply)
    return [entry.findtext(f"{XML}Key") for entry in root.iter(f"{XML}Contents")]


def test_shuffle_the_entries_of_a_listing(upstream: Endpoint) -> None:
    with faulty(upstream, ShuffleXml("entries"), ShuffleXml("double")) as (_, client):
        assert listed(client.ask("GET", LIST)) == ["list/c", "list/b", "list/a"]
        doubled = ["list/a", "list/a", "list/b", "list/b", "list/c", "list/c"]
        assert listed(client.ask("GET", LIST)) == doubled


def test_shuffle_the_fields_of_entries(upstream: Endpoint) -> None:
    with faulty(upstream, ShuffleXml("fields")) as (_, client):
        shuffled = client.ask("GET", LIST)
        plain = client.ask("GET", LIST)
    assert listed(shuffled) == listed(plain)
    for changed, entry in zip(
        parse(shuffled).iter(f"{XML}Contents"),
        parse(plain).iter(f"{XML}Contents"),
        strict=True,
    ):
        fields = [(field.tag, field.text) for field in entry]
        assert [(field.tag, field.text) for field in changed] == fields[::-1]
        assert len(fields) > 2


def delete_request(*keys: str) -> bytes:
    objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return f"<Delete>{objects}</Delete>".encode()


def test_shuffle_the_outcomes_of_a_delete(upstream: Endpoint) -> None:
    request = delete_request("gone/a", "gone/b")
    with faulty(upstream, ShuffleXml("double")) as (_, client):
        reply = client.ask("POST", "/bucket?delete", request)
        root = parse(reply)
        assert [key.text for key in root.iter(f"{XML}Key")] == ["gone/a"] * 2 + ["gone/b"] * 2


def test_fail_keys(upstream: Endpoint) -> None:
    with faulty(upstream, FailKeys(count=2, code="SlowDown")) as (_, client):
        request = delete_request("many/a", "many/b", "many/c")
        root = parse(client.ask("POST", "/bucket?delete", request))
    assert [entry.findtext(f"{XML}Key") for entry in root.iter(f"{XML}Deleted")] == ["many/c"]
    assert [
        (entry.findtext(f"{XML}Key"), entry.findtext(f"{XML}Code"))
        for entry in root.iter(f"{XML}Error")
    ] == [("many/a", "SlowDown"), ("many/b", "SlowDown")]


# Services that are nearly S3.


def test_a_web_page(upstream: Endpoint) -> None:
    with faulty(upstream, WebPage(), WebPage()) as (proxy, client):
        reply = client.ask("PUT", "/bucket/page", BODY)
        assert (reply.status, reply.body[:15]) == (200, b"<!DOCTYPE html>")
        assert reply.headers["Content-Type"].startswith("text/html")
        assert client.ask("HEAD", "/bucket/page").status == 200
        assert client.ask("GET", "/bucket/page").status == 404  # on the same connection
        assert proxy.counts == {"web_page": 2}


def test_an_early_status_comes_though_the_body_is_not_read(upstream: Endpoint) -> None:
    with faulty(upstream, EarlyStatus(413, "EntityTooLarge", seconds=1.0)) as (proxy, client):
        client.http.putrequest("PUT", "/bucket/early")
        client.http.putheader("Content-Length", str(64 << 20))
        client.http.endheaders(b"only a part of the body")
        reply = client.http.getresponse()
        assert (reply.status, b"EntityTooLarge" in reply.read()) == (413, True)
        with pytest.raises(
            ConnectionError
        ):  # nobody reads the rest, and at last the connection ends
            client.http.sock.sendall(bytes(64 << 20))
        assert proxy.counts == {"early_status_413": 1}
        assert proxy.wait_until_drained()


def test_ignore_header(upstream: Endpoint) -> None:
    with faulty(upstream, None, IgnoreHeader("If-None-Match"), None) as (proxy, client):
        condition = {"If-None-Match": "*"}
        assert client.ask("PUT", "/bucket/ignored", b"one", **condition).status == 200
        assert client.ask("PUT", "/bucket/ignored", b"two", **condition).status == 200
        assert client.ask("PUT", "/bucket/ignored", b"three", **condition).status == 412
        assert proxy.counts == {"ignore_header": 1}
    assert stored(upstream, "ignored") == b"two"


def test_created(upstream: Endpoint) -> None:
    with faulty(upstream, Created()) as (_, client):
        reply = client.ask("PUT", "/bucket/created", b"webdav")
        assert reply.status == 201
        assert reply.headers["ETag"]
    assert stored(upstream, "created") == b"webdav"


def test_a_range_under_200(upstream: Endpoint) -> None:
    with faulty(upstream, RangeAs200()) as (_, client):
        reply = client.ask("GET", "/bucket/block", Range="bytes=10-19")
        assert (reply.status, reply.body) == (200, BODY[10:20])
        assert reply.headers["Content-Range"] == f"bytes 10-19/{len(BODY)}"


def test_until_close(upstream: Endpoint) -> None:
    with faulty(upstream, UntilClose(), UntilClose()) as (proxy, client):
        reply = client.ask("PUT", "/bucket/until-close", b"no length")
        assert (reply.status, "Content-Length" in reply.headers) == (200, False)
        assert client.ask("GET", "/bucket/until-close").headers["Content-Length"] == "9"
        assert [seen.connection for seen in proxy.requests] == [1, 2]
        assert proxy.counts == {"until_close": 1}


def test_half_stored(moto_endpoint: Endpoint, bucket: str) -> None:
    with faulty(moto_endpoint, HalfStored()) as (_, client):
        assert client.ask("PUT", f"/{bucket}/half", b"abcdef").status == 200
        assert client.ask("GET", f"/{bucket}/half").body == b"abc"
        assert client.ask("DELETE", f"/{bucket}/half").status == 204


def test_a_stale_listing_is_an_earlier_one_of_the_same_query(upstream: Endpoint) -> None:
    cache = CachedListing()
    with faulty(upstream, cache, None, cache, cache, None) as (proxy, client):
        stale = "/bucket?list-type=2&prefix=stale/"
        assert listed(client.ask("GET", stale)) == []
        assert client.ask("PUT", "/bucket/stale/a", b"new").status == 200
        assert listed(client.ask("GET", stale)) == []
        assert listed(client.ask("GET", LIST)) == ["list/a", "list/b", "list/c"]
        assert listed(client.ask("GET", stale)) == ["stale/a"]
        assert proxy.counts == {"cached_listing": 1}


def test_a_foreign_listing_is_one_of_another_query(upstream: Endpoint) -> None:
    cache = CachedListing(foreign=True)
    with faulty(upstream, cache, cache, cache) as (proxy, client):
        assert len(listed(client.ask("GET", LIST))) == 3
        assert len(listed(client.ask("GET", LIST))) == 3
        assert not proxy.counts  # that would be a stale one
        assert len(listed(client.ask("GET", "/bucket?list-type=2&prefix=nothing/"))) == 3
        assert proxy.counts == {"cached_listing": 1}


def test_a_listing_that_never_ends(upstream: Endpoint) -> None:
    with faulty(upstream, SameToken(), None) as (_, client):
        reply = client.ask("GET", LIST)
        assert listed(reply) == ["list/a", "list/b", "list/c"]
        assert parse(reply).findtext(f"{XML}IsTruncated") == "true"
        assert parse(reply).findtext(f"{XML}NextContinuationToken") == "list/c"


def test_a_listing_that_never_ends_asks_for_its_first_page_again(moto_endpoint: Endpoint) -> None:
    target = "/blockyard-tests?list-type=2&prefix=endless/"
    with faulty(moto_endpoint, *[None] * 2, SameToken(), SameToken()) as (_, client):
        for name in "ab":
            assert client.ask("PUT", f"/blockyard-tests/endless/{name}", b"x").status == 200
        first = client.ask("GET", target)
        again = client.ask("GET", f"{target}&continuation-token=endless/b")
        assert listed(first) == listed(again) == ["endless/a", "endless/b"]
        for name in "ab":
            assert client.ask("DELETE", f"/blockyard-tests/endless/{name}").status == 204


@pytest.mark.parametrize(
    "fault",
    [
        CachedListing(),
        Created(),
        HalfStored(),
        IgnoreHeader("if-none-match"),
        RangeAs200(),
        SameToken(),
        UntilClose(),
        FailKeys(),
        Truncate(0.5),
        Truncate(10**9),
        Stall(600, after=0.5),
        TrickleBody(tick=600),
        WrongLength(5),
        FlipBit(),
        FlipHeaderBit("x-absent"),
        FlipUploadBit(),
        IgnoreRange(),
        ShortRange(),
        WrongRange(),
        ShuffleXml(),
    ],
    ids=repr,
)
def test_a_reply_that_gives_no_hold_comes_whole_and_is_not_counted(
    upstream: Endpoint, fault: Fault
) -> None:
    with faulty(upstream, fault) as (proxy, client):
        assert client.ask("DELETE", "/bucket/absent").status == 204
        assert not proxy.counts


def test_the_end_of_a_head_request_is_its_head(upstream: Endpoint) -> None:
    with faulty(upstream, Truncate(0.5), FlipBit(), Stall(0.01)) as (proxy, client):
        for _ in range(3):
            assert client.ask("HEAD", "/bucket/block").headers["content-length"] == str(len(BODY))
        assert proxy.counts == {"stall": 1}
