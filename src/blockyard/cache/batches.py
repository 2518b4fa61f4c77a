"""Deletes of many keys, some of them at a time: for what is held of every key while it is deleted.

That is its lock, of which the system keeps a list, and its epoch: while it changes, other keys that
share it are not answered from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from blockyard.errors import BlockStoreError
from blockyard.model import DeleteResult

Delete: TypeAlias = Callable[[Sequence[str]], Coroutine[Any, Any, DeleteResult]]
"""See `Store.delete_blocks`."""


async def deleted_in_batches(keys: Sequence[str], size: int, delete: Delete) -> DeleteResult:
    """`delete` of `size` keys at a time; after the first time, an error is kept against them."""
    if len(keys) <= size:
        return await delete(keys)
    deleted: list[str] = []
    failed: dict[str, BlockStoreError] = {}
    unique = list(dict.fromkeys(keys))
    for begin in range(0, len(unique), size):
        batch = unique[begin : begin + size]
        try:
            result = await delete(batch)
        except BlockStoreError as error:
            if begin == 0:
                raise
            failed.update(dict.fromkeys(batch, error))
        else:
            deleted += result.deleted
            failed.update(result.failed)
    return DeleteResult(deleted, failed)
