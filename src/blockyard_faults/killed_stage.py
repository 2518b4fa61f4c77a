"""Writers through a cache in write-back mode that are killed at any moment.

Several processes write, copy and delete the same keys through one cache folder, and others read
them, from memory as well or from the folder alone. The last writer is not killed: what it leaves
has to be found in both. What each call did is noted with its times, and a call of a process that
was killed may have come about until shortly after. A read, and what the store holds once
everything was drained, has to be of a change that no acknowledged one came after.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import traceback
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from blockyard import BlockNotFoundError, BlockStore, StoreConfig, open_store
from blockyard.cache import epochs, in_doubt
from blockyard.model import KIB
from blockyard_faults.killing import LONGEST, Log, Open, entries_of, kill, main, started, tells_of

WRITERS = 2
MEMORY = ("1MiB", "0")
"""The memory tier of each reader: all blocks fit, or none is kept there."""
KEYS = [f"k{number}" for number in range(6)]
_LARGEST = 40 * KIB
_LIVES = (0.02, 0.8)
"""Seconds that a writer lives."""
_SETTLE = 0.5
"""On loopback no request takes effect later than that after its client was killed."""
_COPIES_FOLLOWED = 4
_TIERS = ("memory_hits", "disk_hits")
NOTHING = ""
"""What is read of a key without a block."""


def bytes_of(version: str) -> bytes:
    """All bytes of a version: its name, over and over."""
    size = Random(version).randrange(len(version) + 1, _LARGEST)  # noqa: S311 - to be repeated
    unit = version.encode() + b";"
    return (unit * (size // len(unit) + 1))[:size]


def version_of(data: bytes) -> str:
    """The name in the bytes of a version; what is damaged has none of ours."""
    version = data.partition(b";")[0].decode(errors="replace")
    return version if data == bytes_of(version) else f"damaged: {data[:40]!r}, {len(data)} bytes"


@dataclass(slots=True)
class Change:
    """A change of a key, by a call that began and ended then; `done` if it was acknowledged.

    Written is `version`, or what the key `source` held.
    """

    key: str
    began: float
    version: str | None = None
    source: str | None = None
    ended: float = inf
    done: bool = False


@dataclass(slots=True)
class Result:
    """What was seen: `broken` says what should not have been."""

    changes: int = 0
    reads: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    kills: int = 0
    broken: list[str] = field(default_factory=list[str])


class History:
    """All changes that were made, and what a reader may have found."""

    def __init__(self, changes: list[Change]) -> None:
        self._by_end: dict[str, list[Change]] = defaultdict(list)
        self._done: dict[str, list[Change]] = defaultdict(list)
        for key in KEYS:
            self._by_end[key].append(Change(key, 0, NOTHING, ended=0, done=True))
        for each in sorted(changes, key=lambda change: change.ended):
            self._by_end[each.key].append(each)
            if each.done:
                self._done[each.key].append(each)
        self._latest: dict[str, list[float]] = {}
        """Of all that were done by the end of each: when the last of them began."""
        for key, done in self._done.items():
            latest, begins = -inf, list[float]()
            for each in done:
                latest = max(latest, each.began)
                begins.append(latest)
            self._latest[key] = begins

    def allows(self, key: str, version: str, began: float, ended: float, depth: int = 0) -> bool:
        """Whether a read that began and ended then may have found that version."""
        if depth > _COPIES_FOLLOWED:
            return True
        done = self._done[key]
        count = bisect_right(done, began, key=lambda change: change.ended)
        since = self._latest[key][count - 1] if count else -inf
        changes = self._by_end[key]
        for each in changes[bisect_left(changes, since, key=lambda change: change.ended) :]:
            if each.began > ended:
                continue
            if each.source is None:
                if each.version == version:
                    return True
            elif self.allows(each.source, version, each.began, min(each.ended, ended), depth + 1):
                return True
        return False


class Worker:
    """What the processes have in common: the store and the log of what they did."""

    def __init__(self, folder: Path, opened: Open, random: Random) -> None:
        in_doubt.SETTLE_SECONDS = epochs.SETTLE_SECONDS = _SETTLE
        self._random = random
        self._name = secrets.token_hex(4)
        self._count = 0
        self._log = Log(folder / "log")
        self._store = opened()

    def run(self, step: Callable[[], None]) -> None:
        """Do that until killed."""
        while True:
            try:
                step()
            except Exception:  # noqa: BLE001 - none is expected, and each is told
                self._log.tell(broken=traceback.format_exc())

    def write(self) -> None:
        """Change a key, or two."""
        key, other = self._random.sample(KEYS, 2)
        what = self._random.random()
        if what < 0.6:
            self._write(key)
        elif what < 0.75:
            self._change(lambda: self._store.copy_block(other, key), {key: {"source": other}})
        elif what < 0.9:
            self._change(lambda: self._store.delete_block(key), {key: {"version": NOTHING}})
        else:
            both = {each: {"version": NOTHING} for each in (key, other)}
            self._change(lambda: self._store.delete_blocks([key, other]), both)

    def write_all(self) -> None:
        """Write each key, and have that in the store."""
        for key in KEYS:
            self._write(key)
        _ = self._store.drain(LONGEST)

    def _write(self, key: str) -> None:
        self._count += 1
        version = f"{key}:{self._name}:{self._count}"
        data = bytes_of(version)
        self._change(lambda: self._store.write_block(key, data), {key: {"version": version}})

    def _change(self, call: Callable[[], object], changes: dict[str, dict[str, str]]) -> None:
        self._count += 1
        number = f"{self._name}:{self._count}"
        self._log.tell(call=number, by=os.getpid(), at=time.monotonic(), changes=changes)
        try:
            _ = call()
        except BlockNotFoundError:  # a copy of what is not there
            self._log.tell(refused=number)
        else:
            self._log.tell(done=number, at=time.monotonic())

    def read(self) -> None:
        """Read a key."""
        key = self._random.choice(KEYS)
        before = self._hits()
        began = time.monotonic()
        found = found_in(self._store, key)
        self._log.tell(read=key, version=found, began=began, ended=time.monotonic())
        for tier, hits in self._hits().items():
            if hits > before[tier]:
                self._log.tell(hit=tier)

    def _hits(self) -> dict[str, int]:
        counts = self._store.stats().cache
        assert counts is not None
        return {tier: getattr(counts, tier) for tier in _TIERS}


def found_in(store: BlockStore, key: str) -> str:
    """The version that the store gives of a key."""
    try:
        return version_of(store.read_block(key))
    except BlockNotFoundError:
        return NOTHING


def run(folder: Path, below: Open, kills: int, seed: int) -> Result:
    """Kill writers so many times, and say what was seen.

    It goes on until something was changed and read: a busy machine may leave them no time for it.
    `below` opens the store behind the cache.
    """
    random = Random(seed)  # noqa: S311 - to be repeated
    opened = _cached(below, folder / "cache")
    readers = [
        started(_work, folder, _cached(below, folder / "cache", memory), random.random(), "read")
        for memory in MEMORY
    ]
    try:
        killed = _kill_writers(folder, opened, kills, random)
        result = Result(kills=len(killed))
        last = started(_work, folder, opened, random.random(), "write_all")
        _ = os.waitpid(last, 0)
        killed[last] = time.monotonic()
        _wait_for_hits(folder / "log")
    finally:
        for child in readers:
            kill(child)
    check(folder / "log", killed, opened, below, result)
    return result


def _kill_writers(folder: Path, opened: Open, kills: int, random: Random) -> dict[int, float]:
    """Start writers and kill them; when each of them was."""
    ends = time.monotonic() + LONGEST
    writers: dict[int, float] = {}
    killed: dict[int, float] = {}
    try:
        while len(killed) < kills or not (
            tells_of(folder / "log", "done", "read") or time.monotonic() > ends
        ):
            now = time.monotonic()
            while len(writers) < WRITERS:
                child = started(_work, folder, opened, random.random(), "write")
                writers[child] = now + random.uniform(*_LIVES)
            for child, until in list(writers.items()):
                if now >= until:
                    del writers[child]
                    kill(child)
                    killed[child] = time.monotonic()
            time.sleep(0.005)
    finally:
        for child in writers:
            kill(child)
            killed[child] = time.monotonic()
    return killed


def _wait_for_hits(log: Path) -> None:
    """Wait until the readers have found something in each tier."""
    ends = time.monotonic() + LONGEST
    while time.monotonic() < ends:
        if {entry["hit"] for entry in entries_of(log) if "hit" in entry} == set(_TIERS):
            return
        time.sleep(0.05)


def _cached(below: Open, cache: Path, memory: str = MEMORY[0]) -> Open:
    def opened() -> BlockStore:
        with below() as plain:
            config = plain._source  # pyright: ignore[reportPrivateUsage]
        assert config is not None
        settings: dict[str, Any] = {"type": config.type, config.type: config.selected}
        settings["cache"] = {
            "memory": memory,
            "mode": "write_back",
            "disk": {"path": str(cache), "size": "64MiB"},
        }
        return open_store(StoreConfig(**settings))

    return opened


def _work(folder: Path, opened: Open, seed: float, what: str) -> None:
    worker = Worker(folder, opened, Random(seed))  # noqa: S311 - to be repeated
    if what == "write_all":
        worker.write_all()
    else:
        worker.run(worker.write if what == "write" else worker.read)


def check(log: Path, killed: dict[int, float], opened: Open, below: Open, result: Result) -> None:
    """Hold what was read, and what is there once all was drained, to what was acknowledged."""
    calls, reads = dict[str, list[Change]](), list[dict[str, Any]]()
    for entry in entries_of(log):
        _add(entry, killed, calls, reads, result)
    changes = [change for each in calls.values() for change in each]
    history = History(changes)
    result.changes, result.reads = sum(change.done for change in changes), len(reads)
    for read in reads:
        if not history.allows(read["read"], read["version"], read["began"], read["ended"]):
            result.broken.append(f"read, and replaced before: {read}")
    in_doubt.SETTLE_SECONDS = epochs.SETTLE_SECONDS = _SETTLE
    time.sleep(_SETTLE)
    with opened() as store:
        result.broken += [f"left after a drain: {each}" for each in store.drain(60)]
        told = {key: found_in(store, key) for key in KEYS}
    with below() as plain:
        there = {key: found_in(plain, key) for key in KEYS}
    if there != told:
        result.broken.append(f"the cache tells {told}, the store has {there}")
    for key, version in there.items():
        if not history.allows(key, version, inf, inf):
            result.broken.append(f"at the end {key} is {version!r}, replaced before")
    if not (result.changes > len(KEYS) and result.reads):  # which the last writer has changed
        result.broken.append("nothing was changed or read: nothing was tested")
    if not (result.memory_hits and result.disk_hits):
        result.broken.append("nothing was found in memory, or in the folder: it was not tested")


def _add(
    line: dict[str, Any],
    killed: dict[int, float],
    calls: dict[str, list[Change]],
    reads: list[dict[str, Any]],
    result: Result,
) -> None:
    match line:
        case {"call": number, "by": process, "at": at, "changes": changes}:
            ended = killed[process] + _SETTLE
            calls[number] = [Change(key, at, ended=ended, **what) for key, what in changes.items()]
        case {"done": number, "at": at}:
            for change in calls[number]:
                change.ended, change.done = at, True
        case {"refused": number}:
            del calls[number]
        case {"read": _}:
            reads.append(line)
        case {"hit": tier}:
            setattr(result, tier, getattr(result, tier) + 1)
        case _:
            result.broken.append(line["broken"])


def seen(result: Result) -> str:
    """What was counted."""
    return (
        f"{result.changes} changes, {result.reads} reads beside, {result.memory_hits} of them from "
        f"memory and {result.disk_hits} from the folder, {result.kills} writers killed"
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, run, seen))
