"""Many-at-once calls of the blocking face: their event loop, made for the first of them.

Single calls need no asyncio, which takes 15 ms of CPU to import.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from blockyard.errors import StoreClosedError, TransportError
from blockyard.transport.threads import (
    Call,
    outcome_of,
    start_thread,
    threads_are_over,
    wait_until_done,
)

if TYPE_CHECKING:
    from blockyard.transport.background import BackgroundLoop
    from blockyard.transport.connections import Connections

_imported: list[type[BackgroundLoop]] = []
"""The class, once it is imported."""
_importing: set[int] = set()
"""Threads that import asyncio. A finalizer may run there, and must not wait for the import."""


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
    if not _imported:
        if threading.get_ident() in _importing:
            raise TransportError("a finalizer made a call while its thread imports asyncio")
        call = Call(_import)
        if threads_are_over():
            call.run()
        else:
            try:
                start_thread(call.run, "blockyard")
            except RuntimeError as error:
                raise TransportError(f"no thread could be started: {error}") from error
        _ = wait_until_done(call, None)
        outcome_of(call)
    return _imported[0](connections)


def _import() -> None:
    """Import asyncio. Done on a thread where no signal handler raises into the middle of it."""
    _importing.add(threading.get_ident())
    try:
        from blockyard.transport.background import BackgroundLoop  # noqa: PLC0415 - see above

        _imported.append(BackgroundLoop)
    except (ImportError, OSError) as error:  # the interpreter is ending; no descriptor is left
        raise TransportError(f"asyncio can't be imported: {error}") from error
    finally:
        _importing.discard(threading.get_ident())
