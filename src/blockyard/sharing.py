"""An open store that clients share, each of which closes on its own: it ends with the last of them.

References count who holds it. They are exact among threads without a lock, on which a signal
handler or a finalizer could wait for itself; and a client that is dropped counts no more.
"""

from __future__ import annotations

from blockyard.stores.base import Store


class SharedStore:
    """A store, for its holders and those who look it up."""

    def __init__(self, store: Store, in_flight: int) -> None:
        self.store = store
        self.in_flight = in_flight
        self.ended: list[None] = []
        """What the holder takes that is the last to let go: one item, once none holds it."""

    def forget(self) -> None:
        """One of its holders closes: nothing may hold it for those who come later."""

    def __del__(self) -> None:
        self.ended.append(None)


class Holder:
    """One of those who share a store, until it lets go of it."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = [shared]

    @property
    def shared(self) -> SharedStore | None:
        """The store that it holds; None once it has let go."""
        return next(iter(self._shared), None)

    def let_go(self) -> bool:
        """Whether nobody else holds it any more, so that this one is to close it."""
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
