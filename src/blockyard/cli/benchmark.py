"""What `blockyard bench` does to a store: a small, bounded, self-cleaning benchmark.

Blocks are written under a prefix of the run's own, read back whole and in ranges, one at a time
and in bulk, and deleted, however the run ends. The length of every read is checked.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from blockyard.errors import BlockStoreError
from blockyard.managing import contextmanager
from blockyard.model import BLOCK_SIZE, KIB, MIB

if TYPE_CHECKING:
    from blockyard.sync import BlockStore

Work = Literal["write", "read", "range", "parallel write", "parallel read"]

WORKS: tuple[Work, ...] = ("write", "read", "range", "parallel write", "parallel read")
SIZES = (KIB, 64 * KIB, MIB, BLOCK_SIZE)
_KEYS = 32
"""Blocks kept of each size; further writes replace them, so what is stored stays small."""
_AT_ONCE = 32
"""The most blocks of one call that reads many."""
_SWEEPS = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the table: `size` bytes an operation."""

    work: Work
    size: int


CELLS = tuple(
    Cell(work, size) for work in WORKS for size in SIZES if work != "range" or size < BLOCK_SIZE
)
"""In the order they are measured: what is read was written before. Ranges are of a whole block."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a cell; `latency` is the median of one operation, None where many overlap."""

    cell: Cell
    operations: int
    seconds: float
    latency: float | None

    @property
    def bytes_per_second(self) -> float:
        return self.operations * self.cell.size / self.seconds


@dataclass(slots=True)
class Budget:
    """What is left: seconds until `ends` (monotonic), and bytes to move."""

    ends: float
    left: int

    def share(self, cells: int) -> Budget:
        """An even part of it for one of `cells` cells that are still to come."""
        now = time.monotonic()
        return Budget(now + max(self.ends - now, 0) / cells, self.left // cells)

    def spend(self, size: int) -> None:
        self.left -= size

    @property
    def spent(self) -> bool:
        return self.left <= 0 or time.monotonic() >= self.ends


@contextmanager
def scratch_prefix(store: BlockStore) -> Generator[str]:
    """A prefix that nobody else has, whose blocks are deleted at the end, even on Ctrl-C."""
    prefix = f"blockyard-bench-{secrets.token_hex(8)}"
    try:
        yield prefix
    finally:
        for _ in range(_SWEEPS):  # a write that was interrupted may land after the first
            if not store.delete_by_prefix(prefix).deleted:
                break


def measure(store: BlockStore, prefix: str, budget: Budget) -> Iterator[Measured]:
    """Measure cell after cell until all are done or the budget is spent.

    The budget is kept to within one operation, or one call of many.
    """
    bench = _Bench(store, prefix)
    for done, cell in enumerate(CELLS):
        if budget.spent:
            return
        share = budget.share(len(CELLS) - done)
        whole = share.left
        yield bench.measure(cell, share)
        budget.spend(whole - share.left)


class _Bench:
    """The blocks of one run, and how each kind of work is done to them."""

    def __init__(self, store: BlockStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._bodies = {size: os.urandom(size) for size in SIZES}
        self._written: dict[int, list[str]] = {size: [] for size in SIZES}
        self._typical_seconds: dict[Cell, float] = {}

    def measure(self, cell: Cell, share: Budget) -> Measured:
        match cell.work:
            case "write":
                return self._one_by_one(cell, share, self._write)
            case "read":
                return self._one_by_one(cell, share, self._read)
            case "range":
                return self._one_by_one(cell, share, self._read_range)
            case "parallel write":
                return self._write_many(cell, share)
            case "parallel read":
                return self._read_many(cell, share)

    def _one_by_one(
        self, cell: Cell, share: Budget, operate: Callable[[int, int], None]
    ) -> Measured:
        times: list[float] = []
        begun = last = time.perf_counter()
        for turn in itertools.count():
            operate(cell.size, turn)
            now = time.perf_counter()
            times.append(now - last)
            last = now
            share.spend(cell.size)
            if share.spent:
                break
        self._typical_seconds[cell] = median(times)
        return Measured(cell, len(times), last - begun, median(times))

    def _write(self, size: int, turn: int) -> None:
        key = self._key(size, turn)
        _ = self._store.write_block(key, self._bodies[size])
        if turn < _KEYS:
            self._written[size].append(key)

    def _read(self, size: int, turn: int) -> None:
        keys = self._written[size]
        _check(self._store.read_block(keys[turn % len(keys)]), size)

    def _read_range(self, size: int, turn: int) -> None:
        keys = self._written[BLOCK_SIZE]
        offset = turn * size % BLOCK_SIZE
        _check(self._store.read_block_range(keys[turn % len(keys)], offset, size), size)

    def _write_many(self, cell: Cell, share: Budget) -> Measured:
        """One call, whose blocks are drawn for as long as the share lasts."""

        def blocks() -> Iterator[tuple[str, bytes]]:
            for turn in itertools.count():
                yield self._key(cell.size, turn), self._bodies[cell.size]
                share.spend(cell.size)
                if share.spent:
                    return

        begun = time.perf_counter()
        written = self._store.write_blocks(blocks())
        return Measured(cell, len(written), time.perf_counter() - begun, None)

    def _read_many(self, cell: Cell, share: Budget) -> Measured:
        """Calls of as many blocks as would, one by one, just fit in the share."""
        keys = self._written[cell.size]
        seconds = self._typical_seconds[Cell("read", cell.size)]
        fitting = min((share.ends - time.monotonic()) / seconds, share.left / cell.size)
        count = max(1, min(_AT_ONCE, int(fitting)))
        operations = 0
        begun = time.perf_counter()
        while True:
            wanted = [keys[(operations + place) % len(keys)] for place in range(count)]
            for block in self._store.read_blocks(wanted):
                _check(block, cell.size)
            operations += count
            share.spend(count * cell.size)
            if share.spent:
                return Measured(cell, operations, time.perf_counter() - begun, None)

    def _key(self, size: int, turn: int) -> str:
        return f"{self._prefix}/{size}/block-{turn % _KEYS}"


def _check(block: bytes, size: int) -> None:
    if len(block) != size:
        raise BlockStoreError(f"bench: a read gave {len(block)} bytes of {size}")
