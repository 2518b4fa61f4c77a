"""How a command ends: its exit code, and one clear line when something went wrong."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator
from typing import Any, cast

import typer
from typer.core import TyperGroup

from blockyard.cli.process import Stopped, escaped, named, settle, write_text
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    ConfigError,
    InvalidKeyError,
    InvalidRangeError,
    PartialDeleteError,
    ServerError,
    ThrottledError,
    TransportError,
)
from blockyard.managing import contextmanager

FAILED = 1
NOT_FOUND = 3
BROKEN_PIPE = 141

HELP = """Exit codes:

\b
    0  done
    1  failed: the message says why
    2  the command, a setting, a key or a range can't be used
    3  no such block, content or bucket
    4  access denied: credentials or policy
    5  the service can't be reached, or is overloaded: try again later
  130  interrupted (143: terminated, 141: nobody reads the output any more)
"""

_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
"""click's, wherever the version of typer has it."""

_CODES: tuple[tuple[tuple[type[BlockStoreError], ...], int], ...] = (
    ((ConfigError, InvalidKeyError, InvalidRangeError), 2),
    ((BlockNotFoundError, BucketNotFoundError), NOT_FOUND),
    ((AccessDeniedError,), 4),
    ((TransportError, ThrottledError, ServerError), 5),
    ((BlockStoreError,), FAILED),
)


class Commands(TyperGroup):
    """Commands whose errors of use quote nothing that may hold a secret: a URL without --store."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _quoting_no_secret():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _quoting_no_secret():
            return super().invoke(ctx)


@contextmanager
def _quoting_no_secret() -> Generator[None]:
    try:
        yield
    except _UsageError as error:
        from blockyard.config.showing import without_secrets  # noqa: PLC0415 - not for `--help`

        told = cast("Any", error)
        told.message = without_secrets(told.message)
        raise


def code_of(run: Callable[[], object]) -> int:
    """The exit code of a whole run of the command line: help and wrong use included."""
    code: str | int | None = None
    try:
        with reported(debug=False):
            try:
                _ = run()
            except SystemExit as ended:
                code = ended.code
    except typer.Exit as failed:
        code = failed.exit_code
    return code if isinstance(code, int) else FAILED if code else 0


@contextmanager
def reported(*, debug: bool) -> Generator[None]:
    """Turn what a command raises into a line on stderr and an exit code."""
    try:
        yield
        if sys.stdout is not None:
            with named("standard output"):
                _ = sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except Stopped as stop:
        complain(str(stop))
        raise typer.Exit(stop.exit_code) from None
    except Exception as error:  # noqa: BLE001 - a traceback says nothing to who uses a command
        settle(sys.stdout)
        if _is_broken_pipe(error):
            raise typer.Exit(BROKEN_PIPE) from None
        if debug:
            complain("".join(traceback.format_exception(error)).rstrip())
        for line in _lines(error):
            complain(escaped(line))
        raise typer.Exit(_code(error)) from None


def complain(message: str) -> None:
    """Say something on stderr, if anyone can be told.

    Whatever names keys or comes from a service can't command the terminal that it is shown on.
    """
    if sys.stderr is None:
        return
    lines = "\n".join(escaped(line) for line in message.split("\n"))
    try:
        write_text(sys.stderr, f"blockyard: {lines}\n")
    except (OSError, ValueError):
        settle(sys.stderr)


def _lines(error: Exception) -> list[str]:
    if isinstance(error, PartialDeleteError):
        failed = [f"{key}: {reason}" for key, reason in error.result.failed.items()]
        return [str(error), *failed]
    if isinstance(error, BlockStoreError):
        return [str(error)]
    if isinstance(error, OSError):
        file = f"{error.filename!r}: " if error.filename is not None else ""
        return [f"{file}{error.strerror or error}"]
    return [f"unexpected {type(error).__name__}: {error} (--debug shows where)"]


def _is_broken_pipe(error: BaseException) -> bool:
    """Whether a pipe that the command wrote to has no reader any more, by whatever way."""
    return isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError)


def _code(error: Exception) -> int:
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return FAILED
