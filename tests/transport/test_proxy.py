"""Through a proxy: who goes through one, what it is told, and what it may do wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
import traceback
from base64 import b64encode
from dataclasses import replace

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Origin
from blockyard.errors import (
    BlockStoreError,
    ConfigError,
    DeadlineExceededError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.model import MIB
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import Head, read_head
from blockyard.testing.scripted import Receive, ScriptedServer
from blockyard.transport.connecting import Dialing
from blockyard.transport.proxies import names_host, parse_proxy
from tests.authority import Authority
from tests.passing_on import pass_on
from tests.transport.runtimes import OK, Peer, RuntimeName, ask, both_runtimes, driving

PASSWORD = "p:a@ss/w%rd"
USER_AND_PASSWORD = "us%20er:p%3Aa%40ss%2Fw%25rd"
PROOF = b64encode(f"us er:{PASSWORD}".encode()).decode()
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("endpoint"))
    return context


class ProxyServer(LoopbackServer):
    """A proxy that does as it is asked; `asked` holds the first request of each connection."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        super().__init__()
        self.asked: list[Head] = []
        self._answer = answer

    async def serve(self, client: Connection) -> None:
        head = await read_head(client.reader)
        assert head is not None
        self.asked.append(head)
        if head.method != "CONNECT":
            await pass_on(client, head)
            return
        host, _, port = head.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        await client.send(self._answer)

        async def forward() -> None:
            while piece := await client.reader.read(65536):
                writer.write(piece)
                await writer.drain()
            writer.close()

        forwarding = asyncio.create_task(forward())
        while piece := await reader.read(65536):
            await client.send(piece)
        await forwarding
        await writer.wait_closed()


def through(proxy: LoopbackServer | Peer, authority: Authority) -> HttpConfig:
    url = f"http://{USER_AND_PASSWORD}@127.0.0.1:{proxy.port}"
    return HttpConfig(proxy=url, ca_bundle=str(authority.bundle))


@both_runtimes
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nProxy-Agent: p\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_requests_go_through_a_tunnel(
    runtime: RuntimeName,
    host: str,
    answer: bytes,
    authority: Authority,
    tls: ssl.SSLContext,
) -> None:
    body = bytes(MIB)
    with (
        ScriptedServer([Receive(), OK, Receive(), OK], tls=tls, host=host) as server,
        ProxyServer(answer) as proxy,
        driving(runtime, through(proxy, authority)) as driver,
    ):
        for _ in range(2):
            assert driver.exchange(ask(server.url, "PUT", body)).body == b"hello"
        assert [request.body for request in server.requests] == [body, body]
        (asked,) = proxy.asked
        where = f"[::1]:{server.port}" if host == "::1" else f"127.0.0.1:{server.port}"
        assert asked.lines[0] == f"CONNECT {where} HTTP/1.1".encode()
        assert asked.items() == [("host", where), ("proxy-authorization", f"Basic {PROOF}")]
        for request in server.requests:
            assert request.head.get("proxy-authorization") == ""


@both_runtimes
def test_a_proxy_passes_on_the_requests_to_an_http_endpoint(
    runtime: RuntimeName, authority: Authority
) -> None:
    """In absolute form, as proxies expect it: many open tunnels to port 443 alone."""
    with (
        ScriptedServer([Receive(), OK, Receive(), OK]) as server,
        ProxyServer() as proxy,
        driving(runtime, through(proxy, authority)) as driver,
    ):
        for _ in range(2):
            request = ask(server.url, "PUT", bytes(MIB), "/b/k?x=%2F")
            request = replace(request, headers={"host": f"127.0.0.1:{server.port}"})
            assert driver.exchange(request).body == b"hello"
        assert driver.counts() == (0, 1)
        (asked,) = proxy.asked
        assert asked.lines[0] == f"PUT {server.url}/b/k?x=%2F HTTP/1.1".encode()
        assert asked.get("proxy-authorization") == f"Basic {PROOF}"
        assert [request.body for request in server.requests] == [bytes(MIB)] * 2


@both_runtimes
def test_a_proxy_that_passes_nothing_on_is_named(
    runtime: RuntimeName, authority: Authority
) -> None:
    def talk(client: socket.socket) -> None:
        _ = client.recv(65536)
        client.sendall(refuse(b"407 Proxy Authentication Required"))

    with (
        Peer(talk) as proxy,
        driving(runtime, through(proxy, authority)) as driver,
        pytest.raises(TransportConnectionError, match="status 407") as raised,
    ):
        _ = driver.exchange(ask("http://example.com:80"))
    assert not raised.value.established
    assert f"127.0.0.1:{proxy.port}" in str(raised.value)


@both_runtimes
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("spared", [False, True])
def test_the_environment_names_a_proxy_and_who_is_spared_it(  # noqa: PLR0917 - the same
    runtime: RuntimeName,
    variable: str,
    spared: bool,
    authority: Authority,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedServer([Receive(), OK], tls=tls) as server, ProxyServer() as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        if spared:
            monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
        with driving(runtime, HttpConfig(ca_bundle=str(authority.bundle))) as driver:
            _ = driver.exchange(ask(server.url))
        assert len(proxy.asked) == (0 if spared else 1)


@pytest.mark.parametrize(
    ("environment", "origin", "proxy"),
    [
        ({}, Origin("https", "s3.example.com", 443), None),
        ({"HTTPS_PROXY": "p.example:3128"}, Origin("https", "h", 443), ("p.example", 3128)),
        ({"HTTPS_PROXY": "http://p.example"}, Origin("https", "h", 443), ("p.example", 80)),
        ({"HTTPS_PROXY": "http://p.example"}, Origin("http", "h", 80), None),
        ({"HTTP_PROXY": "http://p.example"}, Origin("https", "h", 443), None),
        ({"HTTPS_PROXY": ""}, Origin("https", "h", 443), None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, Origin("https", "h", 443), None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "h"}, Origin("https", "h", 443), None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": ".x"}, Origin("https", "a.x", 443), None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "h"}, Origin("https", "hh", 443), ("p", 80)),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "h:8443"}, Origin("https", "h", 8443), None),
        ({"HTTPS_PROXY": "http://p", "no_proxy": "h:8443"}, Origin("https", "h", 443), ("p", 80)),
        ({"HTTPS_PROXY": "http://[::1]:8"}, Origin("https", "h", 443), ("::1", 8)),
    ],
)
def test_which_proxy(
    environment: dict[str, str],
    origin: Origin,
    proxy: tuple[str, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = Dialing(HttpConfig(), TimeoutConfig()).proxy_for(origin)
    assert (found and (found.host, found.port)) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "host", "named"),
    [
        ("", "h", False),
        ("*", "h", True),
        ("a, b", "b", True),
        ("a b", "b", True),
        ("example.com", "EXAMPLE.com", True),
        ("example.com", "s3.example.com", True),
        ("example.com", "notexample.com", False),
        (".example.com", "s3.example.com", True),
        (".example.com", "example.com", True),
        ("*.example.com", "s3.example.com", True),
        ("example.com", "example.com.", True),
        ("example.com.", "example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.0/8", "10.200.3.4", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.1:443", "10.0.0.1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:443", "::1", True),
        ("[::1]:80", "::1", False),
        ("fd00::/8", "fd12::1", True),
        (",,:443,/", "h", False),
    ],
)
def test_whom_no_proxy_names(no_proxy: str, host: str, named: bool) -> None:
    assert names_host(no_proxy, host, 443) == named


@both_runtimes
@pytest.mark.parametrize(
    "url",
    [
        f"http://{USER_AND_PASSWORD}@host:99999",
        f"https://{USER_AND_PASSWORD}@host",
        f"socks5://{USER_AND_PASSWORD}@host",
        f"http://{USER_AND_PASSWORD}@",
        f"http://{USER_AND_PASSWORD}@[::1",
        f"http://{USER_AND_PASSWORD}@host:port",
        "http://user:12/p%3Aa@host",
        "http://user#p%3Aa@host",
        "http://user?p%3Aa@host",
    ],
)
def test_a_proxy_that_the_environment_misspells_is_a_config_error_without_its_password(
    runtime: RuntimeName, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with driving(runtime) as driver, pytest.raises(ConfigError, match="HTTPS_PROXY") as raised:
        _ = driver.exchange(ask("https://example.com:443"))
    assert "p%3Aa" not in "".join(traceback.format_exception(raised.value))


def refuse(status: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nProxy-Authenticate: Basic\r\nContent-Length: 6\r\n\r\nDenied" % status


@both_runtimes
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuse(b"407 Proxy Authentication Required"), "status 407"),
        (refuse(b"403 Forbidden"), "status 403"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 2", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not valid HTTP"),
    ],
)
def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    runtime: RuntimeName,
    answer: bytes,
    said: str,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    def talk(client: socket.socket) -> None:
        _ = client.recv(65536)
        client.sendall(answer)

    with (
        Peer(talk) as proxy,
        driving(runtime, through(proxy, authority)) as driver,
        pytest.raises(BlockStoreError, match=said) as raised,
    ):
        _ = driver.exchange(ask("https://example.com:443"))
    error = raised.value
    if isinstance(error, TransportConnectionError):
        assert not error.established  # nothing can have been sent
        assert f"127.0.0.1:{proxy.port}" in str(error)
    shown = "".join([*traceback.format_exception(error), repr(error), caplog.text])
    for secret in (PASSWORD, "p%3Aa", PROOF):
        assert secret not in shown


@both_runtimes
def test_a_proxy_that_is_not_there_is_named(runtime: RuntimeName, authority: Authority) -> None:
    with Peer(lambda client: None) as proxy:
        config = through(proxy, authority)
    with driving(runtime, config) as driver, pytest.raises(TransportConnectionError) as raised:
        _ = driver.exchange(ask("https://example.com:443"))
    told = f"connecting to example.com:443 by the proxy 127.0.0.1:{proxy.port}: Connection refused"
    assert told in str(raised.value)
    assert not raised.value.established


@both_runtimes
def test_a_proxy_whose_name_is_not_resolved_is_named(runtime: RuntimeName) -> None:
    config = HttpConfig(proxy="http://proxy.invalid:3128")
    with driving(runtime, config) as driver, pytest.raises(TransportConnectionError) as raised:
        _ = driver.exchange(ask("http://example.com:80"))
    assert "proxy.invalid:3128: the proxy's name was not resolved" in str(raised.value)
    assert not raised.value.of_name  # the endpoint's may be right


def trickle(client: socket.socket) -> None:
    _ = client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        client.sendall(b"x")
        time.sleep(0.02)


def say_nothing(client: socket.socket) -> None:
    while client.recv(65536):
        pass


@both_runtimes
@pytest.mark.parametrize("talk", [say_nothing, trickle])
@pytest.mark.parametrize("limit", ["connect", "deadline"])
def test_a_proxy_that_takes_too_long_is_given_up(
    runtime: RuntimeName, talk: object, limit: str, authority: Authority
) -> None:
    by_deadline = limit == "deadline"
    begun = time.monotonic()
    with (
        Peer(talk) as proxy,  # type: ignore[arg-type]
        driving(runtime, through(proxy, authority), connect=60 if by_deadline else 0.1) as driver,
        pytest.raises(TransportTimeoutError) as raised,
    ):
        _ = driver.exchange(ask("https://example.com:443"), seconds=0.1 if by_deadline else None)
    assert time.monotonic() - begun < 10
    assert isinstance(raised.value, DeadlineExceededError) == by_deadline


@both_runtimes
def test_a_proxy_that_dies_within_the_tunnel(runtime: RuntimeName, authority: Authority) -> None:
    def talk(client: socket.socket) -> None:
        _ = client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        _ = client.recv(65536)

    with (
        Peer(talk) as proxy,
        driving(runtime, through(proxy, authority)) as driver,
    ):
        with pytest.raises(TransportConnectionError):
            _ = driver.exchange(ask("https://example.com:443"))
        assert driver.counts() == (0, 0)


@pytest.mark.parametrize(
    ("user", "sent"),
    [
        ("us%ffer:p", b"us\xffer:p"),
        ("us\udcffer:%C3%BC", b"us\xffer:\xc3\xbc"),
        ("ü", b"\xc3\xbc:"),
    ],
)
def test_bytes_of_a_password_are_sent_as_they_are(user: str, sent: bytes) -> None:
    """What is no UTF-8 became U+FFFD, or an error that is none of the store's."""
    assert parse_proxy(f"http://{user}@host").authorization == f"Basic {b64encode(sent).decode()}"


@pytest.mark.parametrize("url", ["http://host:0", "http://us\ud800er@host"])
def test_what_is_no_proxy(url: str) -> None:
    with pytest.raises(ConfigError):
        _ = parse_proxy(url)


def test_the_password_of_a_proxy_is_in_no_repr() -> None:
    config = HttpConfig(proxy=f"http://{USER_AND_PASSWORD}@127.0.0.1:1")
    proxy = Dialing(config, TimeoutConfig()).proxy_for(Origin("http", "h", 80))
    assert proxy is not None
    assert proxy.authorization == f"Basic {PROOF}"
    for shown in (repr(config), str(config), repr(proxy), str(proxy)):
        assert "p%3Aa" not in shown
        assert PROOF not in shown
