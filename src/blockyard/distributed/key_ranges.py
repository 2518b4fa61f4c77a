"""Ranges of keys, and where to split one so that its parts are done side by side.

Nobody knows how the keys of a prefix are spread before they are listed, and to list ten million
takes ten thousand requests, one after the other. So a range is split by its first page alone where
that holds all of its keys, and else where keys part: requests for one key each show which
characters follow what all keys begin with. The parts may be of very different sizes; who does one
may leave the rest of it (`tasks.Outcome.stopped_after`), which is split again. Ranges are intervals
of the keys' order, so that each key is in exactly one of the parts, whatever keys there are.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from blockyard.context import Context
from blockyard.operations import Operations
from blockyard.prefixes import PAGE_SIZE
from blockyard.stores.base import ListRequest

_LEAST_KEYS = 10
"""Fewer known keys are not split."""
_CHAINED = 8
"""How often it is looked behind a first key that all the others begin with."""
_NOT_IN_KEYS = "\0\n\r"
_SURROGATES = range(0xD800, 0xE000)
_LAST_CHARACTER = 0x10FFFF


class KeyRange(NamedTuple):
    """The keys that begin with `prefix` and come after `after`, up to `up_to` itself.

    In the order of their UTF-8 bytes; "" for no such bound.
    """

    prefix: str
    after: str = ""
    up_to: str = ""

    def holds(self, key: str) -> bool:
        """Whether a key that `prefix` begins, and that comes after `after`, is in it."""
        return not self.up_to or key <= self.up_to

    def cut(self, bounds: list[str]) -> list[KeyRange]:
        """Its parts, the bounds in their order: each is the last key of a part."""
        begins, ends = [self.after, *bounds], [*bounds, self.up_to]
        return [KeyRange(self.prefix, begin, end) for begin, end in zip(begins, ends, strict=True)]


class _Part(NamedTuple):
    """A range, and the first key in it."""

    keys: KeyRange
    first: str


class _Gap(NamedTuple):
    """Where a range can be split: the keys up to `bound` go before, `first` comes next."""

    bound: str
    first: str


class Splitter:
    """Splits ranges of the keys of one store; `operation` is what errors name."""

    def __init__(self, operations: Operations, operation: str) -> None:
        self._operations = operations
        self._operation = operation

    async def split(self, ctx: Context, whole: KeyRange, pieces: int) -> list[KeyRange]:
        """Parts of a range, in order: about as many as `pieces`, or [] where it has no key.

        One to three requests a part. For one piece, nothing is asked.
        """
        if pieces <= 1:
            return [whole]
        keys, more = await self._list(ctx, whole, whole.after, PAGE_SIZE)
        if not keys:
            return []
        if not more:
            each = max(_LEAST_KEYS, -(-len(keys) // pieces))
            return whole.cut(keys[each - 1 : -1 : each])
        divisible, done = deque([_Part(whole, keys[0])]), list[_Part]()
        while divisible and (missing := pieces - len(divisible) - len(done)) > 0:
            parts = await self._parts(ctx, divisible.popleft(), missing + 1)
            (divisible if len(parts) > 1 else done).extend(parts)
        return sorted((part.keys for part in (*divisible, *done)), key=_begin)

    async def _parts(self, ctx: Context, part: _Part, most: int) -> list[_Part]:
        """Split a range behind what all of its keys begin with, by the next character."""
        keys, parts = part.keys, [part]
        gap = await self._first_gap(ctx, part)
        depth = len(gap.bound) if gap else 0
        while gap is not None and len(parts) < most:
            begun = parts.pop()
            parts += [
                _Part(begun.keys._replace(up_to=gap.bound), begun.first),
                _Part(keys._replace(after=gap.bound), gap.first),
            ]
            gap = await self._gap(ctx, keys, gap.first[:depth])
        return parts

    async def _first_gap(self, ctx: Context, part: _Part) -> _Gap | None:
        """The one with the shortest bound, if any is found."""
        keys, first, least = part.keys, part.first, len(part.keys.prefix)
        for _ in range(_CHAINED):
            gap = await self._gap(ctx, keys, first)
            if gap is not None:
                break
            following, _ = await self._list(ctx, keys, first, 1)
            if not following or not following[0].startswith(first):
                return None
            least, first = len(first), following[0]
        else:
            return None
        low, high = least + 1, len(first)
        while low < high:
            middle = (low + high) // 2
            nearer = await self._gap(ctx, keys, first[:middle])
            low, high = (middle + 1, high) if nearer is None else (low, middle)
            gap = nearer or gap
        return gap

    async def _gap(self, ctx: Context, keys: KeyRange, beginning: str) -> _Gap | None:
        """The end of those keys of a range that so begin, unless there are no others behind."""
        bound = _past(beginning)
        if bound is None:
            return None
        found, _ = await self._list(ctx, keys, bound, 1)
        return _Gap(bound, found[0]) if found else None

    async def _list(
        self, ctx: Context, keys: KeyRange, after: str, most: int
    ) -> tuple[list[str], bool]:
        """The first keys of a range after one, and whether there are more of them."""
        token = None
        while True:
            self._operations.check_open(self._operation, ctx)
            request = ListRequest(
                keys.prefix, token, most, start_after=after, operation=self._operation
            )
            found, token = await self._operations.store.list_keys(ctx, request)
            within = [key for key in found if keys.holds(key)]
            if found or token is None:
                return within, token is not None and len(within) == len(found)


def _past(beginning: str) -> str | None:
    """The least text that no text with this beginning comes after, of what a key may hold."""
    while beginning:
        code = ord(beginning[-1]) + 1
        while code in _SURROGATES or (code <= _LAST_CHARACTER and chr(code) in _NOT_IN_KEYS):
            code += 1
        beginning = beginning[:-1]
        if code <= _LAST_CHARACTER:
            return beginning + chr(code)
    return None


def _begin(keys: KeyRange) -> str:
    return keys.after
