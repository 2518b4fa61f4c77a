"""`blockyard bench`: how fast a store is from here, as a table that fills as it is measured."""

# Annotations are not postponed here: typer reads them when the command is defined.

import json
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli.benchmark import (
    SIZES,
    WORKS,
    Budget,
    Cell,
    Measured,
    measure,
    scratch_prefix,
)
from blockyard.cli.output import human, say, watched
from blockyard.cli.session import with_store
from blockyard.managing import contextmanager
from blockyard.model import parse_size

if TYPE_CHECKING:
    from rich.table import Table

    from blockyard.sync import BlockStore


def _bytes(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, got {text!r}") from None
    if size == 0:
        raise typer.BadParameter(f"expected a size such as 512MiB, more than none, got {text!r}")
    return size


@with_store
def bench(
    store: "BlockStore",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure, about.")] = 20.0,
    size: Annotated[
        int,
        typer.Option(
            "--bytes", parser=_bytes, metavar="SIZE", help="The most bytes to move: 512MiB, 2GiB."
        ),
    ] = "4GiB",  # pyright: ignore[reportArgumentType] # typer parses the default too
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure writes and reads of blocks, in a prefix of its own that is deleted at the end."""
    _ = store.health_check()  # what is wrong with the store is said at once
    results: list[Measured] = []
    with scratch_prefix(store) as prefix, _live(results) as show:
        for measured in measure(store, prefix, Budget(time.monotonic() + seconds, size)):
            results.append(measured)
            show()
    say(_as_json(results) if as_json else _as_text(results))


@contextmanager
def _live(results: list[Measured]) -> Generator[Callable[[], None]]:
    """A table on stderr that follows `results`; nothing when stderr is no terminal."""
    if not watched():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and often not needed
    from rich.live import Live  # noqa: PLC0415

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        live.update(_table(results), refresh=True)
        yield lambda: live.update(_table(results), refresh=True)


def _as_text(results: list[Measured]) -> str:
    from rich.console import Console  # noqa: PLC0415 - slow to import

    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        console.print(_table(results))
    return captured.get().rstrip()


def _table(results: list[Measured]) -> "Table":
    """Sizes down, kinds of work across; ranges are of a 4 MiB block."""
    from rich import box  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    by_cell = {result.cell: result for result in results}
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="range: so much of a 4 MiB block; times are the median of one operation",
    )
    table.add_column("block", justify="right")
    for work in WORKS:
        table.add_column(work, justify="right")
    for size in SIZES:
        found = [by_cell.get(Cell(work, size)) for work in WORKS]
        table.add_row(human(size), *(_rate(result) if result else "" for result in found))
        table.add_row("", *(_pace(result) if result else "" for result in found))
    return table


def _rate(result: Measured) -> str:
    return f"{result.bytes_per_second / 1e6:,.1f} MB/s"


def _pace(result: Measured) -> str:
    """The median time of an operation, or how many were done in a second where they overlap."""
    if result.latency is None:
        return f"{result.operations / result.seconds:,.0f} op/s"
    if result.latency < 0.001:
        return f"{result.latency * 1e6:,.1f} us"
    return f"{result.latency * 1000:,.2f} ms"


def _as_json(results: list[Measured]) -> str:
    rows = [
        {
            "work": result.cell.work,
            "size": result.cell.size,
            "operations": result.operations,
            "seconds": result.seconds,
            "bytes_per_second": result.bytes_per_second,
            "latency": result.latency,
        }
        for result in results
    ]
    return json.dumps(rows, indent=1)
