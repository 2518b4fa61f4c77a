"""Many-at-once calls of the blocking face: their event loop, made for the first of them.

Single calls need no asyncio, which takes 15 ms of CPU to import.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from blockyard.errors import StoreClosedError
from blockyard.transport.importing import imported

if TYPE_CHECKING:
    from blockyard.transport.background import BackgroundLoop
    from blockyard.transport.connections import Connections


class BulkLoop:
    """The background loop of a store, which is made when it is first needed."""

    def __init__(self, connections: Connections) -> None:
        self._make = partial(_background_loop, connections)
        self._loops: list[BackgroundLoop] = []
        self._closed = False

    def get(self) -> BackgroundLoop:
        """The loop. Raises `StoreClosedError`, and `TransportError` when none can be made."""
        if not self._loops and not self._closed:
            self._loops.append(self._make())  # of several threads all take the first one's
        if self._closed:
            raise StoreClosedError("the store is closed")
        return self._loops[0]

    def close(self) -> None:
        """Close the loop, if there is one. See `BackgroundLoop.close`."""
        self._closed = True
        for loop in self._loops[:1]:
            loop.close()


def _background_loop(connections: Connections) -> BackgroundLoop:
    module: Any = imported("blockyard.transport.background")
    return module.BackgroundLoop(connections)
