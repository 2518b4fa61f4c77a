"""A reference-counted store: clients share it, and the last one to close or be dropped closes it.

Python's own reference count is used: it is exact among threads without a lock (on which a signal
handler or a finalizer could deadlock), and a client that is dropped no longer counts.
"""

from __future__ import annotations

from blockyard.stores.base import Store


class SharedStore:
    """The shared store; freed when its last holder releases it."""

    def __init__(self, store: Store, in_flight: int) -> None:
        self.store = store
        self.in_flight = in_flight
        self.ended: list[None] = []
        """Has one item once nobody holds the store; the last holder pops it."""

    def forget(self) -> None:
        """Called when a holder closes: a registry must not hand out the store any more."""

    def __del__(self) -> None:
        self.ended.append(None)


class Holder:
    """One reference to a shared store, until it is released."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = [shared]

    @property
    def shared(self) -> SharedStore | None:
        """The shared store; None once released."""
        return next(iter(self._shared), None)

    def let_go(self) -> bool:
        """Release the reference; True if it was the last one: the caller closes the store."""
        try:
            shared = self._shared.pop()
        except IndexError:
            return False
        ended = shared.ended
        shared.forget()
        del shared
        try:
            return ended.pop() is None
        except IndexError:
            return False
