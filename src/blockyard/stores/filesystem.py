"""The filesystem store: blocks as files below a folder of this machine.

Each method runs a call of `block_files.py` through the runtime, which keeps it off event loops.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from blockyard.context import Context
from blockyard.errors import LocalStorageError
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Page,
    Part,
    Upload,
)
from blockyard.stores.base import (
    Data,
    ListRequest,
    OpenUpload,
    ReadRequest,
    Store,
    UploadRequest,
    WriteRequest,
)
from blockyard.stores.block_files import BlockFiles
from blockyard.stores.checks import check_options
from blockyard.stores.paths import path_of

_STALE_TRIES = 4

Result = TypeVar("Result")


class FilesystemStore(Store):
    """A store in the folder `root`, safely shared with other threads and processes.

    The folder need not exist: the first write, or `health_check`, makes it, and until then the
    store is empty. A block is durable, with the folders that lead to it, before a write returns.
    A writer that is killed leaves at most a temporary file, which no reader sees and which a
    store removes once it is an hour old: at its first write, and then once an hour. `if_absent`
    needs a file system with hard links, `if_match` one with locks (flock(2)). The deadline of
    a call is checked between the steps of its work on the disk; a single step is not interrupted.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._files = BlockFiles(self._root)

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        check_options(request)
        now = ctx.runtime.now()
        return await _on_disk(ctx, lambda: self._files.write(request, now, ctx.check_deadline))

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if self._files.reads_cached:
            block = self._files.read_cached(request, ctx.check_deadline)
            if block is not None:
                return block
        return await self._reading(ctx, lambda: self._files.read(request, ctx.check_deadline))

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        check_options(request)
        return await ctx.runtime.blocking(
            lambda: self._files.start_upload(request, ctx.check_deadline)
        )

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        return await ctx.runtime.blocking(
            lambda: self._files.write_part(upload, number, offset, data, ctx.check_deadline)
        )

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        now = ctx.runtime.now()
        return await _on_disk(
            ctx, lambda: self._files.complete_upload(upload, parts, now, ctx.check_deadline)
        )

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        await ctx.runtime.blocking(lambda: self._files.abort_upload(upload))

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return await self._reading(ctx, lambda: self._files.stat(key, ctx.check_deadline))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        now = ctx.runtime.now()
        return await self._reading(
            ctx, lambda: self._files.copy(source_key, target_key, now, ctx.check_deadline)
        )

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        check = ctx.check_deadline
        if if_match is None:
            await _on_disk(ctx, lambda: self._files.delete_one(key, check))
        else:
            await _on_disk(ctx, lambda: self._files.delete_version(key, if_match, check))

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        self._files.check_deadline(keys, ctx.check_deadline)
        by_folder: dict[tuple[str, ...], list[str]] = {}
        for key in dict.fromkeys(keys):
            by_folder.setdefault(path_of(key).folders, []).append(key)
        outcomes = await ctx.gather(
            lambda group: ctx.runtime.blocking(
                lambda: self._files.delete(group, ctx.check_deadline)
            ),
            by_folder.values(),
        )
        failed = {key: error for outcome in outcomes for key, error in outcome.items()}
        ctx.unknown_attempts += sum(error.unknown_attempts for error in failed.values())
        return DeleteResult([key for key in dict.fromkeys(keys) if key not in failed], failed)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        return await ctx.runtime.blocking(lambda: self._files.list(request, ctx.check_deadline))

    @property
    def name(self) -> str:
        return str(self._root)

    @property
    def identity(self) -> str:
        return os.path.realpath(self._root)

    async def clock(self, ctx: Context) -> datetime | None:
        """See `Store.clock`. Needs write access: the time is that of a new file."""
        return await ctx.runtime.blocking(self._files.clock)

    async def health_check(self, ctx: Context) -> HealthReport:
        started = ctx.runtime.now()
        await ctx.runtime.blocking(lambda: self._files.check_writable(started, ctx.check_deadline))
        return HealthReport(ctx.runtime.now() - started, store=self.name)

    async def _reading(self, ctx: Context, call: Callable[[], Result]) -> Result:
        """Run a call that reads a file, again after an ESTALE.

        Over NFS a file that another machine removes or replaces is gone even while it is open here.
        """
        before, tries_left = ctx.unknown_attempts, _STALE_TRIES
        while True:
            try:
                return await _on_disk(ctx, call)
            except LocalStorageError as error:
                error.unknown_attempts = ctx.unknown_attempts - before
                if not tries_left or not _is_stale(error):
                    raise
            tries_left -= 1


async def _on_disk(ctx: Context, call: Callable[[], Result]) -> Result:
    """Run a blocking call, and count the unknown attempts that its error reports."""
    try:
        return await ctx.runtime.blocking(call)
    except LocalStorageError as error:
        ctx.unknown_attempts += error.unknown_attempts
        raise


def _is_stale(error: LocalStorageError) -> bool:
    """Whether the file was removed on another machine while it was read (ESTALE)."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ESTALE
