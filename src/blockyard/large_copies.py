"""Copies in parts, for blocks over the limit of one CopyObject; several parts at a time.

No bytes pass through this machine. After a failure the upload is aborted, and the target is left as
it was.
"""

from __future__ import annotations

from blockyard.context import Context
from blockyard.model import MAX_PARTS, MIB, CopyResult, Part
from blockyard.stores.base import Store
from blockyard.tidying import TIDY_SECONDS, tidy_up

COPIED_PART = 128 * MIB
"""Bytes of a part, as long as there are not too many of them."""


async def copy_in_parts(store: Store, ctx: Context, source_key: str, target_key: str) -> CopyResult:
    """`Store.copy_block` for a large block. Raises what `Store.start_copy` does."""
    opened, source = await store.start_copy(ctx, source_key, target_key)

    async def copied(part: tuple[int, range]) -> Part:
        number, span = part
        return await store.copy_part(ctx, opened, number, source, span)

    try:
        parts = await ctx.gather(copied, list(enumerate(_spans(source.size), 1)))
        # One that is given up may be done all the same: so it is awaited.
        complete = store.complete_upload(ctx, opened, parts)
        info = await ctx.runtime.finish(complete, TIDY_SECONDS)
    except BaseException as error:
        _ = await tidy_up(
            ctx,
            error,
            lambda ctx: store.abort_upload(ctx, opened.upload),
            f"and parts of {target_key!r} may be left: `clean` removes them",
        )
        raise
    return CopyResult(info.key, info.etag, info.last_modified)


def _spans(size: int) -> list[range]:
    """The byte ranges of the parts."""
    length = max(COPIED_PART, -(-size // MAX_PARTS))
    return [range(start, min(start + length, size)) for start in range(0, size, length)]
