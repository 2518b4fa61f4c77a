"""Writing, copying and deleting contents: blocks first, then the manifest in one step.

A write stores its blocks below a name of its own, its *generation*, which nothing reads before the
manifest names it. The manifest is then replaced in one step (`register.py`), so that readers see
the old content or the new one, whole, whatever is killed when. What was replaced stays readable for
`SWEPT` seconds, and is deleted by the next write or delete, or by `clean`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from blockyard import arguments
from blockyard.content.layout import Layout, check_content_id, info_of
from blockyard.content.listing import ContentListing
from blockyard.content.manifest import (
    INLINE_LIMIT,
    Manifest,
)
from blockyard.content.manifest_state import Condition, ManifestState
from blockyard.content.register import Change, Register
from blockyard.content.sources import source_of
from blockyard.content.streams import Cut
from blockyard.content.transfers import Tally
from blockyard.content.types import AsyncContentSource, ContentInfo, Progress
from blockyard.content.upload import ContentUpload, block_key
from blockyard.content.write_options import WriteOptions
from blockyard.context import Context
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    ContentChangedError,
    ContentExistsError,
    ContentReplacedError,
    IntegrityError,
    OutcomeUnknownError,
    UnsupportedError,
)
from blockyard.model import BLOCK_SIZE, BlockInfo
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.tidying import TIDY_SECONDS, tidy_up

_HOW_STORED = {"storage_class", "encryption", "kms_key_id", "kms_context", "acl", "tags"}
"""The fields of `PutOptions` that are about storage, rather than about the bytes of an object."""
_COPIES = 8
"""How often a copy is restarted because its source was replaced meanwhile."""


class ContentWriter:
    """Writes the contents of one store."""

    def __init__(
        self,
        operations: Operations,
        block_size: int = BLOCK_SIZE,
        inline_limit: int = INLINE_LIMIT,
    ) -> None:
        self._operations = operations
        self._block_size = block_size
        self._inline_limit = inline_limit
        self._register = Register(operations)
        self._listing = ContentListing(operations, self._register, block_size)

    async def write_content(
        self,
        ctx: Context,
        content_id: str,
        source: AsyncContentSource,
        progress: Progress | None,
        options: WriteOptions,
    ) -> ContentInfo:
        content_id = check_content_id("write_content", content_id)
        described, condition = self._described(content_id, options)
        block_size = described.block_size
        cut = Cut("write_content", block_size, self._operations.blocks_in_flight(ctx, block_size))
        blocks = await source_of(ctx, source, cut)
        tally = Tally(ctx, arguments.progress("write_content", progress))
        change = Change("write_content", content_id, _stored(content_id, options.stored))
        if options.conditional:
            await self._fail_early(ctx, change, condition)
        described = replace(described, id=self._register.new_id(ctx))
        look = partial(self._register.find, ctx, content_id, "write_content")
        upload = ContentUpload(
            self._operations,
            ctx,
            content_id,
            described,
            tally=tally,
            look=look,
            inline_limit=self._inline_limit,
            options=change.options,
        )
        try:
            await blocks.feed(ctx, upload.write)
            manifest = await upload.complete()
            guess = upload.found or self._register.guess(ctx, content_id)
            within = upload.within_time(condition)
            await self._register.replace(ctx, change, manifest, within, guess)
        except BaseException as error:
            await self._discard(ctx, error, change, upload)
            raise
        if options.conditional and not self._register.conditional:
            raise _condition_ignored_error(
                content_id, "it was written, perhaps in place of another"
            )
        return info_of(content_id, manifest)

    async def copy_content(
        self, ctx: Context, source_id: str, target_id: str, progress: Progress | None
    ) -> ContentInfo:
        source_id = check_content_id("copy_content", source_id, "source_id")
        target_id = check_content_id("copy_content", target_id, "target_id")
        tally = Tally(ctx, arguments.progress("copy_content", progress))
        for tries in range(_COPIES, 0, -1):
            layout = await self._listing.layout(ctx, source_id, "copy_content", cached=False)
            if source_id == target_id:
                return layout.info
            try:
                return await self._copy(ctx, layout, target_id, tally)
            except ContentReplacedError:
                if tries == 1:
                    raise
                tally.done = 0
        raise AssertionError("unreachable")

    async def delete_content(self, ctx: Context, content_id: str) -> None:
        content_id = check_content_id("delete_content", content_id)
        change = Change("delete_content", content_id)
        found: list[ManifestState] = []

        async def look() -> dict[int, BlockInfo]:
            found.append(await self._register.find(ctx, content_id, "delete_content"))
            return {}

        plain, _ = await ctx.runtime.gather(
            lambda call: call(),
            (lambda: self._listing.plain(ctx, content_id, "delete_content"), look),
            2,
        )
        if 0 in plain:  # first, and before the manifest that may hide it
            await self._operations.delete_block(ctx, plain[0].key)
        await self._delete_blocks(ctx, [block.key for block in plain.values()])
        removed = await self._register.remove(ctx, change, found[0])
        if removed is None:
            return
        if removed.layout == "generation" and not removed.deleted:
            keys = [block_key(content_id, removed, index) for index in range(removed.blocks)]
            await self._delete_blocks(ctx, keys)
        for each in removed.history:
            if each.blocks:
                await self._register.delete_generation(ctx, content_id, each.id)

    def _described(self, content_id: str, options: WriteOptions) -> tuple[Manifest, Condition]:
        """The manifest as far as the options say what is in it, and the condition of the write."""
        operation = "write_content"
        _ = arguments.conditions(operation, content_id, options.if_absent, options.if_match)
        described = options.described(operation, self._block_size)
        return described, partial(self._refused, content_id, options)

    def _refused(
        self, content_id: str, options: WriteOptions, found: ManifestState
    ) -> BlockStoreError | None:
        """The error if the condition of a write does not hold for the state `found`; else None."""
        where = f"write_content {content_id!r}"
        if not options.conditional:
            return None
        if not self._register.conditional:
            return _condition_ignored_error(content_id, "it was not written")
        if options.if_absent:
            there = found.live is not None or found.damage is not None
            return ContentExistsError(f"{where}: it is there already") if there else None
        if found.damage is not None:
            return found.damage
        version = None if found.live is None else found.live.id
        if version == options.if_match:
            return None
        now = "it is not there" if version is None else f"its version is {version!r}"
        return ContentChangedError(f"{where}: if_match {options.if_match!r}: {now}")

    async def _fail_early(self, ctx: Context, change: Change, condition: Condition) -> None:
        """Raise before anything is written where the condition of a write does not hold now."""
        found = await self._register.find(ctx, change.content_id, change.operation)
        error = condition(found)
        if error is not None:
            try:
                raise error
            finally:
                del error, found  # which its traceback refers to: it may be the damage
        if found.manifest is None and 0 in await self._listing.plain(
            ctx, change.content_id, change.operation
        ):
            raise ContentExistsError(f"{change.where}: it is there already, in the plain layout")

    async def _copy(
        self, ctx: Context, layout: Layout, target_id: str, tally: Tally
    ) -> ContentInfo:
        """Copy one version. Raises `ContentReplacedError` when the source was replaced."""
        change = Change("copy_content", target_id)
        source = layout.manifest
        manifest = Manifest(self._register.new_id(ctx), size=layout.size, layout="generation")
        if source is not None:
            manifest = replace(source, id=manifest.id, history=(), etags=())
        if manifest.layout != "inline":
            manifest = replace(manifest, layout="generation", block_size=layout.block_size)
        look = partial(self._register.find, ctx, target_id, "copy_content")
        copy = ContentUpload(self._operations, ctx, target_id, manifest, tally=tally, look=look)
        copy.count = manifest.blocks

        async def put(index: int) -> None:
            await copy.beside_find(
                self._copy_block(ctx, layout, index, block_key(target_id, manifest, index))
            )
            await tally.add(min(layout.block_size, layout.size - index * layout.block_size))

        try:
            _ = await ctx.gather(put, range(manifest.blocks))
            if layout.inline is not None:
                await tally.add(layout.size)
            guess = copy.found or self._register.guess(ctx, target_id)
            within = copy.within_time(lambda _: None)
            await self._register.replace(ctx, change, manifest, within, guess)
        except BaseException as error:
            await self._discard(ctx, error, change, copy)
            raise
        return info_of(target_id, manifest)

    async def _copy_block(self, ctx: Context, layout: Layout, index: int, key: str) -> None:
        """Copy a block inside the service; in the plain layout, only the version listed."""
        piece = layout.pieces(index * layout.block_size, index * layout.block_size + 1)[0]
        try:
            copy = self._operations.copy_block(ctx, piece.key, key)
            _ = await ctx.runtime.finish(copy, TIDY_SECONDS)
        except BlockNotFoundError:
            now = await self._register.look(ctx, layout.content_id, layout.operation)
            if now.live is not None and now.live.id == layout.info.version:
                raise IntegrityError(f"{layout.where}: {piece.key!r} is missing") from None
            raise layout.replaced() from None
        if piece.etag is None:
            return
        info = await self._operations.stat_block(ctx, piece.key)
        if info.etag != piece.etag or info.size != piece.size:
            raise layout.replaced()

    async def _discard(
        self, ctx: Context, error: BaseException, change: Change, upload: ContentUpload
    ) -> None:
        """Delete the blocks of a failed write, unless a manifest may still name them."""
        if upload.count == 0 or isinstance(error, OutcomeUnknownError) or change.sent:
            if upload.count:
                error.add_note(
                    f"and the blocks below {upload.place!r} are left, for it may be done yet"
                )
            return
        _ = await tidy_up(
            ctx,
            error,
            lambda own: self._delete_blocks(own, upload.keys()),
            f"and blocks below {upload.place!r} may be left: `clean` removes them",
        )

    async def _delete_blocks(self, ctx: Context, keys: list[str]) -> None:
        if keys:
            _ = await self._operations.delete_blocks(ctx, keys)


def _stored(content_id: str, options: PutOptions | None) -> PutOptions | None:
    """How the objects of a content are stored. Raises `ValueError`, `TypeError`."""
    given = arguments.put_options("write_content", options)
    for name in () if given is None else given.given().keys() - _HOW_STORED:
        raise ValueError(
            f"write_content {content_id!r}: options: {name}: expected only "
            f"{', '.join(sorted(_HOW_STORED))}, which hold for all objects of a content"
        )
    return given


def _condition_ignored_error(content_id: str, what: str) -> UnsupportedError:
    """The error for a conditional write; `what` says what became of it."""
    return UnsupportedError(
        f"write_content {content_id!r}: the service ignores the conditions of writes: {what}"
    )
