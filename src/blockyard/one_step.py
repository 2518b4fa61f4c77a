"""Steps on a dictionary that threads can't divide: put or pop a value, replace or remove one.

With the global interpreter lock one call that stays in C is such a step: no thread, signal handler
or finalizer gets in between. Free-threaded Python has no such calls (its dictionaries lock
themselves for one access at a time), so there the same calls are made under a lock. It can be taken
again by its own thread, since a signal handler or a finalizer may come while it is held.
https://docs.python.org/3/howto/free-threading-python.html
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import compress, repeat
from operator import is_, setitem
from typing import TypeVar

from blockyard.process import PerProcess

Value = TypeVar("Value")

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
_lock = PerProcess(threading.RLock)
_NOTHING = nullcontext()


def put(values: dict[str, Value], key: str, value: Value) -> None:
    """Put a value in place of whatever is there."""
    with _undivided():
        values[key] = value


def pop(values: dict[str, Value], key: str) -> None:
    """Remove whatever is there."""
    with _undivided():
        _ = values.pop(key, None)


def replace(values: dict[str, Value], key: str, old: Value, new: Value) -> bool:
    """Put `new` in place of `old` if that is there: whether it was."""
    with _undivided():
        return bool(list(map(setitem, repeat(values), _still(values, key, old), (new,))))


def remove(values: dict[str, Value], key: str, old: Value) -> bool:
    """Remove `old` if it is there: whether it was."""
    with _undivided():
        return bool(list(map(values.pop, _still(values, key, old))))


def _undivided() -> AbstractContextManager[object]:
    """What a call that stays in C needs around it to be one step."""
    return _lock.here() if FREE_THREADED else _NOTHING


def _still(values: dict[str, Value], key: str, old: Value) -> Iterator[str]:
    """The key, if `old` is under it when this is drawn."""
    return compress((key,), map(is_, map(values.get, (key,)), (old,)))
