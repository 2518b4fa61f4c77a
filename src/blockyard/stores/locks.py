"""Folder locks, flock(2) on a lock file: threads and processes change a folder one at a time.

They work over NFS as well. No Python code may run while one is held: a signal handler that calls
the store in the middle of a call of its thread would deadlock, and one that raises could leave the
lock held. So what is done under a lock is a sequence of calls to C functions that `map` makes,
between which the interpreter runs nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import FileIO
from itertools import chain, compress
from operator import attrgetter, call, eq
from typing import Any, Self

from blockyard import syscalls
from blockyard.user_code import pass_on_foreign

Call = Callable[[], Any]
"""A C function with its arguments, as a `partial`."""
Version = tuple[int, int, int]

PREFIX = "lock-"
"""Prefix of the names of lock files."""
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILES = 64
"""Folders share lock files by hash; a collision only makes them wait for each other."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EROFS, errno.EBADF)
"""Errors of locking where the file system has no locks, or this user may not lock."""
_held: set[tuple[int, int, str]] = set()
"""Locks held, by process and thread: a finalizer may run in an allocation of a C function."""

version_of: Callable[[os.stat_result], Version] = attrgetter("st_mtime_ns", "st_ino", "st_size")
"""Identifies a version of a file: mtime, inode, size."""


class ReplacedError(OSError):
    """The file is another version than the one to be replaced."""


class FolderLock:
    """The lock of the folder of blocks at `folders`.

    Its file is in `area`, an open folder or a path.

    Where the file system has no locks, the calls are made without one, unless the lock is `needed`,
    which is an error then. Use it in a `with`; where a signal handler raises before that has ended,
    the file is closed when this object is freed.
    """

    def __init__(self, area: int | str, folders: Sequence[str], *, needed: bool = False) -> None:
        self._file: FileIO | None = None
        self._needed = needed
        name = f"{PREFIX}{zlib.crc32('/'.join(folders).encode()) % _FILES:02x}"
        self._mine = (os.getpid(), threading.get_ident(), name)
        try:
            self._file = _opened(area, name)
        except OSError as error:
            if not self._is_needless(error):
                raise

    def run(self, action: Call) -> None:
        """Make one call under the lock."""
        _ = self._make((action,))

    def run_each(self, actions: Iterable[Call]) -> int:
        """Make calls under the lock, drawn from an iterator written in C; return how many."""
        return self._make(actions)

    def replace(self, folder: int, name: str, version: Version, action: Call) -> None:
        """Compare and swap: make one call under the lock if the file `name` is that version.

        Else raises `ReplacedError`, or `FileNotFoundError`. The open `folder` is opened once more,
        which makes an NFS client revalidate its cache.
        """
        fresh = map(os.close, map(call, (partial(os.open, ".", _FOLDER, dir_fd=folder),)))
        found = map(call, (partial(os.stat, name, dir_fd=folder, follow_symlinks=False),))
        is_that_version = map(eq, map(version_of, found), (version,))
        # `close` returns None, so that the first of the two is left out, but drawn
        if not self._make(compress((action, action), chain(fresh, is_that_version))):
            raise ReplacedError(f"{name}: another file has that name now")

    def _make(self, actions: Iterable[Call]) -> int:
        """Make calls under the lock; return how many."""
        if self._file is None or self._mine in _held:
            return len(list(map(call, actions)))
        file = self._file.fileno()
        take = (partial(fcntl.flock, file, fcntl.LOCK_EX), partial(_held.add, self._mine))
        drop = (partial(_held.discard, self._mine), partial(fcntl.flock, file, fcntl.LOCK_UN))
        made = list[object]()
        try:
            made.extend(map(call, chain(take, actions, drop)))
        except OSError as error:
            if self._mine in _held:  # so that it is an action's
                _ = list(map(call, drop))
                raise
            if not made:
                if not self._is_needless(error):
                    raise
                return len(list(map(call, actions)))
            pass_on_foreign(error)
            self.close()  # which lets the lock go, too: all actions were made
            return len(made) - len(take) - 1
        return len(made) - len(take) - len(drop)

    def _is_needless(self, error: OSError) -> bool:
        """Whether to go on without a lock after this error."""
        return not self._needed and error.errno in _NO_LOCKS

    def close(self) -> None:
        """Close the lock file."""
        if self._file is not None:
            with syscalls.errors_ignored():  # it is closed whatever close(2) answers
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(area: int | str, name: str) -> FileIO:
    if isinstance(area, str):
        return FileIO(os.open(f"{area}/{name}", _FILE, 0o666), "r+")
    try:
        return FileIO(os.open(name, _FILE, 0o666, dir_fd=area), "r+")
    except PermissionError as error:  # another user's: over NFS alone it must be open for writing
        pass_on_foreign(error)
        return FileIO(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=area))
