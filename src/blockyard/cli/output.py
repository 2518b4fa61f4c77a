"""How results are shown: sizes for people, keys that can't command a terminal, progress bars."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

from blockyard.cli.process import escaped, named, write_text
from blockyard.managing import contextmanager
from blockyard.model import KIB, BlockInfo

if TYPE_CHECKING:
    from datetime import datetime

    from blockyard.content.types import ContentEntry, Progress
    from blockyard.errors import BlockStoreError
    from blockyard.model import VerifyReport


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
    """One line of `ls --json`, with the fields of a listing."""
    modified = listed.last_modified.isoformat() if listed.last_modified else None
    fields = listed._asdict()
    if isinstance(listed, BlockInfo):
        fields = {"key": listed.key, "size": listed.size, "etag": listed.etag}
    return json.dumps({**fields, "last_modified": modified})


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


def describe(**fields: str) -> None:
    """Print fields of `stat`, one a line."""
    for name, value in fields.items():
        say(f"{name + ':':9} {shown(value)}")


def time_text(moment: datetime | None) -> str:
    return "not known" if moment is None else moment.isoformat()


def exact(size: int) -> str:
    """A number of bytes, exact and short."""
    return f"{size} bytes ({human(size)})"


def report_as_json(report: VerifyReport) -> str:
    """A report of `verify --json`."""
    return json.dumps(
        {
            "verified": dict(report.verified),
            "unverifiable": report.unverifiable,
            "damaged": _reasons(report.damaged),
            "unreadable": _reasons(report.unreadable),
            "bytes": report.size,
        }
    )


def report_as_text(report: VerifyReport) -> str:
    """A report of `verify`."""
    by = ", ".join(f"{count} by {name}" for name, count in sorted(report.verified.items()))
    lines = [
        f"{sum(report.verified.values())} verified{by and f': {by}'}",
        f"{report.unverifiable} unverifiable",
        *_listed("damaged", report.damaged),
        *_listed("unreadable", report.unreadable),
        f"{human(report.size)} read",
    ]
    return "\n".join(lines)


def _listed(what: str, found: Mapping[str, BlockStoreError]) -> list[str]:
    reasons = [f"  {shown(key)}: {shown(reason)}" for key, reason in _reasons(found).items()]
    return [f"{len(found)} {what}", *reasons]


def _reasons(found: Mapping[str, BlockStoreError]) -> dict[str, str]:
    return {key: str(error) for key, error in found.items()}
