"""Plant each mutant in a copy of the source, and see whether the tests that it names catch it.

`python -m mutants [--only WORD] [--workers N]`. Ends with 1 when a mutant survives, when its
snippet does not occur exactly once, or when its tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mutants.table import MUTANTS, Mutant

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
SECONDS = 180
"""After which a mutant that hangs is caught."""


def mutated(mutant: Mutant) -> str:
    """The text of its module with the mutant in it. Raises `ValueError` without its snippet."""
    text = (SOURCE / "blockyard" / mutant.module).read_text()
    count = text.count(mutant.snippet)
    if count != 1:
        gone = "is gone from" if count == 0 else f"occurs {count} times in"
        raise ValueError(f"its snippet {gone} {mutant.module}: expected once")
    return text.replace(mutant.snippet, mutant.replacement)


def fails(source: Path, tests: Sequence[str]) -> bool:
    """Whether one of the test files fails, or hangs, with the package of `source`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not servers and not alone"]
    command += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:random_order",
        *(f"tests/{test}" for test in tests),
    ]
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{REPOSITORY}"}
    try:
        done = subprocess.run(  # noqa: S603 - the project's own tests
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in {0, 1}:  # 1: a test failed; others: pytest did not run any
        raise ValueError(f"pytest ended with {done.returncode} on {' '.join(tests)}")
    return done.returncode == 1


def verdict(mutant: Mutant) -> str:
    """What became of a mutant: "caught", or what is wrong."""
    try:
        text = mutated(mutant)
        with tempfile.TemporaryDirectory(prefix="blockyard-mutant-") as folder:
            source = Path(folder) / "src"
            _ = shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
            _ = (source / "blockyard" / mutant.module).write_text(text)
            return "caught" if fails(source, mutant.tests) else "SURVIVED"
    except ValueError as error:
        return f"BROKEN: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run those that were chosen, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    _ = parser.add_argument("--only", default="", help="mutants whose name holds this")
    _ = parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    mutants = [mutant for mutant in MUTANTS if chosen.only in mutant.name]
    with ThreadPoolExecutor(chosen.workers) as threads:
        tests = list(dict.fromkeys(mutant.tests for mutant in mutants))
        failing = [
            " ".join(each)
            for each, failed in zip(tests, threads.map(partial(fails, SOURCE), tests), strict=True)
            if failed
        ]
        for each in failing:
            print(f"these fail without any mutant: {each}")
        if failing:
            return 1
        wrong = 0
        for mutant, found in zip(mutants, threads.map(verdict, mutants), strict=True):
            print(f"{mutant.name:60} {found}", flush=True)
            wrong += found != "caught"
    print(f"{len(mutants) - wrong} of {len(mutants)} mutants caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
