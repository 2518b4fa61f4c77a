"""`blockyard cache`: what is in a cache folder, whether it is right, its removal and upload."""

# Annotations are not postponed here: typer reads them when a command is defined.

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli.exits import FAILED, reported
from blockyard.cli.output import human, say, shown
from blockyard.cli.session import not_empty, with_store
from blockyard.errors import ConfigError
from blockyard.times import utc

if TYPE_CHECKING:
    from blockyard.cache.maintenance import CacheFolder
    from blockyard.sync import BlockStore

cache = typer.Typer(
    no_args_is_help=True,
    help="Look at a cache folder, verify or clear it, or upload what it holds.",
)

FolderArgument = Annotated[
    str, typer.Argument(metavar="FOLDER", callback=not_empty, help="`cache.disk.path`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def _opened(folder: str) -> "CacheFolder":
    from blockyard.cache.maintenance import CacheFolder  # noqa: PLC0415 - `--help` need not wait for it

    return CacheFolder(Path(folder))


@cache.command()
def stat(context: typer.Context, folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Count the entries of a cache folder and the bytes that they take on the disk."""
    with reported(debug=context.obj.debug):
        use = _opened(folder).use()
        if as_json:
            say(json.dumps(asdict(use)))
            return
        say(f"{use.entries} entries")
        say(f"{use.allocated} bytes ({human(use.allocated)}) allocated")
        if use.oldest_staged is not None:
            since = utc(use.oldest_staged).isoformat(" ", "seconds")
            say(f"{use.staged} blocks ({human(use.staged_size)}) not uploaded, since {since}")


@cache.command()
def verify(context: typer.Context, folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Hold every entry to its checksums. What is damaged is removed, and exits with 1."""
    with reported(debug=context.obj.debug):
        check = _opened(folder).verify()
        if as_json:
            say(json.dumps(asdict(check)))
        else:
            say(f"{check.right} entries verified")
            say(f"{check.damaged} damaged, and removed")
            say(f"{human(check.size)} read")
            if check.staged or check.staged_damaged:
                say(f"{check.staged} blocks verified that are not uploaded")
                say(f"{check.staged_damaged} of these damaged, and kept")
        if check.damaged or check.staged_damaged:
            raise typer.Exit(FAILED)


@cache.command()
def clear(context: typer.Context, folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Remove every entry, also while other processes use the folder.

    What is not uploaded yet stays.
    """
    with reported(debug=context.obj.debug):
        gone = _opened(folder).clear()
        say(json.dumps({"removed": gone}) if as_json else f"{gone} entries removed")


@cache.command()
@with_store
def drain(
    store: "BlockStore",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", help="Try for so long, and end within 10 s of that."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload what a store's cache has not uploaded yet. Exits with 1 while anything is left.

    The store is named with its cache, in a file (`--config`) or the environment.
    """
    counts = store.stats().cache
    if counts is None or counts.staged is None:
        raise ConfigError("cache drain: expected a store with a cache whose mode is write_back")
    left = store.drain(timeout)
    if as_json:
        say(
            json.dumps(
                [{**each._asdict(), "staged_at": each.staged_at.isoformat()} for each in left]
            )
        )
    else:
        for each in left:
            why = shown(each.error or "not tried")
            say(f"left: {shown(each.key)}: {human(each.size)}: {why}")
        say(f"{len(left)} blocks left")
    if left:
        raise typer.Exit(FAILED)
