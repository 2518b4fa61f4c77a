"""The free-running mix of one writer of contents, drawn by chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from unittest import mock

from blockyard.content.reading import ContentReader
from blockyard.content.writing import ContentWriter
from blockyard.model import KIB
from blockyard_faults.campaign.blocks import Content
from blockyard_faults.campaign.contents import ContentActor, Given
from blockyard_faults.campaign.hurry import RARELY, Hurry
from blockyard_faults.campaign.own import Own
from blockyard_faults.campaign.user_code import (
    NOTHING,
    Companion,
    Mischief,
    SourceKind,
    WritingFile,
    drawn,
)
from blockyard_faults.campaign.writer import Draws

BLOCK = 16 * KIB
"""The size of a content's blocks here, in place of 4 MiB, so that many are quickly stored."""
NAMES = ("film", "film10", "deep/er/film", "with blank", "gr\u00fc\u00df/\u03b2", "a/chunk-0/film")
_MISCHIEF = 0.5


def with_small_blocks() -> None:
    """Let the contents of this process, which it must not share, have blocks of `BLOCK` bytes."""
    for maker in (ContentReader, ContentWriter):
        _ = mock.patch.object(maker.__init__, "__defaults__", (BLOCK,)).start()


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
