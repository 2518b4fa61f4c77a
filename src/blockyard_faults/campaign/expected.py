"""What a bucket may hold, as far as its one writer can know.

An operation that ended in an error may have taken effect or not: each key therefore has a set
of values it may have. An answer that fits some of them leaves those; one that fits none breaks a
promise. A request that was given up while under way may even take effect later: the key is then
*settled*, which is to say that it is not written again and that no answer narrows what it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blockyard_faults.campaign.blocks import Content


class Unfinished:
    """A content that can't be read: a write, copy or delete of it did not get to its end."""

    def __repr__(self) -> str:
        return "unfinished"

    def __reduce__(self) -> str:
        return "UNFINISHED"


UNFINISHED = Unfinished()
"""There is one of it, also in what comes from another process."""

Value = Content | Unfinished | None
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
            # "there is no block", or none that can be read, and there must be one
            lost = fits(None) or (fits(UNFINISHED) and None not in entry.values)
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


def is_unfinished(value: Value) -> bool:
    """Fits the answer that a content is unfinished."""
    return value is UNFINISHED


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
