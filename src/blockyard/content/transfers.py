"""Progress of transfers, and errors of local files."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

from blockyard.content.types import Progress
from blockyard.context import Context
from blockyard.errors import BlockStoreError, LocalStorageError
from blockyard.managing import contextmanager
from blockyard.user_code import pass_on_foreign


class Tally:
    """Counts transferred bytes and reports them to the caller's `progress`."""

    def __init__(self, ctx: Context, progress: Progress | None) -> None:
        self.done = 0
        self._progress = progress
        self._user = ctx.user_code(quick=True)

    async def add(self, size: int) -> None:
        """Count `size` more bytes, and call `progress`."""
        self.done += size
        if self._progress is not None:
            await self._user.run(partial(self._progress, self.done))


@contextmanager
def local_errors(operation: str, path: str) -> Generator[None]:
    """Raise an `OSError` on the file at `path` as `LocalStorageError`."""
    try:
        yield
    except BlockStoreError:  # a deadline, which is a TimeoutError too
        raise
    except OSError as error:
        pass_on_foreign(error)
        raise LocalStorageError(f"{operation}: {path!r}: {error.strerror or error}") from error
