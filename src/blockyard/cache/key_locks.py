"""Locks of single keys, held while the store is asked to change their blocks.

A lock is a byte of one file, the key's own, held by an open file description (F_OFD_SETLK in
fcntl(2)): between processes and between the threads of one alike, and let go by the system when a
process is killed. Who waits for one asks again and again, since it is held for as long as a
request takes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from blockyard.cache.folder import Descriptor
from blockyard.errors import LocalStorageError
from blockyard.process import PerProcess

if TYPE_CHECKING:
    from blockyard.context import Context

_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = (errno.EAGAIN, errno.EACCES)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_PLACES = 1 << 62


class Held(Descriptor):
    """Locks that are held, until this is closed or dropped. A forked child closes its copy."""

    __slots__ = ("__weakref__", "names", "thread")

    def __init__(self, number: int, names: Sequence[bytes]) -> None:
        super().__init__(number)
        self.names = names
        self.thread = threading.get_ident()


class KeyLocks:
    """The locks of a folder, in the file `path`. Raises `OSError`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: PerProcess[WeakSet[Held]] = PerProcess(WeakSet[Held], _let_go)

    @staticmethod
    def supported() -> bool:
        """Whether the system has such locks."""
        return _SET is not None

    def take(self, names: Sequence[bytes]) -> Held | None:
        """The locks of all these keys; None where somebody holds one of them."""
        assert _SET is not None  # noqa: S101 - asked for when the store was opened
        held = Held(os.open(self._path, _FLAGS, 0o600), names)
        self._held.here().add(held)
        try:
            for place in sorted({_place(name) for name in names}):
                lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
                _ = fcntl.fcntl(held.number, _SET, lock)
        except OSError as error:
            self.free(held)
            if error.errno in _TAKEN:
                return None
            raise
        except BaseException:
            self.free(held)
            raise
        return held

    def free(self, held: Held) -> None:
        """Let them go."""
        self._held.here().discard(held)
        held.close()

    @asynccontextmanager
    async def taken(self, ctx: Context, names: Sequence[bytes]) -> AsyncGenerator[None]:
        """Hold the locks of these keys, once they are free.

        Raises `DeadlineExceededError`, and `LocalStorageError` in a signal handler that has
        interrupted a call which holds one of them: nobody would ever let that go.
        """
        pause = _FIRST_PAUSE
        while (held := self.take(names)) is None:
            if not ctx.runtime.suspends and self._holds_up(names):
                raise LocalStorageError(
                    "the block is being changed by a call that this one has interrupted"
                )
            await ctx.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield
        finally:
            self.free(held)

    def _holds_up(self, names: Sequence[bytes]) -> bool:
        """Whether this very thread holds one of them."""
        mine, wanted = threading.get_ident(), {_place(name) for name in names}
        return any(
            held.thread == mine and not wanted.isdisjoint(map(_place, held.names))
            for held in list(self._held.here())
        )


def _place(name: bytes) -> int:
    """Which byte of the file is the key's own; two keys that share one only wait for each other."""
    return int.from_bytes(name[:8]) % _PLACES


def _let_go(inherited: WeakSet[Held]) -> None:
    for held in list(inherited):
        held.close()
