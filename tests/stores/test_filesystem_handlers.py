"""What a signal handler raises in the middle of a call of `file://` comes out of that call.

A handler that bounds the time of a call raises a `TimeoutError`, which is an `OSError` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import blockyard
from blockyard import BlockStore, stores, syscalls, times
from tests.interrupting import at_line

FILES = {str(path) for path in Path(stores.__file__).parent.glob("*.py")}
CALLS: dict[str, Callable[[BlockStore], object]] = {
    "write": lambda store: store.write_block("a/new", b"data"),
    "write if absent": lambda store: store.write_block("a/new", b"data", if_absent=True),
    "read": lambda store: store.read_block("a/old"),
    "stat": lambda store: store.stat_block("a/old"),
    "copy": lambda store: store.copy_block("a/old", "a/new"),
    "list": lambda store: store.list_by_prefix("a"),
    "delete": lambda store: store.delete_block("a/new"),
}


class LateError(TimeoutError):
    pass


# a file that was opened just then is left to be closed by its finalizer, which warns
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_it_is_raised_at_whichever_line(
    call: Callable[[BlockStore], object], tmp_path: Path
) -> None:
    def ring() -> None:
        raise LateError

    with blockyard.open_store(f"file://{tmp_path}") as store:
        _ = store.write_block("a/old", b"data")
        number = 0
        while True:
            number += 1
            store.delete_block("a/new")
            try:
                with at_line(number, {*FILES, syscalls.__file__, times.__file__}, ring) as lines:
                    _ = call(store)
            except LateError:
                continue
            assert lines[0] < number
            break
        assert number > 20
