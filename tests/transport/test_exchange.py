"""One exchange after another, over either runtime: right bytes, or a typed error, and no leaks."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from crc32c import crc32c

from blockyard.config import HttpConfig, S3Config, StoreConfig
from blockyard.errors import (
    DeadlineExceededError,
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)
from blockyard.model import KIB, MIB
from blockyard.testing.clients import open_client
from blockyard.testing.scripted import (
    ClientCloses,
    Close,
    Receive,
    Reset,
    ScriptedServer,
    Trickle,
)
from blockyard.transport.http1 import SCRATCH_SIZE
from servers.certificates import ServerCertificate, issue_certificate
from servers.sockets import free_port
from tests.transport.runtimes import (
    OK,
    Driver,
    RuntimeName,
    ask,
    black_hole,
    both_runtimes,
    driving,
    eventually,
    no_new_descriptors,
)

SOON = 0.1
"""Seconds until the timeouts of these tests strike."""
SECOND = 1.0
"""Seconds in which a busy machine manages a TLS handshake and an exchange."""
LATE = 10.0
"""Seconds after which something that should have struck `SOON` has failed to."""
LARGE = 768 * KIB
"""From so many bytes that are to come, a blocking read is not woken for each piece."""
SIZES = [0, 1, 2, 65_535, 65_536, 65_537, LARGE - 1, LARGE, LARGE + 1, 4 * MIB, 4 * MIB + 1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest, certificate: ServerCertificate) -> Wire:
    return Wire(certificate if request.param == "tls" else None)


class Wire:
    """Plain or TLS connections: how a test's server and its clients are made."""

    def __init__(self, certificate: ServerCertificate | None) -> None:
        self.http = HttpConfig()
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.http = HttpConfig(ca_bundle=str(certificate.authority))
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(certificate.certificate, certificate.key)

    def server(self, *scripts: list[object]) -> ScriptedServer:
        return ScriptedServer(*scripts, tls=self.tls)  # pyright: ignore[reportArgumentType]


def reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def patterned(size: int, seed: int = 0) -> bytes:
    """Bytes in which every place looks different from its neighbourhood."""
    piece = bytes((seed + number * 7) % 251 for number in range(251))
    return (piece * (size // 251 + 1))[:size]


@contextmanager
def took_less_than(seconds: float) -> Generator[None, None, None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@both_runtimes
def test_bodies_of_every_size_arrive_whole_both_ways(runtime: RuntimeName, wire: Wire) -> None:
    bodies = [patterned(size, size % 251) for size in SIZES]
    steps = [[Receive(), reply(body)] for body in bodies]
    steps += [[Receive(), reply(body)] for body in bodies]
    with wire.server([*itertools.chain(*steps)]) as server, driving(runtime, wire.http) as driver:
        results: list[bytes] = []
        for body in bodies:
            response = driver.exchange(ask(server.url, "PUT", memoryview(body)))
            results.append(response.body)
            assert (response.status, response.size) == (200, len(body))
        assert results == bodies  # all of them still: no reply has written into another's memory
        assert [request.body for request in server.requests] == bodies
        for body in bodies:
            buffer = bytearray(b"\xff" * (len(body) + 2))
            response = driver.exchange(ask(server.url), into=memoryview(buffer))
            assert (response.body, response.size) == (b"", len(body))
            assert buffer == body + b"\xff\xff"
        assert driver.counts() == (0, 1)


@both_runtimes
def test_a_body_is_summed_while_it_comes(runtime: RuntimeName, wire: Wire) -> None:
    bodies = [patterned(size, size % 251) for size in SIZES]
    steps = itertools.chain(*[[Receive(), reply(body)] * 2 for body in bodies])
    with wire.server([*steps]) as server, driving(runtime, wire.http) as driver:
        for body in bodies:
            buffer = memoryview(bytearray(len(body) + 2))
            for into in (None, buffer):
                request = ask(server.url)
                request.sum_body = True
                summed = driver.exchange(request, into=into).crc32c
                assert summed in {crc32c(body), None}
                assert summed is not None or len(body) <= SCRATCH_SIZE


@both_runtimes
@pytest.mark.parametrize("chunked", [False, True])
def test_a_dribbled_reply_arrives_whole(runtime: RuntimeName, wire: Wire, chunked: bool) -> None:
    body = patterned(100_001)
    sent = reply(body)
    if chunked:
        pieces = [body[at : at + 9_999] for at in range(0, len(body), 9_999)]
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""]]
        sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)
    script = [Receive(), Trickle(sent[:150]), Trickle(sent[150:], 997)]
    with wire.server(script * 2) as server, driving(runtime, wire.http) as driver:
        assert driver.exchange(ask(server.url)).body == body
        buffer = bytearray(len(body))
        assert driver.exchange(ask(server.url), into=memoryview(buffer)).size == len(body)
        assert buffer == body


@both_runtimes
@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("GET", OK),
        ("PUT", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    ],
)
def test_a_connection_is_used_again(runtime: RuntimeName, method: str, sent: bytes) -> None:
    with ScriptedServer([Receive(), sent] * 3) as server, driving(runtime) as driver:
        for _ in range(3):
            _ = driver.exchange(ask(server.url, method))
        assert driver.counts() == (0, 1)
        assert server.open_connections == 1


@both_runtimes
@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        OK + b"surplus",
    ],
)
def test_a_connection_that_may_not_be_used_again_is_closed(
    runtime: RuntimeName, sent: bytes
) -> None:
    script = [Receive(), sent, ClientCloses()]
    with ScriptedServer(script, script) as server, driving(runtime) as driver:
        for _ in range(2):
            _ = driver.exchange(ask(server.url))
            assert driver.counts() == (0, 0)


@both_runtimes
def test_a_fresh_connection_is_opened_when_asked_for(runtime: RuntimeName) -> None:
    with ScriptedServer([Receive(), OK], [Receive(), OK]) as server, driving(runtime) as driver:
        _ = driver.exchange(ask(server.url))
        _ = driver.exchange(ask(server.url, fresh=True))
        assert driver.counts() == (0, 2)


@both_runtimes
@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    "farewell",
    [
        [Close()],
        [Reset()],
        [
            b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Close(),
        ],
        [b"garbage", Close()],
    ],
)
def test_what_happened_to_a_connection_while_idle_is_not_noticed(
    runtime: RuntimeName, wire: Wire, farewell: list[object], method: str
) -> None:
    body = b"" if method == "GET" else patterned(MIB)
    gone = [Receive(), OK, *farewell]
    with wire.server(gone, [Receive(), OK]) as server, driving(runtime, wire.http) as driver:
        assert driver.exchange(ask(server.url, method, body)).body == b"hello"
        assert server.wait_until_drained()
        assert driver.exchange(ask(server.url, method, body)).body == b"hello"
        assert [request.body for request in server.requests] == [body] * 2


@both_runtimes
def test_bytes_that_come_while_idle_are_no_reply(runtime: RuntimeName, wire: Wire) -> None:
    """The connection stays open here: only the bytes tell that it is not to be trusted."""
    unasked = [Receive(), OK, reply(b"wrong"), ClientCloses()]
    with (
        wire.server(unasked, [Receive(), OK]) as server,
        driving(runtime, wire.http) as driver,
    ):
        assert driver.exchange(ask(server.url)).body == b"hello"
        time.sleep(0.05)
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
@pytest.mark.parametrize("size", [5, 100_000])
def test_bytes_that_follow_a_reply_at_once_are_no_reply(
    runtime: RuntimeName, wire: Wire, size: int
) -> None:
    body = patterned(size)
    unasked = [Receive(), reply(body) + reply(b"wrong"), ClientCloses()]
    with (
        wire.server(unasked, [Receive(), OK]) as server,
        driving(runtime, wire.http) as driver,
    ):
        for into in (None, memoryview(bytearray(size))):
            response = driver.exchange(ask(server.url), into=into)
            assert (response.body if into is None else bytes(into[:5])) in {body, b"hello"}


@both_runtimes
def test_a_server_that_closes_after_each_reply_without_a_word(
    runtime: RuntimeName, wire: Wire
) -> None:
    script = [Receive(), OK, Close()]
    with wire.server(*[script] * 20) as server, driving(runtime, wire.http) as driver:
        for _ in range(20):
            assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
@pytest.mark.parametrize("end", [Close(), Reset()])
@pytest.mark.parametrize("body", [b"", patterned(3 * MIB)])
def test_a_reused_connection_that_dies_before_it_answers_is_replaced(
    runtime: RuntimeName, wire: Wire, end: object, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    dies = [Receive(), OK, Receive(), end]
    caplog.set_level("DEBUG", "blockyard")
    with wire.server(dies, [Receive(), OK]) as server, driving(runtime, wire.http) as driver:
        for resent in (False, True):
            request = ask(server.url, "PUT", body)
            assert driver.exchange(request).body == b"hello"
            assert request.resent == resent
            assert ["replaced" in record.message for record in caplog.records] == [True] * resent
        assert [request.body for request in server.requests] == [body] * 3


@both_runtimes
@pytest.mark.parametrize("end", [Close(), Reset()])
def test_one_to_be_sent_once_is_not_sent_again_when_its_connection_dies(
    runtime: RuntimeName, wire: Wire, end: object
) -> None:
    dies = [Receive(), OK, Receive(), end]
    with wire.server(dies, [Receive(), OK]) as server, driving(runtime, wire.http) as driver:
        request = replace(ask(server.url, "DELETE"), once=True)
        assert driver.exchange(request).body == b"hello"
        with pytest.raises(TransportConnectionError) as raised:
            _ = driver.exchange(request)
        assert raised.value.established
        assert not request.resent
        assert driver.exchange(request).body == b"hello"


@both_runtimes
@pytest.mark.parametrize("end", [Close(), Reset()])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_fresh_connection_that_dies_is_an_error(
    runtime: RuntimeName, wire: Wire, end: object, begun: bytes
) -> None:
    dies = [Receive(), begun, end] if begun else [Receive(), end]
    with wire.server(dies) as server, driving(runtime, wire.http) as driver:
        with pytest.raises(TransportConnectionError) as raised:
            _ = driver.exchange(ask(server.url))
        assert raised.value.established


@both_runtimes
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_reused_connection_that_dies_having_begun_to_answer_is_an_error(
    runtime: RuntimeName, begun: bytes
) -> None:
    script = [Receive(), OK, Receive(), begun, Close()]
    with ScriptedServer(script) as server, driving(runtime) as driver:
        _ = driver.exchange(ask(server.url))
        with pytest.raises(TransportConnectionError):
            _ = driver.exchange(ask(server.url))


@both_runtimes
@pytest.mark.parametrize("end", [Close(), Reset()])
@pytest.mark.parametrize("place", ["own", "buffer"])
def test_a_body_that_breaks_off_is_told_with_what_came(
    runtime: RuntimeName, wire: Wire, end: object, place: str
) -> None:
    body = patterned(300_000)
    for sent in (0, 1, 200_000):
        cut = reply(body)[: -len(body) + sent]
        with wire.server([Receive(), cut, end]) as server, driving(runtime, wire.http) as driver:
            buffer = memoryview(bytearray(len(body))) if place == "buffer" else None
            with pytest.raises(IncompleteBodyError) as raised:
                _ = driver.exchange(ask(server.url), into=buffer)
        error = raised.value
        assert (error.status, error.received, error.expected) == (200, sent, len(body))
        assert isinstance(error.cause, TransportConnectionError)
        assert error.partial == (body[:sent] if buffer is None else None)
        if buffer is not None:
            assert buffer[:sent] == body[:sent]


@both_runtimes
def test_a_body_larger_than_asked_for_is_refused_unread(runtime: RuntimeName, wire: Wire) -> None:
    scripts = [[Receive(), reply(patterned(100)), ClientCloses()]] * 2
    with wire.server(*scripts) as server, driving(runtime, wire.http) as driver:
        for into, limit in ((None, 99), (memoryview(bytearray(99)), 1000)):
            with pytest.raises(OversizedBodyError) as raised:
                _ = driver.exchange(ask(server.url), into=into, limit=limit)
            assert (raised.value.status, raised.value.size) == (200, 100)
        assert driver.counts() == (0, 0)


@both_runtimes
@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\n\r\nhello", b"SSH-2.0-OpenSSH\r\n\r\n"])
def test_a_reply_that_is_not_valid_is_a_protocol_error(runtime: RuntimeName, sent: bytes) -> None:
    with ScriptedServer([Receive(), sent]) as server, driving(runtime) as driver:
        with pytest.raises(ProtocolError) as raised:
            _ = driver.exchange(ask(server.url))
        assert not isinstance(raised.value, IncompleteBodyError)


@both_runtimes
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "GET"])
def test_replies_that_end_with_the_connection(
    runtime: RuntimeName, wire: Wire, method: str
) -> None:
    """Valid, and all there is to see of a write; of a GET it is taken where asked for."""
    sent = [Receive(), b"HTTP/1.1 200 OK\r\n\r\n<All/>", Close()]
    with wire.server(sent) as server, driving(runtime, wire.http) as driver:
        request = replace(ask(server.url, method), until_close=method == "GET")
        response = driver.exchange(request)
        assert (response.status, response.body, response.size) == (200, b"<All/>", 6)
        assert driver.counts() == (0, 0)


@both_runtimes
def test_a_listing_without_a_length_that_was_cut_off_is_not_taken(runtime: RuntimeName) -> None:
    """The end of the connection says nothing: the end of the XML does."""
    begun = b"HTTP/1.1 200 OK\r\n\r\n<ListBucketResult><Prefix></Prefix>"
    begun += b"<IsTruncated>false</IsTruncated>"
    scripts = [
        [Receive(), begun, Close()],
        [Receive(), begun + b"</ListBucketResult>", Close()],
    ]
    with ScriptedServer(*scripts) as server:
        s3 = S3Config(
            bucket="bucket",
            endpoint=server.url,
            force_path_style=True,
            anonymous=True,
            max_attempts=1,
        )
        with open_client(runtime, StoreConfig(s3=s3)) as client:
            with pytest.raises(ProtocolError):
                _ = client.store.list_by_prefix()
            assert client.store.list_by_prefix() == []


@both_runtimes
def test_an_answer_that_comes_before_the_body_was_taken_is_what_the_caller_gets(
    runtime: RuntimeName, wire: Wire
) -> None:
    refused = reply(b"<Error/>", b"403 Forbidden")
    scripts = [[Receive(body=False), refused, Close()]] * 5
    body = patterned(8 * MIB)
    with wire.server(*scripts) as server, driving(runtime, wire.http) as driver:
        for _ in scripts:
            response = driver.exchange(ask(server.url, "PUT", body))
            assert (response.status, response.body) == (403, b"<Error/>")
            assert driver.counts() == (0, 0)


@both_runtimes
def test_a_refused_connection_is_an_error_at_once(runtime: RuntimeName) -> None:
    with driving(runtime) as driver, took_less_than(LATE):
        with pytest.raises(TransportConnectionError) as raised:
            _ = driver.exchange(ask(f"http://127.0.0.1:{free_port()}"))
        assert not raised.value.established
        assert "127.0.0.1" in str(raised.value)


@both_runtimes
@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 64 + ".example"])
def test_a_name_that_does_not_resolve_is_an_error(runtime: RuntimeName, host: str) -> None:
    with driving(runtime) as driver:
        with pytest.raises(TransportConnectionError) as raised:
            _ = driver.exchange(ask(f"http://{host}:80"))
        assert not raised.value.established
        assert "not resolved" in str(raised.value)
        assert raised.value.of_name


@both_runtimes
def test_a_connection_that_does_not_come_about_is_given_up(runtime: RuntimeName) -> None:
    with black_hole() as url, driving(runtime, connect=SOON) as driver, took_less_than(LATE):
        with pytest.raises(TransportTimeoutError) as raised:
            _ = driver.exchange(ask(url))
        assert not isinstance(raised.value, DeadlineExceededError)
        assert not raised.value.established
        assert "connecting to 127.0.0.1" in str(raised.value)


@both_runtimes
def test_the_deadline_ends_connecting(runtime: RuntimeName) -> None:
    with (
        black_hole() as url,
        driving(runtime) as driver,
        took_less_than(LATE),
        pytest.raises(DeadlineExceededError),
    ):
        _ = driver.exchange(ask(url), seconds=SOON)


def stalled(driver: Driver, url: str, seconds: float | None = None) -> TransportError:
    """How the second exchange over a connection ends: its time begins with the request."""
    _ = driver.exchange(ask(url))
    with took_less_than(LATE), pytest.raises(TransportError) as raised:
        _ = driver.exchange(ask(url), limit=64 * MIB, seconds=seconds)
    return raised.value


@both_runtimes
@pytest.mark.parametrize("limit", ["no_progress", "deadline"])
@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-"],
        [OK[:-5]],
        [reply(patterned(200_000))[:100_000]],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"],
        [b"HTTP/1.1 500 Oops\r\n\r\nand then"],
    ],
)
def test_a_peer_that_stops_is_given_up(
    runtime: RuntimeName, wire: Wire, sent: list[object], limit: str
) -> None:
    patient = limit == "deadline"
    timeouts = {"no_progress": 60.0 if patient else SECOND}
    script = [Receive(), OK, Receive(), *sent]
    with wire.server(script) as server, driving(runtime, wire.http, **timeouts) as driver:
        error = stalled(driver, server.url, SOON if patient else None)
    if isinstance(error, IncompleteBodyError):
        error = error.cause
    assert isinstance(error, DeadlineExceededError if patient else TransportTimeoutError)
    assert patient or not isinstance(error, DeadlineExceededError)


@both_runtimes
@pytest.mark.parametrize(
    "trickled",
    [
        Trickle(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, 1, 0.02),
        Trickle(reply(patterned(1000)), 1, 0.02),
        Trickle(reply(patterned(40_000_000))[:3_000_000], 3_000, 0.02),
        Trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 25, 0.02),
        Trickle(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1000, 6, 0.02
        ),
    ],
)
def test_the_deadline_ends_a_reply_that_trickles(
    runtime: RuntimeName, wire: Wire, trickled: Trickle
) -> None:
    script = [Receive(), OK, Receive(), trickled]
    with wire.server(script) as server, driving(runtime, wire.http) as driver:
        error = stalled(driver, server.url, SOON)
    if isinstance(error, IncompleteBodyError):
        error = error.cause
    assert isinstance(error, DeadlineExceededError)


@both_runtimes
@pytest.mark.parametrize("size", [50_000, LARGE + 200_000])
def test_a_slow_reply_that_moves_is_not_given_up(
    runtime: RuntimeName, wire: Wire, size: int
) -> None:
    body = patterned(size)
    trickled = Trickle(reply(body), size // 10, 0.05)
    with (
        wire.server([Receive(), trickled]) as server,
        driving(runtime, wire.http, no_progress=0.4) as driver,
    ):
        begun = time.monotonic()
        assert driver.exchange(ask(server.url)).body == body
        assert time.monotonic() - begun > 0.4


class _SlowReader:
    """Accepts one connection, reads `rate` bytes every `TICK` (none at all: 0), and answers."""

    TICK = 0.06

    def __init__(self, wire: Wire, rate: int) -> None:
        self._tls = wire.tls
        self._rate = rate
        self._done = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> _SlowReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        if self._tls is not None:
            client = self._tls.wrap_socket(client, server_side=True)
        with client, suppress(ConnectionResetError):
            tail = b""
            while self._rate and not tail.endswith(b"the end"):
                left = self._rate
                while left and not tail.endswith(b"the end"):
                    received = client.recv(left)
                    if not received:
                        return
                    left -= len(received)
                    tail = (tail + received)[-7:]
                _ = self._done.wait(self.TICK)
            if self._rate:
                client.sendall(OK)
            _ = self._done.wait()


@both_runtimes
def test_a_slow_upload_that_moves_is_not_given_up(runtime: RuntimeName, wire: Wire) -> None:
    body = patterned(24 * MIB) + b"the end"  # several times what the kernel holds
    no_progress = 8 * _SlowReader.TICK
    with (
        driving(runtime, wire.http, no_progress=no_progress) as driver,
        _SlowReader(wire, 2 * MIB) as server,
    ):
        begun = time.monotonic()
        assert driver.exchange(ask(server.url, "PUT", body)).body == b"hello"
        assert time.monotonic() - begun > no_progress


@both_runtimes
@pytest.mark.parametrize("limit", ["no_progress", "deadline"])
def test_a_peer_that_takes_no_more_is_given_up(
    runtime: RuntimeName, wire: Wire, limit: str
) -> None:
    patient = limit == "deadline"
    body = patterned(32 * MIB)
    with (
        driving(runtime, wire.http, no_progress=60.0 if patient else SOON) as driver,
        _SlowReader(wire, 0) as server,
        took_less_than(LATE),
        pytest.raises(TransportTimeoutError) as raised,
    ):
        _ = driver.exchange(ask(server.url, "PUT", body), seconds=SOON if patient else None)
    assert isinstance(raised.value, DeadlineExceededError) == patient


@both_runtimes
def test_the_deadline_ends_an_upload_that_trickles(runtime: RuntimeName, wire: Wire) -> None:
    with (
        driving(runtime, wire.http) as driver,
        _SlowReader(wire, KIB) as server,
        took_less_than(LATE),
        pytest.raises(DeadlineExceededError),
    ):
        _ = driver.exchange(ask(server.url, "PUT", patterned(32 * MIB)), seconds=SOON)


@both_runtimes
def test_a_request_that_was_given_up_is_not_sent_on(runtime: RuntimeName) -> None:
    """All of it is with the system, which would go on for minutes where the path is broken."""
    body = patterned(MIB)
    with socket.create_server(("127.0.0.1", 0)) as listener, driving(runtime) as driver:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DeadlineExceededError):
            _ = driver.exchange(ask(url, "PUT", body), seconds=SOON)
        server, _ = listener.accept()
        received = 0
        with server, suppress(ConnectionResetError):
            while data := server.recv(MIB):
                received += len(data)
        assert received < len(body)


@both_runtimes
def test_a_deadline_that_has_passed_sends_nothing_and_loses_no_connection(
    runtime: RuntimeName,
) -> None:
    with ScriptedServer([Receive(), OK, ClientCloses()]) as server, driving(runtime) as driver:
        _ = driver.exchange(ask(server.url))
        with pytest.raises(DeadlineExceededError):
            _ = driver.exchange(ask(server.url), seconds=-1)


@both_runtimes
def test_closing_closes_what_is_idle(runtime: RuntimeName, wire: Wire) -> None:
    with wire.server([Receive(), OK], [Receive(), OK]) as server:
        with no_new_descriptors(), driving(runtime, wire.http) as driver:
            for _ in range(2):
                _ = driver.exchange(ask(server.url, fresh=True))
            assert driver.counts() == (0, 2)
        assert server.wait_until_drained()


@both_runtimes
def test_idle_connections_are_kept_no_longer_than_asked(runtime: RuntimeName) -> None:
    http = HttpConfig(keep_alive=0.05)
    scripts = [[Receive(), OK, ClientCloses()]] * 2
    with ScriptedServer(*scripts) as server, driving(runtime, http) as driver:
        _ = driver.exchange(ask(server.url))
        time.sleep(0.06)
        _ = driver.exchange(ask(server.url))
        assert eventually(lambda: server.open_connections == 1)


@both_runtimes
def test_ipv6(runtime: RuntimeName) -> None:
    with ScriptedServer([Receive(), OK], host="::1") as server, driving(runtime) as driver:
        assert driver.exchange(ask(server.url)).body == b"hello"
