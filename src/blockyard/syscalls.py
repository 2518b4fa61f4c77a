"""System calls on files, verified by their effect and not by their answer.

Over NFS a call may take effect and its reply be lost: the client sends it again, and the second
answer is about the work of the first (link(2) says EEXIST, rename(2) ENOENT). SMB and FUSE refuse
to sync a folder, which they keep in order by themselves. Each call here raises `OSError` only
when what it was for has not happened. See "Bugs" in link(2) and rename(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from operator import call

from blockyard.managing import contextmanager
from blockyard.user_code import pass_on_foreign

_FOLDER_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that have no fsync for folders."""


_NO_SUCH_READ = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
"""What file systems, kernels and the system call filters of containers (seccomp) answer that have
no preadv2(2), or not all of its flags."""
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write all of `data`; one write(2) may take less."""
    rest = memoryview(data)
    while rest:
        rest = rest[_taken(os.write(file, rest)) :]


def write_both(file: int, head: bytes, data: bytes | memoryview) -> None:
    """Write all of `head`, then all of `data`, in one call where that takes them."""
    count = _taken(os.writev(file, (head, data)))
    write_all(file, memoryview(head)[count:])
    write_all(file, memoryview(data)[max(0, count - len(head)) :])


def write_all_at(file: int, data: bytes | bytearray | memoryview, position: int) -> None:
    """Write all of `data` at `position`. Threads may do so at the same time."""
    rest = memoryview(data)
    while rest:
        count = _taken(os.pwrite(file, rest, position))
        position += count
        rest = rest[count:]


def read_cached(file: int, size: int, offset: int) -> bytes | None:
    """`size` bytes from `offset`, if that waits for no disk; None if it would, or there are fewer.

    See RWF_NOWAIT in preadv2(2). Raises `OSError` with EOPNOTSUPP where there is no such thing, as
    on network file systems, under old kernels and in some containers: see `reads_cached`.
    """
    buffer = bytearray(size)
    try:
        count = os.preadv(file, [buffer], offset, _NO_WAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_SUCH_READ:
            raise
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error
    return bytes(buffer) if count == size else None


def reads_cached(file: int) -> bool:
    """Whether the file system of an open file has what `read_cached` needs."""
    try:
        _ = read_cached(file, 1, 0)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return _NO_WAIT != 0


def link(
    file: int,
    source: str,
    target: str,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    run: Callable[[Callable[[], None]], object] = call,
) -> None:
    """Give the open `file`, which is at `source`, the further name `target`.

    A symbolic link at `source` is followed if `src_dir_fd` is given. `FileExistsError` when
    something else has that name. `run` makes the call.
    """
    try:
        _ = run(partial(os.link, source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))
    except FileExistsError:
        if not is_at(file, target, dst_dir_fd):
            raise


def rename(
    file: int,
    source: str,
    target: str,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    run: Callable[[Callable[[], None]], object] = call,
) -> None:
    """Give the open `file` the name `target` instead of `source`, replacing what was there.

    `run` makes the call.
    """
    try:
        _ = run(partial(os.rename, source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))
    except FileNotFoundError:
        if not is_at(file, target, dst_dir_fd):
            raise


def is_at(file: int, name: str, folder: int | None = None) -> bool:
    """Whether the open `file` is what has that name."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        pass_on_foreign(error)
        return False
    return os.path.samestat(there, os.fstat(file))


@contextmanager
def errors_ignored() -> Generator[None]:
    """Ignore `OSError`s of the system, but raise those of a signal handler.

    `suppress(OSError)` would swallow a `TimeoutError` that a handler raised.
    """
    try:
        yield
    except OSError as error:
        pass_on_foreign(error)


def close(file: int) -> None:
    """Close a descriptor that was read from, or that what was written to is synced of.

    close(2) closes it whatever it answers: what a file server has to say at that, or an interrupt,
    is no error of what was done before. Over FUSE and NFS it may say anything.
    """
    try:
        os.close(file)
    except OSError as error:
        pass_on_foreign(error)
        if error.errno == errno.EBADF:
            raise  # some of the program's own code has closed it, and may close others


def sync_folder(folder: int) -> None:
    """fsync an open folder, where its file system supports that."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _FOLDER_NOT_SYNCED:
            raise


def sync_folder_at(path: str) -> None:
    """`sync_folder` of one that may be written to and yet not be opened."""
    with suppress(PermissionError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_folder(folder)
        finally:
            close(folder)


def _taken(count: int) -> int:
    if count == 0:
        raise OSError(errno.EIO, "the file took none of the bytes")
    return count
