"""Secrets are in no log, error, output or repr of a whole small run, under faults."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import subprocess
import sys
import traceback
import warnings
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest

from blockyard import (
    BlockStoreError,
    ConfigError,
    HttpConfig,
    S3Config,
    StoreConfig,
    open_async_store,
    open_store,
)
from blockyard.context import Origin, Request
from blockyard.s3.credentials import Credentials
from blockyard.s3.signing import Signer
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_head
from blockyard.transport.connecting import Dialing, Proxy
from blockyard_faults import (
    FAULT_RATES,
    FaultProxy,
    GarbageHead,
    Plan,
    RandomFaults,
    Script,
    Stall,
    Status,
)
from servers.endpoint import Endpoint, create_bucket
from tests.passing_on import pass_on
from tests.secrets_watch import forms

SECRET = "Secret/key+with%41signs=and more"
TOKEN = "Session/token+with%25signs=="
PASSWORD = "proxy:pass@word/%41"
USER = "proxy-user"
BUCKET = "blockyard-secrets"
BLOCKYARD = [sys.executable, "-c", "from blockyard.cli import main; main()"]


BASIC = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
FORBIDDEN = forms(SECRET) | forms(TOKEN) | forms(PASSWORD) | {BASIC}


def assert_clean(text: str) -> None:
    for secret in FORBIDDEN:
        at = text.find(secret)
        assert at < 0, f"a secret is in: ...{text[max(0, at - 200) : at + 20]}..."


class Tunnels(LoopbackServer):
    """A proxy for those who have the right password."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = self.refused = 0

    async def serve(self, client: Connection) -> None:
        head = await read_head(client.reader)
        if head is None:
            return
        if head.get("proxy-authorization") != f"Basic {BASIC}":
            self.refused += 1
            await client.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        self.opened += 1
        if head.method != "CONNECT":
            await pass_on(client, head)
            return
        host, _, port = head.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await client.send(b"HTTP/1.1 200 Here you are\r\n\r\n")
        up = asyncio.create_task(_pass_on(client.reader.read, writer.write))
        try:
            while data := await reader.read(65536):
                await client.send(data)
        finally:
            _ = up.cancel()
            writer.close()


async def _pass_on(read: Callable[[int], object], write: Callable[[bytes], None]) -> None:
    while data := await read(65536):  # pyright: ignore
        write(data)  # pyright: ignore


@pytest.fixture(scope="module")
def endpoint(moto_endpoint: Endpoint) -> Endpoint:
    create_bucket(moto_endpoint, BUCKET)
    return moto_endpoint


@pytest.fixture
def tunnels() -> Iterator[Tunnels]:
    with Tunnels() as tunnels:
        yield tunnels


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """Everything that is logged meanwhile, by anyone, at any level; errors are added to it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level, disabled = root.level, logging.root.manager.disable
    root.addHandler(handler)
    root.setLevel(1)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)
    logging.disable(disabled)


def config(url: str, tunnels: Tunnels | None, **settings: object) -> StoreConfig:
    proxy = f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{tunnels.port}" if tunnels else ""
    given: dict[str, object] = {
        "bucket": BUCKET,
        "endpoint": url,
        "force_path_style": True,
        "access_key": "known-id",
        "secret_key": SECRET,
        "session_token": TOKEN,
        "http": HttpConfig(proxy=proxy),  # pyright: ignore[reportArgumentType]
        **settings,
    }
    return StoreConfig(s3=S3Config(**given))  # pyright: ignore[reportArgumentType]


@contextmanager
def failing(said: io.StringIO) -> Generator[None, None, None]:
    """Keep all that an error says: itself, its chain and its notes."""
    try:
        yield
    except BlockStoreError as error:
        traceback.print_exception(error, file=said)
        _ = said.write(f"{error!r} {error.__dict__!r}\n")


def operate(source: StoreConfig, said: io.StringIO) -> None:
    with open_store(source) as store:
        _ = said.write(f"{store!r} {store.with_options(deadline=5)!r}\n")
        for number in range(6):
            with failing(said):
                _ = store.write_block(f"k{number}", bytes(50_000))
            with failing(said):
                _ = store.read_block(f"k{number}")
            with failing(said):
                _ = store.read_block_range(f"k{number}", 100, 20_000)
        for call in (
            lambda: store.read_block("absent"),
            lambda: store.read_blocks([f"k{number}" for number in range(6)]),
            lambda: store.write_content("c", bytes(100_000)),
            lambda: store.read_content("c"),
            lambda: store.copy_block("k1", "copy"),
            store.list_by_prefix,
            store.verify_by_prefix,
            lambda: store.delete_by_prefix("", literal=True),
            store.health_check,
            lambda: store.with_options(deadline=1e-9).read_block("k1"),
        ):
            with failing(said):
                _ = said.write(f"{call()!r:.300}\n")


async def operate_under_asyncio(source: StoreConfig, said: io.StringIO) -> None:
    async with await open_async_store(source) as store:
        _ = said.write(f"{store!r}\n")
        for number in range(6):
            with failing(said):
                _ = await store.write_block(f"k{number}", bytes(50_000))
            with failing(said):
                _ = await store.read_block_range(f"k{number}", 100, 20_000)
        with failing(said):
            _ = await store.read_block("absent")


PLANS: dict[str, Plan] = {
    "rough": RandomFaults(5, FAULT_RATES),
    "refused": RandomFaults(1, {Status(403, "SignatureDoesNotMatch"): 1.0}),
    "expired": RandomFaults(1, {Status(400, "ExpiredToken"): 1.0}),
    "redirected": RandomFaults(
        1, {Status(301, "PermanentRedirect", (("x-amz-bucket-region", "eu-west-1"),)): 1.0}
    ),
    "garbage": RandomFaults(1, {GarbageHead(): 1.0}),
    "stalled": Script([Stall(1.0), Stall(1.0, 0.5)] * 4),
}


@pytest.mark.thorough
@pytest.mark.parametrize("plan_name", PLANS)
def test_a_run_says_no_secret(
    endpoint: Endpoint,
    tunnels: Tunnels,
    said: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    plan_name: str,
) -> None:
    with FaultProxy(endpoint.url, PLANS[plan_name]) as proxy:
        source = config(
            proxy.url, tunnels, max_attempts=2, timeouts={"no_progress": 0.3, "connect": 2}
        )
        _ = said.write(f"{source!r} {source} {source.s3!r} {asdict(source)!r}\n")
        _ = said.write(json.dumps(asdict(source), default=str))
        with warnings.catch_warnings(record=True) as warned:
            operate(source, said)
            asyncio.run(operate_under_asyncio(source, said))
            _ = gc.collect()
        _ = said.write("".join(str(each.message) for each in warned))
        _ = said.write(repr(proxy.requests))
    assert tunnels.opened > 0
    assert tunnels.refused == 0
    captured = capfd.readouterr()
    everything = said.getvalue() + captured.out + captured.err
    assert "BlockNotFoundError" in everything or plan_name != "rough"
    assert "known-id" in everything  # what may be shown is there: the search would find the rest
    assert_clean(everything)


def test_a_proxy_that_refuses_is_named_without_its_password(
    endpoint: Endpoint, tunnels: Tunnels, said: io.StringIO
) -> None:
    wrong = f"http://{USER}:{quote(PASSWORD, safe='')}x@127.0.0.1:{tunnels.port}"
    source = config(endpoint.url, None, http=HttpConfig(proxy=wrong), max_attempts=2)  # pyright: ignore
    operate(source, said)
    assert tunnels.refused > 0
    assert f"the proxy 127.0.0.1:{tunnels.port} answered with status 407" in said.getvalue()
    assert_clean(said.getvalue())


def test_nothing_that_holds_a_secret_shows_it() -> None:
    credentials = Credentials("id", SECRET, TOKEN)
    signer = Signer("r")
    request = Request(Origin("http", "h", 1), "GET", "/", {"host": "h"})
    signer.sign(request, credentials, 1.7e9, "UNSIGNED-PAYLOAD")
    assert TOKEN in request.headers.values()
    proxying = config("http://h:1", Proxying())  # pyright: ignore[reportArgumentType]
    assert proxying.s3 is not None
    dialing = Dialing(proxying.s3.http, proxying.s3.timeouts)
    proxy = dialing.proxy_for(request.origin)
    assert isinstance(proxy, Proxy)
    assert proxy.authorization == f"Basic {BASIC}"
    for each in (credentials, signer, request, dialing, proxy, proxying.s3.http, proxying):
        assert_clean(f"{each!r} {each}")


class Proxying:
    """Where a proxy would be."""

    port = 1


WRONG: dict[str, tuple[str, dict[str, object]]] = {
    "a secret of two lines": ("s3://bucket", {"access_key": "a", "secret_key": SECRET + "\n"}),
    "a secret alone": ("s3://bucket", {"secret_key": SECRET}),
    "a token alone": ("s3://bucket", {"session_token": TOKEN}),
    "a token with a tab": (
        "s3://bucket",
        {"access_key": "a", "secret_key": SECRET, "session_token": TOKEN + "\t"},
    ),
    "a proxy of another kind": ("s3://bucket", {"proxy": f"socks5://{USER}:{PASSWORD}@h:1"}),
    "a proxy without a host": (
        "s3://bucket",
        {"proxy": f"http://{USER}:{quote(PASSWORD, safe='')}@"},
    ),
    "credentials before the bucket": (f"s3://id:{quote(SECRET, safe='')}@bucket", {}),
    "an unknown setting beside": (
        f"s3://bucket?regoin=x&access_key=a&secret_key={quote(SECRET, safe='')}",
        {},
    ),
    "a secret twice": (f"s3://bucket?secret_key={quote(SECRET)}&secret_key={quote(SECRET)}", {}),
    "a bad percent sign": (f"s3://bucket?secret_key=%zz{quote(SECRET)}", {}),
    "an endpoint with a password": (
        "s3://bucket",
        {"endpoint": f"https://{USER}:{quote(PASSWORD, safe='')}@h"},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_without_the_secret(name: str) -> None:
    source, settings = WRONG[name]
    with pytest.raises(ConfigError) as raised:
        _ = open_store(source, **settings)
    assert_clean("".join(traceback.format_exception(raised.value)))


YAML = f"""
block_store:
  s3:
    bucket: {BUCKET}
    access_key: known-id
    secret_key: "{SECRET}"
    session_token: "{TOKEN}"
    http: {{proxy: "http://{USER}:{quote(PASSWORD, safe="")}@127.0.0.1:1"}}
"""
BROKEN_YAML = {
    "an unknown setting": YAML + "    nonsense: 1\n",
    "a wrong number": YAML + "    max_attempts: many\n",
    "no YAML": YAML.replace('secret_key: "', 'secret_key: "\\q'),
    "a list": YAML.replace(f'"{TOKEN}"', f'["{TOKEN}"]'),
    "twice": YAML + f'    secret_key: "{SECRET}"\n',
}


@pytest.mark.parametrize("name", BROKEN_YAML)
def test_a_wrong_file_is_told_of_without_the_secret(name: str, tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"
    _ = path.write_text(BROKEN_YAML[name])
    with pytest.raises(ConfigError) as raised:
        _ = open_store(path)
    assert_clean("".join(traceback.format_exception(raised.value)))


COMMANDS: dict[str, list[str]] = {
    "health": ["health"],
    "ls": ["ls"],
    "cat": ["cat", "absent"],
    "verify": ["verify", "--json"],
    "rm": ["rm", "absent"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", ["up", "refusing", "down", "misspelt"])
def test_the_command_says_no_secret(
    endpoint: Endpoint, tunnels: Tunnels, tmp_path: Path, command: str, state: str
) -> None:
    plan = PLANS["refused"] if state == "refusing" else Script([])
    with FaultProxy(endpoint.url, plan) as proxy:
        url = "http://127.0.0.1:1" if state == "down" else proxy.url
        told = f"s3://{BUCKET}?endpoint={url}&force_path_style=true&max_attempts=2"
        told += f"&access_key=known-id&secret_key={quote(SECRET, safe='')}"
        told += f"&session_token={quote(TOKEN, safe='')}"
        password = quote(quote(PASSWORD, safe=""), safe="")
        told += f"&proxy=http://{USER}:{password}@127.0.0.1:{tunnels.port}"
        told += "&regoin=1" if state == "misspelt" else ""
        run = subprocess.run(
            [*BLOCKYARD, "--store", told, "--debug", *COMMANDS[command]],
            env=os.environ | {"PYTHONDEVMODE": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    if state in {"refusing", "down", "misspelt"}:
        assert run.returncode != 0
        assert "Traceback" in run.stderr
    assert_clean(run.stdout + run.stderr)
