"""Atomic, durable writes and deletes of files below a root folder (temporary file, fsync, rename).

Every folder on the way is opened from the one above it (openat(2)) and no symbolic link is
followed, so no path can lead out of the root; this also keeps long paths within the system's limit.
Blocking calls, which raise `OSError`; `block_files.py` translates these.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from blockyard import syscalls
from blockyard.managing import contextmanager
from blockyard.model import BlockInfo
from blockyard.stores import locks
from blockyard.stores.file_io import Check
from blockyard.stores.locks import FolderLock, Version
from blockyard.stores.paths import OWN_AREA, BlockPath
from blockyard.times import utc
from blockyard.user_code import pass_on_foreign

LEFT_BEHIND = 3600.0
"""Seconds after its last change until a temporary file counts as left by a killed writer."""
UPLOAD_LEFT_BEHIND = 24 * 3600.0
"""The same for the file of an upload, whose next part may take long to come."""
_UPLOAD = "upload-"
"""Prefix of the names of upload files."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a planted pipe must not hang the reader
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_PUBLISH_TRIES = 100
_GONE = (errno.ENOENT, errno.ESTALE)
"""Errors for a folder that was removed; ESTALE: over NFS, by another machine."""
_UNANSWERED = (errno.EIO, errno.ETIMEDOUT)
"""Errors of a disk or file server that did not answer: the change may have been made."""
_NAMES_SWEPT = 10_000
"""Most names examined in one purge, to bound its cost."""


class NotABlockError(OSError):
    """Something other than a regular file has the name of a block."""


class UnknownOutcomeError(OSError):
    """A change may or may not have been made: the disk or file server did not answer."""


class TemporaryFile(NamedTuple):
    """A file being written in the store's own area."""

    area: int
    name: str
    file: int


@contextmanager
def _unknown_outcome(*numbers: int) -> Generator[None, None, None]:
    """Turn errors with these numbers, or all if none are given, into `UnknownOutcomeError`."""
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
    """Open a folder; with `make`, make it and its parents durably."""
    folder = _open_root(root, make)
    try:
        for name in names:
            below = _open_or_make(folder, name) if make else open_below(folder, name)
            above, folder = folder, below  # a signal handler may raise once that is closed
            syscalls.close(above)
        yield folder
    finally:
        syscalls.close(folder)


def open_below(folder: int, name: str) -> int:
    """Open the folder `name` in the open `folder`."""
    return os.open(name, _FOLDER, dir_fd=folder)


def open_block(root: Path, path: BlockPath) -> tuple[int, os.stat_result]:
    """Open the file of a block for reading; return its descriptor and `fstat` result."""
    with opened_folder(root, path.folders) as folder:
        file = os.open(path.name, _READ, dir_fd=folder)
    try:
        return file, _checked_regular(os.fstat(file))
    except BaseException:
        syscalls.close(file)
        raise


def stat_block(root: Path, path: BlockPath) -> os.stat_result:
    """`stat` the file of a block without opening it."""
    with opened_folder(root, path.folders) as folder:
        return stat_file(folder, path.name)


def stat_file(folder: int, name: str) -> os.stat_result:
    """`stat` a regular file in an open folder. Raises `NotABlockError`."""
    return _checked_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))


def block_info(key: str, known: os.stat_result) -> BlockInfo:
    """The info of a block from the `stat` result of its file."""
    modified = utc(known.st_mtime)
    etag = f"{known.st_mtime_ns:x}-{known.st_ino:x}-{known.st_size:x}"
    return BlockInfo(key, known.st_size, etag, modified)


def new_upload(root: Path) -> str:
    """Make a file for the parts of a block, which outlives this process; return its name."""
    with opened_folder(root, [OWN_AREA], make=True) as area:
        name = _UPLOAD + os.urandom(16).hex()
        syscalls.close(os.open(name, _NEW, 0o666, dir_fd=area))
    return name


@contextmanager
def opened_upload(root: Path, name: str) -> Generator[TemporaryFile, None, None]:
    """Open the file that `new_upload` made, to write or commit it."""
    with opened_folder(root, [OWN_AREA]) as area:
        file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=area)
        try:
            yield TemporaryFile(area, name, file)
        finally:
            syscalls.close(file)


def remove_upload(root: Path, name: str) -> None:
    """Remove the file that `new_upload` made, if it exists."""
    with suppress(FileNotFoundError), opened_folder(root, [OWN_AREA]) as area:
        os.unlink(name, dir_fd=area)


@contextmanager
def temporary_file(root: Path) -> Generator[TemporaryFile, None, None]:
    """Make a temporary file, and remove it in the end unless it was committed."""
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
    """Move the temporary file to its path, durably and atomically; return its `fstat` result.

    Without `replace` raises `FileExistsError` where a block exists: one of several racing writers
    wins. With a `version` replaces only that version: else raises `ReplacedError`, or
    `FileNotFoundError`. Past the deadline nothing is moved.
    """
    _make_mtime_unique(temporary.file)
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
                with _unknown_outcome(*_UNANSWERED):
                    give_name(
                        temporary.file,
                        temporary.name,
                        path.name,
                        src_dir_fd=temporary.area,
                        dst_dir_fd=folder,
                        run=run,
                    )
                with _unknown_outcome():
                    syscalls.sync_folder(folder)
            break
        except UnknownOutcomeError:
            raise
        except OSError as error:  # a delete removed the folder while it was empty
            if error.errno not in _GONE or not tries_left or version is not None:
                raise
    return known


def remove(
    root: Path, folders: Sequence[str], names: Iterable[str], check: Check
) -> dict[str, OSError]:
    """Remove files of one folder, durably, and the folders left empty; return errors by name.

    Past the deadline the remaining files fail with `DeadlineExceededError`, an `OSError` as well.
    """
    failed: dict[str, OSError] = {}
    with opened_folder(root, folders) as folder:
        with own_area(root) as area, FolderLock(area, folders) as lock:
            for name in names:
                try:
                    check()
                    with _unknown_outcome(*_UNANSWERED):
                        lock.run(partial(os.unlink, name, dir_fd=folder))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    pass_on_foreign(error)
                    failed[name] = error
        with _unknown_outcome():
            syscalls.sync_folder(folder)
    _remove_empty_folders(root, folders)
    return failed


def remove_version(root: Path, path: BlockPath, version: Version, check: Check) -> None:
    """Remove a file if it still is that version, durably, and the folders left empty.

    Else raises `ReplacedError`, or `FileNotFoundError`.
    """
    with opened_folder(root, path.folders) as folder:
        with own_area(root) as area, FolderLock(area, path.folders, needed=True) as lock:
            check()
            unlink = partial(os.unlink, path.name, dir_fd=folder)
            with _unknown_outcome(*_UNANSWERED):
                lock.replace(folder, path.name, version, unlink)
        with _unknown_outcome():
            syscalls.sync_folder(folder)
    _remove_empty_folders(root, path.folders)


@contextmanager
def own_area(root: Path) -> Generator[int, None, None]:
    """Open the store's own folder; -1 where it can't be made for lack of permission."""
    with ExitStack() as opened:
        try:
            area = opened.enter_context(opened_folder(root, [OWN_AREA], make=True))
        except PermissionError as error:
            pass_on_foreign(error)
            area = -1
        yield area


def clock(root: Path) -> datetime:
    """The file system's time, which over NFS or SMB is the server's."""
    with temporary_file(root) as temporary:
        return utc(os.fstat(temporary.file).st_mtime)


def purge(temporary: TemporaryFile) -> None:
    """Remove temporary files that killed writers left behind, beside a new one.

    Their age is counted from the time of the new one: both are by the file system's clock.
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
    """`fstat` a block in an open folder. Opening it makes an NFS client revalidate its cache."""
    file = os.open(name, _READ, dir_fd=folder)
    try:
        return _checked_regular(os.fstat(file))
    finally:
        syscalls.close(file)


def check_writable(root: Path) -> None:
    """Raise `PermissionError` unless the root is writable."""
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def ignores_case(root: Path) -> bool:
    """Whether the file system is case-insensitive, so that keys would overwrite one another."""
    other_case = root / OWN_AREA.upper()
    return other_case.exists() and other_case.samefile(root / OWN_AREA)


def _open_root(root: Path, make: bool) -> int:
    """Open the root, the only path that may contain symbolic links."""
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


def _open_or_make(folder: int, name: str) -> int:
    try:
        return open_below(folder, name)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another writer was first
            os.mkdir(name, dir_fd=folder)
        syscalls.sync_folder(folder)
        return open_below(folder, name)


def _make_mtime_unique(file: int) -> None:
    """Replace the digits of the mtime below milliseconds by random ones.

    The clock of a file system ticks only every few ms and inode numbers are reused, so two versions
    written within a tick could have equal size, inode and mtime, and so equal ETags.
    """
    known = os.fstat(file)
    millisecond = known.st_mtime_ns // 1_000_000
    modified = millisecond * 1_000_000 + int.from_bytes(os.urandom(4)) % 1_000_000
    os.utime(file, ns=(known.st_atime_ns, modified))


def _checked_regular(known: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(known.st_mode):
        raise NotABlockError(errno.EINVAL, "a link, folder or device stands in the block's place")
    return known


def _remove_empty_folders(root: Path, folders: Sequence[str]) -> None:
    """Remove empty folders, from the innermost one out."""
    with syscalls.errors_ignored():  # not empty, just gone, or not ours: such a one does no harm
        for depth in reversed(range(len(folders))):
            with opened_folder(root, folders[:depth]) as above:
                os.rmdir(folders[depth], dir_fd=above)
