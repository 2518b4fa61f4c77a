"""The search of the whole run for secrets finds one, wherever it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """\
import sys
import pytest
from tests.secrets_watch import SecretsWatch
sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]], plugins=[SecretsWatch()]))
"""
PLUGIN = """\
from tests.secrets_watch import SecretsWatch

def pytest_configure(config):
    config.pluginmanager.register(SecretsWatch(), "secrets-watch")
"""
SECRET = "Secret/key+with%41signs"
TELLING = {
    "print": "print({0!r})",
    "print, in a URL": "print(urllib.parse.quote({0!r}, safe=''))",
    "expected error": "with pytest.raises(ValueError): raise ValueError({0!r})",
    "note of an expected error": """\
with pytest.raises(ValueError):
        error = ValueError()
        error.add_note({0!r})
        raise error""",
    "log": "logging.getLogger('any').warning('signed with %s', {0!r})",
    "log of an error": """\
try:
        raise ValueError({0!r})
    except ValueError:
        logging.getLogger('any').exception('refused')""",
}
TEST = """\
import logging
import urllib.parse
import pytest
from blockyard.s3.credentials import Credentials

def test() -> None:
    Credentials("known", SECRET)
    {0}

SECRET = {1!r}
"""


ENV = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # most of the time would go into theirs
}


def run(tmp_path: Path, statement: str) -> subprocess.CompletedProcess[str]:
    test = tmp_path / "test_told.py"
    _ = test.write_text(TEST.format(statement, SECRET))
    return subprocess.run(
        [sys.executable, "-c", RUN, str(test)],
        capture_output=True,
        check=False,
        text=True,
        env=ENV,
    )


@pytest.mark.parametrize("telling", TELLING.values(), ids=TELLING.keys())
def test_a_run_that_tells_a_secret_fails(tmp_path: Path, telling: str) -> None:
    ended = run(tmp_path, telling.format(SECRET))
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "1 passed" in ended.stdout
    assert "  a secret in " in ended.stdout


def test_a_run_that_tells_none_passes(tmp_path: Path) -> None:
    ended = run(tmp_path, "print('signed')")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "secrets: 1 looked for" in ended.stdout


def test_a_run_by_several_processes_that_tells_a_secret_fails(tmp_path: Path) -> None:
    _ = (tmp_path / "conftest.py").write_text(PLUGIN)
    _ = (tmp_path / "test_told.py").write_text(TEST.format(TELLING["print"].format(SECRET), SECRET))
    _ = (tmp_path / "test_silent.py").write_text(TEST.format("pass", SECRET))

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "no:cacheprovider", "-n2", tmp_path],
        capture_output=True,
        check=False,
        text=True,
        env=ENV,
    )

    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "2 passed" in ended.stdout
    assert "secrets: 1 looked for" in ended.stdout
    assert re.search(r"^  a secret in \S*test_told\.py", ended.stdout, re.MULTILINE)
