"""The job that kills writers of contents: what it finds, and what it takes for broken."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from blockyard import open_store
from blockyard.stores.memory import MemoryStore
from blockyard_faults.killed_contents import (
    CONTENTS,
    NOTHING,
    WRITERS,
    ContentReader,
    Record,
    Result,
    bytes_of,
    check_at_the_end,
)
from blockyard_faults.killing import entries_of

NAMES = [f"c{number}-{index}" for number in range(WRITERS) for index in range(CONTENTS)]


def test_killed_writers_leave_the_old_content_or_the_new() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "blockyard_faults.killed_contents", "--kills", "8"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(", 0 broken") == 2


class TestRecords:
    def test_what_was_acknowledged_alone(self, tmp_path: Path) -> None:
        record = Record(tmp_path / "record")
        assert record.allowed_since(*record.read()) == {NOTHING}
        record.begin(["a"])
        assert record.allowed_since(*record.read()) == {NOTHING, "a"}
        record.acknowledge()
        assert record.allowed_since(*record.read()) == {"a"}

    def test_what_was_begun_while_it_was_read(self, tmp_path: Path) -> None:
        record = Record(tmp_path / "record")
        record.begin(["a"])
        record.acknowledge()
        before = record.read()
        record.begin(["b", "c"])
        record.acknowledge()
        assert record.allowed_since(*before) == {"a", "b", "c"}
        assert record.allowed_since(*record.read()) == {"b", "c"}


@pytest.mark.parametrize("found", [None, bytes_of("old"), bytes_of("new")[:-1], b"x"])
def test_a_reader_tells_of_any_other_version(tmp_path: Path, found: bytes | None) -> None:
    store = MemoryStore()
    with open_store(store) as contents:
        for name in NAMES:
            record = Record(tmp_path / f"record-{name}")
            record.begin(["old"])
            record.begin(["new"])
            record.acknowledge()
            if found is not None:
                _ = contents.write_content(name, found)
    random = Random(1)  # noqa: S311 - the same every time
    with closing(ContentReader(tmp_path, lambda: open_store(store), random)) as reader:
        reader.step()
    told = entries_of(tmp_path / "log")
    assert "broken" in told[0]


def test_what_is_wrong_or_left_at_the_end_is_told(tmp_path: Path) -> None:
    with open_store(MemoryStore()) as store:
        _ = store.write_content(NAMES[0], b"nobody's")
        _ = store.write_block("other", b"x")
        result = Result()
        check_at_the_end(tmp_path, store, result)
    assert len(result.broken) == 2
    assert NAMES[0] in result.broken[0]
    assert result.broken[1] == "at the end 'other' is left"
