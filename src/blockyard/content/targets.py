"""Files that contents are read into: one appears under its name only when it is whole."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from blockyard.content.local import local_errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

_OPERATION = "read_content_into"
_NOT_OPEN = -1


@runtime_checkable
class Writable(Protocol):
    """A file open for writing bytes: `write` returns how many of them it took."""

    def write(self, data: Buffer, /) -> int | None: ...


ContentTarget: TypeAlias = str | os.PathLike[str] | Writable


def write_all(file: Writable, data: bytes) -> None:
    """Write all of `data`, in as many calls as that takes."""
    rest = memoryview(data)
    while rest:
        written = file.write(rest)
        if written is None:
            raise BlockingIOError(f"{_OPERATION}: the target is a file that does not block")
        rest = rest[written:]


def is_special(path: str) -> bool:
    """Whether a pipe or a device is at `path`: that is written to, not replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # if it matters, making the new file says so
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class NewFile:
    """A file written beside its path, at any place, and renamed to it when it is whole.

    It takes over the permissions of the file it replaces. Where the path is a symbolic link,
    the file that it leads to is replaced. Call `close` at the end, come what may.
    """

    def __init__(self, path: str, size: int) -> None:
        self._given = path
        self._size = size
        self._path = os.path.realpath(path)
        folder = os.path.dirname(self._path)
        self._draft = os.path.join(folder, f".blockyard-{os.urandom(8).hex()}.part")
        self._file = _NOT_OPEN

    def create(self) -> None:
        """Make the draft and reserve its room on the disk."""
        with local_errors(_OPERATION, self._given):
            if os.path.isdir(self._path):
                raise IsADirectoryError(None, "is a folder, not a file")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._draft, flags, 0o666)
            with suppress(FileNotFoundError):
                os.fchmod(self._file, stat.S_IMODE(os.stat(self._path).st_mode))
            if self._size:
                os.posix_fallocate(self._file, 0, self._size)

    def write_at(self, position: int, data: bytes) -> None:
        """Write all of `data` at `position`. Threads may do so at the same time."""
        rest = memoryview(data)
        with local_errors(_OPERATION, self._given):
            while rest:
                written = os.pwrite(self._file, rest, position)
                position += written
                rest = rest[written:]

    def publish(self) -> None:
        """Let the file appear under its path; a power cut leaves it whole too."""
        with local_errors(_OPERATION, self._given):
            os.fsync(self._file)
            os.replace(self._draft, self._path)

    def close(self) -> None:
        """Close the file, and remove it unless it was published."""
        if self._file == _NOT_OPEN:
            return
        os.close(self._file)
        self._file = _NOT_OPEN
        with suppress(FileNotFoundError):  # renamed
            os.unlink(self._draft)
