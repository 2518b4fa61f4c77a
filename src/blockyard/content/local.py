"""The errors of the local files that contents come from and go to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from blockyard.errors import BlockStoreError, LocalStorageError
from blockyard.user_code import pass_on_foreign


@contextmanager
def local_errors(operation: str, path: str) -> Generator[None]:
    """Give an `OSError` on the file at `path` its place in the error tree."""
    try:
        yield
    except BlockStoreError:  # a deadline, which is a TimeoutError too
        raise
    except OSError as error:
        pass_on_foreign(error)
        raise LocalStorageError(f"{operation}: {path!r}: {error.strerror or error}") from error
