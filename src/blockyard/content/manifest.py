"""The manifest of a content: what it is made of, as bytes and as a value. No I/O happens here.

A manifest is one object, `CONTENT.blockyard`. It begins with a line that states the format, the
CRC32C of all that follows, and the length of the JSON behind it; then come the JSON, and either the
CRC32C of each block, four bytes each in big-endian order, or the content itself where it is small
enough to be kept inline. What is wrong in any way is refused: docs/contents.md describes the
format.

A content that was deleted may leave a *tombstone* for a while: a manifest of the state "deleted".
Live manifests are padded to `LEAST_SIZE` bytes and tombstones are shorter, so that a listing tells
the ones from the others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from blockyard.crc32c import crc32c
from blockyard.errors import BlockTooLargeError, IntegrityError, UnsupportedError
from blockyard.keys import MANIFEST_SUFFIX
from blockyard.model import KIB, MAX_BLOCK_SIZE, MIB

LEAST_SIZE = 1024
"""The bytes of a live manifest, at least; a tombstone has fewer."""
INLINE_LIMIT = 64 * KIB
"""The largest content that is kept in its manifest, in bytes."""
MOST_BLOCKS = 16 * MIB
"""The most blocks of a content: their checksums are 64 MiB."""
MOST_REPLACED = 12
"""How many replaced generations a manifest names."""
NOT_KNOWN = "00000000T000000Z-0000000000000000"
"""Stands in a history for generations that nobody could read the ids of."""
METADATA_LIMIT = 8 * KIB
"""The most bytes of JSON that the user's metadata may take."""
BLOCKS_PER_CHUNK = 16
"""How many blocks a chunk has, unless its writer says otherwise."""
MOST_BLOCKS_PER_CHUNK = 10_000
"""As many as four digits can number."""

_FORMAT = "blockyard-content 1"
_MOST_TEXT = 99_999_999
_MOST_BRACKETS = 100_000
"""A list of nothing takes twenty times its text in memory. There are few, but in what users say."""
_LEAST_HEAD = len(_FORMAT) + len(" 01234567 1\n")
_HEAD = re.compile(rb"blockyard-content 1 ([0-9a-f]{8}) ([1-9][0-9]{0,7})\n")
_LATER_FORMAT = re.compile(rb"blockyard-content (?:[2-9]|[1-9][0-9]{1,5}) ")
_GENERATION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}")
_PLACE = re.compile(r"chunk-(?:[0-9]{6}|[1-9][0-9]{6,7})/block-[0-9]{4}")

LayoutKind: TypeAlias = Literal["generation", "plain", "inline"]


class Replaced(NamedTuple):
    """A generation that was replaced: when, in seconds since the epoch, and its blocks left."""

    id: str
    at: float
    blocks: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of a content. `id` is that of the write: also the name of its generation.

    `checksums` are four bytes a block, or none where they are not known (a content that was
    adopted); `etags` are those of blocks in the plain layout, which another writer might replace.
    `modified` is in seconds since the epoch. `history` is the oldest first.
    """

    id: str
    size: int = 0
    block_size: int = 0
    chunk_blocks: int = BLOCKS_PER_CHUNK
    layout: LayoutKind = "inline"
    crc32c: int | None = None
    content_type: str = ""
    modified: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    history: tuple[Replaced, ...] = ()
    etags: tuple[str, ...] = ()
    checksums: bytes = b""
    data: bytes = b""
    deleted: bool = False

    @property
    def blocks(self) -> int:
        """How many blocks it has outside of the manifest."""
        return 0 if self.layout == "inline" else block_count(self.size, self.block_size)

    def checksum(self, index: int) -> int | None:
        """The CRC32C of a block."""
        if not self.checksums:
            return None
        return int.from_bytes(self.checksums[4 * index : 4 * index + 4], "big")

    def names(self, generation: str) -> bool:
        """Whether it is that of this write, or replaced it."""
        return self.id == generation or any(each.id == generation for each in self.history)


def block_count(size: int, block_size: int) -> int:
    """How many blocks hold `size` bytes."""
    return -(-size // block_size)


def manifest_key(content_id: str) -> str:
    """The key of a content's manifest."""
    return content_id + MANIFEST_SUFFIX


def generation_prefix(content_id: str, generation: str) -> str:
    """What the keys of a generation's blocks begin with."""
    return f"{content_id}/{generation}/"


def generation_key(content_id: str, generation: str, index: int, chunk_blocks: int) -> str:
    """The key of a block.

    In the order of their keys blocks are in the order of the content, up to a million chunks.
    """
    chunk, block = divmod(index, chunk_blocks)
    return f"{content_id}/{generation}/chunk-{chunk:06}/block-{block:04}"


def generation_of(key: str) -> tuple[str, str] | None:
    """The content and the generation that a block's key is of; None for another key."""
    parts = key.rsplit("/", 3)
    if len(parts) != 4 or not parts[0] or not _GENERATION.fullmatch(parts[1]):
        return None
    return (parts[0], parts[1]) if _PLACE.fullmatch(f"{parts[2]}/{parts[3]}") else None


def is_generation(name: str) -> bool:
    """Whether a folder's name is that of a generation."""
    return _GENERATION.fullmatch(name) is not None


def encode(manifest: Manifest, nonce: str) -> bytes:
    """The bytes of a manifest. `nonce` makes those of two writes differ, and so their ETags.

    Raises `BlockTooLargeError` for what `decode` would refuse.
    """
    stated: dict[str, Any] = {
        "id": manifest.id,
        "nonce": nonce,
        "state": "deleted" if manifest.deleted else "live",
        "history": manifest.history,
    }
    if not manifest.deleted:
        stated |= {
            "size": manifest.size,
            "layout": manifest.layout,
            "block_size": manifest.block_size,
            "chunk_blocks": manifest.chunk_blocks,
            "crc32c": manifest.crc32c,
            "modified": manifest.modified,
            "content_type": manifest.content_type,
            "metadata": dict(manifest.metadata),
            "etags": manifest.etags,
        }
    text = json.dumps(stated, separators=(",", ":")).encode()
    body = manifest.data if manifest.layout == "inline" else manifest.checksums
    if not manifest.deleted:
        text = text.ljust(LEAST_SIZE - _LEAST_HEAD - len(body))
    if len(text) > _MOST_TEXT or manifest.blocks > MOST_BLOCKS:
        raise BlockTooLargeError(
            f"{manifest.blocks} blocks are more than a manifest can name: larger ones make fewer"
        )
    crc = crc32c(body, crc32c(text))
    encoded = b"%b %08x %d\n%b%b" % (_FORMAT.encode(), crc, len(text), text, body)
    if manifest.deleted and len(encoded) >= LEAST_SIZE:
        raise AssertionError("a tombstone as long as a live manifest")
    return encoded


def begins_as_manifest(data: bytes) -> bool:
    """Whether these are the bytes of a manifest, damaged or not, rather than of something else."""
    return data.startswith(_FORMAT[:-1].encode())


def decode(where: str, data: bytes) -> Manifest:
    """The manifest in `data`. Raises `IntegrityError`, in the name of `where`.

    One of a later format is not damaged, and not to be replaced from here: `UnsupportedError`.
    """
    head = _HEAD.match(data)
    if head is None and _LATER_FORMAT.match(data):
        raise UnsupportedError(
            f"{where}: its manifest is of a later format, which this version can't read"
        )
    if head is None:
        raise _damaged(where, "it does not begin as one of format 1 does")
    if f"{crc32c(memoryview(data)[head.end() :]):08x}".encode() != head[1]:
        raise _damaged(where, "its checksum does not match")
    end = head.end() + int(head[2])  # which the checksum does not cover
    if end > len(data):
        raise _damaged(where, "it is shorter than it says")
    text = data[head.end() : end]
    if text.count(b"[") + text.count(b"{") > _MOST_BRACKETS:
        raise _damaged(where, "it holds more lists and mappings than it can have")
    try:
        stated = json.loads(text)
        return _manifest(stated, data[end:])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(where, str(error)) from None


def _manifest(stated: Any, body: bytes) -> Manifest:
    """The value. Raises `KeyError`, `TypeError` or `ValueError` for what is never made so."""
    if not isinstance(stated, dict):
        raise TypeError("no mapping")
    known = cast("dict[str, Any]", stated)
    generation = _text(known["id"])
    if not _GENERATION.fullmatch(generation):
        raise ValueError("id: no id of a write")
    history = tuple(_replaced(each) for each in _list(known["history"], MOST_REPLACED))
    if known["state"] == "deleted":
        if body:
            raise ValueError("a tombstone that holds something")
        return Manifest(generation, history=history, deleted=True)
    if known["state"] != "live":
        raise ValueError("state: neither live nor deleted")
    layout = known["layout"]
    if layout not in {"generation", "plain", "inline"}:
        raise ValueError("layout: unknown")
    size = _whole(known["size"], 0, MOST_BLOCKS * MAX_BLOCK_SIZE)
    inline = layout == "inline"
    block_size = _whole(known["block_size"], 0 if inline else 1, MAX_BLOCK_SIZE)
    count = 0 if inline else block_count(size, block_size)
    etags = tuple(_text(each) for each in _list(known["etags"], MOST_BLOCKS))
    if count > MOST_BLOCKS or (etags and len(etags) != count):
        raise ValueError("as many blocks as it can't have")
    if len(body) != (size if inline else 4 * count) and (inline or body):
        raise ValueError("too short or too long for its size")
    modified = known["modified"]
    crc = known["crc32c"]
    metadata = known["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata: no mapping")
    return Manifest(
        generation,
        size=size,
        block_size=block_size,
        chunk_blocks=_whole(known["chunk_blocks"], 1, MOST_BLOCKS_PER_CHUNK),
        layout=cast("LayoutKind", layout),
        crc32c=None if crc is None else _whole(crc, 0, 0xFFFFFFFF),
        content_type=_text(known["content_type"]),
        modified=None if modified is None else _seconds(modified),
        metadata={
            _text(name): _text(value) for name, value in cast("dict[Any, Any]", metadata).items()
        },
        history=history,
        etags=etags,
        checksums=b"" if inline else body,
        data=body if inline else b"",
    )


def _replaced(stated: Any) -> Replaced:
    generation, at, blocks = _list(stated, 3)
    if not _GENERATION.fullmatch(_text(generation)):
        raise ValueError("history: no id of a write")
    return Replaced(_text(generation), _seconds(at), _whole(blocks, 0, MOST_BLOCKS))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text where text was expected")
    return value


def _list(value: Any, longest: int) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list where a list was expected")
    found = cast("list[Any]", value)
    if len(found) > longest:
        raise ValueError("a list that is too long")
    return found


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("a number that it can't be")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError("no time")
    return float(value)


def _damaged(where: str, how: str) -> IntegrityError:
    return IntegrityError(f"{where}: the manifest of the content is damaged: {how}")
