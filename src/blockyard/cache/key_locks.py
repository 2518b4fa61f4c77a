"""Locks of single keys, held while the store is asked to change their blocks.

A lock is a byte of one file, the key's own, held by an open file description (F_OFD_SETLK in
fcntl(2)): between processes and between the threads of one alike, and let go by the system when a
process is killed. Who waits for one asks again and again, since it is held for as long as a
request takes. Who needs several takes them in the order of their bytes, as everybody does, and
keeps those that he has: all of them are never free at once while others write.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING
from weakref import ref

from blockyard import syscalls
from blockyard.cache.folder import Descriptor
from blockyard.errors import LocalStorageError
from blockyard.managing import asynccontextmanager
from blockyard.process import PerProcess

if TYPE_CHECKING:
    from blockyard.context import Context

_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_PLACES = 1 << 62


class Held(Descriptor):
    """Locks that are held until this is closed or freed. A forked child closes its copy."""

    __slots__ = ("__weakref__", "places", "thread")

    def __init__(self, number: int, names: Sequence[bytes]) -> None:
        super().__init__(number)
        self.places = sorted({_place(name) for name in names})
        self.thread = threading.get_ident()


class KeyLocks:
    """The locks of a folder, in the file `path`. Raises `OSError`.

    `remake` makes the folder again when it was removed.
    """

    def __init__(self, path: str, remake: Callable[[], object]) -> None:
        self._path = path
        self._remake = remake
        self._held: PerProcess[set[ref[Held]]] = PerProcess(set[ref[Held]], _let_go)

    @staticmethod
    def supported() -> bool:
        """Whether the system has such locks."""
        return _SET is not None

    def take(self, names: Sequence[bytes]) -> Held | None:
        """Take the locks of all these keys; None if any is held."""
        held = self._opened(names)
        try:
            if _all_locked(held):
                return held
        except BaseException:
            self.free(held)
            raise
        self.free(held)
        return None

    def free(self, held: Held) -> None:
        """Release locks.

        Closing the file is not enough: a child forked by C code has a copy without knowing of it.
        But where closing is all that works, that is no error of the change that was made.
        """
        self._held.here().discard(ref(held))
        try:
            if held.number >= 0:
                with syscalls.errors_ignored():
                    _ = _set(held, fcntl.F_UNLCK, 0, 0)
        finally:
            held.close()

    @asynccontextmanager
    async def taken(self, ctx: Context, names: Sequence[bytes]) -> AsyncGenerator[None]:
        """Hold the locks of these keys, waiting until they are free.

        Raises `DeadlineExceededError`; and `LocalStorageError` in a signal handler that would have
        to wait for a call that it has interrupted, directly or not.
        """
        held = self._opened(names)
        try:
            for place in held.places:
                await self._lock(ctx, held, place)
            yield
        finally:
            self.free(held)

    async def _lock(self, ctx: Context, held: Held, place: int) -> None:
        pause = _FIRST_PAUSE
        while not _locked(held, place):
            if not ctx.runtime.suspends and self._interrupts(held):
                raise LocalStorageError(
                    "the block is being changed, and this call has interrupted one that "
                    "changes a block: it can't wait"
                )
            await ctx.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _opened(self, names: Sequence[bytes]) -> Held:
        try:
            held = Held(os.open(self._path, _FLAGS, 0o600), names)
        except FileNotFoundError:
            _ = self._remake()
            held = Held(os.open(self._path, _FLAGS, 0o600), names)
        here = self._held.here()
        here.add(ref(held, here.discard))
        return held

    def _interrupts(self, held: Held) -> bool:
        """Whether this thread holds others, in a call that this one has interrupted."""
        all_held = [each() for each in list(self._held.here())]
        return any(
            each is not None and each is not held and each.thread == held.thread
            for each in all_held
        )


def _all_locked(held: Held) -> bool:
    return all(_locked(held, place) for place in held.places)


def _locked(held: Held, place: int) -> bool:
    try:
        _ = _set(held, fcntl.F_WRLCK, place, 1)
    except BlockingIOError:  # Linux says that alone of one that is taken: EACCES is a refusal
        return False
    return True


def _set(held: Held, kind: int, place: int, length: int) -> object:
    """fcntl(2) F_OFD_SETLK. A length of 0 is up to the end of the file, however it grows."""
    assert _SET is not None  # noqa: S101 - asked for when the store was opened
    lock = struct.pack("hhqqi", kind, os.SEEK_SET, place, length, 0)
    return fcntl.fcntl(held.number, _SET, lock)


def _place(name: bytes) -> int:
    """The byte of the file that is the key's lock; keys that share one only wait for each other."""
    return int.from_bytes(name[:8]) % _PLACES


def _let_go(inherited: set[ref[Held]]) -> None:
    for each in list(inherited):
        held = each()
        if held is not None:
            held.close()
