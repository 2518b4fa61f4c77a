"""Clients in pickles: the configuration goes along, and the store is opened anew where it comes.

A worker gets a client with each task. The clients that come for one configuration share one open
store in a process, and each closes on its own: the store ends with the last of them. Of those that
are dropped without that the process keeps the last few, so the next task finds its connections and
its cache.

What can't be opened says so when it is first used, since a process pool that can't read a task
hangs or breaks.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, Literal, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from blockyard.client import Client, Stack
from blockyard.config import StoreConfig
from blockyard.config.portable import Portable, portable
from blockyard.context import CacheUse
from blockyard.errors import BlockStoreError, UnsupportedError
from blockyard.model import StoreStats
from blockyard.opening import blocking_client, stack_of
from blockyard.operations import Operations
from blockyard.sharing import SharedStore
from blockyard.stores.base import Store
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.connections import Connections

_KEPT = 16
"""How many stores that came in pickles a process keeps open."""

Kind: TypeAlias = Literal["BlockStore", "AsyncBlockStore"]


class InMemory(NamedTuple):
    """A `memory://` store: which one, and the process that has it."""

    token: str
    process: int

    def find(self) -> SharedStore:
        """What the clients of the store share. Raises `UnsupportedError` where it is not."""
        found = _in_memory.get(self.token)
        if self.process != os.getpid():
            raise UnsupportedError(
                f"a memory:// store is in the memory of the process that opened it (pid "
                f"{self.process}), and can't be used in another one: s3:// and file:// stores can"
            )
        if found is None:
            raise UnsupportedError("the memory:// store is gone with its last client")
        return found


class PickledClient(NamedTuple):
    """What is in the pickle of a client."""

    kind: Kind
    source: Portable | InMemory
    deadline: float | None
    concurrency: int
    cache: CacheUse

    def reopened(self) -> Client[Any]:
        """The client again, of a store that others here may have open as well. It closes alone."""
        try:
            client = self._client()
        except BlockStoreError as error:
            unusable = _UnusableStore(error, self.source)
            client = _client_of(self.kind, Stack(Operations(unusable)))
        return client.with_options(
            deadline=self.deadline, concurrency=self.concurrency, cache=self.cache
        )

    def _client(self) -> Any:
        """Raises a `BlockStoreError` that says why there is none."""
        if isinstance(self.source, InMemory):
            stack = Stack(_operations_of(self.source.find()), StoreConfig(type="memory"))
            return _client_of(self.kind, stack)
        return sharing_client(self.kind, self.source.load(os.environ))


def sharing_client(kind: Kind, config: StoreConfig) -> Any:
    """A client that nobody need close, of the one store of `config` that is open in this process.

    Raises `ConfigError`.
    """
    operations = _operations_of(
        _kept.get(config) or _open.get(config) or _OpenedStore(config, stack_of(config))
    )
    shared = _kept.setdefault(config, cast("_OpenedStore", operations.held.shared))
    if shared is not operations.held.shared:  # of several threads, the first's
        operations.close()
        operations = _operations_of(shared)
    _open[config] = shared
    for known in list(_kept)[:-_KEPT]:
        _ = _kept.pop(known, None)
    return _client_of(kind, shared.stack._replace(operations=operations))


def pickled(stack: Stack, kind: str) -> PickledClient:
    """A client for a pickle. Raises `TypeError`."""
    store = stack.operations.store
    if isinstance(store, _UnusableStore):
        source = store.source
    elif stack.source is None:
        raise TypeError(
            f"a {kind} over a Store of your own ({type(store).__name__}) can't be pickled: "
            "pickle what it is made from"
        )
    elif stack.source.selected is None:
        token = _tokens.setdefault(store, os.urandom(16).hex())
        shared = stack.operations.held.shared
        if shared is not None:
            _in_memory[token] = shared
        source = InMemory(token, os.getpid())
    else:
        source = portable(stack.source)
    return PickledClient(cast("Kind", kind), source, stack.deadline, stack.concurrency, stack.cache)


class _OpenedStore(SharedStore):
    """The store of a configuration, with the connections of all of its clients."""

    def __init__(self, config: StoreConfig, stack: Stack) -> None:
        super().__init__(stack.operations.store, stack.operations.in_flight)
        self._config = config
        self._connections = Connections(stack.http, stack.timeouts, shared=True)
        self.stack = stack._replace(connections=self._connections)
        """What is below a client, but for its operations."""

    def forget(self) -> None:
        if _kept.get(self._config) is self:
            _ = _kept.pop(self._config, None)

    def close_connections(self) -> None:
        """Close the idle ones; those in use close when they are given back."""
        _ = self._connections.here().close()

    def __del__(self) -> None:
        super().__del__()
        if not sys.is_finalizing():
            self.close_connections()


_kept: dict[StoreConfig, _OpenedStore] = {}
_open: WeakValueDictionary[StoreConfig, _OpenedStore] = WeakValueDictionary()
"""Those that are kept, and those that clients hold after one of them was closed."""
_tokens: WeakKeyDictionary[Store, str] = WeakKeyDictionary()
_in_memory: WeakValueDictionary[str, SharedStore] = WeakValueDictionary()


@atexit.register
def _let_go() -> None:
    """Close the connections that are shared, so that none is open when the interpreter ends."""
    for shared in list(_open.values()):
        shared.close_connections()


def _operations_of(shared: SharedStore) -> Operations:
    return Operations(shared.store, shared.in_flight, shared)


def _client_of(kind: Kind, stack: Stack) -> Any:
    """A client that nobody is told to close."""
    client: Any
    if kind == "BlockStore":
        client = blocking_client(stack)
    else:
        from blockyard.aio import asyncio_client  # noqa: PLC0415 - which imports asyncio

        client = asyncio_client(stack)
    client._runtime.connections.dropped_quietly = True
    return client


class _UnusableStore(WrapperStore):
    """Stands for a store that can't be opened here: every operation raises why."""

    def __init__(self, why: BlockStoreError, source: Portable | InMemory) -> None:
        super().__init__(cast("Store", _Raising(why)))
        self.source = source

    @property
    def name(self) -> str:
        return "of a pickle, which can't be opened here"

    def stats(self) -> StoreStats:
        return StoreStats()

    @property
    def waits_to_close(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _Raising:
    def __init__(self, why: BlockStoreError) -> None:
        self._why = type(why), why.args

    def __getattr__(self, name: str) -> Any:
        kind, arguments = self._why
        raise kind(*arguments)
