"""The page on what goes wrong with S3: the tests it names are there."""

from __future__ import annotations

import subprocess
import sys

from markdown_pages import REPOSITORY, named, page, tables

TRAPS = [
    row for rows in tables(page("docs/reliability-traps.md"), "what goes wrong") for row in rows
]
TO_COME = "not built yet"


def shown_by(row: list[str]) -> list[str]:
    """The tests that a row names, as pytest wants them."""
    return [f"tests/{name}" for name in named(row[2])]


def test_every_trap_is_shown_or_said_to_be_missing() -> None:
    assert len(TRAPS) > 20
    for row in TRAPS:
        assert bool(shown_by(row)) != (row[2] == TO_COME), row[0]
        assert bool(row[1]) != (row[2] == TO_COME), row[0]


def test_the_tests_that_are_named_exist() -> None:
    names = sorted({name for row in TRAPS for name in shown_by(row)})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *names]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
