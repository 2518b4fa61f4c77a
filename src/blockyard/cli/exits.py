"""How a command ends: its exit code, and one clear line when something went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager

import typer

from blockyard.cli.signals import Stopped
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

_CODES: tuple[tuple[tuple[type[BlockStoreError], ...], int], ...] = (
    ((ConfigError, InvalidKeyError, InvalidRangeError), 2),
    ((BlockNotFoundError, BucketNotFoundError), NOT_FOUND),
    ((AccessDeniedError,), 4),
    ((TransportError, ThrottledError, ServerError), 5),
    ((BlockStoreError,), FAILED),
)


@contextmanager
def reported(*, debug: bool) -> Generator[None]:
    """Turn what a command raises into a line on stderr and an exit code."""
    try:
        yield
        _ = sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered can't be written either, at exit: let it go nowhere.
        _ = os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except Stopped as stop:
        complain(str(stop))
        raise typer.Exit(stop.exit_code) from None
    except (BlockStoreError, OSError) as error:
        if debug:
            traceback.print_exception(error)
        complain(str(error))
        if isinstance(error, PartialDeleteError):
            for key, reason in error.result.failed.items():
                complain(f"{key}: {reason}")
        raise typer.Exit(_code(error)) from None


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"blockyard: {message}", err=True)


def _code(error: BlockStoreError | OSError) -> int:
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return FAILED
