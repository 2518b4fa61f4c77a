"""`blockyard cache`: what is in a cache folder, whether it is right, and its removal."""

# Annotations are not postponed here: typer reads them when a command is defined.

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli.exits import FAILED, reported
from blockyard.cli.output import human, say

if TYPE_CHECKING:
    from blockyard.cache.upkeep import CacheFolder

cache = typer.Typer(no_args_is_help=True, help="Look at a cache folder, verify it, clear it.")

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="`cache.disk.path`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def _opened(folder: Path) -> "CacheFolder":
    from blockyard.cache.upkeep import CacheFolder  # noqa: PLC0415 - `--help` need not wait for it

    return CacheFolder(folder)


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
        if check.damaged:
            raise typer.Exit(FAILED)


@cache.command()
def clear(context: typer.Context, folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Remove every entry, also while other processes use the folder."""
    with reported(debug=context.obj.debug):
        gone = _opened(folder).clear()
        say(json.dumps({"removed": gone}) if as_json else f"{gone} entries removed")
