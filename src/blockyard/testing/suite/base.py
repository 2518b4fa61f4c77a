"""The fixtures of the suite: what a store's author provides, and what the tests are given."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar

import pytest

from blockyard.errors import BlockStoreError
from blockyard.model import BlockInfo
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability, held_together
from blockyard.testing.clients import CLIENTS, Client, ClientName, Source, open_client


class SuiteBase:
    """What every part of the suite stands on."""

    lacks: ClassVar[frozenset[Capability]] = frozenset()
    """What the service behind the store lacks: declare it in the class for that service."""

    def held(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that the service can hold at the same time."""
        return held_together(keys, self.lacks)

    @pytest.fixture
    def source(self) -> Source:
        """An empty place to store in, fresh for each test: override this."""
        raise NotImplementedError("a conformance class provides a `source` fixture")

    @pytest.fixture(params=CLIENTS)
    def client(
        self, request: pytest.FixtureRequest, source: Source
    ) -> Generator[Client, None, None]:
        """An open client of the store: every test runs on each."""
        name: ClientName = request.param
        with open_client(name, source) as client:
            yield client

    @pytest.fixture
    def store(self, client: Client) -> BlockStore:
        """The client's store, called as a `BlockStore`."""
        return client.store


def stored(store: BlockStore, key: str, data: bytes) -> BlockInfo:
    """Write a block, and wait for its ETag, which a cache in write-back mode does not know yet."""
    info = store.write_block(key, data)
    return info if info.etag else store.stat_block(key)


def kind_raised(call: Callable[[], Any]) -> type[Exception] | None:
    """The kind of error that the call ends with, to compare many outcomes at once."""
    try:
        call()
    except (BlockStoreError, TypeError) as error:
        return type(error)
    return None
