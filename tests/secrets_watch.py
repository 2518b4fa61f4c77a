"""Looks for secrets in all that a whole test run says.

Every key and token that requests are signed with is remembered. Every error that a test expects
(its message, notes, causes and traceback), every log record and every test's output and report is
searched for them, as they stand and as they are written in URLs and in Python. A run in which one
is found fails. Of a run by several processes (pytest-xdist) each searches its own part, and the
first one puts together what they found.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pytest

from blockyard.s3.credentials import Credentials

_LEAST = 8
"""Shorter secrets are those of tests that send nothing; they are found in any text."""


def forms(secret: str) -> set[str]:
    """A secret as it stands, and as it is written in URLs and in Python."""
    return {secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1]}


class SecretsWatch(logging.Handler):
    """A plugin of the test run, and a handler of all its logs."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()
        self.searched = 0
        self.found_in: list[str] = []
        self._forms: list[str] = []
        self._patches = pytest.MonkeyPatch()

    def know(self, *secrets: str) -> None:
        """Look for these from now on."""
        new = {each for each in secrets if len(each) >= _LEAST} - self.secrets
        self.secrets |= new
        for each in new:
            self._forms += forms(each)

    def search(self, where: str, text: str) -> None:
        """Note `where`, and never the text itself, when there is a secret in it."""
        self.searched += 1
        if any(form in text for form in self._forms):
            self.found_in.append(where)

    def emit(self, record: logging.LogRecord) -> None:
        """A log record, with its traceback."""
        self.search(f"a log record of {record.name}", self.format(record))

    def pytest_sessionstart(self) -> None:
        """Begin, before any test makes a credential."""
        know, search = self.know, self.search
        made, left = Credentials.__init__, pytest.RaisesExc.__exit__

        def make(self: Credentials, *values: object, **named: object) -> None:
            made(self, *values, **named)  # pyright: ignore[reportArgumentType]
            know(self.secret_key, self.session_token)

        def leave(
            self: pytest.RaisesExc[BaseException],
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> bool:
            if error is not None:
                search(f"a {type(error).__name__}", "".join(traceback.format_exception(error)))
                search(f"the repr of a {type(error).__name__}", repr(error))
            return left(self, kind, error, trace)

        self._patches.setattr(Credentials, "__init__", make)
        self._patches.setattr(pytest.RaisesExc, "__exit__", leave)
        logging.getLogger().addHandler(self)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What a test wrote, and what is reported of it."""
        self.search(report.nodeid, report.longreprtext)
        for name, text in report.sections:
            self.search(f"{report.nodeid}: {name}", text)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What one of several processes found; one that was killed has nothing to tell."""
        secrets, searched, found_in = node.workeroutput.get("secrets", ((), 0, ()))
        self.secrets.update(secrets)
        self.searched += searched
        self.found_in += found_in

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that told a secret."""
        logging.getLogger().removeHandler(self)
        self._patches.undo()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["secrets"] = (
                list(self.secrets),
                self.searched,
                self.found_in,
            )
        if self.found_in:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was searched, and where a secret was."""
        terminalreporter.write_line(
            f"secrets: {len(self.secrets)} looked for in {self.searched:,} texts, "
            f"found in {len(self.found_in)}"
        )
        for where in self.found_in[:20]:
            terminalreporter.write_line(f"  a secret in {where}", red=True)
