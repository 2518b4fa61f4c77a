"""The usual mistakes: each is one clear error of its own kind, and comes quickly."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.config import S3Config, StoreConfig
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    ConfigError,
    InvalidKeyError,
    LocalStorageError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from servers.endpoint import Endpoint
from servers.sockets import free_port
from tests.transport.runtimes import black_hole

QUICK = 10.0
"""Seconds, on the busiest machine; some milliseconds on an idle one."""

both_clients = pytest.mark.parametrize("client", CLIENTS)

CALLS: dict[str, Callable[[BlockStore], object]] = {
    "health_check": lambda store: store.health_check(),
    "read_block": lambda store: store.read_block("key"),
    "read_blocks": lambda store: store.read_blocks(["key", "other"]),
    "write_block": lambda store: store.write_block("key", b"data"),
    "stat_block": lambda store: store.stat_block("key"),
    "list_by_prefix": lambda store: store.list_by_prefix("key"),
    "delete_block": lambda store: store.delete_block("key"),
    "delete_blocks": lambda store: store.delete_blocks(["key", "other"]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@contextmanager
def quickly(kind: type[BlockStoreError], *said: str) -> Generator[None, None, None]:
    """The block raises just that kind, soon, and the message says all of `said` on one line."""
    begun = time.monotonic()
    with pytest.raises(kind) as raised:
        yield
    assert time.monotonic() - begun < QUICK
    assert type(raised.value) is kind
    message = str(raised.value)
    assert all(word in message for word in said), message
    assert len(message.splitlines()) == 1


def s3(server: Endpoint, bucket: str, **changes: Any) -> StoreConfig:
    return StoreConfig(s3=S3Config(**(server.s3_settings(bucket) | changes)))


@both_clients
@every_call
def test_a_wrong_secret(
    client: ClientName,
    call: Callable[[BlockStore], object],
    signed_moto_endpoint: Endpoint,
    bucket: str,
) -> None:
    config = s3(signed_moto_endpoint, bucket, secret_key="not-the-secret")
    with open_client(client, config) as opened, quickly(AccessDeniedError):
        _ = call(opened.store)


@both_clients
def test_a_wrong_secret_is_said_to_be_one(
    client: ClientName, signed_moto_endpoint: Endpoint, bucket: str
) -> None:
    config = s3(signed_moto_endpoint, bucket, secret_key="not-the-secret")
    expected = ("SignatureDoesNotMatch", "secret_key")
    with open_client(client, config) as opened, quickly(AccessDeniedError, *expected):
        _ = opened.store.health_check()


@both_clients
def test_a_wrong_access_key(
    client: ClientName, signed_moto_endpoint: Endpoint, bucket: str
) -> None:
    config = s3(signed_moto_endpoint, bucket, access_key="AKIANOBODY")
    expected = ("InvalidAccessKeyId", "access_key")
    with open_client(client, config) as opened, quickly(AccessDeniedError, *expected):
        _ = opened.store.read_block("key")


@both_clients
@every_call
def test_a_missing_bucket(
    client: ClientName, call: Callable[[BlockStore], object], moto_endpoint: Endpoint
) -> None:
    """Never taken for a missing block."""
    config = s3(moto_endpoint, "no-such-bucket-here")
    with open_client(client, config) as opened, quickly(BucketNotFoundError):
        _ = call(opened.store)


@both_clients
def test_a_missing_block(client: ClientName, moto_endpoint: Endpoint, bucket: str) -> None:
    with open_client(client, s3(moto_endpoint, bucket)) as opened:
        for call in (opened.store.read_block, opened.store.stat_block):
            with quickly(BlockNotFoundError, "no/such/block"):
                _ = call("no/such/block")


@both_clients
@every_call
def test_an_endpoint_where_nobody_listens(
    client: ClientName, call: Callable[[BlockStore], object], moto_endpoint: Endpoint
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = s3(moto_endpoint, "bucket", endpoint=url)
    with open_client(client, config) as opened, quickly(TransportConnectionError, "refused"):
        _ = call(opened.store)


@both_clients
def test_an_endpoint_whose_name_does_not_resolve(
    client: ClientName, moto_endpoint: Endpoint
) -> None:
    config = s3(moto_endpoint, "bucket", endpoint="http://s3.nowhere.invalid")
    expected = ("s3.nowhere.invalid", "not resolved")
    with open_client(client, config) as opened, quickly(TransportConnectionError, *expected):
        _ = opened.store.read_block("key")


@both_clients
def test_an_endpoint_that_swallows_everything(client: ClientName, moto_endpoint: Endpoint) -> None:
    with black_hole() as url:
        config = s3(moto_endpoint, "bucket", endpoint=url, timeouts={"connect": 0.2})
        with open_client(client, config) as opened, quickly(TransportTimeoutError, "connecting"):
            _ = opened.store.read_block("key")


@both_clients
def test_https_where_plain_http_is_spoken(client: ClientName, moto_endpoint: Endpoint) -> None:
    url = moto_endpoint.url.replace("http://", "https://")
    config = s3(moto_endpoint, "bucket", endpoint=url)
    with open_client(client, config) as opened, quickly(blockyard.TLSError, "TLS"):
        _ = opened.store.read_block("key")


YAML = {
    "block_store:\n  s3:\n    bucket: b\n    max_retrys: 3\n": "max_retrys",
    "block_store:\n  s3:\n    bucket: data\n    max_attempts: many\n": "max_attempts",
    "block_store:\n  type: s4\n": "type",
    "block_store:\n  s3: {}\n": "bucket",
    "block_store: [\n": "line",
}


@pytest.mark.parametrize(("text", "named"), YAML.items())
def test_a_bad_setting_is_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"
    _ = path.write_text(text)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=named):
        _ = blockyard.open_store(path)
    assert time.monotonic() - begun < QUICK


@both_clients
@pytest.mark.parametrize("key", ["", "a\x00b", "a\nb", "k" * 1025, "\udc80"])
def test_a_bad_key_is_refused_before_anything_is_sent(
    client: ClientName, key: str, moto_endpoint: Endpoint
) -> None:
    config = s3(moto_endpoint, "bucket", endpoint="http://s3.nowhere.invalid")
    with open_client(client, config) as opened, quickly(InvalidKeyError):
        _ = opened.store.write_block(key, b"data")


@both_clients
def test_a_folder_that_nobody_may_write_into(client: ClientName) -> None:
    """Not even root, as whom tests may run."""
    with open_client(client, "file:///proc/blockyard") as opened, quickly(LocalStorageError, "key"):
        _ = opened.store.write_block("key", b"data")


@both_clients
def test_a_folder_that_is_a_file(client: ClientName, tmp_path: Path) -> None:
    path = tmp_path / "file"
    _ = path.write_bytes(b"")
    with open_client(client, f"file://{path}") as opened, quickly(LocalStorageError, "key"):
        _ = opened.store.write_block("key", b"data")
