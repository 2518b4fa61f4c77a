"""The free-running mix: one actor's operations, drawn by chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from blockyard.model import KIB, MIB
from blockyard_faults.campaign.actor import Actor, Draws
from blockyard_faults.campaign.calls import RARELY, Hurry, Own
from blockyard_faults.campaign.expected import Content
from blockyard_faults.campaign.user_code import Companion, drawn

NAMES = (
    "tree/one",
    "tree/two",
    "tree/deep/er",
    "tree10/one",  # which a delete below `tree1` or `tree` must leave
    "tree1",
    "plain",
    "with blank",
    "per%20cent+plus",
    "a&b<c>'d\"",
    "gr\u00fc\u00df/\u03b2",
    "~tilde=equals,comma",
    "block-0",
)
"""Keys within a namespace: few, so that operations meet what earlier ones left behind."""

PREFIXES = ("tree", "tree1", "gr\u00fc\u00df/")
_MISCHIEF = 0.5
"""The share of the writes of many whose blocks come from a generator that does mischief."""


class Mix(Draws):
    """Draws operations for `actor`; the same `seed` draws the same from the same answers.

    `companion` is what the caller's own code calls back into, if it does so at all.
    """

    def __init__(
        self,
        actor: Actor,
        seed: str,
        hurry: Hurry = RARELY,
        companion: Companion | None = None,
    ) -> None:
        repeatable = random.Random(seed)  # noqa: S311 - it is not to be secret
        super().__init__(actor, NAMES, repeatable, hurry)
        self._actor = actor
        self._companion = companion
        self._operations = {
            self._write: 22,
            self._write_if_absent: 8,
            self._write_many: 3,
            self._read: 16,
            self._read_into: 6,
            self._read_range: 11,
            self._read_ranges: 5,
            self._read_many: 3,
            self._copy: 6,
            self._stat: 5,
            self._exists: 4,
            self._delete: 5,
            self._delete_many: 2,
            self._delete_below: 1,
            self._list: 3,
        }

    async def _write(self) -> None:
        await self._actor.write(self._key(), self._content())

    async def _write_if_absent(self) -> None:
        await self._actor.write(self._key(), self._content(), if_absent=True)

    async def _write_many(self) -> None:
        blocks = [(key, self._content()) for key in self._some_keys()]
        if self._random.random() >= _MISCHIEF:
            await self._actor.write_many(blocks)
            return
        own = Own()
        mischief = drawn(self._random, own, self._companion, len(blocks))
        await self._actor.write_many(blocks, own, mischief)

    async def _read(self) -> None:
        await self._actor.read(self._key())

    async def _read_into(self) -> None:
        await self._actor.read_into(self._key())

    async def _read_range(self) -> None:
        key = self._key()
        sizes = [content.size for content in self._actor.expected.contents(key)]
        await self._actor.read_range(key, *self._range(max(sizes, default=0) + 2))

    async def _read_ranges(self) -> None:
        ranges = [
            (key, *self._range(size))
            for key in self._present()
            if (size := min(c.size for c in self._actor.expected.contents(key))) > 0
            for _ in range(3)
        ]
        if ranges:
            await self._actor.read_ranges(ranges)

    async def _read_many(self) -> None:
        if keys := self._present():
            await self._actor.read_many(keys)

    async def _copy(self) -> None:
        source, target = self._random.sample(self.keys, 2)
        await self._actor.copy(source, target)

    async def _stat(self) -> None:
        await self._actor.stat(self._key())

    async def _exists(self) -> None:
        await self._actor.exists(self._key())

    async def _delete(self) -> None:
        await self._actor.delete(self._key())

    async def _delete_many(self) -> None:
        await self._actor.delete_many(self._some_keys())

    async def _delete_below(self) -> None:
        prefix = self._random.choice(PREFIXES)
        await self._actor.delete_below(f"{self._actor.namespace}/{prefix}")

    async def _list(self) -> None:
        prefix = self._random.choice(("", *PREFIXES))
        await self._actor.list(f"{self._actor.namespace}/{prefix}")

    def _key(self) -> str:
        return self._random.choice(self.keys)

    def _some_keys(self) -> list[str]:
        return self._random.sample(self.keys, self._random.randint(1, 6))

    def _present(self) -> Sequence[str]:
        expected = self._actor.expected
        return [key for key in self.keys if None not in expected.values(key)][:5]

    def _content(self) -> Content:
        return Content(self._random.getrandbits(64), self._size())

    def _size(self) -> int:
        drawn = self._random.random()
        if drawn < 0.01:
            return 4 * MIB
        if drawn < 0.04:
            return self._random.randint(64 * KIB, MIB)
        return self._random.randint(0 if drawn < 0.06 else KIB, 64 * KIB)

    def _range(self, size: int) -> tuple[int, int | None]:
        offset = self._random.randrange(size)
        return offset, self._random.choice((None, 0, 1, self._random.randint(1, size)))
