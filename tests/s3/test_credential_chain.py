"""AWS's default chain, run for real on a home of its own: what it finds, and what others wrote.

No document that a program, a file or a metadata service gives may end in anything but usable keys
or a `ConfigError` that names where it came from and shows nothing of it.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import blockyard
from blockyard.config import HttpConfig, S3Config, TimeoutConfig
from blockyard.context import Context
from blockyard.errors import ConfigError, DeadlineExceededError
from blockyard.s3.credentials import (
    ChainCredentials,
    Credentials,
    StaticCredentials,
    credential_source,
    find_in_chain,
)
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections

SECRET = "hunter2/hunter2/hunter2/hunter2/hunter2+"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    return tmp_path


def write_credentials(home: Path, text: str) -> None:
    _ = (home / ".aws" / "credentials").write_text(text)


def test_keys_in_the_shared_file(home: Path) -> None:
    write_credentials(
        home, "[default]\naws_access_key_id = FILE\naws_secret_access_key = hunter2\n"
    )
    assert find_in_chain() == Credentials("FILE", "hunter2", "", None)


def test_a_named_profile_and_its_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = {
        "Version": 1,
        "AccessKeyId": "PROGRAM",
        "SecretAccessKey": "hunter2",
        "SessionToken": "token",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    _ = (home / "reply.json").write_text(json.dumps(reply))
    command = f"cat {home / 'reply.json'}"
    _ = (home / ".aws" / "config").write_text(f"[profile other]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert find_in_chain() == Credentials("PROGRAM", "hunter2", "token", 4070908800.0)


def test_a_profile_does_not_hide_keys_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_credentials(home, "[other]\naws_access_key_id = FILE\naws_secret_access_key = hunter2\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    shortcut = credential_source(S3Config(bucket="my-data"), os.environ)
    assert isinstance(shortcut, StaticCredentials)
    context = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))
    assert find_in_chain() == run_to_end(shortcut.current(context)), "as past the chain"


def test_a_profile_that_is_a_setting_hides_keys_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_credentials(home, "[other]\naws_access_key_id = FILE\naws_secret_access_key = hunter2\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    source = credential_source(S3Config(bucket="my-data", profile="other"), os.environ)
    context = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))
    assert run_to_end(source.current(context)) == Credentials("FILE", "hunter2", "", None)
    with pytest.raises(ConfigError, match="ProfileNotFound"):
        _ = find_in_chain("missing")


def test_none_found(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = find_in_chain()
    for place in ("access_key", "AWS_ACCESS_KEY_ID", "shared files", "role", "anonymous=true"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            "[profile other]\ncredential_process = false\n",
            " in custom-process: CredentialRetrievalError",
        ),
        (
            "[profile other]\ncredential_process = /no/such/program\n",
            " in custom-process: FileNotFoundError",
        ),
        (
            "[profile other]\ncredential_process = echo hunter2\n",
            " in custom-process: JSONDecodeError",
        ),
        ("[profile another]\n", ": ProfileNotFound"),
        ("no section\n", ": ConfigParseError"),
        (
            "[profile other]\nrole_arn = arn:x\nsource_profile = other2\n",
            " in assume-role: InvalidConfigError",
        ),
    ],
)
def test_a_chain_that_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch, config: str, reason: str
) -> None:
    _ = (home / ".aws" / "config").write_text(config)
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(ConfigError, match=f"AWS's default chain failed{reason}") as caught:
        _ = find_in_chain()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_without_botocore(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ConfigError, match=r"pip install 'blockyard\[aws\]'"):
        _ = find_in_chain()


def test_rotated_keys_are_seen_on_renewal(home: Path) -> None:
    template = "[default]\naws_access_key_id = {}\naws_secret_access_key = hunter2\n"
    write_credentials(home, template.format("OLD"))
    context = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))
    held = ChainCredentials()
    stale = run_to_end(held.current(context))
    write_credentials(home, template.format("NEW"))
    assert run_to_end(held.renew(context, stale))
    assert run_to_end(held.current(context)).access_key == "NEW"


# What others write


GOOD = {
    "Version": 1,
    "AccessKeyId": "FOUND",
    "SecretAccessKey": SECRET,
    "Token": "token",
    "SessionToken": "token",
    "Expiration": "2099-01-01T00:00:00Z",
    "Code": "Success",
    "LastUpdated": "2020-01-01T00:00:00Z",
    "Type": "AWS-HMAC",
}


def changed(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def without(*names: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name not in names}).encode()


ODD: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a number": b"5",
    "true": b"true",
    "a text": json.dumps(SECRET).encode(),
    "a list": b"[]",
    "a list of one": b"[" + changed() + b"]",
    "an empty mapping": b"{}",
    "the secret alone": SECRET.encode(),
    "a web page": b"<html><body>Sign in</body></html>",
    "cut short": changed()[:-20],
    "two documents": changed() + changed(),
    "a byte order mark": b"\xef\xbb\xbf" + changed(),
    "UTF-16": changed().decode().encode("utf-16"),
    "bytes": bytes(range(256)),
    "nested without end": b"[" * 200_000,
    "nested below a key": b'{"Version": 1, "AccessKeyId": ' + b"[" * 200_000,
    "no access key": without("AccessKeyId"),
    "no secret": without("SecretAccessKey"),
    "the access key null": changed(AccessKeyId=None),
    "the access key empty": changed(AccessKeyId=""),
    "the access key a number": changed(AccessKeyId=5),
    "the access key a list": changed(AccessKeyId=["FOUND"]),
    "the access key a mapping": changed(AccessKeyId={"S": "FOUND"}),
    "the access key of two lines": changed(AccessKeyId="FOUND\r\nX-Evil: 1"),
    "the access key with a slash": changed(AccessKeyId="FOUND/20200101/us-east-1"),
    "the secret null": changed(SecretAccessKey=None),
    "the secret empty": changed(SecretAccessKey=""),
    "the secret a number": changed(SecretAccessKey=12345),
    "the secret a list": changed(SecretAccessKey=[SECRET]),
    "the secret of two lines": changed(SecretAccessKey=SECRET + "\n" + SECRET),
    "the secret with a blank at its end": changed(SecretAccessKey=SECRET + " "),
    "the token a number": changed(Token=5, SessionToken=5),
    "the token a list": changed(Token=["token"], SessionToken=["token"]),
    "the token a mapping": changed(Token={}, SessionToken={}),
    "the token of two lines": changed(Token="to\nken", SessionToken="to\nken"),
    "the token not ASCII": changed(Token="t\u00f6ken", SessionToken="t\u00f6ken"),
    "expired": changed(Expiration="2001-01-01T00:00:00Z"),
    "expiry empty": changed(Expiration=""),
    "expiry a word": changed(Expiration="never"),
    "expiry the secret": changed(Expiration=SECRET),
    "expiry a number": changed(Expiration=5),
    "expiry a list": changed(Expiration=[]),
    "expiry a mapping": changed(Expiration={"seconds": 5}),
    "expiry without a zone": changed(Expiration="2099-01-01T00:00:00"),
    "expiry beyond the calendar": changed(Expiration="999999-01-01T00:00:00Z"),
    "expiry at its beginning": changed(Expiration="0001-01-01T00:00:00+23:59"),
}
FOR_A_PROGRAM = {
    **ODD,
    "no version": without("Version"),
    "version 2": changed(Version=2),
    "version a text": changed(Version="1"),
    "version null": changed(Version=None),
}


def usable_or_refused(where: str) -> str:
    """What the chain finds: "usable", or the words of an error that shows no secret."""
    try:
        found = find_in_chain()
    except ConfigError as error:
        refused = error
    else:
        assert_usable(found)
        return "usable"
    shown = "".join(traceback.format_exception(refused)) + repr(refused)
    assert SECRET[:12] not in shown, shown
    assert (refused.__cause__, refused.__context__) == (None, None), "they may hold the document"
    assert where in shown or "none found" in shown
    return str(refused)


def assert_usable(found: Credentials) -> None:
    assert (found.access_key, found.secret_key) == ("FOUND", SECRET)
    assert found.session_token in {"token", ""}
    assert found.expires_at is None or found.expires_at > time.time()


def test_the_good_document_is_usable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_a_program(home, monkeypatch, changed())
    assert usable_or_refused("custom-process") == "usable"


def from_a_program(home: Path, monkeypatch: pytest.MonkeyPatch, document: bytes) -> None:
    _ = (home / "document").write_bytes(document)
    command = f"cat {home / 'document'}"
    _ = (home / ".aws" / "config").write_text(f"[profile other]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")


@pytest.mark.parametrize("document", FOR_A_PROGRAM.values(), ids=FOR_A_PROGRAM)
def test_an_odd_document_of_a_program(
    home: Path, monkeypatch: pytest.MonkeyPatch, document: bytes
) -> None:
    from_a_program(home, monkeypatch, document)
    assert usable_or_refused("in custom-process: ") != "usable"


LASTING = {"the expiry null": changed(Expiration=None), "no expiry": without("Expiration")}


@pytest.mark.parametrize("document", LASTING.values(), ids=LASTING)
def test_keys_of_a_program_that_last(
    home: Path, monkeypatch: pytest.MonkeyPatch, document: bytes
) -> None:
    from_a_program(home, monkeypatch, document)
    assert find_in_chain() == Credentials("FOUND", SECRET, "token", None)


def test_what_a_program_says_on_its_way_out_is_quoted_without_secrets(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = home / "program"
    _ = script.write_text(f"#!/bin/sh\necho 'SSO has\nexpired: {SECRET}' >&2\nexit 3\n")
    script.chmod(0o755)
    _ = (home / ".aws" / "config").write_text(f"[profile other]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert "SSO has expired: ..." in usable_or_refused("in custom-process: ")


class Metadata(BaseHTTPRequestHandler):
    """The metadata service of a container or a machine."""

    document: ClassVar[bytes] = b""

    def do_PUT(self) -> None:
        self._answer(b"a token")

    def do_GET(self) -> None:
        roles = self.path.endswith("/security-credentials/")
        self._answer(b"role" if roles else self.document)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        _ = self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def metadata(document: bytes) -> Generator[str]:
    handler = type("Handler", (Metadata,), {"document": document})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore pauses between its tries."""
    from botocore.utils import ContainerMetadataFetcher

    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)


@pytest.mark.usefixtures("home", "hurried")
@pytest.mark.parametrize("document", ODD.values(), ids=ODD)
def test_an_odd_document_of_a_container(monkeypatch: pytest.MonkeyPatch, document: bytes) -> None:
    with metadata(document) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url + "/keys")
        assert usable_or_refused("in container-role: ") != "usable"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_document_of_a_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """botocore has keys of a machine that have expired go on, for its service may be down."""
    with metadata(ODD[name]) as url:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert (usable_or_refused("in iam-role: ") == "usable") is (name == "expired")


CACHED = {"accessToken": SECRET, "expiresAt": "2099-01-01T00:00:00Z"}
CACHES: dict[str, bytes] = {
    **{name: document for name, document in ODD.items() if b"AccessKeyId" not in document},
    **{
        f"{name} {value!r}": json.dumps({**CACHED, name: value}).encode()
        for name in CACHED
        for value in (None, "", 5, [], {}, "never", "a\nb", "2099-01-01T00:00:00")
    },
    "no token": b'{"expiresAt": "2099-01-01T00:00:00Z"}',
    "no expiry": b'{"accessToken": "t"}',
    "good": json.dumps(CACHED).encode(),
}
CONNECTING = {"good", *(f"accessToken {text!r}" for text in ("", "never", "2099-01-01T00:00:00"))}
"""Those that lead on to the service."""

PROFILES = {
    "sso-session": (
        "[profile other]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n"
        "[sso-session s]\nsso_start_url = https://start.invalid/\nsso_region = us-east-1\n",
        "s",
    ),
    "legacy": (
        "[profile other]\nsso_start_url = https://start.invalid/\nsso_region = us-east-1\n"
        "sso_account_id = 1\nsso_role_name = r\n",
        "https://start.invalid/",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_of_single_sign_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, profile: str, name: str
) -> None:
    config, cached_as = PROFILES[profile]
    _ = (home / ".aws" / "config").write_text(config)
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    file = hashlib.sha1(cached_as.encode()).hexdigest()  # noqa: S324 - as botocore names it
    _ = (cache / f"{file}.json").write_bytes(CACHES[name])
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for service in ("SSO", "SSO_OIDC"):  # where a good one leads
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", "http://127.0.0.1:9")
    # constants of botocore, made from the home that it was imported in
    for provider in ("credentials.SSOProvider", "tokens.SSOTokenProvider"):
        monkeypatch.setattr(f"botocore.{provider}._SSO_TOKEN_CACHE_DIR", str(cache))
    found = usable_or_refused("in sso: ")
    assert found != "usable"
    assert ("EndpointConnectionError" in found) is (name in CONNECTING), found


FILES: dict[str, bytes] = {
    "an empty key": b"[default]\naws_access_key_id =\naws_secret_access_key = hunter2hunter2\n",
    "a key alone": b"[default]\naws_access_key_id = FOUND\n",
    "two lines": b"[default]\naws_access_key_id = A\n  B\naws_secret_access_key = hunter2hunter2\n",
    "not ASCII": "[default]\naws_access_key_id = \u00e4\naws_secret_access_key = h\n".encode(),
    "bytes": bytes(range(256)),
    "no section": b"aws_access_key_id = FOUND\n",
    "a section twice": b"[default]\n[default]\n",
    "a setting twice": b"[default]\naws_access_key_id = A\naws_access_key_id = B\n",
}


@pytest.mark.parametrize("name", ["credentials", "config"])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_damaged_shared_file(home: Path, name: str, content: bytes) -> None:
    _ = (home / ".aws" / name).write_bytes(content)
    assert usable_or_refused("default chain failed") != "usable"


def test_a_document_that_spoils_an_early_renewal_does_not_fail_a_call(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys held are good for some minutes more."""
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 11 * 60))
    from_a_program(home, monkeypatch, changed(Expiration=expires))
    runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    held = ChainCredentials()
    first = run_to_end(held.current(Context(runtime)))
    for document in FOR_A_PROGRAM.values():
        from_a_program(home, monkeypatch, document)
        assert held._held is not None
        held._held = held._held._replace(renew_at=0.0, next_try=0.0)  # it is due
        assert run_to_end(held.current(Context(runtime))) == first
        latest = held._searches.here().latest
        assert latest is not None
        assert isinstance(latest.exception(30), ConfigError)
        assert run_to_end(held.current(Context(runtime))) == first
    assert caplog.text.count("could not be renewed yet") == len(FOR_A_PROGRAM)
    assert SECRET[:12] not in caplog.text


# How long a call waits


@pytest.fixture
def slow_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile whose program answers once there is a file; it counts its runs."""
    script = home / "program"
    _ = (home / "document").write_bytes(changed())
    _ = script.write_text(
        f"#!/bin/sh\necho run >> {home}/runs\n"
        f"while [ ! -e {home}/go ]; do sleep 0.05; done\ncat {home}/document\n"
    )
    script.chmod(0o755)
    _ = (home / ".aws" / "config").write_text(f"[profile other]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    return home


def runs(home: Path) -> int:
    return len((home / "runs").read_text().split())


NOWHERE = "s3://my-data?endpoint=http://127.0.0.1:9&max_attempts=1"
A_WHILE = 60
"""Seconds in which a slow machine does what takes a fraction of one."""


def test_a_deadline_ends_the_wait_for_a_program(slow_program: Path) -> None:
    with blockyard.open_store(NOWHERE) as store:
        view = store.with_options(deadline=0.3)
        calls: list[Callable[[], Any]] = [
            lambda: view.read_block("a"),
            lambda: view.read_blocks(["a", "b"]),
            view.health_check,
        ]
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(DeadlineExceededError, match="while credentials were searched for"):
                call()
            assert time.monotonic() - begun < A_WHILE
        assert runs(slow_program) == 1, "the search went on for the next call"

        (slow_program / "go").touch()
        with pytest.raises(blockyard.TransportConnectionError):  # now signed, and sent
            _ = store.read_block("a")
        assert runs(slow_program) == 1


def test_a_cancelled_call_leaves_at_once_and_the_search_goes_on(slow_program: Path) -> None:
    async def run() -> None:
        async with await blockyard.open_async_store(NOWHERE) as store:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    _ = await store.read_block("a")
            reads = [asyncio.create_task(store.read_block("a")) for _ in range(32)]
            await asyncio.sleep(0.1)
            assert reads[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await reads[0]
            (slow_program / "go").touch()
            outcomes = await asyncio.gather(*reads[1:], return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {blockyard.TransportConnectionError}
            assert runs(slow_program) == 1

    asyncio.run(run())


def test_many_calls_share_the_failure_of_one_search(slow_program: Path) -> None:
    async def run() -> None:
        async with await blockyard.open_async_store(NOWHERE) as store:
            reads = [asyncio.create_task(store.read_block("a")) for _ in range(32)]
            await asyncio.sleep(0.1)
            _ = (slow_program / "document").write_bytes(b"[]")
            (slow_program / "go").touch()
            outcomes = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {ConfigError}
            assert len({id(outcome) for outcome in outcomes}) == 32, "each has notes of its own"
            assert runs(slow_program) == 1

    asyncio.run(run())


# That it is found by what looks at imports


def test_botocore_is_imported_by_a_statement() -> None:
    """Tools that freeze programs, such as PyInstaller, look for `import` statements."""
    tree = ast.parse(inspect.getsource(find_in_chain))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert {"botocore.session", "botocore.exceptions"} <= imported
