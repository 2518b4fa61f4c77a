"""A process whose signal handler, or finalizers, use the store that the same thread is in.

`python -m tests.clients.nested_calls URL HOW`. A test runner and a coverage tracer take locks in
Python code of their own, which such a call could meet, so the tests run this as a child.
"""

from __future__ import annotations

import gc
import signal
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress

import blockyard

ENOUGH = 150
"""Nested calls of each kind."""


class _Nested:
    """Makes the calls one after the other, each time that it is asked to."""

    def __init__(self, store: blockyard.BlockStore) -> None:
        self._calls: list[Callable[[], object]] = [
            lambda: store.write_block("nested", b"nested"),
            lambda: store.read_block("outer"),
            store.list_by_prefix,
            lambda: store.delete_block("nested"),
            lambda: store.write_blocks([("a", b"1"), ("b", b"2")]),
            lambda: store.read_blocks(["outer", "outer"]),
            lambda: store.delete_blocks(["a", "b"]),
        ]
        self._busy = False
        self.failures: list[BaseException] = []
        self.made = 0

    def call(self, *_: object) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            _ = self._calls[self.made % len(self._calls)]()
        except BaseException as error:  # noqa: BLE001 - told at the end
            self.failures.append(error)
        self.made += 1
        self._busy = False


class _Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


class _Finalized(_Cycle):
    def __init__(self, nested: _Nested) -> None:
        super().__init__()
        self._nested = nested

    def __del__(self) -> None:
        self._nested.call()


def main(url: str, how: str) -> None:
    """Use the store until enough calls were made in the middle of others."""
    with blockyard.open_store(url) as store:
        outer = [("outer", b"data"), *((f"many/{number}", b"data") for number in range(20))]
        _ = store.write_blocks(outer)
        nested = _Nested(store)
        references: set[weakref.ref[_Cycle]] = set()

        def garbage() -> None:
            if how == "__del__":
                _ = _Finalized(nested)
            elif how == "weakref":
                references.add(weakref.ref(_Cycle(), nested.call))

        if how == "signal":
            _ = signal.signal(signal.SIGALRM, nested.call)
            _ = signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        else:
            gc.set_threshold(7, 1, 1)
        while nested.made < ENOUGH:
            garbage()
            assert store.read_block("outer") == b"data"
            _ = store.write_block("other", b"data")
            garbage()
            assert "outer" in store.list_by_prefix()
            garbage()
            assert store.read_blocks(["outer"] * 3) == [b"data"] * 3
            _ = store.delete_block("other")
        _ = signal.setitimer(signal.ITIMER_REAL, 0)
        gc.set_threshold(0)
        with suppress(IndexError):
            raise nested.failures[0]
        assert store.read_block("outer") == b"data"


if __name__ == "__main__":
    main(*sys.argv[1:])
