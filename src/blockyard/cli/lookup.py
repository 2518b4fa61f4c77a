"""What a NAME on the command line stands for: a block, a content, or neither."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from blockyard.content.layout import plain_prefix
from blockyard.errors import AccessDeniedError, BlockNotFoundError, InvalidKeyError
from blockyard.managing import contextmanager

if TYPE_CHECKING:
    from blockyard.sync import BlockStore


def keys_to_delete(store: BlockStore, name: str, *, recursive: bool) -> list[str]:
    """The keys that `rm` is to delete; none for a content. Raises `BlockNotFoundError`."""
    if recursive:
        keys = store.delete_by_prefix(name, dry_run=True).deleted
    elif store.block_exists(name):
        keys = [name]
    else:
        keys = list[str]()
        if store.content_exists(name) or any(store.iter_blocks(plain_prefix(name))):
            return keys
    if not keys:
        what = "nothing below that prefix" if recursive else "no block or content of that name"
        raise BlockNotFoundError(f"rm {name!r}: there is {what}")
    return keys


@contextmanager
def named_in_error(command: str, name: str) -> Generator[None]:
    """Raise a `BlockNotFoundError` as one which says that there is neither block nor content."""
    try:
        yield
    except BlockNotFoundError:
        raise BlockNotFoundError(
            f"{command} {name!r}: there is no block or content of that name"
        ) from None


def is_content(store: BlockStore, command: str, name: str) -> bool:
    """Whether `name` is a content, and no block. Raises `BlockNotFoundError` when it is neither."""
    try:
        if store.content_exists(name):
            return True
    except InvalidKeyError:  # the key of a manifest, say, is that of a block all the same
        pass
    except AccessDeniedError:  # as a missing manifest is answered to who may not list
        if store.block_exists(name):
            return False
        raise
    if not store.block_exists(name):
        with named_in_error(command, name):
            _ = store.stat_content(name)  # one in the plain layout
        return True
    return False
