"""Both clients of one store, for what has blocking and asyncio methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockyard.aio import AsyncBlockStore, open_async_store
from blockyard.client import Client
from blockyard.config.loading import Source
from blockyard.opening import open_store
from blockyard.stores.base import Store
from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end


class BothClients:
    """The blocking and the asyncio client of the store that `source` names.

    Equal where they are of the same store. A client that was given stays the caller's, to close as
    well. Pickles as a client does; an unpickled one closes on its own.
    """

    def __init__(
        self, source: Source | Store | Client[Any], settings: Mapping[str, Any] = {}
    ) -> None:
        self._given: set[object] = {source} if isinstance(source, Client) else set()
        self._asyncio = source if isinstance(source, AsyncBlockStore) else None
        if isinstance(source, BlockStore) and not settings:
            self.blocking = source
        else:
            self.blocking = open_store(source, **settings)
            if self._given:
                self.blocking._runtime.connections.dropped_quietly = True  # pyright: ignore[reportPrivateUsage]

    @property
    def asyncio(self) -> AsyncBlockStore:
        """The asyncio client, for any event loop."""
        if self._asyncio is None:
            made = run_to_end(open_async_store(self.blocking))
            made._runtime.connections.dropped_quietly = True  # pyright: ignore[reportPrivateUsage]
            self._asyncio = vars(self).setdefault("_made", made)  # of several threads, the first's
        return self._asyncio

    def close(self) -> None:
        """Close the store unless it was given, and the clients that were made for it."""
        if not self._given:
            self.blocking.close()
        elif self.blocking not in self._given:
            self.blocking._bulk.close()  # pyright: ignore[reportPrivateUsage]
            self.blocking._runtime.close()  # pyright: ignore[reportPrivateUsage]
        if self._asyncio is not None and self._asyncio not in self._given:
            _ = self._asyncio._runtime.drop()  # pyright: ignore[reportPrivateUsage]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BothClients) and (
            self.blocking is other.blocking or self._pickled() == other._pickled()
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.blocking,)

    def __repr__(self) -> str:
        return repr(self.blocking)

    def _pickled(self) -> object:
        """A value that is equal for equal stores."""
        try:
            return self.blocking.__reduce__()
        except TypeError:  # of a Store of the caller's own
            return self.blocking._operations  # pyright: ignore[reportPrivateUsage]


def _reopened(blocking: BlockStore) -> BothClients:
    clients = BothClients(blocking)
    clients._given.clear()  # pyright: ignore[reportPrivateUsage]
    return clients
