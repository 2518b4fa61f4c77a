"""Where contents are read into: a file that appears when it is whole, or one written in order."""

from __future__ import annotations

import errno
import fcntl
import operator
import os
import re
import stat
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from io import TextIOBase

from blockyard import arguments, syscalls
from blockyard.content.transfers import local_errors
from blockyard.content.types import ContentTarget, Writable
from blockyard.context import Context
from blockyard.errors import LocalStorageError
from blockyard.managing import contextmanager
from blockyard.model import MIB
from blockyard.user_code import pass_on_foreign

_NOT_OPEN = -1
_LEFT_BEHIND = 3600.0
"""Seconds after its last change until a temporary file counts as left by a killed process."""
_NAMES_LOOKED_AT = 10_000
"""In the search for temporary files that were left behind, so that a huge folder costs little."""
_TEMPORARY_NAME = re.compile(r"\.blockyard-[0-9a-f]{16}\.part")
_READER_WAIT = 30.0
"""Seconds that a named pipe is given until somebody reads it."""
_PAUSE = 0.001
"""Seconds until the next look whether a pipe has room."""
_OWN_DESCRIPTORS = re.compile(r"/proc/([0-9]+)(?:/task/[0-9]+)?/fd")
_LINKS = 40  # as many as Linux follows
_SHARED = stat.S_ISVTX | stat.S_IWOTH
_PERMISSIONS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


def write_all(file: Writable, data: bytes, operation: str) -> None:
    """Write all of `data` to the caller's own file, in as many calls as that takes.

    What its `write` raises is raised as it is. An answer that is no count of bytes would have some
    of them written twice or never: `TypeError` or `ValueError`; `LocalStorageError` when it takes
    none.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[_count(file, file.write(rest), len(rest), operation) :]


def _count(file: Writable, answer: object, size: int, operation: str) -> int:
    what = f"{operation}: target: write of {type(file).__name__}"
    if answer is None or answer == 0:
        raise LocalStorageError(
            f"{what} took none of {size} bytes and returned {answer!r}: expected a file that "
            "waits until it can take some, and returns how many that were"
        )
    try:
        count = operator.index(answer)  # pyright: ignore[reportArgumentType] # that is the question
    except TypeError:
        raise TypeError(
            f"{what} returned {type(answer).__name__}, expected the number of bytes it took"
        ) from None
    if not 0 < count <= size or isinstance(answer, bool):
        raise ValueError(f"{what} returned {answer!r} for {size} bytes, expected 1 to {size}")
    return count


def target_of(operation: str, given: ContentTarget) -> str | Writable:
    """The file, or the path of one. Raises `TypeError`, and `ValueError` for no possible path."""
    if isinstance(given, str | os.PathLike):
        return arguments.path(operation, given, "target")
    if isinstance(given, Writable) and not isinstance(given, TextIOBase):
        return given
    expected = "a path or a file open for writing bytes"
    raise arguments.unsuitable(operation, "target", expected, given)


def is_written_in_order(path: str) -> bool:
    """Whether a pipe, a device or an open descriptor is at `path`: written to, not replaced."""
    if own_descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        pass_on_foreign(error)
        return False  # if it matters, making the new file says so
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def own_descriptor(path: str) -> int | None:
    """The descriptor of this process that `/dev/stdout`, `/dev/fd/3` and the like stand for.

    What they lead to may be a regular file that a shell opened to append to.
    """
    for _ in range(_LINKS):
        folder, name = os.path.split(path)
        try:
            match = _OWN_DESCRIPTORS.fullmatch(os.path.realpath(folder))
            if match and int(match[1]) == os.getpid():
                return int(name) if name.isdecimal() else None
            path = os.path.join(folder, os.readlink(path))
        except OSError as error:  # no link, or the working folder is gone
            pass_on_foreign(error)
            return None
    return None


class OrderedFile:
    """A pipe, a device or a descriptor of this process, written in order from where it stands.

    Nothing here waits in the system: a reader that stalls holds up neither a deadline nor a
    cancellation.
    """

    def __init__(self, path: str, operation: str, file: int) -> None:
        self._path = path
        self._operation = operation
        self._file = file

    async def write(self, ctx: Context, data: bytes) -> None:
        """Write all of `data`."""
        with local_errors(self._operation, self._path):
            await self._write_all(ctx, memoryview(data))

    async def _write_all(self, ctx: Context, rest: memoryview) -> None:
        while rest:
            count = await ctx.runtime.blocking(partial(self._write_some, rest[:MIB]))
            rest = rest[count:]
            if count == 0:
                await ctx.sleep(_PAUSE)

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._file, data)
        except BlockingIOError:
            return 0


@contextmanager
def opened_in_order(path: str, operation: str, file: int) -> Generator[OrderedFile]:
    """An `OrderedFile` of an open descriptor, which is closed after it.

    A file server may say only then that there is no room; but not in the place of another error,
    nor of a cancellation.
    """
    failed = True
    try:
        yield OrderedFile(path, operation, file)
        failed = False
    finally:
        with syscalls.errors_ignored() if failed else local_errors(operation, path):
            os.close(file)


async def open_in_order(ctx: Context, path: str, operation: str) -> int:
    """A descriptor to write to what is at `path`; a pipe is waited for until it has a reader."""
    ends = ctx.runtime.now() + _READER_WAIT
    with local_errors(operation, path):
        while True:
            file = _open_in_order(path)
            if file is not None:
                return file
            if ctx.runtime.now() >= ends:
                raise OSError(errno.ENXIO, f"nobody reads this pipe, for {_READER_WAIT:.0f} s now")
            await ctx.sleep(50 * _PAUSE)


def _open_in_order(path: str) -> int | None:
    """Open for writing; None for a pipe without a reader."""
    number = own_descriptor(path)
    if number is not None:
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode) or stat.S_ISSOCK(mode):  # opened anew it would start at its begin
            return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 0)
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            return None
        raise
    with syscalls.errors_ignored():  # not a pipe, or not allowed: it then fills up sooner
        _ = fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, MIB)
    return file


class NewFile:
    """A file without a name, written at any place, that gets its name when it is whole.

    A process that is killed leaves nothing of it where the file system has `O_TMPFILE`. Elsewhere
    it is a temporary file beside its path, and the next one in that folder removes it when it is an
    hour old. It takes over the permissions of the file it replaces. Where the path is a symbolic
    link, the file that it leads to is replaced. Errors name `operation`. Call `close` at the end,
    come what may.
    """

    def __init__(self, path: str, operation: str) -> None:
        self._given = path
        self._operation = operation
        with local_errors(operation, path):  # the working folder may be gone
            if not path:  # which `realpath` would take for it
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._path = _led_to(path)
        self._folder = os.path.dirname(self._path)
        self._temporary_path = os.path.join(self._folder, f".blockyard-{os.urandom(8).hex()}.part")
        self._has_temporary_path = False
        self._file = _NOT_OPEN

    def create(self) -> None:
        """Make the file. Its room is taken as it is written: where a file system can't reserve
        any, the C library would write every block of it twice.
        """
        with local_errors(self._operation, self._given):
            if _is_folder(self._path):
                raise IsADirectoryError(None, "is a folder, not a file")
            replaced = None
            with suppress(FileNotFoundError):
                replaced = os.stat(self._path)
            self._open(0o666 if replaced is None else replaced.st_mode & 0o666)
            if replaced is not None:
                self._take_over(replaced)

    def write_at(self, position: int, data: bytes) -> None:
        """Write all of `data` at `position`. Threads may do so at the same time."""
        with local_errors(self._operation, self._given):
            syscalls.write_all_at(self._file, data, position)

    def commit(self) -> None:
        """Link the file to its path, durably."""
        with local_errors(self._operation, self._given):
            os.fsync(self._file)
            if not self._has_temporary_path:
                try:
                    self._name(self._path)
                except FileExistsError:  # which only a rename can replace
                    self._name(self._temporary_path)
                    self._has_temporary_path = True
            if self._has_temporary_path:
                syscalls.rename(self._file, self._temporary_path, self._path)
            syscalls.sync_folder_at(self._folder)

    def close(self) -> None:
        """Close the file, and remove it unless it was committed."""
        if self._file == _NOT_OPEN:
            return
        file, self._file = self._file, _NOT_OPEN
        syscalls.close(file)  # a signal handler may raise once it is closed
        if self._has_temporary_path:
            with syscalls.errors_ignored():  # renamed, or else left to `_purge`
                os.unlink(self._temporary_path)

    def _open(self, mode: int) -> None:
        """With no more permissions than it will have: who has it open keeps it."""
        if _is_folder("/proc/self/fd"):  # by which it gets its name
            with syscalls.errors_ignored():  # the other way works, or says what is wrong
                self._file = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
                return
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._temporary_path, flags, mode)
        self._has_temporary_path = True
        with syscalls.errors_ignored():  # failing to clean up is no failure of the read
            _purge(self._folder, os.fstat(self._file).st_mtime)

    def _take_over(self, replaced: os.stat_result) -> None:
        """Those of another user's file do not open the new one to more than it is: it may have been
        put there for that. The set-user-ID bit and its like were for other bytes.

        Some file systems have the same for all files, and refuse to be told any.
        """
        known = os.fstat(self._file)
        own, permissions = stat.S_IMODE(known.st_mode), replaced.st_mode & _PERMISSIONS
        if replaced.st_uid != known.st_uid:
            permissions &= own
        if own != permissions:
            os.fchmod(self._file, permissions)

    def _name(self, path: str) -> None:
        file = self._file
        syscalls.link(file, f"/proc/self/fd/{file}", path, src_dir_fd=file)


def _led_to(path: str) -> str:
    """The path that `path` leads to, by no symbolic link any more.

    One that another user has put into a folder such as /tmp is not followed, as by no program that
    opens a file to write to it: see protected_symlinks in proc_sys_fs(5).
    """
    for _ in range(_LINKS):
        folder, name = os.path.split(path)
        if name in {"", ".", ".."}:  # a folder
            return os.path.realpath(path)
        folder = os.path.realpath(folder)
        path = os.path.join(folder, name)
        try:
            link = os.lstat(path)
            target = os.readlink(path)
        except OSError as error:  # no link, or nothing there
            pass_on_foreign(error)
            return path
        around = os.stat(folder)
        planted = link.st_uid not in {os.geteuid(), around.st_uid}
        if planted and around.st_mode & _SHARED == _SHARED:
            raise PermissionError(
                errno.EACCES, "is another user's symbolic link in a shared folder"
            )
        path = os.path.join(folder, target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_folder(path: str) -> bool:
    """`os.path.isdir`, but what a signal handler raises meanwhile is not swallowed."""
    with syscalls.errors_ignored():
        return stat.S_ISDIR(os.stat(path).st_mode)
    return False


def _purge(folder: str, now: float) -> None:
    """Remove temporary files that killed processes left; `now` is the file system's own time."""
    with os.scandir(folder) as entries:
        for _, entry in zip(range(_NAMES_LOOKED_AT), entries, strict=False):
            if _TEMPORARY_NAME.fullmatch(entry.name) is None:
                continue
            with syscalls.errors_ignored():  # gone meanwhile, or not ours to remove
                known = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(known.st_mode) and now - known.st_mtime > _LEFT_BEHIND:
                    os.unlink(entry.path)
