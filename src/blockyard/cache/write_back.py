"""Write-back: a write returns once the cache's folder has it, and the store gets it later.

The protocol is the one of `docs/decisions/write-back.md`, where every interleaving of it was tried.
What is staged is what readers get. It has no ETag yet: whatever needs one, or asks the store about
blocks in another way, has it uploaded first. Whoever changes a block in the store holds the lock of
its key: an upload, or a change that goes through. That is a delete, a copy, a write under a
condition, with options or too large for the stage, and whatever a content is made of.
"""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import (
    Callable,
    Coroutine,
    Generator,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from blockyard.cache.doubt import Doubt
from blockyard.cache.folder import Folder
from blockyard.cache.kept import DamagedEntryError
from blockyard.cache.key_locks import KeyLocks
from blockyard.cache.stage import NoRoomError, Stage, Staged
from blockyard.cache.store import CacheStore, block_of
from blockyard.cache.uploads import Uploads
from blockyard.context import Context
from blockyard.errors import (
    BlockStoreError,
    ConfigError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    StageFullError,
)
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    Page,
    Part,
    PresignedRequest,
    StagedBlock,
    StoreStats,
)
from blockyard.process import PerProcess
from blockyard.stores.base import (
    ListRequest,
    OpenUpload,
    PresignRequest,
    ReadRequest,
    WriteRequest,
    requested_range,
)
from blockyard.stores.locks import Version
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.user_code import pass_on_foreign

Result = TypeVar("Result")

CLOSING_SECONDS = 10.0
"""For so long `close` waits for uploads."""
_BUSY_SECONDS = 0.2
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_FULL_PAUSE = 0.05
_PATIENCE = 60.0
"""Seconds without any progress after which a full stage is an error, where no deadline says so."""
_SCAN_EVERY = 60.0
_ALL = b""
"""In the place of a name: all that is staged or in doubt, whoever left it."""
_WARN_EVERY = 60.0
_log = logging.getLogger("blockyard.cache")


class WriteBackStore(WrapperStore):
    """Stages writes in `folder`, of `size` bytes, in front of a cache that is in that folder too.

    `runtime` is for uploads alone, and is closed with this. Raises `ConfigError` where the system
    has no locks for it, and `LocalStorageError` for a folder that can't be used.
    """

    def __init__(
        self, inner: CacheStore, folder: Folder, size: int, runtime: BlockingRuntime
    ) -> None:
        super().__init__(inner)
        if not KeyLocks.supported():
            raise ConfigError("cache.mode: write_back: expected a system with F_OFD_SETLK: Linux")
        self._stage = Stage(folder, size, inner.name)
        self._doubt = Doubt(folder)
        self._locks = KeyLocks(f"{folder.root}/locks/uploads")
        self._runtime = runtime
        self._uploads = Uploads(runtime, self._upload_later)
        self._syncing: PerProcess[dict[Hashable, Any]] = PerProcess(dict[Hashable, Any])
        self._next_sync = 0
        self._failed: dict[bytes, tuple[int, str]] = {}
        """How often an upload failed, and how it did the last time."""
        self._process = os.getpid()
        self._warn_at = -float("inf")
        self._scan_at = runtime.now() + _SCAN_EVERY
        with _folder_errors("open_store"):
            folder.prepare()
            self._stage.prepare()
            self._doubt.prepare()
        inner.in_doubt = self._in_doubt
        if not self._stage.is_empty() or self._doubt.names():
            self._uploads.add(_ALL)

    # Reads.

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """See `Store.read_at_once`: nothing of what is staged."""
        if self._stage.may_hold(self._stage.name(request.key)):
            return None
        return self.inner.read_at_once(ctx, request)

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        name = self._stage.name(request.key)
        with _folder_errors(f"{request.operation} {request.key!r}"):
            conditional = request.if_match is not None or request.if_none_match is not None
            if conditional or request.with_info:  # what is staged has no ETag yet
                await self._upload_named(ctx, name)
            elif (staged := await self._staged(ctx, name)) is not None:
                span = requested_range(request, staged.info.size)
                pages = await ctx.runtime.blocking(partial(staged.read, *span))
                return block_of(request, replace(pages, info=staged.info))
        return await self.inner.read(ctx, request)

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        await self._uploaded(ctx, f"verify_block {key!r}", key)
        return await self.inner.verify_block(ctx, key)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        await self._uploaded(ctx, f"stat_block {key!r}", key)
        return await self.inner.stat_block(ctx, key)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        await self._upload_below(ctx, request)
        return await self.inner.list(ctx, request)

    async def list_keys(
        self, ctx: Context, request: ListRequest
    ) -> tuple[builtins.list[str], str | None]:
        await self._upload_below(ctx, request)
        return await self.inner.list_keys(ctx, request)

    async def presign(self, ctx: Context, request: PresignRequest) -> PresignedRequest:
        await self._uploaded(ctx, f"presign {request.key!r}", request.key)
        return await self.inner.presign(ctx, request)

    # Changes.

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        through = request.through or request.conditional or request.options is not None
        if through or len(request.data) > self._stage.largest:
            return await self._through(
                ctx,
                f"{request.operation} {request.key!r}",
                [request.key],
                partial(self.inner.write, ctx, request),
                conditional=request.conditional,
            )
        with _folder_errors(f"{request.operation} {request.key!r}"):
            return await self._put(ctx, request)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        request = upload.request
        return await self._through(
            ctx,
            f"{request.operation} {request.key!r}",
            [request.key],
            partial(self.inner.complete_upload, ctx, upload, parts),
            conditional=request.conditional,
        )

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        where = f"copy_block {source_key!r} to {target_key!r}"
        await self._uploaded(ctx, where, source_key)
        call = partial(self.inner.copy_block, ctx, source_key, target_key)
        return await self._through(ctx, where, [target_key], call)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self._through(
            ctx,
            f"delete_block {key!r}",
            [key],
            partial(self.inner.delete_block, ctx, key, if_match),
            conditional=if_match is not None,
        )

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        if not keys:
            return await self.inner.delete_blocks(ctx, keys)
        call = partial(self.inner.delete_blocks, ctx, keys)
        return await self._through(ctx, f"delete_blocks {keys[0]!r}, ...", keys, call)

    async def _put(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        """Stage a block, durably."""
        info = await self._put_in_turn(ctx, request)
        try:
            await self._synced(ctx, request)
        except BlockStoreError as error:
            error.unknown_attempts += 1  # it is there, and will be uploaded
            raise
        finally:
            self._uploads.add(self._stage.name(request.key))
            self._look_for_others()
        return info

    async def _put_in_turn(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        """Stage a block, once there is room. Raises `StageFullError`."""
        runtime, used = ctx.runtime, -1
        ends = runtime.now() + _PATIENCE
        while True:
            put = partial(self._stage.put, request.key, request.data, runtime.wall_time())
            try:
                return await runtime.blocking(put)
            except NoRoomError as full:
                used_now = full.used
            if used_now != used:
                used, ends = used_now, runtime.now() + _PATIENCE
            if runtime.now() >= ends:
                raise self._full(request, used, "nothing of it could be, for a minute")
            try:
                await ctx.sleep(_FULL_PAUSE)
            except DeadlineExceededError as error:
                raise self._full(request, used, str(error)) from error

    def _full(self, request: WriteRequest, used: int, why: str) -> StageFullError:
        return StageFullError(
            f"{request.operation} {request.key!r}: {used} of {self._stage.size} bytes wait in the "
            f"cache's folder to be uploaded: {why}"
        )

    async def _synced(self, ctx: Context, request: WriteRequest) -> None:
        """Have what was renamed in the stage on the disk.

        Those who come while it is synced share the next sync, and its error: a second one might
        say that all is well. Raises `LocalStorageError`.
        """
        number = self._next_sync
        here, sync = self._syncing.here(), partial(self._sync, ctx, number)
        error, _ = await ctx.runtime.once(here, number, sync, ctx.deadline)
        if error is not None:
            raise LocalStorageError(
                f"{request.operation} {request.key!r}: the cache's folder can't be synced: {error}"
            ) from error

    async def _sync(self, ctx: Context, number: int) -> OSError | None:
        async def ended() -> None: ...

        _ = await ctx.runtime.once(self._syncing.here(), number - 1, ended, ctx.deadline)
        self._next_sync = max(self._next_sync, number + 1)  # who comes from now on is not in it
        try:
            await ctx.runtime.blocking(self._stage.sync)
        except OSError as error:
            pass_on_foreign(error)
            return error
        return None

    async def _through(
        self,
        ctx: Context,
        where: str,
        keys: Sequence[str],
        call: Callable[[], Coroutine[Any, Any, Result]],
        *,
        conditional: bool = False,
    ) -> Result:
        """Make a change in the store; what is staged under these keys comes before it."""
        names = {self._stage.name(key): key for key in keys}
        with _folder_errors(where):
            async with self._locks.taken(ctx, [*names]):
                if conditional:
                    for name in names:
                        while await self._upload(ctx, name):
                            pass
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
                    await ctx.runtime.blocking(partial(self._remove, before))
                return result

    # Uploads.

    async def _upload(self, ctx: Context, name: bytes) -> bool:
        """Upload the version that is staged, whose lock is held; False where there is none."""
        staged = await self._staged(ctx, name)
        if staged is None:
            return False
        await self._settled(ctx, [name], staged.version)
        await self._upload_now(ctx, name, staged)
        return True

    async def _upload_now(self, ctx: Context, name: bytes, staged: Staged) -> None:
        with _folder_errors(f"upload of {staged.info.key!r}"):
            pages = await ctx.runtime.blocking(partial(staged.read, 0, staged.info.size))
        own = replace(ctx, unknown_attempts=0, once=False)
        write = partial(self.inner.write, own, WriteRequest(staged.info.key, pages.data))
        _ = await self._send(own, [name], staged.version, write)
        _ = self._failed.pop(name, None)
        await ctx.runtime.blocking(partial(self._remove, {name: staged.file}))

    async def _uploaded(self, ctx: Context, where: str, key: str) -> None:
        """Have the block in the store, for a call that asks the store about it."""
        with _folder_errors(where):
            await self._upload_named(ctx, self._stage.name(key))

    async def _upload_named(self, ctx: Context, name: bytes) -> None:
        """Upload what is staged under a name now, for a caller who needs it in the store."""
        if self._stage.may_hold(name):
            async with self._locks.taken(ctx, [name]):
                _ = await self._upload(ctx, name)

    async def _upload_below(self, ctx: Context, request: ListRequest) -> None:
        if self._stage.is_empty():
            return
        with _folder_errors(f"{request.operation} {request.prefix!r}"):
            waiting = await ctx.runtime.blocking(self._stage.waiting)
            names = [
                each.name
                for each in waiting
                if (self._stage.key(each.name) or "").startswith(request.prefix)
            ]
            _ = await ctx.gather(partial(self._upload_named, ctx), names)

    def _upload_later(self, name: bytes) -> float | None:
        """For `Uploads`: upload it now; or when to try again."""
        ctx = Context(self._runtime, None, 1)
        try:
            if name == _ALL:
                for each in [each.name for each in self._stage.waiting()] + self._doubt.names():
                    self._uploads.add(each)
                return None
            return run_to_end(self._upload_if_free(ctx, name))
        except Exception as error:  # noqa: BLE001 - told by `pending`, and logged
            return self._runtime.now() + self._note_failure(name, error)

    async def _upload_if_free(self, ctx: Context, name: bytes) -> float | None:
        held, now = self._locks.take([name]), ctx.runtime.now()
        if held is None:
            return now + _BUSY_SECONDS
        try:
            staged = self._stage.find(name)
            due = self._doubt.settles_at(name, staged and staged.version, now)
            if staged is None:
                return None
            if due > now:
                return due
            await self._upload_now(ctx, name, staged)
            return None
        finally:
            self._locks.free(held)

    def _note_failure(self, name: bytes, error: Exception) -> float:
        """Remember why an upload failed; returns after how many seconds to try again."""
        tries = self._failed.get(name, (0, ""))[0] + 1
        self._failed[name] = tries, str(error) or type(error).__name__
        now = self._runtime.now()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY
            what = "%s: %d blocks could not be uploaded, and are kept in the cache's folder: %s"
            _log.warning(what, self.name, len(self._failed), error)
        return min(_FIRST_RETRY * 2.0 ** min(tries - 1, 10), _LONGEST_RETRY)

    async def _settled(
        self, ctx: Context, names: Sequence[bytes], version: str | None = None
    ) -> None:
        """Wait until nothing else can come about for keys whose locks are held."""
        for name in names:
            while True:
                now = ctx.runtime.now()
                due = self._doubt.settles_at(name, version, now)
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
        """Make a change of keys whose locks are held, with marks until its outcome is known."""
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
                with suppress(LocalStorageError), _folder_errors(""):
                    if known and name not in unknown:
                        self._doubt.remove(name)
                    else:
                        self._doubt.end(name, version, ctx.runtime.now())

    def _begin(self, names: Sequence[bytes], version: str) -> set[bytes]:
        """Mark a change as begun; returns where an earlier attempt at it is in doubt."""
        unknown = set[bytes]()
        for name in names:
            mark = self._doubt.mark(name)
            if mark is not None and mark.version == version:
                unknown.add(name)
            self._doubt.begin(name, version)
        return unknown

    def _versions(self, names: Iterable[bytes]) -> dict[bytes, Version]:
        """What is staged under these names."""
        found = {name: self._stage.version(name) for name in names}
        return {name: version for name, version in found.items() if version is not None}

    def _remove(self, versions: Mapping[bytes, Version]) -> None:
        """Remove versions from the stage, durably, that the store has or was told to forget."""
        for name, version in versions.items():
            _ = self._stage.remove(name, version)
        if versions:
            self._stage.sync()

    # What is there.

    async def _staged(self, ctx: Context, name: bytes) -> Staged | None:
        if not self._stage.may_hold(name):
            return None
        return await ctx.runtime.blocking(partial(self._stage.find, name))

    def _in_doubt(self, key: str, now: float) -> bool:
        """See `CacheStore.in_doubt`."""
        try:
            return self._doubt.in_doubt(self._stage.name(key), now)
        except OSError as error:
            pass_on_foreign(error)
            return True

    def _look_for_others(self) -> None:
        """Once a minute: what others have left who were killed. A forked child leaves it alone."""
        if self._runtime.now() >= self._scan_at and self._process == os.getpid():
            self._scan_at = self._runtime.now() + _SCAN_EVERY
            self._uploads.add(_ALL)

    async def pending(self, ctx: Context) -> builtins.list[StagedBlock]:
        with _folder_errors("pending"):
            waiting = await ctx.runtime.blocking(self._stage.waiting)
        return [
            StagedBlock(
                self._stage.key(each.name) or "",
                each.size,
                datetime.fromtimestamp(each.staged_at, UTC),
                self._failed.get(each.name, (0, None))[1],
            )
            for each in waiting
        ]

    async def drain(self, ctx: Context) -> builtins.list[StagedBlock]:
        failed = set[bytes]()
        with _folder_errors("drain"):
            while True:
                waiting = await ctx.runtime.blocking(self._stage.waiting)
                left = [each.name for each in waiting if each.name not in failed]
                if not left:
                    return await self.pending(ctx)
                failed.update(await ctx.gather(partial(self._drained, ctx), left))

    async def _drained(self, ctx: Context, name: bytes) -> bytes:
        """Upload what is staged under a name; returns the name where that failed, else b""."""
        try:
            with _folder_errors("drain"):
                await self._upload_named(ctx, name)
        except BlockStoreError as error:
            _ = self._note_failure(name, error)
            return name
        return b""

    def stats(self) -> StoreStats:
        stats = self.inner.stats()
        if stats.cache is None:
            return stats
        waiting = self._stage.waiting()
        oldest = self._runtime.wall_time() - waiting[0].staged_at if waiting else 0.0
        counts = replace(stats.cache, staged=len(waiting), oldest_staged=max(0.0, oldest))
        return replace(stats, cache=counts)

    @property
    def waits_to_close(self) -> bool:
        return True

    def close(self) -> None:
        """Upload what is staged, for up to `CLOSING_SECONDS`; what is left then stays staged."""
        ends = self._runtime.now() + CLOSING_SECONDS
        try:
            while not self._uploads.idle(ends) and self._runtime.now() < ends:
                run_to_end(self._runtime.sleep(0.005))
            self._uploads.close()
            self._uploads.wait(max(0.0, ends - self._runtime.now()))
            left = len(self._stage.waiting())
            if left:
                _log.warning(
                    "%s: %d blocks are not uploaded yet: they are kept in the cache's folder, and "
                    "uploaded by whoever opens this store with it",
                    self.name,
                    left,
                )
        finally:
            self._runtime.close()
            self.inner.close()


@contextmanager
def _folder_errors(where: str) -> Generator[None]:
    """What the folder of the cache refuses, as errors of this library."""
    try:
        yield
    except DamagedEntryError:
        raise IntegrityError(f"{where}: what is staged of it in the cache is damaged") from None
    except OSError as error:
        if isinstance(error, BlockStoreError):
            raise
        pass_on_foreign(error)
        raise LocalStorageError(f"{where}: the folder of the cache: {error}") from error
