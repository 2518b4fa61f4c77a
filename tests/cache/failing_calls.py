"""System calls on one folder, of which a single one fails."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CALLS = (
    "open",
    "pread",
    "preadv",
    "pwrite",
    "write",
    "writev",
    "fstat",
    "stat",
    "lstat",
    "utime",
    "rename",
    "link",
    "unlink",
    "symlink",
    "readlink",
    "mkdir",
    "listdir",
    "scandir",
    "fsync",
    "ftruncate",
    "statvfs",
)
_CHANGES = {
    *("pwrite", "write", "writev", "utime", "rename", "link"),
    *("unlink", "symlink", "mkdir", "ftruncate"),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NOT_TO_BE_WRITTEN = (errno.EROFS, errno.EDQUOT, errno.ENOSPC)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_real_readlink = os.readlink


class FailingCalls:
    """Fails the `nth` call on the folder `root`, or all on `path`, with the error `number`.

    With `onward` all fail from the `nth` on which that error is one of: those that change something
    where nothing may be written, those that need a descriptor where there is none to be had.
    Of the 256 folders of entries, which are looked at one by one, the first stands for all.
    """

    def __init__(
        self,
        root: Path,
        number: int,
        *,
        nth: int | None = None,
        path: Path | None = None,
        onward: bool = False,
    ) -> None:
        self.failed = ""
        """The call that failed."""
        self._root, self._path = str(root), path
        self._number, self._nth = number, nth
        self._calls = 0
        self._onward = onward

    @contextmanager
    def made(self) -> Generator[None]:
        """While this is entered they fail."""
        with pytest.MonkeyPatch.context() as patched:
            for name in _CALLS:
                patched.setattr(os, name, self._failing(getattr(os, name), name))
            for name in ("flock", "fcntl"):
                patched.setattr(fcntl, name, self._failing(getattr(fcntl, name), name))
            yield

    def _failing(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            path = _path_of(given[0], named.get("dir_fd", named.get("src_dir_fd")))
            flags = next((each for each in given[1:2] if isinstance(each, int)), 0)
            if self._concerns(name, flags) and self._fails(path, name):
                self.failed = f"{name} {path}"
                raise OSError(self._number, os.strerror(self._number))
            return call(*given, **named)

        return counted

    def _fails(self, path: str, name: str) -> bool:
        if self._path is not None:
            return path == str(self._path)
        inside = path.removeprefix(self._root)
        if inside == path or (name in {"scandir", "stat"} and "/blocks/01" <= inside < "/blocks~"):
            return False
        self._calls += 1
        if self._onward and self._nth is not None:
            return self._calls >= self._nth
        return self._calls == self._nth

    def _concerns(self, name: str, flags: int) -> bool:
        """Whether the call is one that fails with that number where it is there to stay."""
        if not self._onward:
            return True
        if self._number in _NO_DESCRIPTOR:
            return name in {"open", "listdir", "scandir"}
        if self._number in _NOT_TO_BE_WRITTEN:
            return name in _CHANGES or (name == "open" and bool(flags & _WRITES))
        return True


def open_files(root: Path) -> list[str]:
    """The open files of this process that are, or were, below `root`."""
    if _open_below(root):  # in the cycles that errors with their tracebacks are part of
        _ = gc.collect()
    return _open_below(root)


def _open_below(root: Path) -> list[str]:
    paths = [_path_of(int(number), None) for number in os.listdir("/proc/self/fd")]
    return [path for path in paths if path.startswith(str(root))]


def _path_of(file: Any, folder: int | None) -> str:
    if isinstance(file, int):
        try:
            return _real_readlink(f"/proc/self/fd/{file}")
        except OSError:
            return ""
    path = os.fsdecode(file)
    return path if folder is None else f"{_path_of(folder, None)}/{path}"
