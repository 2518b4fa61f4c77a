"""The page on what goes wrong with S3: the tests it names are there."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.markdown_pages import REPOSITORY, named, page, tables

TRAPS = [
    row for rows in tables(page("docs/reliability-traps.md"), "what goes wrong") for row in rows
]
FILES = {path.name: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
TO_COME = "not built yet"


def shown_by(row: list[str]) -> list[str]:
    """The tests that a row names, as pytest wants them: a row leaves out the folder."""
    return [f"{FILES[file]}::{test}" for file, _, test in map(_split, named(row[2]))]


def _split(name: str) -> tuple[str, str, str]:
    return name.partition("::")


def test_every_trap_is_shown_or_said_to_be_missing() -> None:
    assert len(TRAPS) > 20
    for row in TRAPS:
        assert bool(shown_by(row)) != (row[2] == TO_COME), row[0]
        assert bool(row[1]) != (row[2] == TO_COME), row[0]


def test_file_names_tell_tests_apart() -> None:
    assert len(FILES) == len(list((REPOSITORY / "tests").rglob("test_*.py")))


def test_the_tests_that_are_named_exist() -> None:
    names = sorted({name for row in TRAPS for name in shown_by(row)})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *names]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
