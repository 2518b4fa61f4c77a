"""The proxy itself: what it passes on unchanged, what it logs, and how it ends connections."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import time
import warnings
from collections.abc import Generator
from contextlib import closing, contextmanager

import pytest

import blockyard
from blockyard.testing.scripted import Close, Pause, Receive, Reset, ScriptedServer, Trickle
from blockyard_faults import (
    Fault,
    FaultProxy,
    Hold,
    Match,
    Script,
    SeenRequest,
    Stall,
    Status,
    Truncate,
)
from servers.certificates import ServerCertificate, issue_certificate
from servers.endpoint import Endpoint, boto3_client, create_bucket
from tests.hooked_store import shrink_blocks
from tests.transport.runtimes import NewThreads

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /a%2Bb?c=d%20e HTTP/1.1\r\nHost: 127.0.0.1:9\r\nX-Odd:  a ,b\r\n\r\n"


def no_fault(request: SeenRequest) -> Fault | None:
    return None


@contextmanager
def connected(proxy: FaultProxy) -> Generator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock:
        yield sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def receive(sock: socket.socket) -> bytes:
    """As many bytes as `OK` has, or all there are."""
    received = b""
    while len(received) < len(OK) and (piece := sock.recv(len(OK) - len(received))):
        received += piece
    return received


@contextmanager
def between(
    *steps: bytes | Pause | Receive | Close | Reset | Trickle,
) -> Generator[tuple[ScriptedServer, FaultProxy, socket.socket]]:
    """A scripted server of one connection, the proxy before it, and a client of the proxy."""
    with (
        ScriptedServer(steps) as server,
        FaultProxy(server.url, no_fault) as proxy,
        connected(proxy) as sock,
    ):
        yield server, proxy, sock


def test_a_head_goes_on_byte_for_byte_and_the_host_with_it() -> None:
    with between(Receive(), OK) as (server, _, sock):
        sock.sendall(GET)
        assert receive(sock) == OK
        assert server.requests[0].head.encode() == GET


def test_both_sides_are_kept_open() -> None:
    with between(Receive(), OK, Receive(), OK) as (server, proxy, sock):
        for _ in range(2):
            sock.sendall(GET)
            assert receive(sock) == OK
        assert len(server.requests) == 2
        assert proxy.open_connections == server.open_connections == 1


def test_a_server_that_closes_after_each_reply_costs_the_client_nothing() -> None:
    closes = b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
    script = [Receive(), closes, Close()]
    with (
        ScriptedServer(script, script) as server,
        FaultProxy(server.url, no_fault) as proxy,
        connected(proxy) as sock,
    ):
        for _ in range(2):
            sock.sendall(GET)
            assert receive(sock) == OK
        assert proxy.upstream_failures == 0


@pytest.mark.parametrize("end", [Close(), Reset()])
def test_a_server_that_ends_an_idle_connection_costs_the_client_nothing(
    end: Close | Reset,
) -> None:
    with (
        ScriptedServer([Receive(), OK, end], [Receive(), OK]) as server,
        FaultProxy(server.url, no_fault) as proxy,
        connected(proxy) as sock,
    ):
        sock.sendall(GET)
        assert receive(sock) == OK
        assert server.wait_until_drained()
        sock.sendall(GET)
        assert receive(sock) == OK
        assert proxy.upstream_failures == 0


@pytest.mark.parametrize(
    "request_head", [GET.replace(b"1.1\r", b"1.0\r"), GET[:-2] + b"Connection: close\r\n\r\n"]
)
def test_a_client_that_wants_to_close_is_closed_on(request_head: bytes) -> None:
    with between(Receive(), OK) as (_, _, sock):
        sock.sendall(request_head)
        assert read_all(sock) == OK


def test_chunks_stay_chunks() -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with between(Receive(), reply + b"5\r\nhel", b"lo\r\n0\r\n\r\n") as (server, _, sock):
        sock.sendall(b"PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert response.read() == b"hello"
        assert server.requests[0].body == b"abc"


def test_a_faulty_reply_in_chunks_is_given_a_length() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with (
        ScriptedServer([Receive(), chunked]) as server,
        FaultProxy(server.url, Script([Truncate(2)])) as proxy,
        connected(proxy) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_all(sock) == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    with between(Receive(), b"HTTP/1.1 200 OK\r\n\r\nhello", Close()) as (_, _, sock):
        sock.sendall(GET)
        assert read_all(sock) == b"HTTP/1.1 200 OK\r\n\r\nhello"


def test_continue_is_answered_by_the_proxy_and_left_out_of_the_reply() -> None:
    with between(Receive(), b"HTTP/1.1 100 Continue\r\n\r\n", OK) as (server, _, sock):
        sock.sendall(b"PUT /k HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert receive(sock) == OK
        assert server.requests[0].head.get("expect") == ""


def test_a_reply_before_the_end_of_the_request_passes_and_ends_the_connection() -> None:
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with between(Receive(body=False), refused) as (_, proxy, sock):
        sock.sendall(b"PUT /k HTTP/1.1\r\nContent-Length: 1000\r\n\r\nonly a part")
        assert read_all(sock) == refused
        assert proxy.wait_until_drained()


@pytest.mark.parametrize(
    "end",
    [
        [Close()],
        [Reset()],
        [b"HTTP/1.1 2", Close()],
        [OK[:-5], Close()],
        [OK[:-1], Close()],
        [OK[:-1], Reset()],
    ],
)
def test_a_server_that_breaks_off_resets_the_client(end: list[bytes | Close | Reset]) -> None:
    with between(Receive(), *end) as (_, proxy, sock):
        sock.sendall(GET)
        with pytest.raises(ConnectionResetError):
            _ = read_all(sock)
        assert proxy.upstream_failures == 1


def test_a_server_that_is_not_there_resets_the_client() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens at it
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with FaultProxy(url, no_fault) as proxy, connected(proxy) as sock:
            sock.sendall(GET)
            with pytest.raises(ConnectionResetError):
                _ = sock.recv(1)
            assert proxy.upstream_failures == 1
            assert not proxy.counts


def test_a_client_that_gives_up_ends_the_request_upstream_too() -> None:
    with (
        ScriptedServer([Receive(), Pause(600)]) as server,
        FaultProxy(server.url, no_fault) as proxy,
    ):
        with connected(proxy) as sock:
            sock.sendall(GET)
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                _ = sock.recv(1)
        assert proxy.wait_until_drained()


def test_close_after() -> None:
    script = [Receive(), OK, Receive(), OK]
    with (
        ScriptedServer(script) as server,
        FaultProxy(server.url, no_fault, close_after=2) as proxy,
        connected(proxy) as sock,
    ):
        for _ in range(2):
            sock.sendall(GET)
            assert receive(sock) == OK  # no word of closing
        assert sock.recv(100) == b""
        assert proxy.wait_until_drained()


def test_the_log_holds_what_was_asked_and_no_secrets() -> None:
    with between(Receive(), OK) as (server, proxy, sock):
        sock.sendall(
            b"PUT /k?X-Amz-Date=1&X-Amz-Signature=geheim1&X-Amz-Security-Token=geheim2 HTTP/1.1\r\n"
            b"Host: h\r\nAuthorization: AWS4 geheim3\r\nx-amz-security-token: geheim4\r\n"
            b"Content-Length: 3\r\n\r\nabc"
        )
        assert receive(sock) == OK
        [seen] = proxy.requests
    assert seen == SeenRequest(
        number=1,
        connection=1,
        method="PUT",
        target="/k?X-Amz-Date=1&X-Amz-Signature=***&X-Amz-Security-Token=***",
        headers={
            "host": "h",
            "authorization": "***",
            "x-amz-security-token": "***",
            "content-length": "3",
        },
        body_length=3,
    )
    assert b"geheim1" in server.requests[0].head.encode()


def test_the_log_is_bounded() -> None:
    plan = Script([Status(503)] * 5)
    with FaultProxy("http://127.0.0.1:9", plan, log_limit=2) as proxy, connected(proxy) as sock:
        for _ in range(5):
            sock.sendall(GET)
            assert sock.recv(1000).startswith(b"HTTP/1.1 503")
        assert [request.number for request in proxy.requests] == [4, 5]
        assert proxy.counts == {"status_503": 5}


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://h", "http://"])
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="upstream_url"):
        _ = FaultProxy(url, no_fault)


def test_an_error_in_a_plan_is_raised_at_the_end() -> None:
    def broken(request: SeenRequest) -> Fault | None:
        raise LookupError(request.target)

    def use() -> None:
        with FaultProxy("http://127.0.0.1:9", broken) as proxy, connected(proxy) as sock:
            sock.sendall(GET)
            assert sock.recv(1) == b""

    with pytest.raises(LookupError, match="/a%2Bb"):
        use()


def test_leaving_ends_stalls_connections_and_the_thread() -> None:
    threads = NewThreads()
    script = [Receive(), OK]
    with ScriptedServer(script) as server, FaultProxy(server.url, Script([Stall(600)])) as proxy:
        sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        idle = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        sock.sendall(GET)
        assert not proxy.wait_until_drained(within=0.05)
        assert proxy.open_connections == 2
    assert threads.alive() == []
    with sock, idle:
        assert sock.recv(1) == idle.recv(1) == b""


def test_a_forked_child_does_not_keep_connections_open() -> None:
    with (
        ScriptedServer([Receive(), OK]) as server,
        FaultProxy(server.url, no_fault, close_after=1) as proxy,
        connected(proxy) as sock,
    ):
        while not proxy.open_connections:
            time.sleep(0.001)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = os.fork()
        if child == 0:
            signal.pause()
        try:
            sock.sendall(GET)
            assert read_all(sock) == OK  # the end is seen, though the child lives
        finally:
            os.kill(child, signal.SIGKILL)
            _ = os.waitpid(child, 0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("tls"))


def server_context(certificate: ServerCertificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def test_tls_on_both_sides(certificate: ServerCertificate) -> None:
    context = server_context(certificate)
    trusting = ssl.create_default_context(cafile=certificate.authority)
    body = bytes(3 << 20)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with (
        ScriptedServer([Receive(), reply, Receive(), reply], tls=context) as server,
        FaultProxy(
            server.url, Script([None, Truncate()]), tls=context, upstream_tls=trusting
        ) as proxy,
        closing(http.client.HTTPSConnection("127.0.0.1", proxy.port, context=trusting)) as client,
    ):
        assert proxy.url.startswith("https://")
        client.request("PUT", "/", body)
        with client.getresponse() as response:
            assert response.read() == body
        client.request("GET", "/")
        with client.getresponse() as response, pytest.raises(http.client.IncompleteRead) as broken:
            _ = response.read()
        assert len(broken.value.partial) == len(body) // 2
        assert server.requests[0].body == body


def test_a_slow_handshake(certificate: ServerCertificate) -> None:
    trusting = ssl.create_default_context(cafile=certificate.authority)

    def shake_hands(delay: float, timeout: float) -> str | None:
        proxy = FaultProxy(
            "http://127.0.0.1:9", no_fault, tls=server_context(certificate), handshake_delay=delay
        )
        with (
            proxy,
            socket.create_connection(("127.0.0.1", proxy.port), timeout) as sock,
            trusting.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            return secure.version()

    assert shake_hands(delay=0.01, timeout=5) == "TLSv1.3"
    with pytest.raises(TimeoutError):
        _ = shake_hands(delay=600, timeout=0.05)


def test_a_client_may_leave_while_it_is_being_closed_on(certificate: ServerCertificate) -> None:
    trusting = ssl.create_default_context(cafile=certificate.authority)
    with (
        ScriptedServer([Receive(), OK]) as server,
        FaultProxy(server.url, Script([Truncate(0)]), tls=server_context(certificate)) as proxy,
    ):
        with (
            connected(proxy) as sock,
            trusting.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            secure.sendall(GET)
            assert secure.recv(100) == OK[:-5]  # and no answer to the close_notify after it
        assert proxy.wait_until_drained()


@contextmanager
def late(
    moto: Endpoint, bucket: str, fault: Hold, method: str, **settings: object
) -> Generator[tuple[blockyard.BlockStore, FaultProxy]]:
    """A store whose first `method` request meets `fault`; every other request is let through."""
    plan = Script([fault], Match(method=method))
    with FaultProxy(moto.url, plan) as proxy:
        through = moto.s3_settings(bucket) | {"endpoint": proxy.url, **settings}
        with blockyard.open_store(blockyard.StoreConfig(s3=blockyard.S3Config(**through))) as store:
            yield store, proxy
        assert proxy.counts == {"hold": 1}


def test_a_write_takes_effect_after_its_client_gave_up(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}late"
    with late(moto_endpoint, bucket, Hold(reset=True), "PUT", max_attempts=1) as (store, proxy):
        with pytest.raises(blockyard.TransportConnectionError):
            _ = store.write_block(key, b"given up")
        assert not store.block_exists(key)
        assert proxy.held == 1
        assert proxy.release() == [200]
        assert store.read_block(key) == b"given up"
        assert proxy.held == 0


def test_a_client_that_waits_for_a_held_request_meets_silence(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}silent"
    settings = {"max_attempts": 1, "timeouts": {"no_progress": 0.2}}
    with late(moto_endpoint, bucket, Hold(), "PUT", **settings) as (store, proxy):
        with pytest.raises(blockyard.TransportTimeoutError):
            _ = store.write_block(key, b"silence")
        assert proxy.release() == [200]
        assert store.read_block(key) == b"silence"


@contextmanager
def late_for_contents(
    moto: Endpoint, bucket: str, match: Match, **settings: object
) -> Generator[tuple[blockyard.BlockStore, FaultProxy]]:
    """A store of small contents: the first request of `match` is held, and sent again once."""
    with FaultProxy(moto.url, Script([Hold(reset=True)] * 2, match)) as proxy:
        through = moto.s3_settings(bucket) | {"endpoint": proxy.url, **settings}
        with blockyard.open_store(blockyard.StoreConfig(s3=blockyard.S3Config(**through))) as store:
            shrink_blocks(store, 4)
            yield store, proxy
        assert proxy.counts == {"hold": 2}


def test_a_block_of_a_content_comes_late(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    """After its write was given up: nothing names it, and nobody reads it."""
    content, block = f"{key_prefix}late", Match("PUT", "block-0000")
    with late_for_contents(moto_endpoint, bucket, block, max_attempts=1) as (store, proxy):
        for data in (b"four blocks here", b"other blocks too"):
            with pytest.raises(blockyard.TransportConnectionError):
                _ = store.write_content(content, data)
        _ = store.write_content(content, b"and three")
        assert proxy.release() == [200, 200]
        assert store.read_content(content) == b"and three"
        assert [entry.content_id for entry in store.list_contents(content)] == [content]


@pytest.mark.parametrize("later", ["written", "deleted", "deleted and written"])
def test_a_manifest_comes_late(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str, later: str
) -> None:
    """After what was done since: what was acknowledged stays, and it is no error either."""
    content, manifest = f"{key_prefix}late-{later[:9]}", Match("PUT", ".blockyard")
    with late_for_contents(moto_endpoint, bucket, manifest) as (store, proxy):
        _ = store.write_content(content, b"four blocks here")
        assert store.read_content(content) == b"four blocks here"
        if "deleted" in later:
            store.delete_content(content)
        if "written" in later:
            _ = store.write_content(content, b"and three")
        _ = proxy.release()
        if later == "deleted":
            assert not store.content_exists(content)
        else:
            assert store.read_content(content) == b"and three"


def test_blocks_of_a_replaced_generation_are_deleted_late(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    content, deletes = f"{key_prefix}shortened", Match("POST", "delete")
    with late_for_contents(moto_endpoint, bucket, deletes) as (store, proxy):
        _ = store.write_content(content, b"four blocks here")
        store.delete_content(content)
        _ = store.write_content(content, b"four blocks here")
        _ = proxy.release()
        assert store.read_content(content) == b"four blocks here"


def test_a_write_takes_effect_again_after_its_retry(moto_endpoint: Endpoint) -> None:
    create_bucket(moto_endpoint, "versions")
    client = boto3_client(moto_endpoint)
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    fault = Hold(answered=1, reset=True)
    with late(moto_endpoint, "versions", fault, "PUT") as (store, proxy):
        _ = store.write_block("twice", b"twice")
        _ = proxy.release()  # waits for what is under way already
        assert store.read_block("twice") == b"twice"
    versions = client.list_object_versions(Bucket="versions", Prefix="twice")["Versions"]
    assert len(versions) == 2
    client.close()


def test_a_late_write_overwrites_a_newer_one(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}overwritten"
    fault = Hold(answered=2, reset=True)
    with late(moto_endpoint, bucket, fault, "PUT") as (store, proxy):
        _ = store.write_block(key, b"old")  # the first try is held, the second succeeds
        assert store.read_block(key) == b"old"
        assert proxy.held == 1
        _ = store.write_block(key, b"new")
        _ = proxy.release()
        assert store.read_block(key) == b"old"


def test_a_late_write_resurrects_a_deleted_block(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}resurrected"
    fault = Hold(answered=2, reset=True)
    with late(moto_endpoint, bucket, fault, "PUT") as (store, proxy):
        _ = store.write_block(key, b"gone")
        store.delete_block(key)
        _ = proxy.release()
        assert store.read_block(key) == b"gone"


def test_a_late_delete_takes_a_newer_block_away(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}taken"
    fault = Hold(answered=2, reset=True)
    with late(moto_endpoint, bucket, fault, "DELETE") as (store, proxy):
        _ = store.write_block(key, b"old")
        store.delete_block(key)
        _ = store.write_block(key, b"new")
        _ = proxy.release()
        assert not store.block_exists(key)


def test_a_held_request_goes_on_after_some_time_whatever_else_is_asked(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    key = f"{key_prefix}timed"
    fault = Hold(seconds=0.05, reset=True)
    with late(moto_endpoint, bucket, fault, "PUT", max_attempts=1) as (store, proxy):
        with pytest.raises(blockyard.TransportConnectionError):
            _ = store.write_block(key, b"timed")
        while proxy.held:
            time.sleep(0.01)
        assert store.read_block(key) == b"timed"


def test_what_is_held_at_the_end_is_dropped_and_a_lost_server_is_told() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with (
            FaultProxy(url, Script([Hold(reset=True), Hold(reset=True)])) as proxy,
            connected(proxy) as first,
            connected(proxy) as second,
        ):
            first.sendall(GET)
            with pytest.raises(ConnectionResetError):
                _ = first.recv(1)
            assert proxy.release() == [0]
            second.sendall(GET)
            with pytest.raises(ConnectionResetError):
                _ = second.recv(1)
            assert proxy.held == 1
