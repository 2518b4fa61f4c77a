"""The stage of a cache folder: blocks that are written, and not in the store yet.

    stage/NAME         the version of a block that is to be uploaded: an entry (`entry.py`), synced
    stage/.new/RANDOM  what is being written, locked (flock(2)) by who does
    locks/lock-..      held for a moment by whoever changes what is staged: see `stores/locks.py`
    locks/room, locks/uploads, doubt/NAME: see `quota.py`, `key_locks.py` and `in_doubt.py`

A version that is staged is never changed: another one replaces it in one step, and its removal
makes sure that it is still that one. In the place of an ETag its head has a name of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import NamedTuple

from blockyard import syscalls
from blockyard.cache import entry
from blockyard.cache.entry import HEAD, Head, name_of
from blockyard.cache.folder import Descriptor, Folder, allocated
from blockyard.cache.open_entry import DamagedEntryError, OpenEntry
from blockyard.cache.quota import Quota
from blockyard.cache.tier import Pages
from blockyard.managing import contextmanager
from blockyard.model import MIB, BlockInfo
from blockyard.s3.integrity import running_checksums
from blockyard.stores.locks import FolderLock, ReplacedError, Version, version_of
from blockyard.user_code import pass_on_foreign

_LARGEST_BLOCK = 32 * MIB
_LARGEST_SHARE = 4
_MOST_BLOCKS = 100_000
_LOCK = fcntl.LOCK_EX | fcntl.LOCK_NB
_NAME_DIGITS = 32
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FILE = (errno.ELOOP, errno.ENXIO)
"""What a symbolic link and a socket answer who opens them."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class NoRoomError(Exception):
    """The stage is full: some of the `used` bytes have to be uploaded first.

    `full` says what is full.
    """

    def __init__(self, used: int, full: str) -> None:
        super().__init__(used)
        self.used = used
        self.full = full


class Waiting(NamedTuple):
    """A staged file: since when, in seconds since the epoch, and the bytes of its block.

    `allocated` are its bytes on the disk.
    """

    staged_at: float
    name: bytes
    size: int
    allocated: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged version of a block, open: it can be read even after it was removed."""

    entry: OpenEntry
    file: Version
    """What tells its file from one that replaced it."""

    @property
    def info(self) -> BlockInfo:
        """The info of the block, without the ETag that it will have."""
        return self.entry.head.info._replace(etag="")

    @property
    def version(self) -> str:
        """The unique name of this version."""
        return self.entry.head.info.etag

    def read(self, begin: int, end: int) -> Pages:
        """Read these pages, verified. Raises `DamagedEntryError`, `OSError`."""
        pages = self.entry.read(begin, end, wait=True)
        if not pages.data and begin < end:
            raise DamagedEntryError
        return pages


class _New(Descriptor):
    """A file that is being written, and its path."""

    __slots__ = ("path",)

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number)
        self.path = path


class Stage:
    """The staged blocks of the store `identity` in a folder, of `size` bytes for all stores.

    Raises `OSError`, and `NoRoomError` where there is no room.
    """

    def __init__(self, folder: Folder, size: int, identity: str) -> None:
        self.size = size
        self.largest = min(_LARGEST_BLOCK, size // _LARGEST_SHARE)
        """Bytes of the largest block that is staged."""
        self._folder = folder
        self._identity = identity
        self._root = f"{folder.root}/stage"
        self._locks = f"{folder.root}/locks"
        self._new = f"{self._root}/.new"
        self._quota = Quota(self._locks, size, self.remake)
        self._least = size // _MOST_BLOCKS
        """Bytes that a block takes at least, so that there are not too many of them."""
        self._was_full = False
        self._keys: dict[bytes, str | None] = {}
        """By the name of a file: its key, or None where it is another store's, once and for all."""

    def remake(self) -> None:
        """Make the cache's folder again after it was removed."""
        self._folder.prepare()
        self.prepare()

    def prepare(self) -> None:
        """Make the folders of the stage."""
        for path in (self._root, self._new, self._locks):
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self._quota.prepare()
        syscalls.sync_folder_at(str(self._folder.root))

    def name(self, key: str) -> bytes:
        """The name of the file of a key."""
        return name_of(self._identity, key)

    def put(self, key: str, data: bytes | memoryview, now: float) -> BlockInfo:
        """Stage a version, replacing the one that is there. It is durable once `sync` has returned.

        `now` is in seconds since the epoch.
        """
        size = HEAD + len(data)
        staged_at = datetime.fromtimestamp(now, UTC)
        info = BlockInfo(key, len(data), os.urandom(12).hex(), staged_at)
        sums = running_checksums(data)
        head = Head(self.name(key), info, 0, struct.pack(f">{len(sums)}I", *sums))
        text = entry.encode_head(head)
        assert text is not None  # noqa: S101 - keys are checked
        checked = entry.encode_checked(-inf, self._folder.boot)
        try:
            if self._was_full:
                self._look_for_room(_rounded(size))
            with self._made(size) as new:
                self._take_room(_rounded(size), new)
                self._put(new, head, now, (entry.marked(text, head, 0, data, checked), data))
        except OSError as error:
            if error.errno in _FULL:
                raise NoRoomError(self.used(), "the disk is full") from error
            raise
        return info._replace(etag="")

    def sync(self) -> None:
        """fsync the folder, for everything staged and removed before."""
        with self._opened(self._root) as folder:
            syscalls.sync_folder(folder.number)

    def find(self, name: bytes) -> Staged | None:
        """Open the version that this store has staged. Raises `DamagedEntryError`.

        None as well for another store's: in-doubt marks are by name, for all stores.
        """
        found = self.find_of_any_store(name)
        return found if found is not None and self.name(found.info.key) == name else None

    def find_of_any_store(self, name: bytes) -> Staged | None:
        """Open the staged version of whichever store. Raises `DamagedEntryError`.

        What can't be opened raises: nobody must take it for uploaded.
        """
        try:
            file = Descriptor(os.open(self._path(name), _OLD))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise DamagedEntryError from None
            raise
        found = version_of(os.fstat(file.number))
        return Staged(OpenEntry(file, name, 0, self._folder.boot, wait=True), found)

    def remove(self, name: bytes, version: Version) -> bool:
        """Remove this version; False where another one is staged by now, or none."""
        own = name.hex()
        with (
            self._opened(self._root) as folder,
            self._opened(self._locks) as area,
            FolderLock(area.number, (own,), needed=True) as lock,
        ):
            unlink = partial(os.unlink, own, dir_fd=folder.number)
            try:
                lock.replace(folder.number, own, version, unlink)
            except (ReplacedError, FileNotFoundError):
                return False
        return True

    def version(self, name: bytes) -> Version | None:
        """The version staged under a name, damaged or not; None where there is none."""
        try:
            return version_of(os.stat(self._path(name), follow_symlinks=False))
        except FileNotFoundError:
            return None

    def may_hold(self, name: bytes) -> bool:
        """Whether a version is staged under a name, or that can't be told."""
        try:
            return self.version(name) is not None
        except OSError as error:
            pass_on_foreign(error)
            return True

    def used(self) -> int:
        """Bytes on the disk of all staged files, of all stores."""
        return sum(each.allocated for each in self.files())

    def waiting(self) -> list[Waiting]:
        """The staged files of this store, of all processes, the oldest first.

        Files that are damaged or unreadable, so that their store can't be told, are included.
        """
        return [each for each in self.files() if self._may_be_own(each.name)]

    def _may_be_own(self, name: bytes) -> bool:
        try:
            return self.key(name) is not None
        except OSError as error:
            pass_on_foreign(error)
            return True

    def key(self, name: bytes) -> str | None:
        """The key of a staged file; None where it is another store's, or gone.

        "" where it is too damaged to tell.
        """
        with suppress(KeyError):
            return self._keys[name]
        try:
            staged = self.find_of_any_store(name)
        except DamagedEntryError:
            return ""
        if staged is None:
            return None
        key = staged.info.key
        if len(self._keys) >= _MOST_BLOCKS:
            self._keys.clear()
        self._keys[name] = known = key if self.name(key) == name else None
        return known

    def is_empty(self) -> bool:
        """Whether nothing is staged, by any store."""
        try:
            with os.scandir(self._root) as found:
                return all(each.name.startswith(".") for each in found)
        except FileNotFoundError:
            return True

    def _path(self, name: bytes) -> str:
        return f"{self._root}/{name.hex()}"

    def _put(
        self, new: _New, head: Head, now: float, parts: tuple[bytes, bytes | memoryview]
    ) -> None:
        """Write the file of a version, and rename it into place.

        Its mtime is set from the clock: that of a file system ticks only every few ms and inode
        numbers are reused, so versions could not be told apart. By paths, not descriptors: threads
        that write at once wait for the interpreter lock after each system call.
        """
        time = int(now * 1e9)
        syscalls.write_both(new.number, *parts)
        os.utime(new.number, ns=(time, time))
        os.fsync(new.number)
        with FolderLock(self._locks, (head.name.hex(),), needed=True) as lock:
            syscalls.rename(new.number, new.path, self._path(head.name), run=lock.run)

    @contextmanager
    def _made(self, size: int) -> Generator[_New]:
        """Make a file of that size, sparse, which is removed unless it is renamed."""
        new = self._make()
        try:
            while True:
                if _hold(new.number):
                    break
                new.close()  # whoever counts took it for a killed writer's
                new = self._make()
            os.ftruncate(new.number, size)
            yield new
        except BaseException:
            with syscalls.errors_ignored():
                os.unlink(new.path)
            raise
        finally:
            new.close()

    def _make(self) -> _New:
        path = f"{self._new}/{os.urandom(12).hex()}"
        try:
            return _New(os.open(path, _NEW, 0o600), path)
        except FileNotFoundError:
            self.remake()
            return _New(os.open(path, _NEW, 0o600), path)

    def _take_room(self, need: int, new: _New) -> None:
        """Take quota for a file that was made. Raises `NoRoomError`."""
        while not self._quota.take(max(need, self._least)):
            self._look_for_room(need, new.path)

    def _look_for_room(self, need: int, own: str = "") -> None:
        """Count the bytes left, without the file `own`. Raises `NoRoomError`.

        A writer that got that error makes no file until there is room: others would count it.
        """
        files = list[Waiting]()

        def left() -> int:
            written = self._being_written(own)  # first: what is renamed then is among the files
            files.extend(self.files())
            staged = sum(max(each.allocated, self._least) for each in files)
            return self.size - self._overhead() - written - staged

        self._was_full = self._quota.count(left) < max(need, self._least)
        if self._was_full:
            raise NoRoomError(sum(each.allocated for each in files), "the stage is full")

    def files(self) -> list[Waiting]:
        """All staged files, the oldest first."""
        return self._looked_at(lambda _: True)

    def below(self, prefix: str) -> list[Waiting]:
        """What this store has staged under keys with that prefix, the oldest first.

        Of all else only the names are looked at: a listing asks for each of its pages.
        """

        def is_below(name: bytes) -> bool:
            key = self.key(name)
            return bool(key) and key.startswith(prefix)

        return self._looked_at(is_below)

    def _looked_at(self, wanted: Callable[[bytes], bool]) -> list[Waiting]:
        """The files with names that are wanted, the oldest first."""
        files = list[Waiting]()
        try:
            with os.scandir(self._root) as found:
                for each in found:
                    with suppress(FileNotFoundError, ValueError):
                        if len(each.name) != _NAME_DIGITS:
                            continue
                        name = bytes.fromhex(each.name)
                        if wanted(name):
                            known = each.stat(follow_symlinks=False)
                            size = max(0, known.st_size - HEAD)
                            files.append(Waiting(known.st_mtime, name, size, _size_of(known)))
        except FileNotFoundError:
            return []
        return sorted(files)

    def _overhead(self) -> int:
        """Bytes on the disk of the folders that the stage needs."""
        paths = (self._root, self._new, self._locks, f"{self._folder.root}/doubt", self._quota.path)
        return sum(map(allocated, paths))

    def _being_written(self, but: str = "") -> int:
        """Bytes of all files being written. Those of killed writers are removed."""
        total = 0
        with suppress(FileNotFoundError), os.scandir(self._new) as found:
            for each in found:
                with suppress(FileNotFoundError):
                    if each.path != but and not _removed_if_abandoned(each.path):
                        total += _size_of(each.stat(follow_symlinks=False))
        return total

    @contextmanager
    def _opened(self, path: str) -> Generator[Descriptor]:
        try:
            number = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            self.remake()
            number = os.open(path, _DIRECTORY)
        with Descriptor(number) as folder:
            yield folder


def _hold(new: int) -> bool:
    """Lock a new file, as that of a live writer; False where it was removed before."""
    try:
        fcntl.flock(new, _LOCK)
    except BlockingIOError:
        return False
    return os.fstat(new).st_nlink > 0


def _removed_if_abandoned(path: str) -> bool:
    """Remove the file of a writer that was killed: it is not locked."""
    with Descriptor(os.open(path, _OLD)) as file:
        try:
            fcntl.flock(file.number, _LOCK)
        except BlockingIOError:
            return False
        os.unlink(path)
    return True


def _size_of(known: os.stat_result) -> int:
    """Bytes that a file has on the disk, or will have."""
    return max(_rounded(known.st_size), known.st_blocks * 512)


def _rounded(size: int) -> int:
    """Bytes that the disk has to have for so many."""
    return -(-size // HEAD) * HEAD
