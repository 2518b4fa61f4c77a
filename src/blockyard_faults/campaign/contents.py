"""One writer of contents: performs operations and holds each answer to what may be.

What a content may be after a call that failed is what the documentation says: after a write the
old one or, when it had got that far, the new one, whole; after a copy or a delete also
*unfinished*, which no read may take for a content. Never a mixture, never a part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockyard.content.layout import belongs_to
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    IntegrityError,
    InvalidRangeError,
)
from blockyard.testing.samples import content as sample
from blockyard_faults.campaign.blocks import Content
from blockyard_faults.campaign.clients import Client, Seek
from blockyard_faults.campaign.expected import (
    UNFINISHED,
    WRONG,
    Value,
    ends_before,
    is_absent,
    is_present,
    is_unfinished,
    reads_as,
    size_of,
)
from blockyard_faults.campaign.own import Own
from blockyard_faults.campaign.tally import Tally
from blockyard_faults.campaign.user_code import (
    NOTHING,
    RUNS_OWN_CODE,
    Mischief,
    SourceKind,
    WritingFile,
    source,
)
from blockyard_faults.campaign.writer import Writer

_OLD_FILE = sample(5_000)
_UNFINISHED_NOTE = "may be left unfinished"


@dataclass(frozen=True, slots=True)
class Given:
    """How a content is given to a write: the kind of source, the size of its pieces, and what
    source and `progress` do besides."""

    kind: SourceKind = "buffer"
    piece: int = 10_000
    in_source: Mischief = NOTHING
    in_progress: Mischief | None = None


class ContentActor(Writer):
    """Operations on the contents below `namespace`, which nobody else writes.

    Files are made in `folder`; broken promises go into `tally`.
    """

    def __init__(
        self, client: Client, namespace: str, tally: Tally, patience: float, folder: Path
    ) -> None:
        super().__init__(client, namespace, tally, patience)
        self.folder = folder

    async def write(self, key: str, content: Content, given: Given, own: Own) -> None:
        data = source(given.kind, content.data, given.piece, given.in_source, self.folder)
        info, error = await self.calls.ask(
            "write_content", key, data, own=own, progress=given.in_progress
        )
        if given.kind == "path":
            data.unlink()
        if error is None:
            self.expected.became(key, [content])
            self.answered(key, lambda _: info.size == content.size, f"written: {info}")
        else:
            if own.interrupted or not self._ended_in_source(given):
                self.expected.may_have_become(key, [content])
            self._may_be_taken_back(key)
        self._after_change(key)

    async def copy(self, origin: str, target: str, own: Own, progress: Mischief | None) -> None:
        copied = self.expected.contents(origin)
        _, error = await self.calls.ask("copy_content", origin, target, own=own, progress=progress)
        if error is None:
            self.answered(origin, is_present, "it was copied")
            self.expected.became(target, copied)
        elif isinstance(error, BlockNotFoundError):
            self.answered(origin, is_absent, "copy found no content")
        else:
            if isinstance(error, IntegrityError):
                self.answered(origin, is_unfinished, str(error))
            self._may_be_taken_back(target)
            self.expected.may_have_become(target, [*copied, UNFINISHED])
        self._after_change(target)

    async def delete(self, key: str) -> None:
        _, error = await self.calls.ask("delete_content", key)
        if error is None:
            self.expected.became(key, [None])
        else:
            self.expected.may_have_become(key, [None, UNFINISHED])
        self._after_change(key)

    async def size(self, key: str) -> None:
        info, error = await self.calls.ask("stat_content", key)
        self._check(key, error, lambda value: info.size == size_of(value), f"stat {info}")

    async def read(self, key: str, offset: int, length: int | None) -> None:
        data, error = await self.calls.ask("read_content", key, offset, length)
        self._check_range(key, offset, length, data, error)

    async def collect(self, key: str, offset: int, length: int | None) -> None:
        """Piece by piece."""
        data, error = await self.calls.ask("collected", key, offset, length)
        self._check_range(key, offset, length, data, error)

    async def seek(self, key: str, seeks: Sequence[Seek]) -> None:
        """As an open file, some bytes after each seek."""
        parts, error = await self.calls.ask("sought", key, seeks)

        def fits(value: Value) -> bool:
            return isinstance(value, Content) and all(
                value.data[position : position + size] == part
                for (position, size), part in zip(seeks, parts, strict=True)
            )

        self._check(key, error, fits, f"sought {seeks}")

    async def read_into_file(self, key: str, target: WritingFile, own: Own) -> None:
        """Into an open file: what has arrived when it fails is a beginning, and no more."""
        size, error = await self.calls.ask("read_content_into", key, target, own=own)
        written = bytes(target.written)
        if error is None:
            self.answered(
                key,
                lambda value: reads_as(value, 0, None, written) and size == len(written),
                f"read into a file: {size}, {len(written)} bytes",
            )
            return
        self._check(key, error, is_present, "")
        begun = [c.data.startswith(written) for c in self.expected.contents(key)]
        if written and not any(begun):
            self.tally.breaks(WRONG, f"{key!r}: {len(written)} bytes in a file are no beginning")

    async def read_into_path(self, key: str, own: Own, progress: Mischief | None) -> None:
        """To a path, where a file is already: that stays until the new one is whole."""
        path = self.folder / f"target-{os.getpid()}-{self.namespace.replace('/', '-')}"
        _ = path.write_bytes(_OLD_FILE)
        size, error = await self.calls.ask(
            "read_content_into", key, path, own=own, progress=progress
        )
        found = path.read_bytes()
        if error is None:
            self.answered(
                key,
                lambda value: reads_as(value, 0, None, found) and size == len(found),
                f"read to a path: {size}, {len(found)} bytes",
            )
        else:
            self._check(key, error, is_present, "")
            whole = [content.data for content in self.expected.contents(key)]
            # an exception of the caller's own may have come when all was done
            if found != _OLD_FILE and not (self.calls.owned and found in whole):
                self.tally.breaks(WRONG, f"{path.name}: {len(found)} bytes after a failed read")
        path.unlink()

    async def list(self) -> None:
        """Below the namespace there are blocks of contents that may be there, and no others."""
        listed, error = await self.calls.ask("list_by_prefix", f"{self.namespace}/")
        if error is not None:
            return
        known = self.expected.known
        for key in known:
            if any(belongs_to(key, block) for block in listed):
                # whether the blocks of it make it whole, reads will tell
                self.answered(key, lambda value: value is not None, "list_by_prefix: a block")
            else:
                self.answered(key, is_absent, "list_by_prefix: no block of it")
        for block in listed:
            if not any(belongs_to(key, block) for key in known):
                self.tally.breaks(WRONG, f"list_by_prefix: {block!r}, which nobody wrote")

    def _may_be_taken_back(self, key: str) -> None:
        """A write or copy that fails removes its blocks, and those of what was unfinished there."""
        if UNFINISHED in self.expected.values(key):
            self.expected.may_have_become(key, [None])

    def _ended_in_source(self, given: Given) -> bool:
        """Whether the source itself broke off, so that nothing new can be whole."""
        return self.calls.owned and given.kind in RUNS_OWN_CODE and given.in_progress is None

    def _after_change(self, key: str) -> None:
        if self.calls.uncertain:
            # a late write of one of its blocks, or a late delete, leaves it unfinished
            self.expected.may_have_become(key, [UNFINISHED])
            self.expected.settle(key)
            self.settled.add(key)
        elif any(_UNFINISHED_NOTE in note for note in self.calls.notes):
            self.expected.may_have_become(key, [UNFINISHED])

    def _check_range(
        self,
        key: str,
        offset: int,
        length: int | None,
        data: bytes | None,
        error: BlockStoreError | None,
    ) -> None:
        if isinstance(error, InvalidRangeError):
            past = ends_before(offset)
            self.answered(key, past, f"no bytes from {offset}")
        else:
            read = data or b""
            what = f"read {len(read)} bytes from {offset}"
            self._check(key, error, lambda value: reads_as(value, offset, length, read), what)

    def _check(
        self,
        key: str,
        error: BlockStoreError | None,
        fits: Callable[[Value], bool],
        what: str,
    ) -> None:
        """Hold the answer of a read to what may be there: `fits` says what a success means."""
        if error is None:
            self.answered(key, fits, what)
        elif isinstance(error, BlockNotFoundError):
            self.answered(key, is_absent, "no content found")
        elif isinstance(error, IntegrityError):
            self.answered(key, is_unfinished, str(error))
