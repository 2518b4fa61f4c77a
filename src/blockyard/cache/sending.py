"""Sends changes to the store behind a stage: one at a time for each block, in their order.

An upload of a staged version, or a change that bypasses the stage, holds the lock of its key
(`key_locks.py`) and has the key marked as in doubt until the outcome is known (`in_doubt.py`).
Before the lock is released, the version that was sent or deleted is removed from the stage, if it
is still the one that is staged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from blockyard.cache.folder import Folder
from blockyard.cache.group_commit import GroupCommit
from blockyard.cache.in_doubt import InDoubtMarks
from blockyard.cache.key_locks import KeyLocks
from blockyard.cache.open_entry import DamagedEntryError
from blockyard.cache.stage import Stage, Staged
from blockyard.context import Context
from blockyard.errors import BlockStoreError, ConfigError, IntegrityError, LocalStorageError
from blockyard.managing import contextmanager
from blockyard.model import DeleteResult
from blockyard.stores.base import Store, WriteRequest
from blockyard.stores.locks import Version
from blockyard.user_code import pass_on_foreign

Result = TypeVar("Result")

_BUSY_SECONDS = 0.2


class Sender:
    """Sends changes to the store `inner`; `commit` syncs the folder of the stage.

    Raises `ConfigError` where the system has not what this needs.
    """

    def __init__(self, inner: Store, folder: Folder, stage: Stage, commit: GroupCommit) -> None:
        if not KeyLocks.supported():
            raise ConfigError("cache.mode: write_back: expected a system with F_OFD_SETLK: Linux")
        if not folder.boot_is_known:
            raise ConfigError(
                "cache.mode: write_back: expected a system that tells its boots apart: Linux, with "
                "/proc/sys/kernel/random/boot_id, and no time namespace"
            )
        self._inner = inner
        self._stage = stage
        self._commit = commit
        self._locks = KeyLocks(f"{folder.root}/locks/uploads", stage.remake)
        self._marks = InDoubtMarks(folder)

    def prepare(self) -> None:
        """Make the folder of the marks. Raises `OSError`."""
        self._marks.prepare()

    def marked(self) -> list[bytes]:
        """The names of all keys with an in-doubt mark. Raises `OSError`."""
        return self._marks.names()

    def in_doubt(self, key: str, now: float) -> bool:
        """See `CacheStore.in_doubt`."""
        try:
            return self._marks.in_doubt(self._stage.name(key), now)
        except OSError as error:
            pass_on_foreign(error)
            return True

    async def through(
        self,
        ctx: Context,
        where: str,
        keys: Sequence[str],
        call: Callable[[], Coroutine[Any, Any, Result]],
        *,
        conditional: bool = False,
    ) -> Result:
        """Make a change in the store, after the upload of what is staged under its keys."""
        names = {self._stage.name(key): key for key in keys}
        with folder_errors(where):
            async with self._locks.taken(ctx, [*names]):
                if conditional:
                    for name in names:
                        await self._upload(ctx, name)
                before = await ctx.runtime.blocking(partial(self._versions, names))
                await self._settled(ctx, [*names])
                result = await self._send(ctx, [*names], os.urandom(12).hex(), call)
                if isinstance(result, DeleteResult):
                    before = {
                        name: version
                        for name, version in before.items()
                        if names[name] not in result.failed
                    }
                if not conditional:
                    with ctx.after_change(), folder_errors(where):
                        await self._remove(ctx, where, before)
                return result

    async def upload(self, ctx: Context, name: bytes) -> None:
        """Upload the staged version now, for an operation that needs it in the store."""
        if self._stage.may_hold(name):
            async with self._locks.taken(ctx, [name]):
                await self._upload(ctx, name)

    async def upload_if_free(self, ctx: Context, name: bytes) -> float | None:
        """Upload the version staged under a name unless its key is locked; else when to retry."""
        held, now = self._locks.take([name]), ctx.runtime.now()
        if held is None:
            return now + _BUSY_SECONDS
        try:
            staged = self._stage.find(name)
            due = self._marks.settles_at(name, staged and staged.version, now)
            if staged is None:
                return None
            if due > now:
                return due
            await self._upload_version(ctx, name, staged)
            return None
        finally:
            self._locks.free(held)

    async def _upload(self, ctx: Context, name: bytes) -> None:
        """Upload the staged version, if there is one. The key's lock is held."""
        staged = await ctx.runtime.blocking(partial(self._stage.find, name))
        if staged is not None:
            await self._settled(ctx, [name], staged.version)
            await self._upload_version(ctx, name, staged)

    async def _upload_version(self, ctx: Context, name: bytes, staged: Staged) -> None:
        with folder_errors(f"upload of {staged.info.key!r}"):
            pages = await ctx.runtime.blocking(partial(staged.read, 0, staged.info.size))
        own = replace(ctx, unknown_attempts=0, once=False)
        write = partial(self._inner.write, own, WriteRequest(staged.info.key, pages.data))
        _ = await self._send(own, [name], staged.version, write)
        await self._remove(ctx, f"upload of {staged.info.key!r}", {name: staged.file})

    async def _settled(
        self, ctx: Context, names: Sequence[bytes], version: str | None = None
    ) -> None:
        """Wait until no in-doubt change of the locked keys can take effect any more."""
        for name in names:
            while True:
                now = ctx.runtime.now()
                due = self._marks.settles_at(name, version, now)
                if due <= now:
                    break
                await ctx.sleep(due - now)

    async def _send(
        self,
        ctx: Context,
        names: Sequence[bytes],
        version: str,
        call: Callable[[], Coroutine[Any, Any, Result]],
    ) -> Result:
        """Make a change of locked keys, marked as in doubt until its outcome is known."""
        unknown = await ctx.runtime.blocking(partial(self._begin, names, version))
        before, known = ctx.unknown_attempts, False
        try:
            result = await call()
            known = ctx.unknown_attempts == before
        except BlockStoreError:
            known = ctx.unknown_attempts == before
            raise
        else:
            return result
        finally:
            for name in names:
                with suppress(LocalStorageError), folder_errors(""):
                    if known and name not in unknown:
                        self._marks.remove(name)
                    else:
                        self._marks.end(name, version, ctx.runtime.now())

    def _begin(self, names: Sequence[bytes], version: str) -> set[bytes]:
        """Mark a change as begun; return the names where an earlier attempt of it is in doubt."""
        unknown = set[bytes]()
        for name in names:
            mark = self._marks.mark(name)
            if mark is not None and mark.version == version:
                unknown.add(name)
            self._marks.begin(name, version)
        return unknown

    def _versions(self, names: Iterable[bytes]) -> dict[bytes, Version]:
        """The versions staged under these names."""
        found = {name: self._stage.version(name) for name in names}
        return {name: version for name, version in found.items() if version is not None}

    async def _remove(self, ctx: Context, where: str, versions: Mapping[bytes, Version]) -> None:
        """Remove versions that were uploaded or superseded from the stage, durably."""
        if not versions:
            return
        if ctx.runtime.suspends:  # a cancellation lets one call end, and would come before two
            await ctx.runtime.blocking(partial(self._remove_alone, versions))
            return
        failures = self._commit.failures
        self._remove_unsynced(versions)
        await self._commit.synced(replace(ctx, deadline=None), failures, where)

    def _remove_alone(self, versions: Mapping[bytes, Version]) -> None:
        self._remove_unsynced(versions)
        self._commit.sync_alone()

    def _remove_unsynced(self, versions: Mapping[bytes, Version]) -> None:
        for name, version in versions.items():
            _ = self._stage.remove(name, version)


@contextmanager
def folder_errors(where: str) -> Generator[None]:
    """Translate errors of the cache's folder into errors of this library."""
    try:
        yield
    except DamagedEntryError:
        raise IntegrityError(f"{where}: what is staged of it in the cache is damaged") from None
    except OSError as error:
        if isinstance(error, BlockStoreError):
            raise
        pass_on_foreign(error)
        raise LocalStorageError(f"{where}: the folder of the cache: {error}") from error
