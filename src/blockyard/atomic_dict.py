"""Atomic operations on a dictionary: put, pop, compare and replace, compare and remove.

With the global interpreter lock a call that stays in C is atomic: no other thread, signal handler
or finalizer runs in the middle of it. Free-threaded Python has no such calls (its dictionaries lock
themselves for one access at a time), so there the same calls are made under a lock. It is
reentrant, since a signal handler or a finalizer may run while it is held.
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
    """Set the value, whatever it is now."""
    with _atomically():
        values[key] = value


def pop(values: dict[str, Value], key: str) -> None:
    """Remove the value, if there is any."""
    with _atomically():
        _ = values.pop(key, None)


def replace(values: dict[str, Value], key: str, old: Value, new: Value) -> bool:
    """Replace the value by `new` if it is `old`; return whether it was."""
    with _atomically():
        return bool(list(map(setitem, repeat(values), _key_if(values, key, old), (new,))))


def remove(values: dict[str, Value], key: str, old: Value) -> bool:
    """Remove the value if it is `old`; return whether it was."""
    with _atomically():
        return bool(list(map(values.pop, _key_if(values, key, old))))


def _atomically() -> AbstractContextManager[object]:
    """The context that makes a call which stays in C atomic."""
    return _lock.here() if FREE_THREADED else _NOTHING


def _key_if(values: dict[str, Value], key: str, old: Value) -> Iterator[str]:
    """Yield the key if its value is `old`, compared when this is drawn."""
    return compress((key,), map(is_, map(values.get, (key,)), (old,)))
