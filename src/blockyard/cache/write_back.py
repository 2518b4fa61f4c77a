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
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from blockyard.cache.batches import deleted_in_batches
from blockyard.cache.folder import Folder
from blockyard.cache.group_commit import GroupCommit
from blockyard.cache.sending import Sender, folder_errors
from blockyard.cache.stage import NoRoomError, Stage, Staged, Waiting
from blockyard.cache.store import CacheStore
from blockyard.cache.uploads import Uploads
from blockyard.context import Context
from blockyard.errors import BlockStoreError, DeadlineExceededError, StageFullError
from blockyard.merging import Range
from blockyard.model import (
    MIB,
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
from blockyard.put_options import PutOptions
from blockyard.stores.base import ListRequest, OpenUpload, PresignRequest, ReadRequest, WriteRequest
from blockyard.stores.checks import requested_range
from blockyard.stores.wrapper import WrapperStore
from blockyard.times import utc
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.user_code import pass_on_foreign

CLOSING_SECONDS = 10.0
"""For so long `close` waits for uploads."""
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_FULL_PAUSE = 0.05
_PATIENCE = 60.0
"""Seconds without any progress after which a full stage is an error, where no deadline says so."""
_SCAN_EVERY = 60.0
_IN_FLIGHT = 256 * MIB
"""Bytes of blocks that one call uploads at a time, as many as the threads in the background do."""
_DELETED_TOGETHER = 4000
"""Keys whose locks are held at a time: the system looks through all of a file's for each."""
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
        self._folder = folder
        self._stage = Stage(folder, size, inner.identity)
        self._commit = GroupCommit(self._stage.sync)
        self._sender = Sender(inner, folder, self._stage, self._commit)
        self._runtime = runtime
        self._uploads = Uploads(runtime, self._upload_later)
        self._failed: dict[bytes, tuple[int, str]] = {}
        """How often an upload failed, and how it did the last time."""
        self._process = os.getpid()
        self._warn_at = -float("inf")
        self._scan_at = runtime.now() + _SCAN_EVERY
        with folder_errors("open_store"):
            folder.prepare()
            self._stage.prepare()
            self._sender.prepare()
            left = not self._stage.is_empty() or bool(self._sender.marked())
        inner.tiers.in_doubt = self._sender.in_doubt
        if left:
            self._uploads.add(_ALL)

    # Reads.

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """See `Store.read_at_once`; None for staged blocks."""
        if self._stage.may_hold(self._stage.name(request.key)):
            return None
        return self.inner.read_at_once(ctx, request)

    def ranges_at_once(self, ctx: Context, wanted: Sequence[Range]) -> list[bytes | None]:
        """See `Store.ranges_at_once`: each by its own where any of their blocks is staged."""
        names = {self._stage.name(key) for key, _, _ in wanted}
        if any(map(self._stage.may_hold, names)):
            return super().ranges_at_once(ctx, wanted)
        return self.inner.ranges_at_once(ctx, wanted)

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        name = self._stage.name(request.key)
        with folder_errors(f"{request.operation} {request.key!r}"):
            conditional = request.if_match is not None or request.if_none_match is not None
            if conditional or request.with_info:  # what is staged has no ETag yet
                await self._sender.upload(ctx, name)
            elif (staged := await self._staged(ctx, name)) is not None:
                span = requested_range(request, staged.info.size)
                pages = await ctx.runtime.blocking(partial(staged.read, *span))
                return replace(pages, info=staged.info).block(request)
        return await self.inner.read(ctx, request)

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        await self._uploaded(ctx, f"verify_block {key!r}", key)
        return await self.inner.verify_block(ctx, key)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        await self._uploaded(ctx, f"stat_block {key!r}", key)
        return await self.inner.stat_block(ctx, key)

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        await self._uploaded(ctx, f"stat_block {key!r}", key)
        return await self.inner.options_of(ctx, key)

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
            return await self._sender.through(
                ctx,
                f"{request.operation} {request.key!r}",
                [request.key],
                partial(self.inner.write, ctx, request),
                conditional=request.conditional,
            )
        return await self._put(ctx, request)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        request = upload.request
        return await self._sender.through(
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
        return await self._sender.through(ctx, where, [target_key], call)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self._sender.through(
            ctx,
            f"delete_block {key!r}",
            [key],
            partial(self.inner.delete_block, ctx, key, if_match),
            conditional=if_match is not None,
        )

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        if not keys:
            return await self.inner.delete_blocks(ctx, keys)

        def delete(batch: Sequence[str]) -> Coroutine[Any, Any, DeleteResult]:
            call = partial(self.inner.delete_blocks, ctx, batch)
            return self._sender.through(ctx, f"delete_blocks {batch[0]!r}, ...", batch, call)

        return await deleted_in_batches(keys, _DELETED_TOGETHER, delete)

    async def _put(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        """Stage a block, durably, that the store will take."""
        where = f"{request.operation} {request.key!r}"
        self.inner.check_write(request)
        ctx.check_deadline_of(where)
        try:
            with folder_errors(where):
                info, failures = await self._put_in_turn(ctx, request)
            with ctx.after_change():  # it is there, and will be uploaded
                await self._commit.synced(ctx, failures, where)
        finally:  # it may be there, whatever has ended the call
            self._uploads.add(self._stage.name(request.key))
            self._look_for_others()
        return info

    async def _put_in_turn(self, ctx: Context, request: WriteRequest) -> tuple[BlockInfo, int]:
        """Stage a block once there is room; also how many syncs had failed before.

        Raises `StageFullError`.
        """
        runtime, used = ctx.runtime, -1
        ends = runtime.now() + _PATIENCE
        while True:
            put = partial(self._stage.put, request.key, request.data, runtime.wall_time())
            failures = self._commit.failures
            try:
                return await runtime.blocking(put), failures
            except NoRoomError as error:
                full = error
            if full.used != used:
                used, ends = full.used, runtime.now() + _PATIENCE
            if runtime.now() >= ends:
                raise self._full(request, full, "nothing of it could be, for a minute")
            try:
                await ctx.sleep(_FULL_PAUSE)
            except DeadlineExceededError as error:
                raise self._full(request, full, str(error)) from error

    def _full(self, request: WriteRequest, full: NoRoomError, why: str) -> StageFullError:
        return StageFullError(
            f"{request.operation} {request.key!r}: {full.full}: {full.used} of {self._stage.size} "
            f"bytes wait in the cache's folder to be uploaded: {why}"
        )

    # Uploads.

    async def _uploaded(self, ctx: Context, where: str, key: str) -> None:
        """Upload the block now, for an operation that asks the store about it."""
        with folder_errors(where):
            await self._sender.upload(ctx, self._stage.name(key))

    async def _upload_below(self, ctx: Context, request: ListRequest) -> None:
        where = f"{request.operation} {request.prefix!r}"
        with folder_errors(where):
            if self._stage.is_empty():
                return
            below = await ctx.runtime.blocking(partial(self._stage.below, request.prefix))
            few = _few_at_once(ctx, below)
            _ = await few.gather(partial(self._sender.upload, ctx), [each.name for each in below])

    def _upload_later(self, name: bytes) -> float | None:
        """Called by `Uploads`: upload a staged block; returns when to retry, or None."""
        ctx = Context(self._runtime, None, 1)
        try:
            if name == _ALL:
                for each in [each.name for each in self._stage.waiting()] + self._sender.marked():
                    self._uploads.add(each)
                again = None
            else:
                again = run_to_end(self._sender.upload_if_free(ctx, name))
            if again is None:
                _ = self._failed.pop(name, None)
            return again  # noqa: TRY300 - nothing to be caught
        except Exception as error:  # noqa: BLE001 - told by `pending`, and logged
            return self._runtime.now() + self._note_failure(name, error)

    def _note_failure(self, name: bytes, error: Exception) -> float:
        """Record a failed upload; returns the seconds until its retry."""
        tries = self._failed.get(name, (0, ""))[0] + 1
        self._failed[name] = tries, str(error) or type(error).__name__
        now = self._runtime.now()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY
            what = "%s: %d blocks could not be uploaded, and are kept in the cache's folder: %s"
            _log.warning(what, self.name, len(self._failed), error)
        return min(_FIRST_RETRY * 2.0 ** min(tries - 1, 10), _LONGEST_RETRY)

    # What is there.

    async def _staged(self, ctx: Context, name: bytes) -> Staged | None:
        if not self._stage.may_hold(name):
            return None
        return await ctx.runtime.blocking(partial(self._stage.find, name))

    def _look_for_others(self) -> None:
        """Once a minute, take over what killed processes left. Not in a forked child."""
        if self._runtime.now() >= self._scan_at and self._process == os.getpid():
            self._scan_at = self._runtime.now() + _SCAN_EVERY
            self._uploads.add(_ALL)

    async def pending(self, ctx: Context) -> builtins.list[StagedBlock]:
        with folder_errors("pending"):
            waiting = await ctx.runtime.blocking(self._stage.waiting)
            return await ctx.runtime.blocking(partial(self._described, waiting))

    def _described(self, waiting: Sequence[Waiting]) -> builtins.list[StagedBlock]:
        found = list[StagedBlock]()
        for each in waiting:
            error = self._failed.get(each.name, (0, None))[1]
            try:
                key = self._stage.key(each.name)
            except OSError as failure:
                pass_on_foreign(failure)
                key, error = "", f"its key can't be read: {failure}"
            else:
                if key == "":
                    error = f"damaged, so that its key is not known: stage/{each.name.hex()}"
            if key is not None:
                staged_at = utc(each.staged_at)
                found.append(StagedBlock(key, each.size, staged_at, error))
        return found

    async def drain(self, ctx: Context) -> builtins.list[StagedBlock]:
        """See `Store.drain`. What is staged meanwhile is not waited for."""
        with folder_errors("drain"):
            before = await ctx.runtime.blocking(self._stage.waiting)
            names = [each.name for each in before]
            few = _few_at_once(ctx, before)
            uploaded = set(await few.gather(partial(self._drained, ctx), names))
            waiting = await ctx.runtime.blocking(self._stage.waiting)
            failed = set(names) - uploaded
            left = [each for each in waiting if each.name in failed]
            return await ctx.runtime.blocking(partial(self._described, left))

    async def _drained(self, ctx: Context, name: bytes) -> bytes | None:
        """Upload a staged block; None where that failed, or the deadline has passed."""
        if ctx.deadline is not None and ctx.runtime.now() >= ctx.deadline:
            return None
        try:
            with folder_errors("drain"):
                await self._sender.upload(ctx, name)
        except BlockStoreError as error:
            _ = self._note_failure(name, error)
            return None
        _ = self._failed.pop(name, None)
        return name

    def stats(self) -> StoreStats:
        stats = self.inner.stats()
        if stats.cache is None:
            return stats
        with folder_errors("stats"):
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
            try:
                self._wait_for_uploads(ends)
            finally:
                self._uploads.close()
            self._uploads.wait(max(0.0, ends - self._runtime.now()))
            with folder_errors("close"):
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
            self._folder.close()
            self.inner.close()

    def _wait_for_uploads(self, ends: float) -> None:
        while not self._uploads.idle(ends) and self._runtime.now() < ends:
            run_to_end(self._runtime.sleep(0.005))


def _few_at_once(ctx: Context, waiting: Sequence[Waiting]) -> Context:
    """A context whose concurrency keeps the memory of these uploads bounded."""
    largest = max((each.size for each in waiting), default=0)
    return replace(ctx, concurrency=max(1, min(ctx.concurrency, _IN_FLIGHT // max(1, largest))))
