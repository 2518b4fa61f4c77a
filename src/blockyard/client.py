"""What both clients are: the operations of an open store, and the options of their calls.

`BlockStore` runs the operations on the calling thread, `AsyncBlockStore` on an event loop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from blockyard.config import DEFAULT_CONCURRENCY, HttpConfig, StoreConfig, TimeoutConfig
from blockyard.context import CacheUse, Context
from blockyard.model import StoreStats
from blockyard.operations import Operations
from blockyard.transport.importing import imported

if TYPE_CHECKING:
    from blockyard.content.cleaning import ContentCleaner
    from blockyard.content.reading import ContentReader
    from blockyard.content.writing import ContentWriter
    from blockyard.object_reading import ObjectReader
    from blockyard.objects import ObjectWriter
    from blockyard.transport.aio import AsyncioRuntime
    from blockyard.transport.blocking import BlockingRuntime
    from blockyard.transport.connections import Connections
    from blockyard.verifying import Verifier

AnyRuntime = TypeVar("AnyRuntime", bound="BlockingRuntime | AsyncioRuntime")


_LATER = {
    "_reader": ("blockyard.content.files", "ContentReader"),
    "_writer": ("blockyard.content.writing", "ContentWriter"),
    "_cleaner": ("blockyard.content.cleaning", "ContentCleaner"),
    "_objects": ("blockyard.objects", "ObjectWriter"),
    "_object_reader": ("blockyard.object_reading", "ObjectReader"),
    "_verifier": ("blockyard.verifying", "Verifier"),
}
"""Attributes that are imported and made when first used: their modules would be a tenth of the time
until the first read of a process."""


class Stack(NamedTuple):
    """Everything that a client is made of, except its runtime."""

    operations: Operations
    source: StoreConfig | None = None
    """What it was opened from; None for a `Store` of the caller's own."""
    http: HttpConfig = HttpConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    deadline: float | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    cache: CacheUse = "use"
    connections: Connections | None = None
    """Those that clients share; each has its own where there are none."""


class Client(Generic[AnyRuntime]):
    """An open store. Clients with the same `operations` share the store, and its closing."""

    if TYPE_CHECKING:  # the names are not there when annotations are resolved
        _reader: ContentReader
        _writer: ContentWriter
        _cleaner: ContentCleaner
        _objects: ObjectWriter
        _object_reader: ObjectReader
        _verifier: Verifier

    def __init__(
        self,
        operations: Operations,
        runtime: AnyRuntime,
        *,
        deadline: float | None,
        concurrency: int,
        cache: CacheUse = "use",
        source: StoreConfig | None = None,
    ) -> None:
        self._operations = operations
        self._source = source
        self._runtime = runtime
        self._deadline = deadline
        self._concurrency = concurrency
        self._cache: CacheUse = cache
        self._endless = Context(runtime, None, concurrency, cache=cache)

    def stats(self) -> StoreStats:
        """Counters of the store, and what it has learnt of the service. Sends nothing."""
        taken, idle = self._runtime.connections.here().counts()
        stats = self._operations.store.stats()
        return replace(stats, connections_taken=taken, connections_idle=idle)

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._operations.closed

    def __getattr__(self, name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        module, kind = _LATER[name]
        made = getattr(imported(module), kind)(self._operations)
        setattr(self, name, made)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        from blockyard.pickling import PickledClient, pickled  # noqa: PLC0415 - few need it

        return PickledClient.reopened, (pickled(self._stack(), type(self).__name__),)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return self._operations.describe(kind, self._deadline, self._concurrency)

    def _context(self) -> Context:
        if self._deadline is None:
            return self._endless
        ends = self._runtime.now() + self._deadline
        return Context(self._runtime, ends, self._concurrency, cache=self._cache)

    def _stack(self) -> Stack:
        """The parts for another client, of either kind, of the same open store."""
        connections = self._runtime.connections
        return Stack(
            self._operations,
            self._source,
            connections.http,
            connections.timeouts,
            self._deadline,
            self._concurrency,
            self._cache,
            connections if connections.shared else None,
        )
