"""Writers of contents that are killed at any moment, with readers beside them.

Each content is written by one process, which writes it again, copies another one over it and
deletes it; others read it in every way. Every read has to be of a version that was the last one
acknowledged when it began, or was begun since, byte for byte; none may fail. A writer that is
started again goes on at once: nothing is repaired, and nothing is left once all was cleaned.
"""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from blockyard import (
    BlockNotFoundError,
    BlockStore,
    ContentReplacedError,
)
from blockyard.model import KIB
from blockyard.transport.importing import imported
from blockyard_faults.killing import (
    LONGEST,
    Log,
    Open,
    add_log,
    append,
    entries_of,
    kill,
    main,
    started,
    tells_of,
)

WRITERS = 2
READERS = 2
CONTENTS = 4
"""Of each writer."""
NAMES = [f"c{number}-{index}" for number in range(WRITERS) for index in range(CONTENTS)]
BLOCK = 16 * KIB
_LARGEST = 20 * BLOCK
"""Of a content; up to 64 KiB it is kept in its manifest."""
_LIVES = (0.02, 0.5)
"""Seconds that a writer lives."""
NOTHING = ""
"""The version of a content that is not there."""


def bytes_of(version: str) -> bytes:
    """All bytes of a version: its name, over and over."""
    if version == NOTHING:
        return b""
    size = Random(version).randrange(_LARGEST)  # noqa: S311 - to be repeated
    unit = version.encode() + b";"
    return (unit * (size // len(unit) + 1))[: max(size, len(unit))]


@dataclass(frozen=True, slots=True)
class Record:
    """What was begun with one content, in order, and what of it was acknowledged."""

    path: Path

    def begin(self, versions: list[str]) -> None:
        """What it may become, by a change that begins now."""
        self._add({"may": versions})

    def acknowledge(self) -> None:
        """What was begun last is done."""
        self._add({"done": True})

    def read(self) -> tuple[int, list[list[str]]]:
        """The number of changes begun, and what each may have made of it since the last one done.

        The first of them is what was acknowledged.
        """
        since: list[list[str]] = [[NOTHING]]
        begun = 0
        for entry in entries_of(self.path):
            if "may" in entry:
                begun += 1
                since.append(entry["may"])
            else:
                since = since[-1:]
        return begun, since

    def allowed_since(self, begun: int, since: list[list[str]]) -> set[str]:
        """What a read may give that began when `read` said this."""
        later = [entry["may"] for entry in entries_of(self.path) if "may" in entry][begun:]
        return {version for versions in (*since, *later) for version in versions}

    def _add(self, entry: dict[str, Any]) -> None:
        number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        append(number, entry)
        os.close(number)


@dataclass(slots=True)
class Result:
    """What was seen: `broken` says what should not have been."""

    reads: int = 0
    read_back: int = 0
    changes: int = 0
    kills: int = 0
    broken: list[str] = field(default_factory=list[str])


class Worker:
    """What the processes have in common: the store, the records and a log."""

    def __init__(self, folder: Path, opened: Open, random: Random) -> None:
        self._folder = folder
        self._random = random
        self._log = Log(folder / "log")
        self.tell = self._log.tell
        self._store = opened()

    def close(self) -> None:
        self._store.close()
        self._log.close()

    def run(self, step: Callable[[], None]) -> None:
        """Do that until killed."""
        while True:
            try:
                step()
            except Exception:  # noqa: BLE001 - none is expected, and each is told
                self.tell(broken=traceback.format_exc())

    def record(self, name: str) -> Record:
        return Record(self._folder / f"record-{name}")


class ContentWriter(Worker):
    """The process that writes the contents of one number."""

    def __init__(self, folder: Path, opened: Open, random: Random, number: int) -> None:
        super().__init__(folder, opened, random)
        self._names = [f"c{number}-{index}" for index in range(CONTENTS)]

    def step(self) -> None:
        """One change."""
        target, other = self._random.sample(self._names, 2)
        record = self.record(target)
        begun, _ = record.read()
        what = self._random.random()
        if what < 0.6:
            version = f"{target}:{begun + 1}"
            record.begin([version])
            _ = self._store.write_content(target, self._source(version), block_size=BLOCK)
        elif what < 0.85:
            self._copy(record, other, target)
            return
        else:
            record.begin([NOTHING])
            self._store.delete_content(target)
        record.acknowledge()
        self.tell(changes=1)

    def _source(self, version: str) -> Any:
        data = bytes_of(version)
        return data if self._random.random() < 0.5 else io.BytesIO(data)

    def _copy(self, record: Record, source: str, target: str) -> None:
        begun, since = self.record(source).read()
        allowed = self.record(source).allowed_since(begun, since)
        if allowed == {NOTHING}:
            return
        record.begin(sorted(allowed - {NOTHING}))
        try:
            _ = self._store.copy_content(source, target)
        except BlockNotFoundError:
            if NOTHING not in allowed:
                raise
        else:
            record.acknowledge()
            self.tell(changes=1)


class ContentReader(Worker):
    """A process that reads all contents."""

    def step(self) -> None:
        """One read."""
        name = f"c{self._random.randrange(WRITERS)}-{self._random.randrange(CONTENTS)}"
        record = self.record(name)
        begun, since = record.read()
        try:
            begin, end, data = self._read(name)
        except BlockNotFoundError:
            begin, end, data = 0, None, b""
        except ContentReplacedError:
            if NOTHING not in record.allowed_since(begun, since):
                raise  # only a delete ends what is being read
            return
        allowed = record.allowed_since(begun, since)
        if not any(data == bytes_of(version)[begin:end] for version in allowed):
            self.tell(broken=f"{name}: {data[:40]!r}, {len(data)} bytes from {begin}: {allowed}")
        self.tell(reads=1)

    def _read(self, name: str) -> tuple[int, int | None, bytes]:
        match self._random.randrange(5):
            case 0:
                return 0, None, self._store.read_content(name)
            case 1:
                return 0, None, b"".join(self._store.iter_content(name))
            case 2:
                target = io.BytesIO()
                _ = self._store.read_content_into(name, target)
                return 0, None, target.getvalue()
            case 3:
                with self._store.open_content(name) as file:
                    return 0, None, file.read(1000) + file.read()
            case _:
                return 0, 5000, self._store.read_content(name, 0, 5000)


def run(folder: Path, opened: Open, kills: int, seed: int) -> Result:
    """Kill writers of contents in a store so many times, and say what was seen."""
    for name in ("files", "writing"):  # before the forks: a writer lives too short to import them
        _ = imported(f"blockyard.content.{name}")
    random = Random(seed)  # noqa: S311 - to be repeated
    readers = [started(_read_on, folder, opened, random.random()) for _ in range(READERS)]
    ends = time.monotonic() + LONGEST
    writers: dict[int, tuple[int, float]] = {}
    result = Result()
    try:
        while result.kills < kills or not (
            (tells_of(folder / "log", "changes", "reads") and _outlives_the_writers(folder))
            or time.monotonic() > ends
        ):
            now = time.monotonic()
            for number in set(range(WRITERS)) - {number for number, _ in writers.values()}:
                child = started(_write_on, folder, opened, random.random(), number)
                writers[child] = (number, now + random.uniform(*_LIVES))
            for child, (_, until) in list(writers.items()):
                if now >= until:
                    del writers[child]
                    kill(child)
                    result.kills += 1
            time.sleep(0.005)
    finally:
        for child in (*writers, *readers):
            kill(child)
    add_log(folder / "log", result)
    with opened() as store:
        check_at_the_end(folder, store, result)
    if not (result.reads and result.changes and result.read_back):
        result.broken.append("nothing was read, changed or read back: nothing was tested")
    return result


def _outlives_the_writers(folder: Path) -> bool:
    """Whether more contents are stored than the writers can delete before they are killed."""
    records = [Record(folder / f"record-{name}") for name in NAMES]
    return sum(NOTHING not in each.allowed_since(*each.read()) for each in records) > WRITERS


def _write_on(folder: Path, opened: Open, seed: float, number: int) -> None:
    writer = ContentWriter(folder, opened, Random(seed), number)  # noqa: S311 - to be repeated
    writer.run(writer.step)


def _read_on(folder: Path, opened: Open, seed: float) -> None:
    reader = ContentReader(folder, opened, Random(seed))  # noqa: S311 - to be repeated
    reader.run(reader.step)


def check_at_the_end(folder: Path, store: BlockStore, result: Result) -> None:
    """All contents are as they may be, can be written at once, and leave nothing when cleaned."""
    for name in NAMES:
        record = Record(folder / f"record-{name}")
        _, since = record.read()
        allowed = {version for versions in since for version in versions}
        try:
            data = store.read_content(name)
        except BlockNotFoundError:
            data = b""
        if data not in {bytes_of(version) for version in allowed}:
            result.broken.append(f"at the end {name}: {data[:40]!r}, {len(data)} bytes: {allowed}")
        result.read_back += bool(data)
        _ = store.write_content(name, bytes_of(name))
        if store.read_content(name) != bytes_of(name):
            result.broken.append(f"at the end {name} was written, and is another one")
    _ = store.clean_contents(dry_run=False, no_writers=True)
    for name in NAMES:
        store.delete_content(name)
    _ = store.clean_contents(dry_run=False, no_writers=True)
    result.broken += [f"at the end {key!r} is left" for key in store.list_by_prefix()]


def seen(result: Result) -> str:
    """What was counted."""
    return (
        f"{result.changes} changes, {result.reads} reads beside, {result.kills} writers killed, "
        f"{result.read_back} read back"
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, run, seen))
