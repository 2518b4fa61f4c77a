"""Both clients of a store behind one way to call them, so that a test is written once.

A test calls a `BlockStore`. The blocking client is one; the asyncio client is driven to look like
one, each call run to its end on an event loop that lives as long as the store is open.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar, cast

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.config import DEFAULT_CONCURRENCY, HttpConfig, StoreConfig, TimeoutConfig
from blockyard.iterators import AsyncPageIterator
from blockyard.managing import contextmanager
from blockyard.operations import Operations
from blockyard.stores.base import Store
from blockyard.sync import BlockStore
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.bulk import BulkLoop
from blockyard.transport.connections import Connections

ClientName = Literal["blocking", "asyncio"]
CLIENTS: tuple[ClientName, ...] = ("blocking", "asyncio")

Source = Store | StoreConfig | str | os.PathLike[str]
"""What to open: what `blockyard.open_store` takes, or a store of one's own."""

Item = TypeVar("Item")
_END = object()


class Client(Protocol):
    """One client of an open store; `store` is called as a `BlockStore`, whichever client it is."""

    store: BlockStore

    def at_once(self, call: Callable[[Any, Item], Any], items: Sequence[Item]) -> list[Any]:
        """`call(store, item)` for all items at the same time: on threads, or as tasks.

        `call` gets the client itself and returns what its method does. The outcomes come in the
        order of the items; where a call raised, the exception is its outcome.
        """
        ...


@contextmanager
def open_client(name: ClientName, source: Source) -> Generator[Client, None, None]:
    """One client over `source`, closed at the end."""
    if name == "blocking":
        with _open_blocking(source) as store:
            yield _BlockingClient(store)
        return
    with asyncio.Runner() as runner:
        client = _AsyncioClient(runner.run(_open_asyncio(source)), runner)
        try:
            yield client
        finally:
            client.store.close()


def _open_blocking(source: Source) -> BlockStore:
    if not isinstance(source, Store):
        return blockyard.open_store(source)
    connections = Connections(HttpConfig(), TimeoutConfig())
    return BlockStore(
        Operations(source),
        BlockingRuntime(connections),
        BulkLoop(connections),
        deadline=None,
        concurrency=DEFAULT_CONCURRENCY,
    )


async def _open_asyncio(source: Source) -> AsyncBlockStore:
    if not isinstance(source, Store):
        return await blockyard.open_async_store(source)
    return AsyncBlockStore(
        Operations(source),
        AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig())),
        deadline=None,
        concurrency=DEFAULT_CONCURRENCY,
    )


class _BlockingClient:
    def __init__(self, store: BlockStore) -> None:
        self.store = store

    def at_once(self, call: Callable[[Any, Item], Any], items: Sequence[Item]) -> list[Any]:
        together = threading.Barrier(len(items))

        def attempt(item: Item) -> Any:
            _ = together.wait()
            try:
                return call(self.store, item)
            except Exception as error:  # noqa: BLE001 - the outcome, which the test looks at
                return error

        with ThreadPoolExecutor(len(items)) as threads:
            return list(threads.map(attempt, items))


class _AsyncioClient:
    def __init__(self, store: AsyncBlockStore, runner: asyncio.Runner) -> None:
        # it has every method: `test_both_clients.py` compares the two clients
        self.store = cast("BlockStore", _Driven(store, runner))
        self._asyncio_store = store
        self._runner = runner

    def at_once(self, call: Callable[[Any, Item], Any], items: Sequence[Item]) -> list[Any]:
        async def all_at_once() -> list[Any]:
            calls = [call(self._asyncio_store, item) for item in items]
            return await asyncio.gather(*calls, return_exceptions=True)

        return self._runner.run(all_at_once())


class _Driven:
    """An `AsyncBlockStore` whose methods return what awaiting them gives."""

    def __init__(self, store: AsyncBlockStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self._result(method(*args, **kwargs))

    def _result(self, returned: Any) -> Any:
        if inspect.iscoroutine(returned):
            return self._runner.run(returned)
        if isinstance(returned, AsyncPageIterator):
            return _DrivenIterator(cast("AsyncPageIterator[Any]", returned), self._runner)
        if isinstance(returned, AsyncBlockStore):  # of `with_options`
            return _Driven(returned, self._runner)
        return returned


class _DrivenIterator(Iterator[Any]):
    """An `AsyncPageIterator` that is stepped as a `PageIterator` is."""

    def __init__(self, driven: AsyncPageIterator[Any], runner: asyncio.Runner) -> None:
        self._driven = driven
        self._runner = runner

    def __next__(self) -> Any:
        async def following() -> Any:
            return await anext(self._driven, _END)

        item = self._runner.run(following())
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        self._runner.run(self._driven.aclose())
