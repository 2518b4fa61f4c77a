"""The paths of the local files that contents come from and go to, and the errors of these files."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from blockyard.errors import BlockStoreError, LocalStorageError


@contextmanager
def local_errors(operation: str, path: str) -> Generator[None]:
    """Give an `OSError` on the file at `path` its place in the error tree."""
    try:
        yield
    except BlockStoreError:  # a deadline, which is a TimeoutError too
        raise
    except OSError as error:
        raise LocalStorageError(f"{operation}: {path!r}: {error.strerror or error}") from error


def checked_path(what: str, given: str | os.PathLike[str]) -> str:
    """The path as text. Raises `ValueError` when no file can be at it; `what` begins the message.

    That is left to the system but for what it can't be asked: NUL, and text that has no bytes.
    """
    path = os.fsdecode(given)
    try:
        written = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: {path!r} can't be written as a path: {error.reason}") from None
    if b"\0" in written:
        raise ValueError(f"{what}: expected a path without NUL, got {path!r}")
    return path
