"""One writer of blocks, with keys of its own: it holds each answer to what may be."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    InvalidRangeError,
)
from blockyard.model import DeleteResult
from blockyard_faults.campaign.calls import Calls, Client, Hurry, Own
from blockyard_faults.campaign.expected import (
    WRONG,
    BrokenPromiseError,
    Content,
    Expected,
    Tally,
    Value,
    ends_before,
    is_absent,
    is_present,
    reads_as,
    size_of,
)
from blockyard_faults.campaign.user_code import Mischief


class Writer:
    """One writer of the keys below `namespace`, which nobody else writes.

    Broken promises go into `tally`; `patience` is the store's no-progress timeout (see `Calls`).
    """

    def __init__(self, client: Client, namespace: str, tally: Tally, patience: float) -> None:
        self.namespace = namespace
        self.expected = Expected()
        self.settled: set[str] = set()
        self.tally = tally
        self.calls = Calls(client, tally, patience)

    def answered(self, key: str, fits: Callable[[Value], bool], what: str) -> None:
        """Hold an answer of the store to what may be there; what breaks a promise is counted."""
        try:
            self.expected.answered(key, fits, what)
        except BrokenPromiseError as broken:
            self.tally.breaks(broken.promise, f"{self.namespace}: {broken}")


class Draws:
    """Draws operations of a writer; the same `random` draws the same from the same answers."""

    def __init__(
        self, writer: Writer, names: Iterable[str], random: random.Random, hurry: Hurry
    ) -> None:
        self._writer = writer
        self._random = random
        self._hurry = hurry
        self._generation = 0
        self._names = {name: f"{writer.namespace}/{name}" for name in names}
        self._operations: dict[Callable[[], Awaitable[None]], int] = {}
        """Each operation, and how often it is drawn beside the others."""

    @property
    def keys(self) -> Sequence[str]:
        """The keys that may be written."""
        return list(self._names.values())

    async def step(self) -> None:
        """One operation, with hardly any time now and then."""
        self._writer.calls.deadline = self._hurry.deadline(self._random)
        (operation,) = self._random.choices(
            list(self._operations), weights=list(self._operations.values())
        )
        await operation()
        for name, key in self._names.items():
            if key in self._writer.settled:  # it must not be written again
                self._generation += 1
                self._names[name] = f"{self._writer.namespace}/{name}~{self._generation}"


Range = tuple[str, int, int | None]


class Actor(Writer):
    """Operations on the keys below `namespace`, which nobody else writes.

    Broken promises go into `tally`; `patience` is the store's no-progress timeout (see `Calls`).
    With `trusted_listings` a listing is compared with what must be there; without, as it may come
    from another time, to what was ever written.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        tally: Tally,
        patience: float,
        *,
        trusted_listings: bool = True,
    ) -> None:
        self._trusted_listings = trusted_listings
        super().__init__(client, namespace, tally, patience)

    async def write(self, key: str, content: Content, *, if_absent: bool = False) -> None:
        info, error = await self.calls.ask("write_block", key, content.data, if_absent=if_absent)
        if error is None:
            if if_absent:
                self.answered(key, is_absent, "written although a block was there")
            self.expected.became(key, [content])
            self.answered(key, lambda _: info.size == content.size, f"written: {info}")
        elif isinstance(error, BlockExistsError):
            self.answered(key, is_present, "a block is there")
            if self.calls.uncertain:  # an earlier try of it may come late, when the block is gone
                self.expected.may_have_become(key, [content])
        else:
            self.expected.may_have_become(key, [content])
        self._settle_if_uncertain([key])

    async def write_many(
        self,
        blocks: Sequence[tuple[str, Content]],
        own: Own | None = None,
        mischief: Mischief | None = None,
    ) -> None:
        """With a `mischief` the blocks come from a generator, which does that besides."""
        asked = [(key, content.data) for key, content in blocks]
        given = asked if mischief is None else mischief.while_giving(asked)
        _, error = await self.calls.ask("write_blocks", given, own=own)
        for key, content in blocks:
            if error is None:
                self.expected.became(key, [content])
            else:
                self.expected.may_have_become(key, [content])
        # the first error cancels the other writes, and those may be under way
        self.calls.uncertain |= error is not None
        self._settle_if_uncertain([key for key, _ in blocks])

    async def read(self, key: str) -> None:
        data, error = await self.calls.ask("read_block", key)
        self._check_read(key, 0, None, data, error)

    async def read_into(self, key: str) -> None:
        sizes = [content.size for content in self.expected.contents(key)]
        buffer = bytearray(max(sizes, default=0) + 7)
        size, error = await self.calls.ask("read_block_into", key, buffer)
        data = None if size is None else bytes(memoryview(buffer)[:size])
        self._check_read(key, 0, None, data, error)

    async def read_range(self, key: str, offset: int, length: int | None) -> None:
        data, error = await self.calls.ask("read_block_range", key, offset, length)
        self._check_read(key, offset, length, data, error)

    async def read_ranges(self, ranges: Sequence[Range]) -> None:
        """Only for keys that have a block which all the ranges begin in, so that none fails."""
        parts, error = await self.calls.ask("read_block_ranges", ranges)
        for (key, offset, length), data in zip(ranges, parts or (), strict=error is None):
            self._check_read(key, offset, length, data, None)

    async def read_many(self, keys: Sequence[str]) -> None:
        """Only for keys that have a block."""
        blocks, error = await self.calls.ask("read_blocks", keys)
        for key, data in zip(keys, blocks or (), strict=error is None):
            self._check_read(key, 0, None, data, None)

    async def stat(self, key: str) -> None:
        info, error = await self.calls.ask("stat_block", key)
        if error is None:
            self.answered(key, lambda value: size_of(value) == info.size, f"stat: {info}")
        elif isinstance(error, BlockNotFoundError):
            self.answered(key, is_absent, "stat found no block")

    async def exists(self, key: str) -> None:
        found, error = await self.calls.ask("block_exists", key)
        if error is None:
            self.answered(key, is_present if found else is_absent, f"block_exists: {found}")

    async def copy(self, source: str, target: str) -> None:
        copied = self.expected.contents(source)
        _, error = await self.calls.ask("copy_block", source, target)
        if error is None:
            self.answered(source, is_present, "it was copied")
            self.expected.became(target, copied)
        elif isinstance(error, BlockNotFoundError):
            self.answered(source, is_absent, "copy found no block")
        else:
            self.expected.may_have_become(target, copied)
        self._settle_if_uncertain([source, target])

    async def delete(self, key: str) -> None:
        _, error = await self.calls.ask("delete_block", key)
        self._deleted([key], error)

    async def delete_many(self, keys: Sequence[str]) -> None:
        result, error = await self.calls.ask("delete_blocks", keys, raise_on_failure=False)
        if result is None:
            self._deleted(keys, error)
            return
        self._check_named(keys, [*result.deleted, *result.failed], "delete_blocks")
        self._deleted_by(result)

    async def delete_below(self, prefix: str) -> None:
        below = [
            key
            for key in self.expected.known
            if key == prefix or key.startswith(f"{prefix.removesuffix('/')}/")
        ]
        result, error = await self.calls.ask("delete_by_prefix", prefix, raise_on_failure=False)
        if result is None:
            self._deleted(below, error)
            return
        self._check_listed(below, [*result.deleted, *result.failed], "delete_by_prefix")
        self._deleted_by(result)
        self._settle_if_uncertain(below)

    async def list(self, prefix: str) -> None:
        listed, error = await self.calls.ask("list_by_prefix", prefix)
        if error is None:
            if listed != sorted(set(listed), key=str.encode):
                self.tally.breaks(WRONG, f"list_by_prefix {prefix!r}: out of order")
            below = [key for key in self.expected.known if key.startswith(prefix)]
            self._check_listed(below, listed, "list_by_prefix")

    def _check_read(
        self,
        key: str,
        offset: int,
        length: int | None,
        data: bytes | None,
        error: BlockStoreError | None,
    ) -> None:
        if isinstance(error, BlockNotFoundError):
            self.answered(key, is_absent, "read found no block")
        elif isinstance(error, InvalidRangeError):
            fits = ends_before(offset)
            self.answered(key, fits, f"no bytes from {offset}")
        elif data is not None:
            wrong = f"read {len(data)} bytes from {offset}, {data[:8].hex()}..."
            self.answered(key, lambda value: reads_as(value, offset, length, data), wrong)

    def _check_named(self, asked: Sequence[str], named: Sequence[str], method: str) -> None:
        if sorted(set(asked)) != sorted(named):
            self.tally.breaks(WRONG, f"{method}: asked for {asked}, answered for {named}")

    def _check_listed(self, known: Sequence[str], listed: Sequence[str], method: str) -> None:
        """Hold a listing to what may be there: all of `known`, and nothing else."""
        if not self._trusted_listings:
            foreign = set(listed).difference(known)
            if foreign:
                self.tally.breaks(WRONG, f"{method}: {foreign}, which was not asked for")
            return
        for key in set(listed).union(known):
            found = key in listed
            self.answered(key, is_present if found else is_absent, f"{method}: {found}")

    def _deleted_by(self, result: DeleteResult) -> None:
        for key in result.deleted:
            self.expected.became(key, [None])
        for key, error in result.failed.items():
            self.calls.count(error)
            self.expected.may_have_become(key, [None])
        self._settle_if_uncertain([*result.deleted, *result.failed])

    def _deleted(self, keys: Iterable[str], error: BlockStoreError | None) -> None:
        for key in keys:
            if error is None:
                self.expected.became(key, [None])
            else:
                self.expected.may_have_become(key, [None])
        self._settle_if_uncertain(keys)

    def _settle_if_uncertain(self, keys: Iterable[str]) -> None:
        # what was interrupted may have left a request under way too
        if not (self.calls.uncertain or self.calls.owned):
            return
        for key in keys:
            self.expected.settle(key)
            self.settled.add(key)
