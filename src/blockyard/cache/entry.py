"""The format of an entry of the disk cache: one sparse file a block. Pure: bytes in, bytes out.

A head of 4 KiB, then the bytes of the block at their place behind it. What never changes of an
entry is held to a CRC32C: its block's key, version and the page checksums that the block's writer
made. What changes is written in place by one pwrite each, of which every mixture of old and new is
safe to read:

- `settled`: set once no change of the key came between the read and the entry (see `disk.py`);
- `checked`: when the store was last known to hold this version, with the id of the system's boot,
  whose clock it is on, and a CRC32C of both;
- the checksums of single pages, of a block that was stored without any: taken when they are put in;
- `present`: one byte a page. A page that is marked and was not written fails its checksum.

Integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from math import inf
from typing import NamedTuple

from blockyard.crc32c import crc32c
from blockyard.model import MAX_BLOCK_SIZE, BlockInfo, PageSums
from blockyard.s3.integrity import MOST_PAGES, page_size

HEAD = 4096
"""Bytes before those of the block."""
_MAGIC = b"blkycach"
_VERSION = 1
_FIXED = struct.Struct(">8sII16sQIqQHHH")
"""Magic, version, CRC32C of all behind it, name, size, page size, microseconds, epoch, lengths."""
_CRC_AT, _CRC_FROM = 12, 16
_MOST_KEY, _MOST_ETAG = 1024, 512
_NO_TIME = -(1 << 63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SETTLED_AT = 2688
SETTLED = b"settled\n"
CHECKED_AT = 2704
_CHECKED = struct.Struct(">d8sI")
OWN_SUMS_AT = 2752
PRESENT_AT = HEAD - MOST_PAGES
MUTABLE_AT = SETTLED_AT
PRESENT = b"\xa5"


@dataclass(frozen=True, slots=True)
class Head:
    """The immutable part of an entry.

    `epoch` is that of the key when the block was requested. `sums` are as in `PageSums.running`,
    empty where the block was stored without page checksums.
    """

    name: bytes
    info: BlockInfo
    epoch: int
    sums: bytes

    @property
    def page_size(self) -> int:
        """The page size of the block in bytes."""
        return page_size(self.info.size)

    @property
    def pages(self) -> int:
        """The number of pages of the block."""
        return -(-self.info.size // self.page_size)

    @property
    def page_sums(self) -> PageSums | None:
        """The checksums that the block was stored with."""
        return PageSums(self.page_size, self.sums) if self.sums else None

    def same_version(self, other: Head) -> bool:
        """Whether both are of the same version, by everything that is known."""
        mine, its = self.info, other.info
        return (mine.etag, mine.size, self.sums) == (its.etag, its.size, other.sums)


class Marks(NamedTuple):
    """The mutable part of an entry: see the module."""

    settled: bool
    checked_at: float
    present: bytes
    own_sums: bytes


@lru_cache(maxsize=4096)
def name_of(identity: str, key: str) -> bytes:
    """The 128-bit name of a key's entry; `identity` keeps the stores of a folder apart."""
    text = f"{len(identity)} {identity} {key}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def encode_head(head: Head) -> bytes | None:
    """Encode the head of a new entry, no page marked; None if it does not fit."""
    info = head.info
    key = info.key.encode("utf-8", "surrogatepass")
    etag = info.etag.encode("utf-8", "surrogatepass")
    if not etag or len(etag) > _MOST_ETAG or len(key) > _MOST_KEY or info.size > MAX_BLOCK_SIZE:
        return None
    fixed = _FIXED.pack(
        _MAGIC,
        _VERSION,
        0,
        head.name,
        info.size,
        head.page_size,
        _microseconds(info.last_modified),
        head.epoch,
        len(key),
        len(etag),
        len(head.sums),
    )
    covered = fixed[_CRC_FROM:] + key + etag + head.sums
    text = fixed[:_CRC_AT] + struct.pack(">I", crc32c(covered)) + covered
    return text.ljust(HEAD, b"\0")


def marked(text: bytes, head: Head, first: int, data: bytes | memoryview, checked: bytes) -> bytes:
    """The head of an entry with the pages in `data`, from the page `first` on, marked as present.

    `text` is the result of `encode_head`, `checked` that of `encode_checked`.
    """
    new = bytearray(text)
    new[CHECKED_AT : CHECKED_AT + len(checked)] = checked
    if not head.sums:
        sums, place = own_sums(data, head.page_size), OWN_SUMS_AT + 4 * first
        new[place : place + len(sums)] = sums
    count = -(-len(data) // head.page_size)
    new[PRESENT_AT + first : PRESENT_AT + first + count] = PRESENT * count
    return bytes(new)


def decode_head(data: bytes, name: bytes) -> Head | None:
    """Decode a head; None when it is damaged, truncated, or of another name."""
    if len(data) < HEAD:
        return None
    magic, version, crc, its_name, size, page, modified, epoch, *lengths = _FIXED.unpack_from(data)
    end = _FIXED.size + sum(lengths)
    if (
        (magic, version, its_name) != (_MAGIC, _VERSION, name)
        or end > MUTABLE_AT
        or crc32c(data[_CRC_FROM:end]) != crc
        or size > MAX_BLOCK_SIZE
        or page != page_size(size)
    ):
        return None
    key, etag, sums = _cut(data, _FIXED.size, lengths)
    if len(sums) not in {0, 4 * max(1, -(-size // page))}:
        return None
    try:
        info = BlockInfo(
            key.decode("utf-8", "surrogatepass"),
            size,
            etag.decode("utf-8", "surrogatepass"),
            None if modified == _NO_TIME else _EPOCH + timedelta(microseconds=modified),
        )
    except (ValueError, OverflowError):
        return None
    return Head(name, info, epoch, sums)


def encode_checked(at: float, boot: bytes) -> bytes:
    """Encode the record of when the version was last known to be current."""
    record = _CHECKED.pack(at, boot, 0)[:-4]
    return record + struct.pack(">I", crc32c(record))


def decode_marks(data: bytes, pages: int, boot: bytes) -> Marks:
    """Decode the mutable part of a head; a record of another boot, or damaged, counts as never."""

    def at(place: int, length: int) -> bytes:
        return data[place - MUTABLE_AT : place - MUTABLE_AT + length]

    record = at(CHECKED_AT, _CHECKED.size)
    checked_at, its_boot, crc = _CHECKED.unpack(record)
    if its_boot != boot or crc32c(record[:-4]) != crc:
        checked_at = -inf
    return Marks(
        at(SETTLED_AT, len(SETTLED)) == SETTLED,
        checked_at,
        at(PRESENT_AT, pages),
        at(OWN_SUMS_AT, 4 * pages),
    )


def own_sums(data: bytes | memoryview, page: int) -> bytes:
    """The CRC32C of each page of `data` by itself, as the entry stores them."""
    view = memoryview(data)
    sums = [crc32c(view[begin : begin + page]) for begin in range(0, len(data), page)]
    return struct.pack(f">{len(sums)}I", *sums)


def verified(data: bytes, first: int, head: Head, marks_own_sums: bytes) -> bool:
    """Whether whole pages, from the page `first` on, match their checksums."""
    page = head.page_size
    last = first + -(-len(data) // page)
    if not head.sums:
        return own_sums(data, page) == marks_own_sums[4 * first : 4 * last]
    if not data:
        return head.info.size > 0 or head.sums == bytes(4)
    running = head.sums
    before = int.from_bytes(running[4 * first - 4 : 4 * first]) if first else 0
    return crc32c(data, before) == int.from_bytes(running[4 * last - 4 : 4 * last])


def _cut(data: bytes, begin: int, lengths: Sequence[int]) -> list[bytes]:
    pieces = list[bytes]()
    for length in lengths:
        pieces.append(data[begin : begin + length])
        begin += length
    return pieces


def _microseconds(time: datetime | None) -> int:
    return _NO_TIME if time is None else (time - _EPOCH) // timedelta(microseconds=1)
