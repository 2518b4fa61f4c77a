"""The mutants fit the source as it is, and the runner tells those that are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants.__main__ import REPOSITORY, mutated, verdict
from mutants.table import MUTANTS, Mutant

KEYS = Mutant(
    "the longest key",
    "keys.py",
    "if size > MAX_KEY_BYTES:",
    "if size >= MAX_KEY_BYTES:",
    ("test_keys.py",),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted_and_names_tests_that_there_are(mutant: Mutant) -> None:
    assert mutant.replacement != mutant.snippet
    _ = compile(mutated(mutant), mutant.module, "exec")
    for test in mutant.tests:
        assert (REPOSITORY / "tests" / test).is_file()


def test_names_tell_mutants_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_one_that_the_tests_notice_is_caught_and_one_that_they_do_not_survives() -> None:
    assert verdict(KEYS) == "caught"
    assert verdict(KEYS._replace(replacement=f"{KEYS.snippet}  # as it was")) == "SURVIVED"


@pytest.mark.parametrize(("snippet", "what"), [("no such line", "is gone"), ("def ", "times")])
def test_a_snippet_that_is_gone_or_no_longer_alone_is_told(snippet: str, what: str) -> None:
    assert what in verdict(KEYS._replace(snippet=snippet))


def test_tests_that_can_not_be_run_are_told(tmp_path: Path) -> None:
    assert "BROKEN" in verdict(KEYS._replace(tests=(str(tmp_path / "test_none.py"),)))
