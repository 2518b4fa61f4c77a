"""All that lies below a prefix, over the pages of its listing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Context
from blockyard.errors import BlockStoreError, ProtocolError
from blockyard.keys import MANIFEST_SUFFIX, begins_keys, below, named_as
from blockyard.model import DeleteResult, Page, Upload
from blockyard.stores.base import ListRequest

if TYPE_CHECKING:
    from blockyard.operations import Operations

Result = TypeVar("Result")

PAGE_SIZE = 1000
"""Keys to a page of a listing: S3's own limit."""
_MOST_IN_VAIN = 1000
"""Pages of a listing of uploads in a row that may hold nothing new."""
_PAGES_DELETED_TOGETHER = 4
"""So that the batches of a store that deletes in batches go out side by side."""


async def delete_below(
    operations: Operations, ctx: Context, prefix: str, *, literal: bool, dry_run: bool
) -> DeleteResult:
    """See `BlockStore.delete_by_prefix`. Manifests go first, so that nothing half gone is read."""
    deleted: list[str] = []
    failed: dict[str, BlockStoreError] = {}
    listed = prefix if literal else below(prefix)

    async def prefix_itself() -> tuple[list[str], str | None]:
        named = [] if literal else named_as(prefix)
        there = await ctx.runtime.gather(partial(operations.block_exists, ctx), named, 2)
        return [key for key, is_there in zip(named, there, strict=True) if is_there], None

    async def pages(token: str | None = None) -> tuple[list[str], str | None]:
        if not begins_keys(listed):  # no key can lie below one of the longest
            return [], None
        return await keys_of_pages(
            operations, ctx, "delete_by_prefix", listed, token, at_most=_PAGES_DELETED_TOGETHER
        )

    (keys, _), (more, token) = await ctx.runtime.gather(_called, (prefix_itself, pages), 2)
    keys += more
    while True:
        if dry_run:
            deleted += keys
        else:
            manifests = [key for key in keys if key.endswith(MANIFEST_SUFFIX)]
            await delete_some(operations, ctx, manifests, deleted, failed)
            blocks = [key for key in keys if not key.endswith(MANIFEST_SUFFIX)]
            await delete_some(operations, ctx, blocks, deleted, failed)
        if token is None:
            break
        keys, token = await pages(token)
    return DeleteResult(deleted, failed)


async def delete_some(
    operations: Operations,
    ctx: Context,
    keys: Sequence[str],
    deleted: list[str],
    failed: dict[str, BlockStoreError],
) -> None:
    """Delete `keys`; after the first time, an error is kept against them, not raised."""
    if not keys:
        return
    try:
        outcome = await operations.delete_blocks(ctx, keys, raise_on_failure=False)
    except BlockStoreError as error:
        if not deleted:
            raise
        failed.update(dict.fromkeys(keys, error))
        return
    deleted += outcome.deleted
    failed.update(outcome.failed)


async def keys_of_pages(
    operations: Operations,
    ctx: Context,
    operation: str,
    prefix: str,
    token: str | None = None,
    *,
    at_most: int = sys.maxsize,
) -> tuple[list[str], str | None]:
    """The keys of the pages of a listing from `token` on, and the token of what follows."""
    keys: list[str] = []
    for _ in range(at_most):
        operations.check_open(operation, ctx)
        request = ListRequest(prefix, token, PAGE_SIZE, operation=operation)
        more, token = await operations.store.list_keys(ctx, request)
        keys += more
        if token is None:
            break
    return keys, token


async def each_page(
    operations: Operations, ctx: Context, request: ListRequest, use: Callable[[Page], object]
) -> None:
    """Call `use` with every page of a listing, from that of `request` on."""
    while True:
        page = await operations.list_page(ctx, request)
        _ = use(page)
        if page.next_token is None:
            return
        request = replace(request, token=page.next_token)


async def all_pages(operations: Operations, ctx: Context, request: ListRequest) -> list[Page]:
    """Every page of a listing, from that of `request` on."""
    pages: list[Page] = []
    await each_page(operations, ctx, request, pages.append)
    return pages


async def all_uploads(
    operations: Operations, ctx: Context, operation: str, prefix: str
) -> list[Upload]:
    """The uploads in parts that were neither completed nor given up.

    Those of one key are in the order in which they were begun, so that a listing which repeats
    itself is told by nothing new in it.
    """
    uploads: dict[tuple[str, str], Upload] = {}
    token, in_vain = None, 0
    while True:
        operations.check_open(operation, ctx)
        page = await operations.store.list_uploads(ctx, prefix, token)
        before = len(uploads)
        uploads |= {(each.key, each.id): each for each in page.uploads}
        token = page.next_token
        if token is None:
            return list(uploads.values())
        in_vain = in_vain + 1 if len(uploads) == before else 0
        if in_vain > _MOST_IN_VAIN:
            raise ProtocolError(
                f"{operation}: the listing of uploads goes on, but its last {in_vain} pages held "
                "none that was not there before"
            )


def _called(call: Callable[[], Coroutine[Any, Any, Result]]) -> Coroutine[Any, Any, Result]:
    return call()
