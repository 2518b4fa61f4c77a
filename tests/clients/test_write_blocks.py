"""Blocks with one key in a single call of `write_blocks`: the last of them is what is stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from blockyard import TransportError
from blockyard.operations import Operations
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from tests.hooked_store import HookedStore
from tests.small_s3 import SmallS3, small_s3

BLOCKS = [("a", b"first"), ("b", b"b"), ("a", b"second"), *((f"c{n}", b"c") for n in range(9))]
BLOCKS += [("a", b"third"), ("a", b"last")]
WRITES_OF_A = 4


class EarlierIsSlower:
    """The hook of a store: of the writes of one key each is over sooner than the one before it."""

    def __init__(self) -> None:
        self.writes: Counter[str] = Counter()
        self.fails = False

    async def __call__(self, operation: str, key: str) -> None:
        if operation == "write_block":
            self.writes[key] += 1
            await asyncio.sleep(0.02 * (WRITES_OF_A - self.writes[key]))
            if key == "a" and self.fails:
                raise TransportError("broken")


@pytest.fixture(scope="module")
def service() -> Iterator[SmallS3]:
    with small_s3() as server:
        yield server


def given(drawn: str) -> Any:
    return iter(BLOCKS) if drawn == "iterator" else BLOCKS


def hooked(store: Any) -> EarlierIsSlower:
    """Put a hook before the store of an open client, and return it."""
    operations: Operations = getattr(store, "_store", store)._operations
    hook = EarlierIsSlower()
    operations.store = HookedStore(operations.store, hook)
    return hook


@pytest.mark.parametrize("drawn", ["list", "iterator"])
@pytest.mark.parametrize("stored", ["memory", "file", "s3"])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_last_block_of_a_key_is_what_is_stored(
    client: ClientName,
    stored: Literal["memory", "file", "s3"],
    drawn: str,
    service: SmallS3,
    tmp_path: Path,
) -> None:
    url = {"memory": "memory://", "file": tmp_path.as_uri(), "s3": service.store_url()}[stored]
    with open_client(client, url) as opened:
        hook = hooked(opened.store)
        infos = opened.store.write_blocks(given(drawn))
        assert opened.store.read_block("a") == b"last"
        assert [(info.key, info.size) for info in infos] == [
            (key, len(data)) for key, data in BLOCKS
        ]
        assert hook.writes["a"] == WRITES_OF_A


@pytest.mark.parametrize("drawn", ["list", "iterator"])
@pytest.mark.parametrize("client", CLIENTS)
def test_after_a_write_that_failed_no_other_of_its_key_begins(
    client: ClientName, drawn: str
) -> None:
    with open_client(client, "memory://") as opened:
        hook = hooked(opened.store)
        hook.fails = True
        with pytest.raises(TransportError, match="broken"):
            _ = opened.store.write_blocks(given(drawn))
        assert hook.writes["a"] == 1
        assert not opened.store.block_exists("a")


@pytest.mark.parametrize("client", CLIENTS)
def test_one_place_is_enough(client: ClientName) -> None:
    with open_client(client, "memory://") as opened:
        _ = opened.store.with_options(concurrency=1).write_blocks(iter(BLOCKS))
        assert opened.store.read_block("a") == b"last"
