"""Objects of any size: one PUT for what fits in a part, else parts, put together at the end.

What a source holds is cut into parts (`content/sources.py`), several of which are under way while
the next is drawn. Whatever fails, the parts that were sent are given up, and what was there before
stays.
"""

from __future__ import annotations

from dataclasses import replace

from blockyard import arguments
from blockyard.content.sources import source_of
from blockyard.content.streams import Cut, SourceBlock
from blockyard.content.transfers import Tally
from blockyard.content.types import AsyncContentSource, Progress
from blockyard.context import Context
from blockyard.errors import BlockTooLargeError
from blockyard.model import MAX_BLOCK_SIZE, MAX_OBJECT_SIZE, MAX_PARTS, PART_SIZE, BlockInfo, Part
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.stores.base import OpenUpload, Store, UploadRequest, WriteRequest
from blockyard.tidying import TIDY_SECONDS, tidy_up

_OPERATION = "write_object"


class ObjectWriter:
    """Writes the objects of one store."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def write_object(
        self,
        ctx: Context,
        key: str,
        *,
        source: AsyncContentSource,
        part_size: int = PART_SIZE,
        options: PutOptions | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """See `BlockStore.write_object`."""
        self._operations.check_open(_OPERATION, ctx)
        key = arguments.key(_OPERATION, key)
        absent, match = arguments.conditions(_OPERATION, key, if_absent, if_match)
        request = UploadRequest(key, absent, match, arguments.put_options(_OPERATION, options))
        size = arguments.part_size(_OPERATION, part_size)
        at_once = self._operations.blocks_in_flight(ctx, size)
        if concurrency is not None:
            at_once = arguments.concurrency(_OPERATION, concurrency)
            ctx = replace(ctx, concurrency=at_once)
        tally = Tally(ctx, arguments.progress(_OPERATION, progress))
        cut = Cut(_OPERATION, size, at_once, MAX_PARTS, MAX_BLOCK_SIZE)
        blocks = await source_of(ctx, source, cut)
        upload = _Upload(self._operations.store, ctx, request, tally)
        try:
            await blocks.feed(ctx, upload.write, upload.begin)
            return await upload.end()
        except BaseException as error:
            await upload.give_up(error)
            raise


class _Upload:
    """One object on its way."""

    def __init__(self, store: Store, ctx: Context, request: UploadRequest, tally: Tally) -> None:
        self._store = store
        self._ctx = ctx
        self._request = request
        self._tally = tally
        self._in_parts = False
        self._opened: OpenUpload | None = None
        self._parts: dict[int, Part] = {}
        self._done: BlockInfo | None = None

    async def begin(self) -> None:
        """There is more than one part: see `Source.feed`."""
        self._in_parts = True
        self._opened = await self._store.start_upload(self._ctx, self._request)

    async def write(self, block: SourceBlock) -> None:
        """Send one part, or all there is. See `Source.feed`."""
        number, offset, data = block.number + 1, block.offset, block.data
        if not self._in_parts:
            request = self._request
            write = WriteRequest(
                request.key,
                memoryview(data),
                request.if_absent,
                request.if_match,
                request.options,
                _OPERATION,
            )
            self._done = await self._store.write(self._ctx, write)
            await self._tally.add(len(data))
            return
        assert self._opened is not None  # noqa: S101 - that was awaited before
        if number > MAX_PARTS or offset + len(data) > MAX_OBJECT_SIZE:
            raise BlockTooLargeError(
                f"{_OPERATION} {self._request.key!r}: it takes more than {MAX_PARTS} parts; larger "
                "ones make fewer (part_size)"
            )
        self._parts[number] = await self._store.upload_part(
            self._ctx, self._opened, number, offset, data
        )
        await self._tally.add(len(data))

    async def end(self) -> BlockInfo:
        """Put the object in place."""
        if self._done is None:
            # One that is given up may be done all the same: so it is awaited.
            await self._ctx.runtime.finish(self._complete(), TIDY_SECONDS)
        assert self._done is not None  # noqa: S101 - one of the two has set it
        return self._done

    async def give_up(self, error: BaseException) -> None:
        """Free what the parts take, after `error`."""
        opened = self._opened
        if opened is None:
            return
        if self._done is not None:
            error.add_note(f"but the object {self._request.key!r} was put in place before")
            return
        _ = await tidy_up(
            self._ctx,
            error,
            lambda ctx: self._store.abort_upload(ctx, opened.upload),
            f"and parts of {self._request.key!r} may be left: `clean` removes them",
        )

    async def _complete(self) -> None:
        assert self._opened is not None  # noqa: S101 - there was more than one part
        parts = [self._parts[number] for number in sorted(self._parts)]
        self._done = await self._store.complete_upload(self._ctx, self._opened, parts)
