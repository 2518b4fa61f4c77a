"""TLS: whom it trusts, what it tells of a error_response, and that no peer holds it up."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from blockyard.config import HttpConfig, S3Config, StoreConfig, TimeoutConfig
from blockyard.context import Origin, Request
from blockyard.errors import (
    ConfigError,
    DeadlineExceededError,
    IncompleteBodyError,
    TLSError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.testing.clients import open_client
from blockyard.testing.scripted import Close, Receive, ScriptedServer
from blockyard.transport import resolving
from blockyard.transport.connecting import Dialing
from tests.authority import Authority
from tests.transport.runtimes import OK, RUNTIMES, Peer, RuntimeName, ask, both_runtimes, driving

SOON = 0.15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> HttpConfig:
    return HttpConfig(ca_bundle=str(authority.bundle))


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="module")
def good(authority: Authority) -> ssl.SSLContext:
    return server_context(authority.issue("good"))


@both_runtimes
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_certificate_for_the_name_or_the_address_is_trusted(
    runtime: RuntimeName, host: str, good: ssl.SSLContext, trusting: HttpConfig
) -> None:
    listens = "::1" if host == "::1" else "127.0.0.1"
    with (
        ScriptedServer([Receive(), OK] * 2, tls=good, host=listens) as server,
        driving(runtime, trusting) as driver,
    ):
        request = Request(Origin("https", host, server.port), "GET", "/", {"host": "test"})
        for _ in range(2):
            assert driver.exchange(request).body == b"hello"


@both_runtimes
def test_the_protocol_and_the_name_are_offered(
    runtime: RuntimeName, authority: Authority, trusting: HttpConfig
) -> None:
    context = server_context(authority.issue("observing"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    seen: list[ssl.SSLObject] = []
    names: list[str | None] = []

    def observe(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        seen.append(connection)
        names.append(name)

    context.sni_callback = observe
    with (
        ScriptedServer([Receive(), OK], tls=context) as server,
        driving(runtime, trusting) as driver,
    ):
        _ = driver.exchange(ask(server.url.replace("127.0.0.1", "localhost")))
        assert names == ["localhost"]
        assert seen[0].selected_alpn_protocol() == "http/1.1"
        assert seen[0].version() == "TLSv1.3"


@both_runtimes
def test_tls_1_2_is_enough(
    runtime: RuntimeName, authority: Authority, trusting: HttpConfig
) -> None:
    context = server_context(authority.issue("older"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        ScriptedServer([Receive(), OK] * 2, tls=context) as server,
        driving(runtime, trusting) as driver,
    ):
        for _ in range(2):
            assert driver.exchange(ask(server.url)).body == b"hello"


def too_old(authority: Authority) -> ssl.SSLContext:
    context = server_context(authority.issue("ancient"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def wants_certificate(authority: Authority, newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = server_context(authority.issue("strict"))
    context.maximum_version = newest
    context.load_verify_locations(authority.bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    # Strict since Python 3.13, and our authority's certificates have no key identifiers.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


REFUSED: dict[str, Callable[[Authority, Path], ssl.SSLContext]] = {
    "another host": lambda authority, _: server_context(
        authority.issue("elsewhere", ["other.example", "127.0.0.2"])
    ),
    "expired": lambda authority, _: server_context(authority.issue("expired", days_ago=2)),
    "not yet valid": lambda authority, _: server_context(authority.issue("early", days_ago=-2)),
    "self-signed": lambda authority, _: server_context(authority.self_signed("lonely")),
    "an unknown authority": lambda _, folder: server_context(
        Authority(folder, "strangers").issue("stranger")
    ),
    "TLS 1.1 at the most": lambda authority, _: too_old(authority),
    "a client certificate, TLS 1.2": lambda authority, _: wants_certificate(
        authority, ssl.TLSVersion.TLSv1_2
    ),
    "a client certificate, TLS 1.3": lambda authority, _: wants_certificate(
        authority, ssl.TLSVersion.TLSv1_3
    ),
}


@both_runtimes
@pytest.mark.parametrize("case", REFUSED)
def test_an_error_response_is_raised_at_once_and_not_tried_again(
    runtime: RuntimeName, case: str, authority: Authority, folder: Path, trusting: HttpConfig
) -> None:
    context = REFUSED[case](authority, folder)
    with Peer(lambda client: shake_hands(context, client)) as server:
        config = s3_config(f"https://127.0.0.1:{server.port}", trusting)
        with open_client(runtime, config) as client, pytest.raises(TLSError) as raised:
            _ = client.store.read_block("key")
        assert server.clients == 1
    assert "read_block 'key'" in str(raised.value)
    assert raised.value.of_name == (case == "another host")
    assert not hasattr(raised.value, "__notes__")


def shake_hands(context: ssl.SSLContext, client: socket.socket, reply: bytes = b"") -> None:
    """The server's side as OpenSSL does it, alerts included; at the end no goodbye is said."""
    with context.wrap_socket(client, server_side=True) as tls:
        _ = tls.recv(65536)
        tls.sendall(reply)


def s3_config(url: str, http: HttpConfig) -> StoreConfig:
    return StoreConfig(
        s3=S3Config(
            bucket="bucket",
            endpoint=url,
            force_path_style=True,
            anonymous=True,
            http=http,
            timeouts=TimeoutConfig(deadline=20),
        )
    )


@both_runtimes
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_shown(
    runtime: RuntimeName, newest: ssl.TLSVersion, authority: Authority
) -> None:
    mine = str(authority.issue("client", []))
    http = HttpConfig(ca_bundle=str(authority.bundle), client_cert=mine)
    context = wants_certificate(authority, newest)
    with (
        ScriptedServer([Receive(), OK], tls=context) as server,
        driving(runtime, http) as driver,
    ):
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
def test_plain_http_where_tls_was_expected(runtime: RuntimeName, trusting: HttpConfig) -> None:
    with (
        Peer(lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
        driving(runtime, trusting) as driver,
        pytest.raises(TLSError, match="needs http:// before its name") as raised,
    ):
        _ = driver.exchange(ask(f"https://127.0.0.1:{server.port}"))
    assert not raised.value.of_name


@both_runtimes
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"])
def test_a_handshake_that_breaks_off_may_be_tried_again(
    runtime: RuntimeName, trusting: HttpConfig, sent: bytes
) -> None:
    def talk(client: socket.socket) -> None:
        _ = client.recv(65536)
        client.sendall(sent)

    with (
        Peer(talk) as server,
        driving(runtime, trusting) as driver,
        pytest.raises(TransportConnectionError) as raised,
    ):
        _ = driver.exchange(ask(f"https://127.0.0.1:{server.port}"))
    assert not isinstance(raised.value, TLSError)
    assert not raised.value.established


def trickle_for_ever(client: socket.socket) -> None:
    client.sendall(b"\x16\x03\x03\x40\x00")
    while True:
        client.sendall(b"\x00")
        time.sleep(0.02)


def wait_for_ever(client: socket.socket) -> None:
    while client.recv(65536):
        pass


@both_runtimes
@pytest.mark.parametrize("limit", ["connect", "deadline"])
@pytest.mark.parametrize("talk", [trickle_for_ever, wait_for_ever])
def test_a_handshake_that_takes_too_long_is_given_up(
    runtime: RuntimeName,
    trusting: HttpConfig,
    limit: str,
    talk: Callable[[socket.socket], object],
) -> None:
    by_deadline = limit == "deadline"
    begun = time.monotonic()
    with (
        Peer(talk) as server,
        driving(runtime, trusting, connect=60 if by_deadline else SOON) as driver,
        pytest.raises(TransportTimeoutError) as raised,
    ):
        _ = driver.exchange(
            ask(f"https://127.0.0.1:{server.port}"), seconds=SOON if by_deadline else None
        )
    assert time.monotonic() - begun < 10
    assert isinstance(raised.value, DeadlineExceededError) == by_deadline
    assert not raised.value.established


def dribble(
    context: ssl.SSLContext, client: socket.socket, plaintext: bytes, piece: int, tick: float
) -> None:
    """Send `plaintext` as TLS records, cut into pieces at any place in them."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    request = b""
    while b"\r\n\r\n" not in request:
        try:
            request += tls.read(65536)
        except ssl.SSLWantReadError:
            client.sendall(outgoing.read())
            _ = incoming.write(client.recv(65536))
    _ = tls.write(plaintext)
    sealed = outgoing.read()
    for begin in range(0, len(sealed), piece):
        client.sendall(sealed[begin : begin + piece])
        time.sleep(tick)
    _ = client.recv(1)


@contextmanager
def dribbling(
    context: ssl.SSLContext, plaintext: bytes, piece: int, tick: float
) -> Generator[str, None, None]:
    with Peer(lambda client: dribble(context, client, plaintext, piece, tick)) as server:
        yield f"https://127.0.0.1:{server.port}"


BODY = bytes(range(250)) * 40
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@both_runtimes
@pytest.mark.parametrize("piece", [1, 5, 4096])
def test_records_may_come_in_pieces(
    runtime: RuntimeName, good: ssl.SSLContext, trusting: HttpConfig, piece: int
) -> None:
    with dribbling(good, REPLY, piece, 0) as url, driving(runtime, trusting) as driver:
        assert driver.exchange(ask(url)).body == BODY


@both_runtimes
def test_the_deadline_ends_a_record_that_trickles(
    runtime: RuntimeName, good: ssl.SSLContext, trusting: HttpConfig
) -> None:
    begun = time.monotonic()
    with (
        dribbling(good, REPLY, 10, 0.02) as url,
        driving(runtime, trusting) as driver,
        pytest.raises(DeadlineExceededError),
    ):
        _ = driver.exchange(ask(url), seconds=SOON)
    assert time.monotonic() - begun < 10


@both_runtimes
def test_a_record_that_comes_slowly_is_not_given_up(
    runtime: RuntimeName, good: ssl.SSLContext, trusting: HttpConfig
) -> None:
    begun = time.monotonic()
    with (
        dribbling(good, REPLY, 1000, 0.05) as url,
        driving(runtime, trusting, no_progress=0.4) as driver,
    ):
        assert driver.exchange(ask(url)).body == BODY
    assert time.monotonic() - begun > 0.4


@both_runtimes
@pytest.mark.parametrize("goodbye", [True, False])
def test_only_a_goodbye_ends_a_body_of_unknown_length(
    runtime: RuntimeName, good: ssl.SSLContext, trusting: HttpConfig, goodbye: bool
) -> None:
    """What anyone on the way can do, a FIN or a RST, is no end that the server meant."""
    sent = b"HTTP/1.1 500 Oops\r\n\r\n<Error>"
    with driving(runtime, trusting) as driver:
        if goodbye:
            with ScriptedServer([Receive(), sent, Close()], tls=good) as server:
                assert driver.exchange(ask(server.url)).body == b"<Error>"
            return
        with cut_off(good, sent) as url, pytest.raises(TransportConnectionError):
            _ = driver.exchange(ask(url))


@both_runtimes
def test_a_body_that_is_cut_off_is_incomplete(
    runtime: RuntimeName, good: ssl.SSLContext, trusting: HttpConfig
) -> None:
    with cut_off(good, REPLY[:-100]) as url, driving(runtime, trusting) as driver:
        with pytest.raises(IncompleteBodyError) as raised:
            _ = driver.exchange(ask(url))
        assert raised.value.partial == BODY[:-100]


@contextmanager
def cut_off(context: ssl.SSLContext, plaintext: bytes) -> Generator[str, None, None]:
    with Peer(lambda client: shake_hands(context, client, plaintext)) as server:
        yield f"https://127.0.0.1:{server.port}"


@pytest.mark.parametrize("setting", ["ca_bundle", "client_cert"])
def test_a_file_that_holds_no_certificate_is_named(
    setting: str, folder: Path, authority: Authority
) -> None:
    empty = folder / "empty.pem"
    _ = empty.write_text("nothing\n")
    settings = {"ca_bundle": str(authority.bundle), setting: str(empty)}
    for runtime in RUNTIMES:
        with (
            Peer(wait_for_ever) as server,
            driving(runtime, HttpConfig(**settings)) as driver,
            pytest.raises(ConfigError, match=setting) as raised,
        ):
            _ = driver.exchange(ask(f"https://127.0.0.1:{server.port}"))
        assert str(empty) in str(raised.value)
        [other] = {"ca_bundle", "client_cert"} - {setting}
        assert other not in str(raised.value)


def test_certificates_and_names_are_always_verified() -> None:
    context = Dialing(HttpConfig(), TimeoutConfig()).trust.context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.get_ca_certs(binary_form=True)


@both_runtimes
def test_a_bundle_that_was_replaced_is_looked_at_again(
    runtime: RuntimeName, authority: Authority, folder: Path, good: ssl.SSLContext
) -> None:
    """As cert-manager does: the endpoint has a certificate of the new authority already."""
    bundle = folder / f"replaced-{runtime}.pem"
    _ = bundle.write_bytes(Authority(folder, f"old-{runtime}").bundle.read_bytes())
    with Peer(lambda client: shake_hands(good, client, OK)) as server:
        url = f"https://127.0.0.1:{server.port}"
        with driving(runtime, HttpConfig(ca_bundle=str(bundle))) as driver:
            for _ in range(2):
                with pytest.raises(TLSError):
                    _ = driver.exchange(ask(url))
            assert server.clients == 2
            _ = bundle.write_bytes(authority.bundle.read_bytes())
            assert driver.exchange(ask(url)).body == b"hello"
            assert server.clients == 4


@both_runtimes
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_was_replaced_is_looked_at_again(
    runtime: RuntimeName, newest: ssl.TLSVersion, authority: Authority, folder: Path
) -> None:
    """With TLS 1.3 the alert comes only when the handshake is done and the request sent."""
    mine = folder / f"mine-{runtime}-{newest.name}.pem"
    stranger = Authority(folder, f"stranger-{runtime}-{newest.name}")
    _ = mine.write_bytes(stranger.issue("client-of-a-stranger", []).read_bytes())
    context = wants_certificate(authority, newest)
    with Peer(lambda client: shake_hands(context, client, OK)) as server:
        url = f"https://127.0.0.1:{server.port}"
        http = HttpConfig(ca_bundle=str(authority.bundle), client_cert=str(mine))
        with driving(runtime, http) as driver:
            with pytest.raises(TLSError):
                _ = driver.exchange(ask(url))
            _ = mine.write_bytes(authority.issue("client-renewed", []).read_bytes())
            assert driver.exchange(ask(url)).body == b"hello"


@both_runtimes
def test_an_authority_without_key_identifiers_is_trusted(
    runtime: RuntimeName,
    good: ssl.SSLContext,
    trusting: HttpConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.13 is strict by default, botocore is not, and private authorities are many."""
    create = ssl.create_default_context

    def create_strict(*args: ssl.Purpose, cafile: str | None = None) -> ssl.SSLContext:
        context = create(*args, cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_strict)
    with (
        ScriptedServer([Receive(), OK], tls=good) as server,
        driving(runtime, trusting) as driver,
    ):
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
@pytest.mark.parametrize("authorities", [True, False])
def test_an_unknown_authority_is_told_with_what_helps(
    runtime: RuntimeName,
    authorities: bool,
    good: ssl.SSLContext,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Authority(folder, "of-the-system").bundle if authorities else folder / "none.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder / "nowhere"))
    with (
        Peer(lambda client: shake_hands(good, client)) as server,
        driving(runtime) as driver,
        pytest.raises(TLSError, match=r"http\.ca_bundle \(AWS_CA_BUNDLE\)") as raised,
    ):
        _ = driver.exchange(ask(f"https://127.0.0.1:{server.port}"))
    assert ("no trusted certificates" in str(raised.value)) == (not authorities)
    assert "said by SSL_CERT_FILE and SSL_CERT_DIR" in str(raised.value)


@both_runtimes
def test_a_folder_of_trusted_certificates(
    runtime: RuntimeName, good: ssl.SSLContext, authority: Authority, tmp_path: Path
) -> None:
    pem = authority.bundle.read_bytes()
    [name] = x509.load_pem_x509_certificate(pem).subject
    lower = x509.Name([x509.NameAttribute(name.oid, str(name.value).lower())]).public_bytes()
    digest = hashlib.sha1(lower[2:], usedforsecurity=False).digest()  # X509_NAME_hash(3)
    _ = (tmp_path / f"{int.from_bytes(digest[:4], 'little'):08x}.0").write_bytes(pem)
    with (
        ScriptedServer([Receive(), OK], tls=good) as server,
        driving(runtime, HttpConfig(ca_bundle=str(tmp_path))) as driver,
    ):
        assert driver.exchange(ask(server.url)).body == b"hello"


@both_runtimes
def test_a_key_log_that_can_not_be_written_is_named(
    runtime: RuntimeName, trusting: HttpConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python opens it with every context, and the certificates are not to blame."""
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
    with (
        Peer(lambda client: client.recv(1)) as server,
        driving(runtime, trusting) as driver,
        pytest.raises(ConfigError, match=r"^SSLKEYLOGFILE: .*'/nowhere/keys'"),
    ):
        _ = driver.exchange(ask(f"https://127.0.0.1:{server.port}"))


@both_runtimes
def test_a_dot_at_the_end_of_a_host_is_not_part_of_its_name(
    runtime: RuntimeName,
    authority: Authority,
    trusting: HttpConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`endpoint.example.` is that very name, not below a search domain: RFC 1034, section 3.1."""
    context = server_context(authority.issue("dotted"))
    resolve = socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return resolve(host.rstrip("."), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolving.forget("localhost.")
    names: list[str | None] = []

    def observe(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = observe
    with (
        ScriptedServer([Receive(), OK], tls=context) as server,
        driving(runtime, trusting) as driver,
    ):
        request = Request(Origin("https", "localhost.", server.port), "GET", "/", {"host": "test"})
        assert driver.exchange(request).body == b"hello"
        assert (asked, names) == (["localhost."], ["localhost"])
