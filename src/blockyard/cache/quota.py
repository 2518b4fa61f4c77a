"""The quota of a stage: bytes that all processes may stage together, whichever of them are killed.

    locks/room  a counter of 8 bytes: all bytes that were ever taken, plus a random start value

A writer makes its file in full size but empty (sparse), then takes the bytes from the quota, then
writes. A process that counts reads the counter first and the sizes of the files after that, so any
file it does not see was taken later. From then on as many bytes as it found to be left may be
taken. Nothing is ever given back, which a killed process could not do: freed bytes are found by the
next count, once the bytes of the last one have been taken.

The counter is changed under a lock by C functions alone: see `stores/locks.py` for why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import repeat
from operator import call

from blockyard import syscalls
from blockyard.cache.folder import Descriptor
from blockyard.stores.locks import Call, FolderLock

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_LENGTH = 8
_NAME = "room"
_to_bytes = partial(int.to_bytes, length=_LENGTH)


class Quota:
    """A limit of `size` bytes on the staged files of all processes. Raises `OSError`.

    `locks` is the folder of the lock files; `remake` makes that again when it was removed.
    """

    def __init__(self, locks: str, size: int, remake: Callable[[], object]) -> None:
        self.path = f"{locks}/{_NAME}"
        """The path of the counter file."""
        self._locks = locks
        self._size = size
        self._remake = remake
        self._ends = 0
        """The value of the counter from which on this process has to count again."""

    def prepare(self) -> None:
        """Make the counter file, if there is none.

        Its first value is random, so that it is out of bounds for a process that counted before the
        folder was removed.
        """
        temporary = f"{self.path}-{os.urandom(8).hex()}"
        with (
            suppress(FileExistsError),
            Descriptor(os.open(temporary, _OPEN | os.O_CREAT, 0o600)) as file,
        ):
            try:
                syscalls.write_all(file.number, b"\0" + os.urandom(_LENGTH - 1))
                os.link(temporary, self.path)
            finally:
                os.unlink(temporary)

    def take(self, need: int) -> bool:
        """Take `need` of the bytes left at this process's last count; False if fewer are."""
        allowed = range(self._ends - self._size, self._ends - need + 1)

        def change(file: int) -> Iterator[Call]:
            taken = map(need.__add__, filter(allowed.__contains__, _number(file)))
            return map(partial(partial, os.pwrite, file), map(_to_bytes, taken), repeat(0))

        return self._locked(change) == 1

    def count(self, left: Callable[[], int]) -> int:
        """Count the bytes left, by `left`, which looks at the files; `take` may take them."""
        taken = list[int]()

        def note(file: int) -> Iterator[Call]:
            return map(partial(partial, taken.append), _number(file))

        _ = self._locked(note)
        found = left()
        self._ends = taken[0] + found
        return found

    def _locked(self, calls: Callable[[int], Iterable[Call]]) -> int:
        """Make calls of C functions under the lock; return how many there were."""
        with (
            Descriptor(self._opened()) as file,
            FolderLock(self._locks, (_NAME,), needed=True) as lock,
        ):
            return lock.run_each(calls(file.number))

    def _opened(self) -> int:
        try:
            return os.open(self.path, _OPEN)
        except FileNotFoundError:
            _ = self._remake()
            return os.open(self.path, _OPEN)


def _number(file: int) -> Iterator[int]:
    """Yield the counter in the file, which is read when it is drawn."""
    return map(int.from_bytes, map(call, (partial(os.pread, file, _LENGTH, 0),)))
