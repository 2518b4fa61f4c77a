"""How results are shown: sizes for people, keys that can't command a terminal, progress bars."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from blockyard.cli.process import escaped, named, write_text
from blockyard.managing import contextmanager
from blockyard.model import KIB, BlockInfo

if TYPE_CHECKING:
    from blockyard.content.types import ContentEntry, Progress


def say(text: str) -> None:
    """A line on standard output, exactly so. Raises `OSError` where it is closed or full."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output: it is closed")
    with named("standard output"):
        write_text(sys.stdout, f"{text}\n")


def human(size: float) -> str:
    """A number of bytes, short: 512 B, 4.0 MiB."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < KIB:
            break
        size, unit = size / KIB, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def shown(key: str) -> str:
    """The key as it is, but on a terminal without the characters that would control it."""
    return escaped(key) if sys.stdout is not None and sys.stdout.isatty() else key


def row(listed: BlockInfo | ContentEntry) -> str:
    """One line of `ls`: size of a block, time in UTC, and key or content id."""
    modified = f"{listed.last_modified:%Y-%m-%d %H:%M:%S}" if listed.last_modified else ""
    if isinstance(listed, BlockInfo):
        return f"{human(listed.size):>10}  {modified:19}  {shown(listed.key)}"
    return f"{modified:19}  {shown(listed.content_id)}"


def json_row(listed: BlockInfo | ContentEntry) -> str:
    """One line of `ls --json`, with what a listing tells."""
    modified = listed.last_modified.isoformat() if listed.last_modified else None
    told = listed._asdict()
    if isinstance(listed, BlockInfo):
        told = {"key": listed.key, "size": listed.size, "etag": listed.etag}
    return json.dumps({**told, "last_modified": modified})


def watched() -> bool:
    """Whether someone sees progress: stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress_bar(label: str, total: int | None) -> Generator[Progress | None]:
    """A bar on stderr while the work goes on, then one line that says how fast it was.

    Nothing at all when stderr is no terminal.
    """
    if not watched():
        yield None
        return
    label = escaped(label)
    from rich.console import Console  # noqa: PLC0415 - slow to import, and often not needed
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    done = 0
    begun = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(so_far: int) -> None:
            nonlocal done
            done = so_far
            bar.update(task, completed=so_far)

        yield advance
    seconds = time.monotonic() - begun
    line = f"{label}: {human(done)} in {seconds:.1f} s, {human(done / seconds)}/s\n"
    write_text(sys.stderr, line)
