"""The results as rows of text, for the terminal and for docs/BENCHMARKS.md alike."""

from __future__ import annotations

from typing import Any

from bench.samples import Samples, cpu_per_operation, rate, samples_from_json, spread
from bench.targets import Outcome, Target, cpu_outcomes, outcomes
from bench.workloads import LIMIT, MIB, Workload, all_workloads, is_ours

Rows = list[list[str]]
"""The first is the heading."""


def show(results: dict[str, Any]) -> None:
    """Everything, ratios first."""
    for title, rows in sections(results):
        print(f"\n{title}\n{as_text(rows)}")
    for what, why in results["failures"].items():
        print(f"\nFAILED {what}\n{why}")


def sections(results: dict[str, Any]) -> list[tuple[str, Rows]]:
    samples = samples_from_json(results["samples"])
    found = [
        ("Promised ratios (median of the rounds; least to most)", ratio_rows(samples)),
        ("CPU per operation: ours against the leanest peer", cpu_rows(samples)),
    ]
    if "memory" in results:
        found.append(("Peak memory", memory_rows(results["memory"])))
    if "startup" in results:
        found.append(
            ("From a fresh interpreter to the first 4 MiB read", startup_rows(results["startup"]))
        )
    if "processes" in results:
        found.append(("Several processes", process_rows(results["processes"])))
    found += [
        (workload.name, workload_rows(workload, samples))
        for workload in all_workloads()
        if workload.name in samples
    ]
    return found


def ratio_rows(samples: Samples) -> Rows:
    rows = [["work", "blockyard", "against", "ratio", "spread", "at least", ""]]
    for outcome in outcomes(samples):
        if isinstance(outcome, Target):
            rows.append(
                [outcome.workload, *outcome.ours[:1], *outcome.against[:1], "-", "", "", ""]
            )
            continue
        target = outcome.target
        rows.append(
            [
                target.workload,
                mode(outcome.ours),
                outcome.against,
                f"{outcome.ratio:.2f}x",
                _least_to_most(outcome),
                f"{target.at_least:g}x",
                "pass" if outcome.held else "FAIL",
            ]
        )
    return rows


def cpu_rows(samples: Samples) -> Rows:
    heading = ["work", "blockyard", "CPU us", "leanest peer", "CPU us", "ratio", ""]
    return [heading] + [
        [
            outcome.workload,
            mode(outcome.ours),
            f"{outcome.our_cpu * 1e6:,.0f}",
            outcome.peer,
            f"{outcome.peer_cpu * 1e6:,.0f}",
            f"{outcome.peer_cpu / outcome.our_cpu:.2f}x",
            "pass" if outcome.held else "FAIL",
        ]
        for outcome in cpu_outcomes(samples)
    ]


def memory_rows(peaks: dict[str, Any]) -> Rows:
    """The limit is held against blockyard alone, and counts all of the process."""
    rows = [["reading", "before", "peak", "at most", ""]]
    allowed = peaks["allowed"]
    for contender, peak in peaks.items():
        if contender in {"bytes", "allowed"}:
            continue
        ours = contender.startswith("blockyard")
        rows.append(
            [
                contender,
                f"{peak['before'] / MIB:.0f} MiB",
                f"{peak['peak'] / MIB:.0f} MiB",
                f"{allowed / MIB:.0f} MiB" if ours else "",
                "" if not ours else "pass" if peak["peak"] <= allowed else "FAIL",
            ]
        )
    return rows


def startup_rows(starts: dict[str, list[float]]) -> Rows:
    rows = [["client", "wall ms", "CPU ms"]]
    for peer, (wall, cpu) in starts.items():
        rows.append([peer, f"{wall * 1000:.0f}", f"{cpu * 1000:.0f}"])
    return rows


def process_rows(measured: list[dict[str, Any]]) -> Rows:
    heading = ["work", "client", "processes", "op/s", "client cores", "server cores", "limit"]
    return [heading] + [
        [
            each["workload"],
            each["contender"],
            str(each["processes"]),
            f"{each['rate']:,.0f}",
            f"{each['client_cores']:.2f}",
            f"{each['server_cores']:.2f}",
            each["limit"],
        ]
        for each in measured
    ]


def workload_rows(workload: Workload, samples: Samples) -> Rows:
    """Every contender: its rate, how much of ours that is, its spread and its CPU time."""
    taken = {name: each for name, each in samples[workload.name].items() if each}
    ours = max(
        (name for name in taken if is_ours(name)),
        key=lambda name: rate(taken[name]),
        default=None,
    )
    rows = [["client", "rate", "of ours", "spread", "CPU us"]]
    for name, each in sorted(taken.items(), key=lambda pair: -rate(pair[1])):
        rows.append(
            [
                name if name != LIMIT else f"{LIMIT} (the limit)",
                rate_text(workload, rate(each)),
                f"{rate(each) / rate(taken[ours]):.2f}" if ours else "",
                f"±{spread(each):.0%}",
                f"{cpu_per_operation(each) * 1e6:,.0f}",
            ]
        )
    return rows


def rate_text(workload: Workload, operations_per_second: float) -> str:
    """A rate as people read it: MB/s for large blocks, seconds for long work, else op/s."""
    if workload.operation in {"list", "delete"}:
        return f"{1 / operations_per_second:.2f} s"
    if workload.size >= MIB:
        return f"{operations_per_second * workload.size / 1e6:,.0f} MB/s"
    return f"{operations_per_second:,.0f} op/s"


def mode(contender: str) -> str:
    """Our modes by what they are called in the documentation."""
    names = {
        "": "one call",
        "many": "many at once",
        "asyncio": "asyncio",
        "threads": "threads",
        "held": "threads, held",
    }
    return names[contender.partition(" ")[2]]


def as_text(rows: Rows) -> str:
    """Columns of equal width: the first ones to the left, figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    right = [_is_figure(rows, at) for at in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def as_markdown(rows: Rows) -> str:
    marks = ["---:" if _is_figure(rows, at) else "---" for at in range(len(rows[0]))]
    lines = [rows[0], marks, *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_figure(rows: Rows, at: int) -> bool:
    cells = [row[at] for row in rows[1:] if row[at] not in {"", "-"}]
    return bool(cells) and all(cell[0].isdigit() or cell[0] in "±<" for cell in cells)


def _least_to_most(outcome: Outcome) -> str:
    return f"{min(outcome.ratios):.2f}-{max(outcome.ratios):.2f}"
