"""How much room is left in a stage, for all processes together, whichever of them are killed.

    locks/room  a number of 8 bytes: the bytes that all have taken since it was made, which it
                did not begin with 0

Who writes makes his file in its full size, empty, then takes room for it, then writes. Who counts
notes how much was taken until then, and looks at the files after that: what he does not find was
taken later. So whatever is taken from then on may be as much as he has found to be left. Nothing
is ever given back, which a killed process could not do: room that is free again is found when
what was left has been taken, and somebody counts again.
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


class Room:
    """`size` bytes of a folder, of which `locks` is the one of its locks. Raises `OSError`.

    `remake` makes the folder again when it was removed.
    """

    def __init__(self, locks: str, size: int, remake: Callable[[], object]) -> None:
        self.path = f"{locks}/{_NAME}"
        """Where the number is."""
        self._locks = locks
        self._size = size
        self._remake = remake
        self._ends = 0
        """How much all may have taken before this process counts again."""

    def prepare(self) -> None:
        """Make the number if there is none.

        It begins at random: to who has counted before the folder was removed it is out of bounds.
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
        """Take so many bytes of what was left when this process counted; False if that is less."""
        allowed = range(self._ends - self._size, self._ends - need + 1)

        def change(file: int) -> Iterator[Call]:
            taken = map(need.__add__, filter(allowed.__contains__, _number(file)))
            return map(partial(partial, os.pwrite, file), map(_to_bytes, taken), repeat(0))

        return self._locked(change) == 1

    def count(self, left: Callable[[], int]) -> int:
        """How many bytes are `left`, a function that looks at the files; they may be taken now."""
        taken = list[int]()

        def note(file: int) -> Iterator[Call]:
            return map(partial(partial, taken.append), _number(file))

        _ = self._locked(note)
        found = left()
        self._ends = taken[0] + found
        return found

    def _locked(self, calls: Callable[[int], Iterable[Call]]) -> int:
        """Make calls to C under the lock; returns how many there were."""
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
    """The number in the file, read once it is asked for."""
    return map(int.from_bytes, map(call, (partial(os.pread, file, _LENGTH, 0),)))
