"""State that a forked process must not share with its parent: sockets, threads, locks, permits.

A fork copies every object but only the calling thread, and parent and child then hold the same
sockets. The process id is compared on each access, because C code that forks (uWSGI, a C
extension) runs no hook of Python's. Where the hook does run, a child that never uses a store
lets go of what it inherited all the same.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

State = TypeVar("State")


def _nothing(_: object) -> None: ...


class PerProcess(Generic[State]):
    """A value that each process makes for itself, shared by its threads.

    `make` makes it; `let_go`, which must not raise, gets the parent's in a forked child: it may
    close the child's copies of descriptors, and must not speak to a peer or change what the
    kernel shares between both (an epoll set). No lock is taken: threads that come at once get
    the same value.
    """

    def __init__(
        self, make: Callable[[], State], let_go: Callable[[State], object] = _nothing
    ) -> None:
        self._make = make
        self._let_go = let_go
        self._states: dict[int, State] = {}
        _all.add(self)

    def here(self) -> State:
        """This process's value, made when it is first requested."""
        state = self._states.get(os.getpid())
        if state is None:
            self.let_go_inherited()
            state = self._states.setdefault(os.getpid(), self._make())
        return state

    def let_go_inherited(self) -> None:
        """Release the values inherited from the parent process."""
        for process in list(self._states):
            if process != os.getpid():
                inherited = self._states.pop(process, None)
                if inherited is not None:
                    _ = self._let_go(inherited)


def warn_of_drop() -> None:
    """Warn that a store with open connections, or a thread, was dropped without `close`."""
    warnings.warn(
        "a block store was dropped without close(): call it, or use `with`",
        ResourceWarning,
        stacklevel=4,
    )


_all: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_all):
        each.let_go_inherited()


os.register_at_fork(after_in_child=_after_fork)
