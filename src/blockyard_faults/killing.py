"""Processes that are killed at any moment, the log in which they tell what they saw, and the
command that has them killed over each kind of store.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blockyard import BlockStore, S3Config, StoreConfig, open_store
from blockyard_faults.campaign import bucket

Open = Callable[[], BlockStore]
LONGEST = 60.0
"""Seconds after which processes are killed no longer that have done nothing on a busy machine."""


class Result(Protocol):
    """The sums of what all told, field by field; `broken` says what should not have been."""

    broken: list[str]


AnyResult = TypeVar("AnyResult", bound=Result)


def append(file: int, entry: dict[str, Any]) -> None:
    """Append an entry to a file that is open for it: what a process has written survives it.

    Linux ends a write at the end of a page where the process is killed, and what was written stays.
    So an entry begins on a line of its own, whatever stands before it.
    """
    _ = os.write(file, b"\n" + json.dumps(entry).encode() + b"\n")


def entries_of(path: Path) -> list[dict[str, Any]]:
    """All entries of a file, which need not be there.

    One that was cut is left out: whoever wrote it was killed before it went on to anything else.
    """
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries


class Log:
    """A file to which processes append what they saw."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(self, **what: Any) -> None:
        """Add to fields of the result: numbers, or as `broken` a text."""
        append(self._file, what)

    def close(self) -> None:
        os.close(self._file)


def add_log(path: Path, result: Result) -> None:
    """Add all that is in a log to the result."""
    for entry in entries_of(path):
        for name, value in entry.items():
            if name == "broken":
                result.broken.append(value)
            else:
                setattr(result, name, getattr(result, name) + value)


def tells_of(path: Path, *kinds: str) -> bool:
    """Whether each of these is the first field of something that a log tells."""
    told = {next(iter(entry)) for entry in entries_of(path)}
    return told.issuperset(kinds)


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


@contextmanager
def _on_s3() -> Generator[Open]:
    with bucket.serve() as url:
        s3 = S3Config(
            bucket=bucket.BUCKET,
            endpoint=url,
            access_key="campaign",
            secret_key="campaign",  # noqa: S106 - nobody's
        )
        yield lambda: open_store(StoreConfig(s3=s3))


@contextmanager
def _in_folder() -> Generator[Open]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: open_store(f"file://{folder}")


_PLACES = {"s3": _on_s3, "file": _in_folder}


def main(
    description: str | None,
    run: Callable[[Path, Open, int, int], AnyResult],
    seen: Callable[[AnyResult], str],
) -> int:
    """Have so many processes killed in each kind of store; 0 when nothing was broken.

    `run` gets a folder of its own, how the store is opened, the number of kills and a seed; `seen`
    says what its result counts.
    """
    parser = argparse.ArgumentParser(description=description)
    _ = parser.add_argument("--kills", type=int, default=200)
    _ = parser.add_argument("--seed", type=int, help="repeats the choices, but not the moments")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    broken = 0
    for kind, place in _PLACES.items():
        with place() as opened, tempfile.TemporaryDirectory() as folder:
            result = run(Path(folder), opened, options.kills, seed)
        told = f"{kind}, seed {seed}: {seen(result)}, {len(result.broken)} broken"
        _ = sys.stdout.write("\n".join([*result.broken[:10], told]) + "\n")
        broken += len(result.broken)
    return 1 if broken else 0
