"""Files and folders below a root that nothing can lead outside of it, written atomically.

Every folder on the way is opened from the one above it, and neither there nor at the end is a
symbolic link followed; this also keeps long paths within the system's limit. Blocking calls,
which raise `OSError`: `filesystem.py` runs them where they may block and gives errors their
names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from blockyard import syscalls
from blockyard.managing import contextmanager
from blockyard.model import MIB, BlockInfo
from blockyard.stores import locks
from blockyard.stores.base import Data
from blockyard.stores.locks import FolderLock, Version
from blockyard.stores.paths import OWN_AREA, BlockPath
from blockyard.times import utc
from blockyard.user_code import pass_on_foreign

LEFT_BEHIND = 3600.0
"""Seconds after its last change until a temporary file counts as left by a killed writer."""
UPLOAD_LEFT_BEHIND = 24 * 3600.0
"""The same of an upload, whose next part may be long in coming."""
_UPLOAD = "upload-"
"""What the names of uploads begin with."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a planted pipe must not hang the reader
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_PUBLISH_TRIES = 100
_NOT_COPIED_INSIDE = (
    errno.ENOSYS,
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EPERM,
    errno.EIO,
    errno.ETXTBSY,
)
"""What copy_file_range(2) fails with where reading and writing may work: some of FUSE and SMB."""
_GONE = (errno.ENOENT, errno.ESTALE)
"""What a folder answers that was removed; over NFS, on another machine."""
_UNANSWERED = (errno.EIO, errno.ETIMEDOUT)
"""What a disk, or a file server, that does not answer makes of a change."""
STEP = 64 * MIB
"""Bytes read, written or copied between two looks at the deadline: well below a second's work."""
_NAMES_SWEPT = 10_000
"""Names looked at in one purge, so that it costs little however many there are."""

Check = Callable[[], None]
"""Raises `DeadlineExceededError` once the deadline of the call has passed."""


class NotABlockError(OSError):
    """Something that is no regular file, and so none of the store's, has a block's name."""


class UnknownOutcomeError(OSError):
    """What was to be changed may have been: the disk or the server behind it did not say."""


class TemporaryFile(NamedTuple):
    """A file being written in the store's own area."""

    area: int
    name: str
    file: int


@contextmanager
def _perhaps_done(*numbers: int) -> Generator[None, None, None]:
    """Raise `UnknownOutcomeError` for errors with these numbers; for all where none are given."""
    try:
        yield
    except OSError as error:
        pass_on_foreign(error)
        if numbers and error.errno not in numbers:
            raise
        raise UnknownOutcomeError(*error.args) from error


@contextmanager
def opened_folder(
    root: Path, names: Iterable[str], *, make: bool = False
) -> Generator[int, None, None]:
    """A descriptor of the folder; with `make` it, and what leads to it, is made durably."""
    folder = _open_root(root, make)
    try:
        for name in names:
            below = _open_made(folder, name) if make else open_below(folder, name)
            above, folder = folder, below  # a signal handler may raise once that is closed
            syscalls.close(above)
        yield folder
    finally:
        syscalls.close(folder)


def open_below(folder: int, name: str) -> int:
    """A descriptor of the folder `name` in `folder`."""
    return os.open(name, _FOLDER, dir_fd=folder)


def open_block(root: Path, path: BlockPath) -> tuple[int, os.stat_result]:
    """A descriptor to read the block from, and what is known of its file."""
    with opened_folder(root, path.folders) as folder:
        file = os.open(path.name, _READ, dir_fd=folder)
    try:
        return file, _regular(os.fstat(file))
    except BaseException:
        syscalls.close(file)
        raise


def stat_block(root: Path, path: BlockPath) -> os.stat_result:
    """What is known of the block's file without opening it."""
    with opened_folder(root, path.folders) as folder:
        return stat_file(folder, path.name)


def stat_file(folder: int, name: str) -> os.stat_result:
    """What is known of a file in an open folder; `NotABlockError` when it is none."""
    return _regular(os.stat(name, dir_fd=folder, follow_symlinks=False))


def block_info(key: str, known: os.stat_result) -> BlockInfo:
    """What the file says of its block."""
    modified = utc(known.st_mtime)
    etag = f"{known.st_mtime_ns:x}-{known.st_ino:x}-{known.st_size:x}"
    return BlockInfo(key, known.st_size, etag, modified)


def new_upload(root: Path) -> str:
    """The name of a new file for the parts of a block, which outlives this process."""
    with opened_folder(root, [OWN_AREA], make=True) as area:
        name = _UPLOAD + os.urandom(16).hex()
        syscalls.close(os.open(name, _NEW, 0o666, dir_fd=area))
    return name


@contextmanager
def opened_upload(root: Path, name: str) -> Generator[TemporaryFile, None, None]:
    """The file that `new_upload` made, to be written or committed."""
    with opened_folder(root, [OWN_AREA]) as area:
        file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=area)
        try:
            yield TemporaryFile(area, name, file)
        finally:
            syscalls.close(file)


def remove_upload(root: Path, name: str) -> None:
    """Remove what `new_upload` made, if it is there."""
    with suppress(FileNotFoundError), opened_folder(root, [OWN_AREA]) as area:
        os.unlink(name, dir_fd=area)


@contextmanager
def temporary_file(root: Path) -> Generator[TemporaryFile, None, None]:
    """A new temporary file; what was not committed by the end is removed."""
    with opened_folder(root, [OWN_AREA], make=True) as area:
        name = os.urandom(16).hex()
        file = os.open(name, _NEW, 0o666, dir_fd=area)
        try:
            yield TemporaryFile(area, name, file)
        finally:
            syscalls.close(file)
            with syscalls.errors_ignored():  # renamed, or else left to `purge`
                os.unlink(name, dir_fd=area)


def commit(
    root: Path,
    temporary: TemporaryFile,
    path: BlockPath,
    *,
    replace: bool,
    check: Check,
    version: Version | None = None,
) -> os.stat_result:
    """Move the temporary file to its path, durably and atomically; returns what `fstat` says of it.

    Without `replace`, `FileExistsError` when a block is there: one of several racing wins. With a
    `version` that alone is replaced: else `ReplacedError`, or `FileNotFoundError`. Past the
    deadline nothing is put there.
    """
    _mark(temporary.file)
    os.fsync(temporary.file)
    known = os.fstat(temporary.file)  # here, since nothing may fail once it is there
    give_name = syscalls.rename if replace else syscalls.link
    for tries_left in reversed(range(_PUBLISH_TRIES)):
        check()
        try:
            with (
                opened_folder(root, path.folders, make=version is None) as folder,
                FolderLock(temporary.area, path.folders, needed=version is not None) as lock,
            ):
                run = lock.run
                if version is not None:
                    run = partial(lock.replace, folder, path.name, version)
                with _perhaps_done(*_UNANSWERED):
                    give_name(
                        temporary.file,
                        temporary.name,
                        path.name,
                        src_dir_fd=temporary.area,
                        dst_dir_fd=folder,
                        run=run,
                    )
                with _perhaps_done():
                    syscalls.sync_folder(folder)
            break
        except UnknownOutcomeError:
            raise
        except OSError as error:  # a delete removed the folder while it was empty
            if error.errno not in _GONE or not tries_left or version is not None:
                raise
    return known


def write_all(file: int, data: bytes | memoryview, check: Check) -> None:
    """Write all of `data`; what is large goes to the disk bit by bit, which can't be cut short."""
    view = memoryview(data)
    check()
    syscalls.write_all(file, view[:STEP])
    for start in range(STEP, len(view), STEP):
        os.fdatasync(file)
        check()
        syscalls.write_all(file, view[start : start + STEP])


def write_part(file: int, data: Data, offset: int, check: Check) -> None:
    """Write all of `data` at `offset`, and have it reach the disk."""
    view = memoryview(data)
    for start in range(0, len(view), STEP):
        check()
        syscalls.write_all_at(file, view[start : start + STEP], offset + start)
        os.fdatasync(file)


def copy_all(source: int, target: int, size: int, check: Check) -> None:
    """Copy `size` bytes, within the kernel and sharing them where the file system can."""
    copied = 0
    while copied < size:
        check()
        step = min(STEP, size - copied)
        count = _copied_inside(source, target, step, copied)
        if count == 0:  # the end, or a kernel that does not say that it can't
            data = os.pread(source, step, copied)
            if not data:
                raise broken_off(copied, size)
            syscalls.write_all_at(target, data, copied)
            count = len(data)
        copied += count


def _copied_inside(source: int, target: int, size: int, position: int) -> int:
    """How many bytes from a position were copied within the kernel; 0 where it can't."""
    try:
        return os.copy_file_range(source, target, size, position, position)
    except OSError as error:
        if error.errno not in _NOT_COPIED_INSIDE:
            raise
        return 0


def read_range(file: int, offset: int, length: int, check: Check) -> bytes:
    """`length` bytes from `offset`, which the file had when it was opened."""
    data = os.pread(file, min(length, STEP), offset)
    if len(data) == length:
        return data
    whole = bytearray(length)
    whole[: len(data)] = data
    read_into(file, memoryview(whole), check, offset, len(data))
    return bytes(whole)


def read_into(
    file: int, buffer: memoryview, check: Check, offset: int = 0, filled: int = 0
) -> None:
    """Fill `buffer`, of which `filled` bytes are there, from `offset` of the file on."""
    while filled < len(buffer):
        check()
        count = os.preadv(file, [buffer[filled : filled + STEP]], offset + filled)
        if count == 0:
            raise broken_off(offset + filled, offset + len(buffer))
        filled += count


def remove(
    root: Path, folders: Sequence[str], names: Iterable[str], check: Check
) -> dict[str, OSError]:
    """Remove files of one folder, durably, and the folders left empty; say which failed.

    Past the deadline the rest of them do, with that error, which is an `OSError` too.
    """
    failed: dict[str, OSError] = {}
    with opened_folder(root, folders) as folder:
        with own_area(root) as area, FolderLock(area, folders) as lock:
            for name in names:
                try:
                    check()
                    with _perhaps_done(*_UNANSWERED):
                        lock.run(partial(os.unlink, name, dir_fd=folder))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    pass_on_foreign(error)
                    failed[name] = error
        with _perhaps_done():
            syscalls.sync_folder(folder)
    _remove_empty(root, folders)
    return failed


def remove_version(root: Path, path: BlockPath, version: Version, check: Check) -> None:
    """Remove a file that is still that version, durably, and the folders left empty.

    Else `ReplacedError`, or `FileNotFoundError`.
    """
    with opened_folder(root, path.folders) as folder:
        with own_area(root) as area, FolderLock(area, path.folders, needed=True) as lock:
            check()
            unlink = partial(os.unlink, path.name, dir_fd=folder)
            with _perhaps_done(*_UNANSWERED):
                lock.replace(folder, path.name, version, unlink)
        with _perhaps_done():
            syscalls.sync_folder(folder)
    _remove_empty(root, path.folders)


@contextmanager
def own_area(root: Path) -> Generator[int, None, None]:
    """A descriptor of the store's own folder; -1 for who may not make it, and so not write."""
    with ExitStack() as opened:
        try:
            area = opened.enter_context(opened_folder(root, [OWN_AREA], make=True))
        except PermissionError as error:
            pass_on_foreign(error)
            area = -1
        yield area


def clock(root: Path) -> datetime:
    """The file system's time: another machine's, where the folder is shared."""
    with temporary_file(root) as temporary:
        return utc(os.fstat(temporary.file).st_mtime)


def purge(temporary: TemporaryFile) -> None:
    """Remove the temporary files beside a new one that killed writers left behind.

    Their age is held against the time of the new one: both are the file system's own.
    """
    now = os.fstat(temporary.file).st_mtime
    with syscalls.errors_ignored(), os.scandir(temporary.area) as entries:
        for _, entry in zip(range(_NAMES_SWEPT), entries, strict=False):
            if entry.name.startswith(locks.PREFIX):
                continue
            with syscalls.errors_ignored():  # its writer has just finished, or it is not ours
                known = stat_file(temporary.area, entry.name)
                age = UPLOAD_LEFT_BEHIND if entry.name.startswith(_UPLOAD) else LEFT_BEHIND
                if now - known.st_mtime > age:
                    os.unlink(entry.name, dir_fd=temporary.area)


def open_version(folder: int, name: str) -> os.stat_result:
    """What is known of a block in an open folder. Opening it asks an NFS server for what is new."""
    file = os.open(name, _READ, dir_fd=folder)
    try:
        return _regular(os.fstat(file))
    finally:
        syscalls.close(file)


def check_writable(root: Path) -> None:
    """Raise `PermissionError` unless folders can be made in the root."""
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def ignores_case(root: Path) -> bool:
    """Whether names that differ only in case are one: then keys would overwrite one another."""
    other_case = root / OWN_AREA.upper()
    return other_case.exists() and other_case.samefile(root / OWN_AREA)


def broken_off(at: int, expected: int) -> OSError:
    """The error for a file that someone cut short while it was read."""
    return OSError(errno.EIO, f"the file ends at byte {at} of {expected}")


def _open_root(root: Path, make: bool) -> int:
    """A descriptor of the root, which alone may be reached through links."""
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if not make:
            raise
    for folder in reversed([root, *root.parents]):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            with opened_folder(folder.parent, []) as above:
                syscalls.sync_folder(above)
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY)


def _open_made(folder: int, name: str) -> int:
    try:
        return open_below(folder, name)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another writer was first
            os.mkdir(name, dir_fd=folder)
        syscalls.sync_folder(folder)
        return open_below(folder, name)


def _mark(file: int) -> None:
    """Put a random number below the milliseconds of the file's time.

    The clock of a file system ticks only every few ms and inode numbers come back, so two
    blocks written in one tick could not be told apart by size, inode and time.
    """
    known = os.fstat(file)
    millisecond = known.st_mtime_ns // 1_000_000
    modified = millisecond * 1_000_000 + int.from_bytes(os.urandom(4)) % 1_000_000
    os.utime(file, ns=(known.st_atime_ns, modified))


def _regular(known: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(known.st_mode):
        raise NotABlockError(errno.EINVAL, "a link, folder or device stands in the block's place")
    return known


def _remove_empty(root: Path, folders: Sequence[str]) -> None:
    """Remove the folders that hold nothing, from the innermost one out."""
    with syscalls.errors_ignored():  # not empty, just gone, or not ours: such a one does no harm
        for depth in reversed(range(len(folders))):
            with opened_folder(root, folders[:depth]) as above:
                os.rmdir(folders[depth], dir_fd=above)
