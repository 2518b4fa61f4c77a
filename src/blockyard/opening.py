"""From a configuration to an open store: `compose` shows the whole stack at a glance.

What a store of another type or the other client would need is not imported.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from blockyard import arguments
from blockyard.atomic_dict import FREE_THREADED
from blockyard.client import Client, Stack
from blockyard.config import FileConfig, HttpConfig, S3Config, Settings, StoreConfig, TimeoutConfig
from blockyard.config.cache import CacheConfig
from blockyard.config.loading import Source, load_config, names_of
from blockyard.errors import ConfigError
from blockyard.operations import Operations
from blockyard.stores.base import Store
from blockyard.sync import BlockStore
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.bulk import BulkLoop
from blockyard.transport.connections import Connections


def open_store(
    source: Source | Store | Client[Any] = None, **settings: Unpack[Settings]
) -> BlockStore:
    """Open the block store that `source` names, for blocking calls.

    `source` is a URL (`s3://BUCKET/KEY_PREFIX?name=value&...`, `file:///FOLDER`, `memory://`),
    the path of a YAML file, or a `StoreConfig`; None means the one that the environment variable
    `BLOCKYARD_STORE` names. It may be a `Store` of your own, too, which is closed with the client,
    or an open client of the other kind: then this is another one of the same store, with its cache
    and options and connections of its own, and whichever is closed closes the store for both.
    Neither takes settings. `settings` are those of the sections in `blockyard.config`,
    by their own names (`region="eu-central-1"`, `no_progress=10`); they win over the source,
    and `blockyard.config` says what else fills the gaps. Each `memory://` is a new, empty store.

    Nothing is sent or written yet: `health_check` shows whether the store can be used. Raises
    `ConfigError`, which lists every setting that is wrong, and `TypeError` for a source that is
    none of these.
    """
    return blocking_client(compose("open_store", source, settings))


def blocking_client(stack: Stack) -> BlockStore:
    """A client, with connections of its own unless it is to share some."""
    connections = stack.connections or Connections(stack.http, stack.timeouts)
    return BlockStore(
        stack.operations,
        BlockingRuntime(connections),
        BulkLoop(connections),
        deadline=stack.deadline,
        concurrency=stack.concurrency,
        cache=stack.cache,
        source=stack.source,
    )


def compose(
    operation: str, source: Source | Store | Client[Any], settings: Mapping[str, object]
) -> Stack:
    """What is below a client. Raises `ConfigError`, and `TypeError` in the name of `operation`."""
    if isinstance(source, Store | Client):
        if settings:
            named = names_of(settings)
            what = "a Store of your own" if isinstance(source, Store) else "a store that is open"
            raise ConfigError(f"{operation}: {named}: settings do not apply to {what}")
        if isinstance(source, Store):
            return Stack(Operations(source))
        return source._stack()  # pyright: ignore[reportPrivateUsage]  # of its other client
    return stack_of(load_config(_source(operation, source), settings, os.environ))


def stack_of(config: StoreConfig) -> Stack:
    """What is below a client of the store that `config` describes. Raises `ConfigError`."""
    _refuse_eventlet()
    if FREE_THREADED:
        _warn_of_no_gil()
    match config.selected:
        case S3Config() as s3:
            from blockyard.s3.credentials import credential_source  # noqa: PLC0415
            from blockyard.s3.store import S3Store  # noqa: PLC0415

            store = S3Store(s3, credential_source(s3, os.environ))
            store = _cached(store, config.cache, s3.http, s3.timeouts)
            return Stack(
                Operations(store, s3.in_flight),
                config,
                s3.http,
                s3.timeouts,
                s3.timeouts.deadline,
                s3.concurrency,
            )
        case FileConfig() as file:
            from blockyard.stores.filesystem import FilesystemStore  # noqa: PLC0415

            _refuse_overlap(file.path, config.cache)
            return Stack(Operations(_cached(FilesystemStore(file.path), config.cache)), config)
        case None:
            from blockyard.stores.memory import MemoryStore  # noqa: PLC0415

            return Stack(Operations(_cached(MemoryStore(), config.cache)), config)


def _cached(
    store: Store,
    cache: CacheConfig | None,
    http: HttpConfig | None = None,
    timeouts: TimeoutConfig | None = None,
) -> Store:
    """The store with its cache in front."""
    if cache is None:
        return store
    from blockyard.cache.store import CacheStore  # noqa: PLC0415

    options: dict[str, Any] = {"memory": cache.memory, "revalidate": cache.revalidate}
    if cache.disk is None:
        return CacheStore(store, **options)
    from blockyard.cache.disk import DiskCache  # noqa: PLC0415

    path, size = cache.disk.path, cache.disk.size
    if cache.mode == "write_through":
        return CacheStore(store, disk=DiskCache(path, size, store.identity), **options)
    from blockyard.cache.folder import Folder  # noqa: PLC0415
    from blockyard.cache.write_back import WriteBackStore  # noqa: PLC0415

    stage = cache.disk.stage_size
    cached = CacheStore(store, disk=DiskCache(path, size - stage, store.identity), **options)
    connections = Connections(http or HttpConfig(), timeouts or TimeoutConfig())
    return WriteBackStore(cached, Folder(path), stage, BlockingRuntime(connections))


def _refuse_overlap(folder: Path, cache: CacheConfig | None) -> None:
    """Neither may lie in the other: a cache removes from its folder what it takes for its own."""
    if cache is None or cache.disk is None:
        return
    blocks, kept = os.path.realpath(folder), os.path.realpath(cache.disk.path)
    if os.path.commonpath((blocks, kept)) in {blocks, kept}:
        raise ConfigError(
            "block_store.cache.disk.path: expected a folder that is neither the store's own nor in "
            f"it nor around it, got {kept!r} for the store in {blocks!r}"
        )


def _source(operation: str, source: Source) -> Source:
    """A source of one of the types that there are. Raises `TypeError`."""
    if source is None or isinstance(source, StoreConfig | str | os.PathLike):
        return source
    if isinstance(source, S3Config):
        expected = "a StoreConfig: StoreConfig(s3=...)"
    elif isinstance(source, FileConfig):
        expected = "a StoreConfig: StoreConfig(type='file', file=...)"
    else:
        expected = "a URL, the path of a YAML file, a StoreConfig, a Store or an open client"
    raise arguments.unsuitable(operation, "source", expected, source)


def _warn_of_no_gil() -> None:
    warnings.warn(
        "blockyard does not support free-threaded Python yet: a store that is closed on another "
        "thread than it was opened on may stay open there, with what it has staged",
        RuntimeWarning,
        stacklevel=2,
    )


def _refuse_eventlet() -> None:
    """eventlet's patch takes `poll` and `epoll` away, without which no limit on a wait holds."""
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("select"):
        raise ConfigError(
            "eventlet.monkey_patch() has replaced select and socket, on which block stores rely: "
            "expected an unpatched process, or gevent"
        )
