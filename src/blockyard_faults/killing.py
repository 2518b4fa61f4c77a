"""Processes that are killed at any moment, and the log in which they tell what they saw."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Result(Protocol):
    """The sums of what all told, field by field; `broken` says what should not have been."""

    broken: list[str]


class Log:
    """A file to which processes append: what one has written survives it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(self, **what: Any) -> None:
        """Add to fields of the result: numbers, or as `broken` a text."""
        _ = os.write(self._file, json.dumps(what).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def add_log(path: Path, result: Result) -> None:
    """Add all that is in a log to the result."""
    for line in path.read_text().splitlines():
        for name, value in json.loads(line).items():
            if name == "broken":
                result.broken.append(value)
            else:
                setattr(result, name, getattr(result, name) + value)


def started(work: Callable[..., object], *given: Any) -> int:
    """The id of a forked process that does `work`."""
    child = os.fork()
    if child:
        return child
    try:
        _ = work(*given)
    finally:
        os._exit(1)


def kill(child: int) -> None:
    """Kill a process that `started` gave."""
    os.kill(child, signal.SIGKILL)
    _ = os.waitpid(child, 0)
