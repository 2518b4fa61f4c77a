"""The job that kills writers through a write-back cache: what it finds, and takes for broken."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import pytest

from blockyard_faults.killed_stage import NOTHING, Change, History, bytes_of, version_of

KEY, SOURCE = "k0", "k1"


def test_killed_writers_lose_nothing_that_was_acknowledged() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "blockyard_faults.killed_stage", "--kills", "8"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(", 0 broken") == 2


def test_bytes_tell_their_version_and_whether_they_are_damaged() -> None:
    data = bytes_of("k0:ab:1")
    assert version_of(data) == "k0:ab:1"
    for damaged in (data[:-1], data[:-1] + b"x", b"", data.replace(b"1", b"2", 1)):
        assert version_of(damaged).startswith("damaged")


def done(key: str, began: float, ended: float, version: str) -> Change:
    return Change(key, began, version, ended=ended, done=True)


@pytest.mark.parametrize(
    ("began", "ended", "allowed"),
    [
        (0.5, 0.6, {NOTHING}),
        (0.5, 1.5, {NOTHING, "a"}),
        (2.5, 2.6, {"a"}),
        (3.5, 3.6, {"a", "b", "c"}),  # b and c are being written
        (4.6, 4.7, {"b", "c"}),
        (5.5, 5.6, {"b", "c"}),  # they overlapped
        (6.6, 6.7, {"b", "c", "d"}),
        (7.5, 7.6, {"d"}),
        (8.5, 8.6, {"d", "lost"}),  # until shortly after its process was killed
        (12.0, inf, {NOTHING}),
    ],
)
def test_what_a_reader_may_find(began: float, ended: float, allowed: set[str]) -> None:
    history = History(
        [
            done(KEY, 1, 2, "a"),
            done(KEY, 3, 5, "b"),
            done(KEY, 3.1, 4.5, "c"),
            done(KEY, 6, 7, "d"),
            Change(KEY, 8, "lost", ended=9),
            done(KEY, 10, 11, NOTHING),
        ]
    )
    for version in (NOTHING, "a", "b", "c", "d", "lost", "nobody's"):
        assert history.allows(KEY, version, began, ended) is (version in allowed)


def test_a_copy_has_what_its_source_may_have_had() -> None:
    copy = Change(KEY, 3, source=SOURCE, ended=4, done=True)
    history = History([done(SOURCE, 1, 2, "a"), copy, done(SOURCE, 5, 6, "b")])
    assert history.allows(KEY, "a", 4.5, 4.6)
    for version in ("b", NOTHING):
        assert not history.allows(KEY, version, 4.5, 4.6)
    assert not history.allows(SOURCE, "a", 7, 8)
    assert history.allows(KEY, "a", 7, 8)
