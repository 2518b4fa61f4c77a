"""A single block, or an object of any size, read to a file or to standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from blockyard.content.targets import NewFile, is_written_in_order, write_all
from blockyard.content.types import Writable
from blockyard.model import MIB

if TYPE_CHECKING:
    from blockyard.sync import BlockStore

_PIECE = 64 * MIB
"""Bytes of one read: what is no larger is read whole, and so verified by more kinds of checksum."""


def read_into_file(
    store: BlockStore, key: str, path: str, progress: Callable[[int], None] | None
) -> None:
    """Read what is under `key` into a file that appears when it is whole."""
    if is_written_in_order(path):
        with open(path, "wb", buffering=0) as file:
            read_into_stream(store, key, file, 0, None)
        return
    new, done = NewFile(path, "get"), 0
    try:
        new.create()
        for piece in _pieces(store, key, 0, None):
            new.write_at(done, piece)
            done += len(piece)
            if progress is not None:
                progress(done)
        new.commit()
    finally:
        new.close()


def read_into_stream(
    store: BlockStore, key: str, file: Writable, offset: int, length: int | None
) -> None:
    """Write what is under `key`, or a range of it, to `file`."""
    for piece in _pieces(store, key, offset, length):
        write_all(file, piece)


def _pieces(store: BlockStore, key: str, offset: int, length: int | None) -> Iterator[bytes]:
    """The bytes of a range, all of one version."""
    info = store.stat_block(key)
    size = max(info.size - offset, 0) if length is None else length
    end = min(offset + size, info.size)
    if offset == end == 0:
        return  # nothing, which no range of an empty block can say
    is_whole = offset == 0 and end == info.size <= _PIECE
    while True:
        length = None if is_whole else min(end - offset, _PIECE)
        piece, _ = store.read_block_with_info(key, offset, length, if_match=info.etag or None)
        yield piece
        offset += len(piece)
        if offset >= end:
            return
