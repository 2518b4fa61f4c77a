"""The scripted server: every byte and every end of a connection is the script's."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from blockyard.testing.scripted import (
    ClientCloses,
    Close,
    Pause,
    Receive,
    Reset,
    ScriptedServer,
    Trickle,
)
from servers.certificates import ServerCertificate, issue_certificate
from tests.transport.runtimes import NewThreads

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: h\r\nX-Odd:   spaced  \r\n\r\n"


@contextmanager
def connected(server: ScriptedServer, host: str = "127.0.0.1") -> Generator[socket.socket]:
    with socket.create_connection((host, server.port), timeout=5) as sock:
        yield sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_requests_are_kept_as_they_came() -> None:
    with ScriptedServer([Receive(), OK, Receive(), OK]) as server, connected(server) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == OK
        sock.sendall(b"PUT /k HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc")
        assert sock.recv(100) == OK
    first, second = server.requests
    assert first.head.encode() == GET
    assert (first.head.method, first.head.target) == ("GET", "/a%20b?c=d")
    assert first.head.get("x-odd") == "spaced"
    assert second.body == b"abc"


def test_a_chunked_request_is_kept_decoded() -> None:
    with ScriptedServer([Receive(), OK]) as server, connected(server) as sock:
        sock.sendall(b"PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n")
        assert sock.recv(100) == OK
    assert server.requests[0].body == b"abc0123456789"


def test_a_reply_can_come_while_the_body_is_still_unread() -> None:
    with ScriptedServer([Receive(body=False), OK]) as server, connected(server) as sock:
        sock.sendall(b"PUT /k HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        assert sock.recv(100) == OK
    assert server.requests[0].body == b""


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], b"hello"),
        ([b"HTTP/1.0 200 OK\r\n\r\nto the end", Close()], b"to the end"),
        ([b"HTTP/1.1 200 OK\r\n\r\nno length", Close()], b"no length"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", b"lo\r\n0\r\n\r\n"],
            b"hello",
        ),
        ([Trickle(OK)], b"hello"),
        ([OK[:13], Pause(0.01), OK[13:]], b"hello"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000 + OK[15:]], b"hello"),
    ],
    ids=["interim", "http-1.0", "close-delimited", "chunked", "byte-by-byte", "split", "huge"],
)
def test_an_ordinary_client_understands(sent: list[bytes | Trickle | Close], body: bytes) -> None:
    with ScriptedServer([Receive(), *sent]) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        client.request("GET", "/")
        with client.getresponse() as response:
            assert response.read() == body
        client.close()


def test_pieces_arrive_apart() -> None:
    with (
        ScriptedServer([Trickle(b"abcdef", size=2, tick=60)]) as server,
        connected(server) as sock,
    ):
        assert sock.recv(100) == b"ab"
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            _ = sock.recv(100)


def test_a_close_is_an_end_of_stream() -> None:
    with ScriptedServer([OK, Close()]) as server, connected(server) as sock:
        assert read_all(sock) == OK


def test_a_reset_comes_after_everything_sent_before_it() -> None:
    sent = bytes(3 << 20)
    with ScriptedServer([sent, Reset()]) as server, connected(server) as sock:
        received = 0
        while received < len(sent):
            received += len(sock.recv(1 << 16))
        with pytest.raises(ConnectionResetError):
            _ = sock.recv(1)


def test_trailing_bytes_and_the_client_that_hangs_up_on_them() -> None:
    script = [Receive(), OK + b"trailing", ClientCloses()]
    with ScriptedServer(script) as server, connected(server) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == OK + b"trailing"


def test_each_connection_has_its_script() -> None:
    with ScriptedServer([b"one", Close()], [b"two", Close()]) as server:
        for said in (b"one", b"two"):
            with connected(server) as sock:
                assert read_all(sock) == said


def test_ipv6() -> None:
    with ScriptedServer([b"six", Close()], host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        with connected(server, "::1") as sock:
            assert read_all(sock) == b"six"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("end", [Close(), Reset()])
def test_tls(certificate: ServerCertificate, end: Close | Reset) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    trusting = ssl.create_default_context(cafile=certificate.authority)
    with ScriptedServer([Receive(), OK, end], tls=context) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        with connected(server) as sock:
            secure = trusting.wrap_socket(
                sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            )
            secure.sendall(GET)
            assert secure.recv(100) == OK
            if isinstance(end, Close):
                assert secure.recv(100) == b""
            else:
                # No close_notify came; newer Pythons (3.12.3, 3.13) say that it was a reset.
                with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                    _ = secure.recv(100)
            secure.close()


def test_a_client_that_refuses_the_certificate_is_no_error(certificate: ServerCertificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    with ScriptedServer(tls=context) as server, connected(server) as sock:
        with pytest.raises(ssl.SSLCertVerificationError):
            _ = ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")
        assert server.wait_until_drained()


def test_a_connection_that_never_came_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="1 connections never came"), ScriptedServer([OK]):
        pass


@pytest.mark.parametrize(
    ("script", "sent", "complaint"),
    [
        ([], b"", "connection 1 has no script"),
        ([[Receive()]], b"GET / HT", "closed where a request was expected"),
        ([[Receive()]], b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\na", "body broke off"),
        ([[ClientCloses()]], b"more", "expected its end, got b'more'"),
    ],
)
def test_a_client_that_departs_from_the_script_fails_the_test(
    script: list[list[Receive | ClientCloses]], sent: bytes, complaint: str
) -> None:
    def depart() -> None:
        with ScriptedServer(*script) as server:
            with connected(server) as sock:
                sock.sendall(sent)
            assert server.wait_until_drained()

    with pytest.raises(AssertionError, match=complaint):
        depart()


_DEPARTURES = """
import socket
from contextlib import suppress
from blockyard.testing.scripted import ClientCloses, Receive, ScriptedServer

def ask(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        with suppress(OSError):  # reset meanwhile
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)

for scripts, sent in (([[]], None), ([], b"x"), ([[ClientCloses()]], b"x"), ([[Receive()]], b"")):
    try:
        with ScriptedServer(*scripts) as server:
            if sent is not None:
                ask(server, sent)
    except AssertionError as error:
        print(str(error))
"""


def test_departures_fail_the_test_under_optimized_python_as_well() -> None:
    """`python -O` takes `assert` away."""
    told = subprocess.run(
        [sys.executable, "-O", "-c", _DEPARTURES], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert told == [
        "1 connections never came",
        "connection 1 has no script",
        "connection 1: expected its end, got b'x'",
        "connection 1: closed where a request was expected",
    ]


def test_an_error_in_the_test_itself_comes_through_with_the_servers_as_a_note() -> None:
    def fail() -> None:
        with ScriptedServer([Receive()]) as server:
            with connected(server):
                pass
            assert server.wait_until_drained()
            raise KeyError

    with pytest.raises(KeyError) as raised:
        fail()
    assert "closed where a request was expected" in raised.value.__notes__[0]


def test_leaving_ends_pauses_open_connections_and_the_thread() -> None:
    threads = NewThreads()
    with ScriptedServer([Pause(600)], []) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        assert not server.wait_until_drained(within=0.05)
        assert server.open_connections == 2
    assert threads.alive() == []
    for client in clients:
        with client:
            assert client.recv(1) == b""
