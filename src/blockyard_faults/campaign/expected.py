"""What is stored, what may be found, and the promises that were broken, counted.

The bytes of a `Content` are made again from its number whenever they are needed. `Expected` is the
model of one writer, `Tally` the counts of one worker; those of many add up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from blockyard.model import MIB

_POOL_SIZE = 8 * MIB
_POOL = random.Random(0).randbytes(_POOL_SIZE)  # noqa: S311 - to be repeatable, not secret
_STRIDE = 4099  # prime, so that no two numbers near each other share their bytes


@dataclass(frozen=True, slots=True)
class Content:
    """`size` bytes, up to 4 MiB, that differ from those of another `number` (below 2**64)."""

    number: int
    size: int

    @property
    def data(self) -> bytes:
        """The bytes."""
        begin = self.number * _STRIDE % (_POOL_SIZE // 2)
        return (self.number.to_bytes(8, "big") + _POOL[begin : begin + self.size])[: self.size]

    def part(self, offset: int, length: int | None) -> bytes:
        """`length` bytes from `offset`, clamped at the end."""
        return self.data[offset : None if length is None else offset + length]


Value = Content | None
"""What a key may have; None: no block, or no content."""


class BrokenPromiseError(Exception):
    """An answer that nothing done before allows; `promise` is the kind that is broken."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


WRONG = "wrong reads"
LOST = "acknowledged blocks lost"


@dataclass(slots=True)
class _Entry:
    values: frozenset[Value]
    settled: bool = False


class Expected:
    """The values that each key of one writer may have."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def values(self, key: str) -> frozenset[Value]:
        """All that may be found under `key`."""
        entry = self._entries.get(key)
        return frozenset([None]) if entry is None else entry.values

    def contents(self, key: str) -> list[Content]:
        """The blocks, or whole contents, that may be found under `key`."""
        return [value for value in self.values(key) if isinstance(value, Content)]

    @property
    def known(self) -> list[str]:
        """Every key that was ever written to or looked at."""
        return list(self._entries)

    def became(self, key: str, values: Iterable[Value]) -> None:
        """An acknowledged write or delete: from now on the key has one of `values`."""
        entry = self._entry(key)
        entry.values = entry.values.union(values) if entry.settled else frozenset(values)

    def may_have_become(self, key: str, values: Iterable[Value]) -> None:
        """A write or delete that ended in an error: it may have taken effect."""
        entry = self._entry(key)
        entry.values = entry.values.union(values)

    def settle(self, key: str) -> None:
        """Some request that would change the key may still be under way."""
        self._entry(key).settled = True

    def answered(self, key: str, fits: Callable[[Value], bool], what: str) -> None:
        """Hold an answer about `key` to what may be there; `what` says the answer.

        Raises `BrokenPromiseError`.
        """
        entry = self._entry(key)
        left = frozenset(filter(fits, entry.values))
        if not left:
            lost = fits(None)  # "there is no block", and there must be one
            allowed = ", ".join(str(value) for value in entry.values)
            raise BrokenPromiseError(LOST if lost else WRONG, f"{key!r}: {what}, not {allowed}")
        if not entry.settled:
            entry.values = left

    def _entry(self, key: str) -> _Entry:
        return self._entries.setdefault(key, _Entry(frozenset([None])))


def is_absent(value: Value) -> bool:
    """Fits the answer that there is no block."""
    return value is None


def is_present(value: Value) -> bool:
    """Fits the answer that there is a block."""
    return isinstance(value, Content)


def reads_as(value: Value, offset: int, length: int | None, data: bytes) -> bool:
    """Whether `data` is that range of a block."""
    if not isinstance(value, Content) or 0 < value.size <= offset:
        return False
    return value.part(offset, length) == data


def size_of(value: Value) -> int | None:
    """The size in bytes of what is there."""
    return value.size if isinstance(value, Content) else None


def ends_before(offset: int) -> Callable[[Value], bool]:
    """Whether what is there has no byte at `offset`."""
    return lambda value: isinstance(value, Content) and value.size <= offset


UNTYPED = "untyped errors"
SWALLOWED = "exceptions of the caller's own code swallowed"
HUNG = "calls hung"
LEAKED = "connections, descriptors, threads and pool permits leaked"
OVERRUN = "deadlines overrun"
PROMISES = (WRONG, LOST, UNTYPED, SWALLOWED, HUNG, LEAKED, OVERRUN)
_ANSWERS = {"BlockExistsError", "BlockNotFoundError", "InvalidRangeError"}
_KEPT = 20  # of each promise


def _counter() -> Counter[str]:
    return Counter()


@dataclass
class Tally:
    """Counts of one worker, or of all.

    `errors` counts the operations that ended in each error, and `hurried` does so for those that
    had been given hardly any time; `examples` has a message for each kind among the former.
    `broken` counts broken promises, of which `details` tells the first ones. `read_back` counts
    the blocks that had to be there at the end, `settled` the keys that were not written again
    (see `Expected`), `own` the exceptions that the caller's own code raised. `overrun` is the most
    seconds by which a call outlived its deadline, `net_overrun` without the time in which the
    machine ran nobody in the process (see `watch`).
    """

    operations: Counter[str] = field(default_factory=_counter)
    errors: Counter[str] = field(default_factory=_counter)
    hurried: Counter[str] = field(default_factory=_counter)
    broken: Counter[str] = field(default_factory=_counter)
    details: list[str] = field(default_factory=list[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    read_back: int = 0
    settled: int = 0
    own: int = 0
    overrun: float = 0.0
    net_overrun: float = 0.0

    @property
    def failures(self) -> Counter[str]:
        """The errors that were no answer to what was asked, of operations that had time."""
        named = {name: count for name, count in self.errors.items() if name not in _ANSWERS}
        return Counter(named)

    def breaks(self, promise: str, what: str) -> None:
        """Count a broken promise."""
        self.broken[promise] += 1
        if self.broken[promise] <= _KEPT:
            self.details.append(f"{promise}: {what}")

    def add(self, other: Tally) -> None:
        """Add another worker's counts to these."""
        self.operations += other.operations
        self.errors += other.errors
        self.hurried += other.hurried
        self.broken += other.broken
        self.details += other.details
        self.examples = other.examples | self.examples
        self.read_back += other.read_back
        self.settled += other.settled
        self.own += other.own
        self.overrun = max(self.overrun, other.overrun)
        self.net_overrun = max(self.net_overrun, other.net_overrun)


_kept: list[Tally] = []


def new_tally() -> Tally:
    """A tally that `so_far` counts in: what a process does is not lost when a call hangs."""
    _kept.append(Tally())
    return _kept[-1]


def so_far() -> Tally:
    """The sum of the tallies of this process."""
    total = Tally()
    for tally in _kept:
        total.add(tally)
    return total


def forget() -> None:
    """In a forked child: what the parent counted is not this process's."""
    _kept.clear()
