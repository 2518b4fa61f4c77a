"""What is left of contents and objects: orphans of writes that were killed, what was replaced.

Nothing here is needed for reads to be right. Blocks that no manifest names are deleted only when
the newest of them is a day old, and a manifest that was read after the listing does not name them:
a write that takes half as long gives itself up (`upload.LONGEST_WRITE`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blockyard import arguments
from blockyard.content.layout import info_of, plain_layout
from blockyard.content.listing import ContentListing
from blockyard.content.manifest import (
    BLOCKS_PER_CHUNK,
    LEAST_SIZE,
    Manifest,
    generation_of,
    manifest_key,
)
from blockyard.content.manifest_state import SWEPT, ManifestState
from blockyard.content.register import Change, Register
from blockyard.content.types import CleanReport, ContentInfo, Leftover
from blockyard.content.upload import LONGEST_WRITE
from blockyard.context import Context
from blockyard.errors import (
    BlockStoreError,
    ContentExistsError,
    IntegrityError,
    UnsupportedError,
)
from blockyard.keys import MANIFEST_SUFFIX, PROBE_PREFIX
from blockyard.model import BLOCK_SIZE, BlockInfo, Upload
from blockyard.operations import Operations
from blockyard.prefixes import all_uploads, each_page
from blockyard.stores.base import ListRequest
from blockyard.verifying import bare

ORPHANED = 2 * LONGEST_WRITE
"""Seconds: the age of blocks from which on no write that is under way can still name them."""


@dataclass(slots=True)
class _Generation:
    blocks: int = 0
    size: int = 0
    newest: float = 0.0


class ContentCleaner:
    """Removes what is left of contents, and gives those in the plain layout a manifest."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._register = Register(operations)
        self._listing = ContentListing(operations, self._register)

    async def adopt_content(self, ctx: Context, content_id: str) -> ContentInfo:
        """See `BlockStore.adopt_content`."""
        operation = "adopt_content"
        layout = await self._listing.layout(ctx, content_id, operation, cached=False)
        if layout.manifest is not None:
            return layout.info
        blocks = await self._listing.plain(ctx, layout.content_id, operation)
        layout = plain_layout(operation, layout.content_id, blocks, BLOCK_SIZE)
        manifest = Manifest(
            self._register.new_id(ctx),
            size=layout.size,
            block_size=BLOCK_SIZE,
            chunk_blocks=BLOCKS_PER_CHUNK,
            layout="plain",
            etags=tuple(blocks[index].etag for index in sorted(blocks)),
        )

        def still_none(found: ManifestState) -> BlockStoreError | None:
            where = f"{operation} {layout.content_id!r}"
            none = found.live is None and found.damage is None
            return None if none else ContentExistsError(f"{where}: it has a manifest")

        change = Change(operation, layout.content_id)
        await self._register.replace(ctx, change, manifest, still_none)
        return info_of(layout.content_id, manifest)

    async def clean_contents(
        self, ctx: Context, prefix: str, *, dry_run: bool, no_writers: bool
    ) -> CleanReport:
        """See `BlockStore.clean_contents`."""
        operation = "clean_contents"
        prefix = arguments.prefix(operation, prefix)
        dry_run = arguments.flag(operation, dry_run, "dry_run")
        no_writers = arguments.flag(operation, no_writers, "no_writers")
        generations: dict[str, dict[str, _Generation]] = {}
        probes: list[BlockInfo] = []

        def note(blocks: Sequence[BlockInfo]) -> None:
            for block in blocks:
                if block.key.startswith(PROBE_PREFIX):
                    probes.append(block)
                else:
                    _note(block, prefix, generations)

        request = ListRequest(prefix, operation=operation)
        own, began = replace(ctx, reply_headers=None), ctx.runtime.now()
        clock = await self._operations.store.clock(own)
        await each_page(self._operations, own, request, lambda page: note(page.blocks))
        uploads = await all_uploads(self._operations, own, operation, prefix)
        listed_at = self._register.now(own) - (ctx.runtime.now() - began)
        if clock is not None:  # another machine's, which this one's clock may be far from
            listed_at = clock.timestamp()
        report = CleanReport()
        oldest = math.inf if no_writers else listed_at - ORPHANED

        async def remove_probe(probe: BlockInfo) -> None:
            gone = _time(probe) <= oldest
            if gone and not dry_run:
                await self._operations.delete_block(ctx, probe.key)
            leftover = Leftover(probe.key, "probe", blocks=1, size=probe.size)
            (report.removed if gone else report.kept).append(leftover)

        async def look(content_id: str) -> None:
            try:
                found = await self._register.look(ctx, content_id, operation)
            except (IntegrityError, UnsupportedError) as error:
                report.damaged[content_id] = bare(error)
                return
            if clock is not None:
                found = replace(found, at=listed_at + (found.began - began))
            for leftover, removable in _leftovers(
                content_id, generations[content_id], found, oldest, no_writers=no_writers
            ):
                gone = removable and (
                    dry_run or await self._remove(ctx, leftover, found, no_writers=no_writers)
                )
                (report.removed if gone else report.kept).append(leftover)

        async def give_up(upload: Upload) -> None:
            began = math.inf if upload.started is None else upload.started.timestamp()
            gone = began <= oldest
            if gone and not dry_run:
                await self._operations.store.abort_upload(ctx, upload)
            (report.removed if gone else report.kept).append(
                Leftover(upload.key, "upload", upload.id)
            )

        _ = await ctx.gather(look, generations)
        _ = await ctx.gather(remove_probe, probes)
        _ = await ctx.gather(give_up, uploads)
        report.removed.sort(key=_place)
        report.kept.sort(key=_place)
        return report

    async def _remove(
        self, ctx: Context, leftover: Leftover, found: ManifestState, *, no_writers: bool
    ) -> bool:
        """Remove it; whether it is gone."""
        content_id = leftover.content_id
        if leftover.what != "tombstone":
            await self._register.delete_generation(ctx, content_id, leftover.generation)
            return True
        if await self._register.remove_tombstone(ctx, Change("clean_contents", content_id), found):
            return True
        if no_writers:
            await self._operations.delete_block(ctx, manifest_key(content_id))
        return no_writers


def _note(block: BlockInfo, prefix: str, generations: dict[str, dict[str, _Generation]]) -> None:
    """Note what a listed block is left of."""
    if block.key.endswith(MANIFEST_SUFFIX) and block.size < LEAST_SIZE:
        _ = generations.setdefault(block.key.removesuffix(MANIFEST_SUFFIX), {})
        return
    found = generation_of(block.key)
    if found is None or not found[0].startswith(prefix):
        return
    generation = generations.setdefault(found[0], {}).setdefault(found[1], _Generation())
    generation.blocks += 1
    generation.size += block.size
    generation.newest = max(generation.newest, _time(block))


def _time(block: BlockInfo) -> float:
    return 0.0 if block.last_modified is None else block.last_modified.timestamp()


def _leftovers(
    content_id: str,
    generations: dict[str, _Generation],
    found: ManifestState,
    oldest: float,
    *,
    no_writers: bool,
) -> list[tuple[Leftover, bool]]:
    """What is left of a content, and whether it may be removed."""
    left: list[tuple[Leftover, bool]] = []
    manifest = found.manifest
    replaced = {each.id: each.at for each in manifest.history} if manifest is not None else {}
    for name, generation in generations.items():
        if found.live is not None and found.live.id == name:
            continue
        sized = (name, generation.blocks, generation.size)
        if name in replaced:
            settled = no_writers or found.at - replaced[name] >= SWEPT
            left.append((Leftover(content_id, "replaced", *sized), settled))
        else:
            left.append((Leftover(content_id, "orphan", *sized), generation.newest <= oldest))
    if manifest is not None and manifest.deleted:
        left.append((Leftover(content_id, "tombstone"), no_writers or found.settled))
    return left


def _place(leftover: Leftover) -> tuple[bytes, str]:
    return leftover.content_id.encode(), leftover.generation
