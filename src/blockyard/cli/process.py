"""The process that a command runs in: its signals and its standard streams.

At the first SIGINT or SIGTERM what is under way leaves things in order; a second one ends the
process at once. Standard input and output are a content's source and target.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, TextIO, cast
from weakref import WeakKeyDictionary

from blockyard.managing import contextmanager

if TYPE_CHECKING:
    from blockyard.buffer import Buffer


stopping = threading.Event()
"""Set when the command is to end. What waits outside of the event loop looks here."""

_nothing_to_tidy = threading.Event()


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.exit_code = 128 + number


def install_signal_handlers() -> None:
    """Handle the signals; called once, on the main thread.

    One that is ignored stays so: a shell that starts a command in the background says so.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            _ = signal.signal(number, _stop)


@contextmanager
def nothing_to_tidy() -> Generator[None]:
    """While bytes go to standard output, whose reader may have stopped reading: exit at once."""
    _nothing_to_tidy.set()
    try:
        yield
    finally:
        _nothing_to_tidy.clear()


def _stop(number: int, frame: FrameType | None) -> None:
    if stopping.is_set() or _nothing_to_tidy.is_set():
        os._exit(128 + number)
    stopping.set()
    raise Stopped(number)


_encoders: WeakKeyDictionary[TextIO, codecs.IncrementalEncoder] = WeakKeyDictionary()

_LOOK_AROUND = 0.2
"""Seconds of waiting for a stream until the next look whether the command is to end."""


def prepare_streams() -> None:
    """Make the standard streams fit for any text and for what comes; called once, at the start.

    A descriptor below 3 that is closed would be given to the next file that is opened, and what
    is meant for the stream would go there. Text that the stream's encoding lacks is escaped; ASCII,
    which is what Python makes of a locale that says nothing, is taken for UTF-8.
    """
    for number in range(3):
        try:
            _ = os.fstat(number)
        except OSError:
            _ = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if is_ascii else None, errors=errors)


def escaped(text: str) -> str:
    """The text without characters that would control a terminal: as it is where it has none."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def settle(stream: TextIO | None) -> None:
    """Write what a stream still holds; where that fails, let it go nowhere at the end too."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # not a file of the system's
            _ = os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())


class StandardInput:
    """What comes on standard input. A signal ends the wait for more."""

    def __init__(self) -> None:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input: it is closed")

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        with named("standard input"):
            file = sys.stdin.fileno()
            while not stopping.is_set():
                ready, _, _ = select.select([file], [], [], _LOOK_AROUND)
                if not ready:
                    continue
                try:
                    return os.read(file, size)
                except BlockingIOError:  # another process that reads it too was faster
                    continue
            raise InterruptedError(errno.EINTR, "no longer read")


class StandardOutput:
    """Standard output as a file of bytes, which may be one that does not block."""

    def __init__(self) -> None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output: it is closed")
        self._raw = _raw(sys.stdout)

    def write(self, data: Buffer, /) -> int:
        """Write some of `data` and return how much."""
        with named("standard output"):
            return _write_some(self._raw, data)


def write_text(stream: TextIO, text: str) -> None:
    """Write all of `text` to a standard stream, which may be one that does not block.

    Such a stream's own `write` drops what the other side has no room for, and raises nothing.
    """
    if not hasattr(stream, "buffer"):  # not a file of the system's
        _ = stream.write(text)
        return
    raw = _raw(stream)
    rest = memoryview(_encoder(stream).encode(text))
    while rest:
        rest = rest[_write_some(raw, rest) :]


def _encoder(stream: TextIO) -> codecs.IncrementalEncoder:
    """The encoder of all that goes to a stream: a byte order mark, say, comes once."""
    known = _encoders.get(stream)
    if known is None:
        known = codecs.getincrementalencoder(stream.encoding)(stream.errors or "strict")
        _encoders[stream] = known
    return known


def _raw(stream: TextIO) -> io.RawIOBase:
    """What is below the stream's buffers, which are empty then."""
    stream.flush()
    return cast("io.RawIOBase", getattr(stream.buffer, "raw", stream.buffer))


def _write_some(raw: io.RawIOBase, data: Buffer) -> int:
    while (count := raw.write(data)) is None:
        _ = select.select([], [raw.fileno()], [], _LOOK_AROUND)
    return count


@contextmanager
def named(stream: str) -> Generator[None]:
    """Say in an `OSError` which stream it is of; that nobody reads any more needs no name."""
    try:
        yield
    except (BrokenPipeError, InterruptedError):
        raise
    except OSError as error:
        raise OSError(error.errno, f"{stream}: {error.strerror or error}") from error
