"""The page on what goes wrong with S3: the tests it names are there."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

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
    missing = [name for row in TRAPS for name in shown_by(row) if not _is_test(name)]
    assert missing == []


def _is_test(name: str) -> bool:
    """Whether there is such a function, of a module or a class; a class may inherit it."""
    file, _, test = name.partition("::")
    if "::" not in test:  # to import all modules takes fifty times as long
        return test.startswith("test_") and test in _functions(file)
    module = Path(file).relative_to(REPOSITORY).with_suffix("")
    found: object = importlib.import_module(".".join(module.parts))
    for part in test.split("::"):
        found = getattr(found, part, None)
    return callable(found) and test.rpartition("::")[2].startswith("test_")


@cache
def _functions(file: str) -> set[str]:
    """The functions of a module, by their statements."""
    body = ast.parse(Path(file).read_text()).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef)}
