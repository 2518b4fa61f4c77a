"""One writer with keys of its own: performs operations and holds each answer to what may be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    InvalidRangeError,
    TransportTimeoutError,
)
from blockyard.model import DeleteResult
from campaign.blocks import Content
from campaign.expected import (
    WRONG,
    BrokenPromiseError,
    Expected,
    Value,
    is_absent,
    is_present,
)
from campaign.faces import Face
from campaign.tally import OVERRUN, UNTYPED, Tally

DEADLINE = 120.0
"""Seconds that a call has, unless it is hurried."""
MARGIN = 3.0
"""Seconds past its deadline in which a call must have ended, on a machine that is busy."""

Range = tuple[str, int, int | None]


class Actor:
    """Operations on the keys below `namespace`, which nobody else writes.

    A call that took `patience` seconds or more, the store's no-progress timeout, may have given
    up a request that was under way. Broken promises go into `tally`.
    """

    def __init__(self, face: Face, namespace: str, tally: Tally, patience: float) -> None:
        self.namespace = namespace
        self.expected = Expected()
        self.settled: set[str] = set()
        self.deadline = DEADLINE
        self._face = face
        self.tally = tally
        self._patience = patience
        self._uncertain = False

    async def write(self, key: str, content: Content, *, if_absent: bool = False) -> None:
        info, error = await self._ask("write_block", key, content.data, if_absent=if_absent)
        if error is None:
            if if_absent:
                self._answered(key, is_absent, "written although a block was there")
            self.expected.became(key, [content])
            self._answered(key, lambda _: info.size == content.size, f"written: {info}")
        elif isinstance(error, BlockExistsError):
            self._answered(key, is_present, "a block is there")
        else:
            self.expected.may_have_become(key, [content])
        self._settle_if_uncertain([key])

    async def write_many(self, blocks: Sequence[tuple[str, Content]]) -> None:
        asked = [(key, content.data) for key, content in blocks]
        _, error = await self._ask("write_blocks", asked)
        for key, content in blocks:
            if error is None:
                self.expected.became(key, [content])
            else:
                self.expected.may_have_become(key, [content])
        # the first error cancels the other writes, and those may be under way
        self._uncertain |= error is not None
        self._settle_if_uncertain([key for key, _ in blocks])

    async def read(self, key: str) -> None:
        data, error = await self._ask("read_block", key)
        self._check_read(key, 0, None, data, error)

    async def read_into(self, key: str) -> None:
        sizes = [content.size for content in self.expected.contents(key)]
        buffer = bytearray(max(sizes, default=0) + 7)
        size, error = await self._ask("read_block_into", key, buffer)
        data = None if size is None else bytes(memoryview(buffer)[:size])
        self._check_read(key, 0, None, data, error)

    async def read_range(self, key: str, offset: int, length: int | None) -> None:
        data, error = await self._ask("read_block_range", key, offset, length)
        self._check_read(key, offset, length, data, error)

    async def read_ranges(self, ranges: Sequence[Range]) -> None:
        """Only for keys that have a block which all the ranges begin in, so that none fails."""
        parts, error = await self._ask("read_block_ranges", ranges)
        for (key, offset, length), data in zip(ranges, parts or (), strict=error is None):
            self._check_read(key, offset, length, data, None)

    async def read_many(self, keys: Sequence[str]) -> None:
        """Only for keys that have a block."""
        blocks, error = await self._ask("read_blocks", keys)
        for key, data in zip(keys, blocks or (), strict=error is None):
            self._check_read(key, 0, None, data, None)

    async def stat(self, key: str) -> None:
        info, error = await self._ask("stat_block", key)
        if error is None:
            self._answered(key, lambda value: _size(value) == info.size, f"stat: {info}")
        elif isinstance(error, BlockNotFoundError):
            self._answered(key, is_absent, "stat found no block")

    async def exists(self, key: str) -> None:
        found, error = await self._ask("block_exists", key)
        if error is None:
            self._answered(key, is_present if found else is_absent, f"block_exists: {found}")

    async def copy(self, source: str, target: str) -> None:
        copied = self.expected.contents(source)
        _, error = await self._ask("copy_block", source, target)
        if error is None:
            self._answered(source, is_present, "it was copied")
            self.expected.became(target, copied)
        elif isinstance(error, BlockNotFoundError):
            self._answered(source, is_absent, "copy found no block")
        else:
            self.expected.may_have_become(target, copied)
        self._settle_if_uncertain([source, target])

    async def delete(self, key: str) -> None:
        _, error = await self._ask("delete_block", key)
        self._deleted([key], error)

    async def delete_many(self, keys: Sequence[str]) -> None:
        result, error = await self._ask("delete_blocks", keys)
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
        result, error = await self._ask("delete_by_prefix", prefix)
        if result is None:
            self._deleted(below, error)
            return
        self._check_listed(below, [*result.deleted, *result.failed], "delete_by_prefix")
        self._deleted_by(result)
        self._settle_if_uncertain(below)

    async def list(self, prefix: str) -> None:
        listed, error = await self._ask("list_by_prefix", prefix)
        if error is None:
            if listed != sorted(set(listed), key=str.encode):
                self.tally.breaks(WRONG, f"list_by_prefix {prefix!r}: out of order")
            below = [key for key in self.expected.known if key.startswith(prefix)]
            self._check_listed(below, listed, "list_by_prefix")

    async def _ask(
        self, method: str, *args: Any, **options: Any
    ) -> tuple[Any, BlockStoreError | None]:
        """What the method returned, or its error; None for both when that was no typed one."""
        result, failure = None, None
        begun = time.monotonic()
        try:
            result = await self._face.call(self.deadline, method, *args, **options)
        except BlockStoreError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - finding these is what this is for
            self.tally.breaks(UNTYPED, f"{method} {args[0]!r}: {error!r}")
            failure = BlockStoreError("untyped")
        took = time.monotonic() - begun
        self.tally.operations[method] += 1
        if failure is not None:
            self._count(failure)
        self.tally.overrun = max(self.tally.overrun, took - self.deadline)
        if took > self.deadline + MARGIN:
            self.tally.breaks(OVERRUN, f"{method}: {took:.1f} s of {self.deadline:.1f} s")
        self._uncertain = took >= self._patience or isinstance(failure, TransportTimeoutError)
        return result, failure

    def _count(self, error: BlockStoreError) -> None:
        kind = type(error).__name__
        if self.deadline < DEADLINE:
            self.tally.hurried[kind] += 1
            return
        self.tally.errors[kind] += 1
        notes: list[str] = getattr(error, "__notes__", [])
        _ = self.tally.examples.setdefault(kind, "; ".join([str(error), *notes]))

    def _check_read(
        self,
        key: str,
        offset: int,
        length: int | None,
        data: bytes | None,
        error: BlockStoreError | None,
    ) -> None:
        if isinstance(error, BlockNotFoundError):
            self._answered(key, is_absent, "read found no block")
        elif isinstance(error, InvalidRangeError):
            fits = _ends_before(offset)
            self._answered(key, fits, f"no bytes from {offset}")
        elif data is not None:
            wrong = f"read {len(data)} bytes from {offset}, {data[:8].hex()}..."
            self._answered(key, lambda value: _reads_as(value, offset, length, data), wrong)

    def _check_named(self, asked: Sequence[str], named: Sequence[str], method: str) -> None:
        if sorted(set(asked)) != sorted(named):
            self.tally.breaks(WRONG, f"{method}: asked for {asked}, answered for {named}")

    def _check_listed(self, known: Sequence[str], listed: Sequence[str], method: str) -> None:
        """Hold a listing to what may be there: all of `known`, and nothing else."""
        for key in set(listed).union(known):
            found = key in listed
            self._answered(key, is_present if found else is_absent, f"{method}: {found}")

    def _deleted_by(self, result: DeleteResult) -> None:
        for key in result.deleted:
            self.expected.became(key, [None])
        for key, error in result.failed.items():
            self._count(error)
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
        if not self._uncertain:
            return
        for key in keys:
            self.expected.settle(key)
            self.settled.add(key)

    def _answered(self, key: str, fits: Callable[[Value], bool], what: str) -> None:
        try:
            self.expected.answered(key, fits, what)
        except BrokenPromiseError as broken:
            self.tally.breaks(broken.promise, f"{self.namespace}: {broken}")


def _size(value: Value) -> int | None:
    return None if value is None else value.size


def _ends_before(offset: int) -> Callable[[Value], bool]:
    return lambda value: value is not None and value.size <= offset


def _reads_as(value: Value, offset: int, length: int | None, data: bytes) -> bool:
    if value is None or 0 < value.size <= offset:
        return False
    return value.part(offset, length) == data
