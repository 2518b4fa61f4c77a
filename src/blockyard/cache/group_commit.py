"""Group commit: concurrent writers that wait for the same folder to be synced share one fsync(2).

Each waits for a sync that began after its change; writers that come during a sync share the next
one. After a failed fsync(2) the next one may report success although data was lost: so a failure is
raised for every change that was made before the failed sync had ended.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from blockyard.errors import LocalStorageError
from blockyard.process import PerProcess
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from blockyard.context import Context


class GroupCommit:
    """Shares calls of `sync`, which raises `OSError`."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._under_way: PerProcess[dict[Hashable, Any]] = PerProcess(dict[Hashable, Any])
        self._next = 0
        self._error: OSError | None = None
        self.failures = 0
        """How many syncs have failed. Who is about to change the folder notes it: see `synced`."""

    async def synced(self, ctx: Context, failures: int, where: str) -> None:
        """Wait for a sync of a change, before which `failures` syncs had failed.

        Raises `LocalStorageError`, which begins with `where`.
        """
        number = self._next
        sync = partial(self._after_the_one_before, ctx, number)
        _ = await ctx.runtime.once(self._under_way.here(), number, sync, ctx.deadline)
        if self.failures != failures:
            raise LocalStorageError(
                f"{where}: the cache's folder can't be synced: {self._error}"
            ) from self._error

    def sync_alone(self) -> None:
        """Sync now, without sharing. Raises `OSError`."""
        try:
            self._sync()
        except OSError as error:
            self._error = error
            self.failures += 1
            raise

    async def _after_the_one_before(self, ctx: Context, number: int) -> None:
        async def ended() -> None: ...

        _ = await ctx.runtime.once(self._under_way.here(), number - 1, ended, ctx.deadline)
        await ctx.runtime.blocking(partial(self._numbered, number))

    def _numbered(self, number: int) -> None:
        self._next = max(self._next, number + 1)  # who comes from now on is not in it
        try:
            self.sync_alone()
        except OSError as error:
            pass_on_foreign(error)  # `synced` tells all who share it
