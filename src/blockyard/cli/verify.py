"""`blockyard verify`: what is stored, verified against its checksums."""

# Annotations are not postponed here: typer reads them when the command is defined.

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli import exits
from blockyard.cli.output import human, progress_bar, say, shown
from blockyard.cli.session import with_store
from blockyard.errors import BlockStoreError

if TYPE_CHECKING:
    from blockyard.model import VerifyReport
    from blockyard.sync import BlockStore


@with_store
def verify(
    store: "BlockStore",
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="What keys begin with.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The report as a JSON object.")] = False,
) -> None:
    """Read every block below a prefix and verify it against its checksums.

    Exits with 1 when a block is damaged or can't be read. Blocks that nothing is known of, as in a
    folder, are counted, and are no failure.
    """
    with progress_bar(f"verify {prefix}".rstrip(), None) as progress:
        report = store.verify_by_prefix(prefix, progress=progress)
    say(_as_json(report) if as_json else _as_text(report))
    if report.damaged or report.unreadable:
        raise typer.Exit(exits.FAILED)


def _as_json(report: "VerifyReport") -> str:
    return json.dumps(
        {
            "verified": dict(report.verified),
            "unverifiable": report.unverifiable,
            "damaged": _reasons(report.damaged),
            "unreadable": _reasons(report.unreadable),
            "bytes": report.size,
        }
    )


def _as_text(report: "VerifyReport") -> str:
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
