"""Writing, copying and deleting contents so that whatever can be read is whole.

Block 0 is the mark of a whole content: it is the last block to be put in place and the first
to be taken away. A new content is written in place. What replaces a content is written beside
it first (`CONTENT/chunk-new-.../chunk-C/block-B`) and then put in place by copies inside the
service, so that the old content stays readable until the new one has arrived whole.
docs/decisions/content-layout.md says what follows from that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from blockyard import arguments
from blockyard.content.layout import (
    STAGED_NONCE_BYTES,
    ContentInfo,
    Layout,
    block_key,
    check_content_id,
    staged_id,
)
from blockyard.content.listing import ContentListing, Found
from blockyard.content.sources import AsyncContentSource, Source, source_of
from blockyard.content.streams import Block
from blockyard.content.transfers import Progress, Tally
from blockyard.context import Context
from blockyard.errors import (
    BlockStoreError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    StoreClosedError,
)
from blockyard.model import BLOCK_SIZE, BlockInfo, CopyResult
from blockyard.operations import Operations

Result = TypeVar("Result")

TIDY_SECONDS = 30.0
"""How long an operation that failed or was interrupted may take to leave things in order."""
BEGUN = "its replacement had begun"
"""In the note on an error whose call went on for `TIDY_SECONDS`, and could not end that."""
_TRIES_TO_END = 3
_PAST_DEADLINE = 0.8
"""Seconds past the call's own deadline in which it may still take back what it wrote."""


class ContentWriter:
    """Writes the contents of one store. To each content, one writer at a time."""

    def __init__(self, operations: Operations, block_size: int = BLOCK_SIZE) -> None:
        self._operations = operations
        self._block_size = block_size
        self._listing = ContentListing(operations, block_size)

    async def write_content(
        self, ctx: Context, content_id: str, source: AsyncContentSource, progress: Progress | None
    ) -> ContentInfo:
        content_id = check_content_id("write_content", content_id)
        blocks = await source_of(ctx, source, self._block_size)
        tally = Tally(ctx, arguments.progress("write_content", progress))
        found = await self._listing.find(ctx, content_id)
        write = self._rewrite if 0 in found.blocks else self._write_new
        return await write(ctx, content_id, found, blocks, tally)

    async def copy_content(
        self, ctx: Context, source_id: str, target_id: str, progress: Progress | None
    ) -> ContentInfo:
        source_id = check_content_id("copy_content", source_id, "source_id")
        target_id = check_content_id("copy_content", target_id, "target_id")
        tally = Tally(ctx, arguments.progress("copy_content", progress))
        layout = await self._listing.layout(ctx, source_id, "copy_content")
        if source_id == target_id:
            return layout.info
        old = await self._listing.find(ctx, target_id)
        replaces = 0 in old.blocks
        place = staged_id(target_id, os.urandom(STAGED_NONCE_BYTES)) if replaces else target_id
        await self._copy_all(ctx, layout, place, old, tally)
        if replaces:
            await self._replace(ctx, target_id, old, place, len(layout.blocks))
        elif old.staged:
            await self._remove_staged(ctx, target_id)
        return ContentInfo(target_id, layout.size, len(layout.blocks))

    async def delete_content(self, ctx: Context, content_id: str) -> None:
        content_id = check_content_id("delete_content", content_id)
        found = await self._listing.find(ctx, content_id)
        await self._remove_blocks(ctx, found.blocks, found.staged)

    async def _copy_all(
        self, ctx: Context, layout: Layout, place: str, old: Found, tally: Tally
    ) -> None:
        """Copy all blocks of a content to a place where nothing can be read.

        Of a copy that failed, or whose source changed meanwhile, nothing is left.
        """

        first = _Change()

        async def put(index: int) -> None:
            block = layout.blocks[index]
            key = block_key(place, index)
            if index:
                _ = await _finished(ctx, self._operations.copy_block(ctx, block.key, key))
            else:
                _ = await first.make(
                    ctx, lambda own: self._operations.copy_block(own, block.key, key)
                )
            await tally.add(block.size)

        try:
            _ = await ctx.gather(put, range(1, len(layout.blocks)))
            if 0 not in old.blocks:
                await self._remove(ctx, _from(len(layout.blocks), old.blocks))
            pieces = layout.pieces(0, layout.size)
            await self._listing.check_unchanged(ctx, layout, pieces)
            await put(0)  # with it a mixture could be read, which a kill would leave
            await self._listing.check_unchanged(ctx, layout, pieces[:1])
        except BaseException as error:
            await self._take_back(ctx, error, place, first)
            raise

    def _at_once(self, ctx: Context) -> int:
        """How many blocks a source may hold at a time; block 0 is kept to the end besides."""
        return self._operations.at_once(ctx, self._block_size) - 1

    async def _write_new(
        self,
        ctx: Context,
        content_id: str,
        found: Found,
        source: Source,
        tally: Tally,
    ) -> ContentInfo:
        """Write where nothing can be read; of a write that failed, nothing is left."""
        upload = _Upload(self._operations, ctx, content_id, tally)
        try:
            await source.feed(ctx, upload.write, self._at_once(ctx))
            await self._remove(ctx, _from(upload.count, found.blocks))
            _ = await upload.complete()
        except BaseException as error:
            await self._take_back(ctx, error, content_id, upload.first)
            raise
        if found.staged:
            await self._remove_staged(ctx, content_id)
        return ContentInfo(content_id, tally.done, upload.count)

    async def _rewrite(
        self,
        ctx: Context,
        content_id: str,
        found: Found,
        source: Source,
        tally: Tally,
    ) -> ContentInfo:
        """Write beside the old content, then put the new one in its place."""
        staged = staged_id(content_id, os.urandom(STAGED_NONCE_BYTES))
        upload = _Upload(self._operations, ctx, staged, tally)
        try:
            await source.feed(ctx, upload.write, self._at_once(ctx))
            at_once = _is_one_for_one(found.blocks, upload.count)
            if not at_once:
                _ = await upload.complete()
                await self._prove_copying(ctx, staged, upload.count)
        except BaseException as error:
            await self._take_back(ctx, error, staged, upload.first)
            raise
        if not at_once:
            await self._replace(ctx, content_id, found, staged, upload.count)
        else:
            key = block_key(content_id, 0)
            _ = await _finished(ctx, self._operations.write_block(ctx, key, upload.held_back))
            if found.staged:
                await self._remove_staged(ctx, content_id)
        return ContentInfo(content_id, tally.done, upload.count)

    async def _prove_copying(self, ctx: Context, staged: str, count: int) -> None:
        """Copy a block before anything is taken away, for there are services that can't.

        Once is enough. Where the copy goes it leaves a hole, so that it never counts as content.
        """
        if self._operations.copying_works:
            return
        proof = block_key(staged, count + 1)
        _ = await _finished(
            ctx, self._operations.copy_block(ctx, block_key(staged, count - 1), proof)
        )
        await self._operations.delete_block(ctx, proof)
        self._operations.copying_works = True

    async def _replace(
        self, ctx: Context, content_id: str, found: Found, staged: str, count: int
    ) -> None:
        """Let the `count` blocks of the whole content `staged` take the place of what is there.

        From when block 0 of the old one is deleted neither content can be read until it ends. When
        it is interrupted then, the way back is to finish it. Where a request for that delete may be
        carried out yet, the staged blocks stay: it would take the new block 0.
        """
        old = found.blocks
        taken = _Change()
        placed = False

        def put(ctx: Context, index: int) -> Coroutine[Any, Any, CopyResult]:
            source, target = block_key(staged, index), block_key(content_id, index)
            return _finished(ctx, self._operations.copy_block(ctx, source, target))

        async def put_all(ctx: Context) -> None:
            nonlocal placed
            if not _is_one_for_one(old, count):
                delete = self._operations.delete_block
                await taken.make(ctx, lambda own: delete(own, old[0].key))
            _ = await ctx.gather(partial(put, ctx), range(1, count))
            await self._remove(ctx, _from(count, old))
            _ = await put(ctx, 0)
            placed = True

        async def finish(ctx: Context, _: str) -> None:
            if not placed:
                await put_all(ctx)
            if not taken.in_doubt:  # else the delete may come yet, for the new block 0
                await self._remove_staged(ctx, content_id)

        try:
            await finish(ctx, content_id)
        except BaseException as error:
            # a folder that failed may have deleted it all the same
            if taken.done or taken.in_doubt or isinstance(error, LocalStorageError):
                left = staged if placed else content_id
                await self._tidy(ctx, error, left, finish, must_end=not placed)
            else:
                await self._tidy(ctx, error, staged, self._remove_content)
            if placed:
                error.add_note(f"{content_id!r} was replaced all the same")
            raise

    async def _tidy(
        self,
        ctx: Context,
        error: BaseException,
        content_id: str,
        step: Callable[[Context, str], Coroutine[Any, Any, None]],
        *,
        must_end: bool = False,
    ) -> None:
        """Leave things in order after `error`; a note on it says when that failed as well.

        The call's own deadline may be what passed, so this has another: soon after it, but for
        what `must_end`, since neither content can be read before. That is tried more than once, for
        a single request that is never answered takes all of the time that it is given.
        """
        now = ctx.runtime.now
        seconds = TIDY_SECONDS
        if ctx.deadline is not None and not must_end:
            seconds = min(seconds, max(ctx.deadline - now(), 0) + _PAST_DEADLINE)
        ends = now() + seconds
        left = [f"and {content_id!r} may be left unfinished"]
        if must_end:
            left[0] += f", as {BEGUN}"

        async def tidy() -> None:
            why = ""
            for tries in range(_TRIES_TO_END if must_end else 1, 0, -1):
                deadline = now() + (ends - now()) / tries
                try:
                    await step(replace(ctx, deadline=deadline, tidying=True), content_id)
                except BlockStoreError as failure:
                    why = str(failure)
                    if not isinstance(failure, DeadlineExceededError):
                        break
                else:
                    left.clear()
                    return
            left[0] += f": {why}"

        try:
            await ctx.runtime.finish(tidy(), seconds)
        except BaseException as again:  # cancelled once more meanwhile: that is what is raised
            for note in left:
                again.add_note(note)
            raise
        finally:
            for note in left:
                error.add_note(note)

    async def _take_back(
        self, ctx: Context, error: BaseException, content_id: str, first: _Change
    ) -> None:
        """Remove what a write or copy that ended in `error` has put in place.

        But leave it where block 0 may be stored later than that: alone it would be a content, a
        shorter one than was written; with the others in place it makes that whole. A mixture, which
        the copy of a source that changed is, goes at any rate.
        """
        if first.in_doubt and not isinstance(error, IntegrityError):
            error.add_note(
                f"and {content_id!r} may be left unfinished, or be whole: whether "
                "its block 0 was stored, or will be, is not known"
            )
        else:
            await self._tidy(ctx, error, content_id, self._remove_content)

    async def _remove_content(self, ctx: Context, content_id: str) -> None:
        """Take back what was written, but leave an interrupted rewrite, which may be whole."""
        await self._remove_blocks(ctx, (await self._listing.find(ctx, content_id)).blocks, [])

    async def _remove_blocks(
        self, ctx: Context, blocks: Mapping[int, BlockInfo], others: list[str]
    ) -> None:
        if 0 in blocks:
            await _finished(ctx, self._operations.delete_block(ctx, blocks[0].key))
        await self._remove(ctx, _from(1, blocks) + others)

    async def _remove_staged(self, ctx: Context, content_id: str) -> None:
        await self._remove(ctx, (await self._listing.find(ctx, content_id)).staged)

    async def _remove(self, ctx: Context, keys: list[str]) -> None:
        if keys:
            delete = self._operations.delete_blocks(ctx, keys, raise_on_failure=False)
            result = await _finished(ctx, delete)
            for failure in result.failed.values():
                if isinstance(failure, DeadlineExceededError | StoreClosedError):
                    raise failure  # of the call, not of the key
            result.raise_for_failures()


class _Upload:
    """Writes the blocks of a content, but holds back block 0 until it is to be complete."""

    def __init__(self, operations: Operations, ctx: Context, content_id: str, tally: Tally) -> None:
        self._operations = operations
        self._ctx = ctx
        self._content_id = content_id
        self._tally = tally
        self.held_back: Block = b""
        self.first = _Change()
        self.count = 0

    async def write(self, index: int, data: Block) -> None:
        """Write one block. See `Source.feed`."""
        self.count = max(self.count, index + 1)
        if index == 0:
            self.held_back = data
        else:
            _ = await _finished(self._ctx, self._put(self._ctx, index, data))
        await self._tally.add(len(data))

    def complete(self) -> Coroutine[Any, Any, BlockInfo]:
        """Write block 0: now the content is there."""
        return self.first.make(self._ctx, lambda own: self._put(own, 0, self.held_back))

    def _put(self, ctx: Context, index: int, data: Block) -> Coroutine[Any, Any, BlockInfo]:
        return self._operations.write_block(ctx, block_key(self._content_id, index), data)


class _Change:
    """A change of one block, and whether it has come about.

    `in_doubt` says that a request for it was given up, and may take effect yet.
    """

    def __init__(self) -> None:
        self.done = False
        self.in_doubt = False

    async def make(
        self, ctx: Context, change: Callable[[Context], Coroutine[Any, Any, Result]]
    ) -> Result:
        """Make the change, in a context of its own: see `Context.unknown_attempts`."""
        own = replace(ctx, unknown_attempts=int(self.in_doubt))

        async def watched() -> Result:
            self.in_doubt = True  # should this be cut off
            try:
                result = await change(own)
            except BlockStoreError:
                self.in_doubt = own.unknown_attempts > 0
                raise
            self.done = True
            self.in_doubt = own.unknown_attempts > 0
            return result

        return await _finished(ctx, watched())


def _finished(ctx: Context, change: Coroutine[Any, Any, Result]) -> Coroutine[Any, Any, Result]:
    """A change that has ended when it is undone or repeated, and can't take effect afterwards."""
    return ctx.runtime.finish(change, TIDY_SECONDS)


def _is_one_for_one(old: Mapping[int, BlockInfo], count: int) -> bool:
    """Whether a content of one block replaces another: the store does that at once."""
    return count == 1 and list(old) == [0]


def _from(first: int, blocks: Mapping[int, BlockInfo]) -> list[str]:
    """The keys of the blocks from index `first` on."""
    return [block.key for index, block in blocks.items() if index >= first]
