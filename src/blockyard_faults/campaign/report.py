"""The result of a campaign as text: what was done, what was met, what was broken."""

from __future__ import annotations

from collections import Counter

from blockyard_faults.campaign.run import Result
from blockyard_faults.campaign.tally import PROMISES


def text(result: Result) -> str:
    """The figures, a line each."""
    tally = result.tally
    done = tally.operations.total()
    met = result.faults.total()
    lines = [
        f"server        {result.server}, seed {result.seed}, {result.seconds:.0f} s",
        f"operations    {done:,} ({_counts(result.by_job)})",
        f"requests      {result.requests:,}, of which {met:,} ({met / result.requests:.1%}) met",
        f"  faults      {_counts(result.faults)}",
        f"  lost        {result.server_lost:,} to a server that was down",
        *(f"outage        {event}" for event in result.events),
        f"ended in      {_counts(tally.failures) or 'no error'} ({_rate(tally.failures, done)})",
        *(f"  {kind}: {tally.examples[kind]}" for kind in tally.failures),
        f"  hurried     {_counts(tally.hurried) or 'no error'}",
        f"read back     {tally.read_back:,} blocks that had to be there",
        f"settled       {tally.settled:,} keys that a request given up might still have changed",
        f"own           {tally.own:,} exceptions of the caller's own code, signals, cancellations",
        f"replaced      {tally.replaced:,} contents all the same, though the call had ended",
        f"unfinished    {tally.unfinished:,} contents whose replacement had begun when it did",
        f"  ending took {max(tally.longest_ending, 0.0):.2f} s past a deadline at the most",
        f"overrun       {max(tally.overrun, 0.0):.2f} s past a deadline at the most, "
        f"{max(tally.net_overrun, 0.0):.2f} s of them not the machine's",
        "",
        *(f"{tally.broken[promise]:>6} {promise}" for promise in PROMISES),
        *tally.details,
    ]
    return "\n".join(lines)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def _rate(failures: Counter[str], operations: int) -> str:
    return f"{failures.total() / max(operations, 1):.4%} of operations"
