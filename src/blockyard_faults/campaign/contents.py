"""One writer of contents, which holds each answer to what may be, and the mix of its operations."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from blockyard.content.manifest import generation_of
from blockyard.content.reading import ContentReader
from blockyard.content.writing import ContentWriter
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    ContentReplacedError,
    IntegrityError,
    InvalidRangeError,
)
from blockyard.keys import MANIFEST_SUFFIX
from blockyard.model import KIB
from blockyard.testing.samples import content as sample
from blockyard_faults.campaign.actor import Draws, Writer
from blockyard_faults.campaign.calls import RARELY, Client, Hurry, Own, Seek
from blockyard_faults.campaign.expected import (
    WRONG,
    Content,
    Tally,
    Value,
    ends_before,
    is_absent,
    is_present,
    reads_as,
    size_of,
)
from blockyard_faults.campaign.user_code import (
    NOTHING,
    RUNS_OWN_CODE,
    Companion,
    Mischief,
    SourceKind,
    WritingFile,
    drawn,
    source,
)

_OLD_FILE = sample(5_000)


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
        else:  # blocks of what can't be whole may be left, all the same
            whole = own.interrupted or not self._ended_in_source(given)
            self.expected.may_have_become(key, [content] if whole else [])
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
            self._check_readable(origin, error)
            self.expected.may_have_become(target, copied)
        self._after_change(target)

    async def delete(self, key: str) -> None:
        _, error = await self.calls.ask("delete_content", key)
        if error is None:
            self.expected.became(key, [None])
        else:
            self.expected.may_have_become(key, [None])
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
        """Below the namespace there are the contents that may be there, their blocks, no others."""
        known = self.expected.known
        listed, error = await self.calls.ask("list_contents", f"{self.namespace}/")
        if error is None:
            found = {entry.content_id for entry in listed}
            for key in known:
                fits = is_present if key in found else is_absent
                self.answered(key, fits, f"list_contents: {key in found}")
            for key in found.difference(known):
                self.tally.breaks(WRONG, f"list_contents: {key!r}, which nobody wrote")
        blocks, error = await self.calls.ask("list_by_prefix", f"{self.namespace}/")
        if error is None:
            for block in blocks:
                generation = generation_of(block)
                content = generation[0] if generation else block.removesuffix(MANIFEST_SUFFIX)
                if content not in known:
                    self.tally.breaks(WRONG, f"list_by_prefix: {block!r}, which nobody wrote")

    def _ended_in_source(self, given: Given) -> bool:
        """Whether the source itself broke off, so that nothing new can be whole."""
        return self.calls.owned and given.kind in RUNS_OWN_CODE and given.in_progress is None

    def _after_change(self, key: str) -> None:
        if self.calls.uncertain:
            self.expected.settle(key)
            self.settled.add(key)

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
        else:
            self._check_readable(key, error)

    def _check_readable(self, key: str, error: BlockStoreError) -> None:
        """A content that is there can be read: nothing of it is missing or damaged."""
        if isinstance(error, IntegrityError) and not isinstance(error, ContentReplacedError):
            self.tally.breaks(WRONG, f"{key!r}: {error}")


BLOCK = 16 * KIB
"""The size of a content's blocks here, in place of 4 MiB, so that many are quickly stored."""
INLINE = 1 * KIB
"""The largest content that is kept in its manifest, in place of 64 KiB."""
NAMES = ("film", "film10", "deep/er/film", "with blank", "gr\u00fc\u00df/\u03b2", "a/chunk-0/film")
_MISCHIEF = 0.5


def with_small_blocks() -> None:
    """Let the contents of this process, which it must not share, have blocks of `BLOCK` bytes."""
    _ = mock.patch.object(ContentReader.__init__, "__defaults__", (BLOCK,)).start()
    _ = mock.patch.object(ContentWriter.__init__, "__defaults__", (BLOCK, INLINE)).start()


class ContentMix(Draws):
    """Draws operations for `actor`; the same `seed` draws the same from the same answers.

    The caller's own code does mischief in half of the operations that run some; it calls back
    into the store, or forks, where there is a `companion`.
    """

    def __init__(
        self,
        actor: ContentActor,
        seed: str,
        kinds: Sequence[SourceKind],
        hurry: Hurry = RARELY,
        companion: Companion | None = None,
    ) -> None:
        repeatable = random.Random(seed)  # noqa: S311 - it is not to be secret
        super().__init__(actor, NAMES, repeatable, hurry)
        self._actor = actor
        self._kinds = kinds
        self._companion = companion
        self._operations = {
            self._write: 36,
            self._read: 12,
            self._collect: 5,
            self._seek: 8,
            self._into_file: 8,
            self._into_path: 8,
            self._size: 5,
            self._copy: 8,
            self._delete: 5,
            self._list: 5,
        }

    async def _write(self) -> None:
        content, own = self._content(), Own()
        kind = self._random.choice(self._kinds)
        piece = self._random.choice((1_000, 10_000, BLOCK, 100_000))
        calls = content.size // piece
        if kind == "buffer" or self._random.random() < 0.3:
            given = Given(kind, piece, in_progress=self._mischief(own, content.size // BLOCK + 1))
        else:
            given = Given(kind, piece, self._mischief(own, calls) or NOTHING)
        await self._actor.write(self._key(), content, given, own)

    async def _read(self) -> None:
        key = self._key()
        await self._actor.read(key, *self._range(key))

    async def _collect(self) -> None:
        key = self._key()
        await self._actor.collect(key, *self._range(key))

    async def _seek(self) -> None:
        key = self._key()
        size = self._largest(key)
        seeks = [
            (self._random.randint(0, size), self._random.choice((1, 100, BLOCK, size)))
            for _ in range(4)
        ]
        await self._actor.seek(key, seeks)

    async def _into_file(self) -> None:
        key, own = self._key(), Own()
        mischief = self._mischief(own, self._largest(key) // BLOCK + 1) or NOTHING
        target = WritingFile(self._random.choice((1_000, BLOCK, 10**9)), mischief)
        await self._actor.read_into_file(key, target, own)

    async def _into_path(self) -> None:
        key, own = self._key(), Own()
        await self._actor.read_into_path(
            key, own, self._mischief(own, self._largest(key) // BLOCK + 1)
        )

    async def _size(self) -> None:
        await self._actor.size(self._key())

    async def _copy(self) -> None:
        (origin, target), own = self._random.sample(self.keys, 2), Own()
        await self._actor.copy(
            origin, target, own, self._mischief(own, self._largest(origin) // BLOCK + 1)
        )

    async def _delete(self) -> None:
        await self._actor.delete(self._key())

    async def _list(self) -> None:
        await self._actor.list()

    def _mischief(self, own: Own, calls: int) -> Mischief | None:
        if self._random.random() >= _MISCHIEF:
            return None
        return drawn(self._random, own, self._companion, calls)

    def _key(self) -> str:
        return self._random.choice(self.keys)

    def _largest(self, key: str) -> int:
        return max((content.size for content in self._actor.expected.contents(key)), default=0)

    def _content(self) -> Content:
        most = self._random.choice((0, 1, BLOCK, 4 * BLOCK, 20 * BLOCK))
        size = self._random.choice((most, self._random.randint(0, most)))
        return Content(self._random.getrandbits(64), size)

    def _range(self, key: str) -> tuple[int, int | None]:
        size = self._largest(key)
        if self._random.random() < 0.4:
            return 0, None
        return self._random.randint(0, size + 1), self._random.choice((None, 1, BLOCK, size))
