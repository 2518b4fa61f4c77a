"""What a tier of the cache keeps, and the contract of the tier on disk.

A tier keeps pages of blocks, verified, with the checksums that their writer made. The unit is
the page of the block (`s3/integrity.py`): 16 KiB for blocks of up to 4 MiB. A tier never decides
whether what it holds may be served: how old it may be, and what a condition asks, is
`CacheStore`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from blockyard.model import KIB, Block
from blockyard.s3.integrity import page_size
from blockyard.stores.checks import requested_range

if TYPE_CHECKING:
    from blockyard.context import Runtime
    from blockyard.model import BlockInfo, PageSums
    from blockyard.stores.base import ReadRequest


INLINE = 256 * KIB
"""Larger reads are left to a thread under an event loop, in the page cache or not."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Whole pages of one version of a block, verified: `data` from the offset `first` on.

    `first` is the edge of a page, and so is the end of `data`, or else it is the end of the block.
    `checked_at` is when the store was last known to hold this version, by `Runtime.now()`: the
    monotonic clock of the system, which its processes share until the next boot. `sums` are None
    for a block that was stored without page checksums.
    """

    info: BlockInfo
    first: int
    data: bytes
    checked_at: float
    sums: PageSums | None = None

    @property
    def page_size(self) -> int:
        """The page size of the block in bytes."""
        return page_size(self.info.size)

    @property
    def end(self) -> int:
        """The offset behind the last byte of `data`."""
        return self.first + len(self.data)

    @property
    def whole(self) -> bool:
        """Whether the pages are all of the block."""
        return len(self.data) == self.info.size

    def covers(self, request: ReadRequest) -> bool:
        """Whether the pages have all bytes requested."""
        span = span_within(request, self.info.size)
        return span is not None and self.first <= span[0] and span[1] <= self.end

    def block(self, request: ReadRequest) -> Block:
        """Cut the bytes requested out of the pages, which have to cover them."""
        info = self.info
        begin, end = requested_range(request, info.size)
        data = self.data[begin - self.first : end - self.first]
        if request.into is not None:
            request.into[: end - begin] = data
            data = b""
        sums = self.sums if request.page_sums else None
        return Block(data, end - begin, lambda: info, page_sums=sums)

    def trimmed(self) -> Pages:
        """These pages without partial pages at either end."""
        page, size = self.page_size, self.info.size
        first = -(-self.first // page) * page
        end = self.end if self.end == size else self.end - self.end % page
        if first == self.first and end == self.end:
            return self
        if first >= end:
            return replace(self, first=0, data=b"")
        return replace(self, first=first, data=self.data[first - self.first : end - self.first])


class MustWait(Enum):
    """The result of `DiskTier.get` where only a read of the disk can tell."""

    MUST_WAIT = "must wait"


MUST_WAIT = MustWait.MUST_WAIT


def span_within(request: ReadRequest, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the bytes requested of a block of `size` bytes.

    None for a range that begins past its end, which the store has to refuse.
    """
    if request.suffix is not None:
        return max(0, size - request.suffix), size
    if request.offset is None:
        return 0, size
    if request.is_past_end(size):
        return None
    if request.length is None:
        return request.offset, size
    return request.offset, min(request.offset + request.length, size)


class DiskTier(ABC):
    """Pages of blocks in a folder that processes share.

    Its methods raise nothing but for a defect: a disk that is full, read-only, gone or failing is a
    tier that holds nothing and takes nothing. Threads and event loops call it at the same time, and
    a signal handler or a finalizer in the middle of any method, so it takes no lock that another
    call may hold (a fill is dropped instead).
    """

    @abstractmethod
    def epoch(self, key: str) -> int | None:
        """The key's epoch, a number that every change of it by any process of the folder replaces.

        Keys may share an epoch. Pages that were read under another epoch may be stale. None where
        it is not known. Fast, never blocks.
        """

    @abstractmethod
    def is_shared(self) -> bool:
        """Whether the epochs read so far are in the file that every process changes.

        False once the folder was removed, until a `fill` of the epoch None has made it again.
        """

    @abstractmethod
    def change(self, keys: Iterable[str]) -> None:
        """Replace the epochs of blocks that are about to be changed, or were just changed.

        Their entries are gone afterwards, and a `fill` of an earlier epoch is ignored.
        """

    @abstractmethod
    def get(self, request: ReadRequest, *, wait: bool) -> Pages | MustWait | None:
        """The pages that hold what is requested (`span_within`), verified now; None: a miss.

        Where the block's entry lacks some of them, or the range begins past its end, `Pages`
        without data: they say which version it is. A condition of the request is not looked at.
        Without `wait` nothing blocks: MUST_WAIT where the disk would have to be read. A page that
        does not match its checksum is counted as damaged, its entry is removed: a miss.
        """

    @abstractmethod
    def fill(self, runtime: Runtime, pages: Pages, epoch: int | None) -> bool:
        """Keep the pages, if the key's epoch is still the one from before they were requested.

        With None, of an epoch that was not known, they are not kept: the folder is made ready.
        Returns at once: they are written by `runtime.start` or the tier's own threads. False when
        they were dropped, since too much is waiting to be written. Pages of another version (ETag,
        size or sums differ) replace the entry, pages of the same are added to it.
        """

    @abstractmethod
    def revalidated(self, runtime: Runtime, info: BlockInfo, at: float) -> None:
        """Note that the store still had the version `info.etag` of `info.key` at that time."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Its counters: `hits`, `filled`, `dropped`, `evicted`, `damaged`; asks nobody."""

    @abstractmethod
    def close(self) -> None:
        """Wait some seconds for accepted writes, then release everything."""
