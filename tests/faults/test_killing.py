"""The log of processes that are killed: what was told survives, and what was cut spoils nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockyard_faults.killing import Log, entries_of, tells_of

TOLD = json.dumps({"done": 1, "at": {"a": "b"}}).encode()


@pytest.mark.parametrize("cut", range(1, len(TOLD)))
def test_an_entry_that_was_cut_is_left_out_and_the_next_one_is_not(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "log"
    _ = path.write_bytes(b"\n" + TOLD + b"\n\n" + TOLD[:cut])
    log = Log(path)
    log.tell(read=2)
    log.close()
    assert entries_of(path) == [json.loads(TOLD), {"read": 2}]
    assert tells_of(path, "done", "read")
    assert not tells_of(path, "at")


def test_a_log_to_which_nothing_was_told_has_no_entries(tmp_path: Path) -> None:
    assert entries_of(tmp_path / "log") == []
    assert not tells_of(tmp_path / "log", "done")
