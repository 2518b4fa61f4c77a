"""Which store a path leads to, and what the file in it is called there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from blockyard.aio import AsyncBlockStore, asyncio_client
from blockyard.client import Client
from blockyard.config.loading import Source, load_config
from blockyard.errors import InvalidKeyError
from blockyard.fsspec.files import Files
from blockyard.opening import compose
from blockyard.pickling import sharing_client
from blockyard.stores.base import Store

Given = Source | Store | Client[Any]

_MOST = 100
"""Buckets whose stores are kept open, with their connections; of more, those opened last. What is
under way in another one has its store for as long."""


class Place(NamedTuple):
    """Where a path leads: the files of a store, the name there, and what comes before it."""

    files: Files
    base: str
    name: str

    @property
    def folder(self) -> str:
        """What the names below it begin with, as in a folder."""
        return f"{self.name}/" if self.name else ""


class Stores:
    """The store that was given, or that of each bucket, opened when it is first used."""

    def __init__(
        self, given: Given, settings: Mapping[str, Any], files: Callable[[AsyncBlockStore], Files]
    ) -> None:
        self._settings = settings
        self._files = files
        self.given = None if given is None else _opened(given, settings)
        self._places: dict[str, tuple[Files, str]] = {}
        if self.given is not None:
            self._places[""] = files(self.given), ""

    @property
    def in_memory(self) -> bool:
        """Whether the store that was given is one in this process's memory."""
        config = None if self.given is None else self.given._source  # pyright: ignore[reportPrivateUsage]
        return config is not None and config.selected is None

    def place(self, path: str) -> Place:
        """Resolve `path`. Raises `InvalidKeyError`, `ConfigError`."""
        if self.given is not None:
            return Place(*self._places[""], path)
        bucket, _, key = path.partition("/")
        place = self._places.get(bucket)
        if place is None:
            if not bucket:
                raise InvalidKeyError(f"{path!r}: expected BUCKET/KEY, got no bucket")
            store = _opened("s3://", {**self._settings, "bucket": bucket})
            place = self._places.setdefault(bucket, (self._files(store), f"{bucket}/"))
            for known in list(self._places)[:-_MOST]:
                _ = self._places.pop(known, None)
        return Place(*place, key)


def _opened(given: Given, settings: Mapping[str, Any]) -> AsyncBlockStore:
    """A client that nobody is told to close: what has the same settings shares its store."""
    if isinstance(given, AsyncBlockStore) and not settings:
        return given
    if not isinstance(given, Client | Store):
        config = load_config(given, settings, os.environ)
        if config.selected is not None:
            return cast("AsyncBlockStore", sharing_client("AsyncBlockStore", config))
    client = asyncio_client(compose("BlockyardFileSystem", given, settings))
    client._runtime.connections.dropped_quietly = True  # pyright: ignore[reportPrivateUsage]
    return client
