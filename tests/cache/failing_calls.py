"""System calls on one folder, of which a single one fails."""

from __future__ import annotations

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
_real_readlink = os.readlink


class FailingCalls:
    """Fails the `nth` call on the folder `root`, or all on `path`, with the error `number`.

    Of the 256 folders of entries, which are looked at one by one, the first stands for all.
    """

    def __init__(
        self, root: Path, number: int, *, nth: int | None = None, path: Path | None = None
    ) -> None:
        self.failed = ""
        """The call that failed."""
        self._root, self._path = str(root), path
        self._number, self._nth = number, nth
        self._calls = 0

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
            if self._fails(path, name):
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
        return self._calls == self._nth


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
