"""Where blockyard stays behind: promises not kept, and work that another client does better."""

from __future__ import annotations

from typing import Any

from bench.driving import Sample
from bench.samples import Samples, rate
from bench.startup import NOTHING
from bench.targets import Outcome, cpu_outcomes, outcomes
from bench.workloads import is_ours, is_peer

Notes = dict[str, dict[str, str]]


def loss_lines(results: dict[str, Any], samples: Samples, notes: Notes) -> list[str]:
    """A list in Markdown, a line for each work, with what notes.toml says about it."""
    found: dict[str, list[str]] = {}
    for work, what in (*_promises(samples), *_cpu(samples), *_faster(samples)):
        found.setdefault(work, []).append(what)
    slow_start = _slow_start(results["startup"])
    if slow_start:
        found["the first read of a process"] = [slow_start]
    lines = [
        f"- **{work}**: {'; '.join(what)}.{_note(notes, work)}" for work, what in found.items()
    ]
    return lines or ["In none of the rows of this run."]


def _promises(samples: Samples) -> list[tuple[str, str]]:
    return [
        (
            each.target.workload,
            f"{each.ratio:.2f}x {each.against} ({each.ours}), promised {each.target.at_least:g}x",
        )
        for each in outcomes(samples)
        if isinstance(each, Outcome) and not each.held
    ]


def _cpu(samples: Samples) -> list[tuple[str, str]]:
    return [
        (
            each.workload,
            f"{each.our_cpu * 1e6:,.0f} us of CPU against {each.peer}'s {each.peer_cpu * 1e6:,.0f}",
        )
        for each in cpu_outcomes(samples)
        if not each.held
    ]


def _faster(samples: Samples) -> list[tuple[str, str]]:
    found = ((work, _faster_peer(taken)) for work, taken in samples.items())
    return [(work, what) for work, what in found if what]


def _faster_peer(taken: dict[str, list[Sample]]) -> str:
    rates = {name: rate(each) for name, each in taken.items() if each}
    ours = [value for name, value in rates.items() if is_ours(name)]
    peers = {name: value for name, value in rates.items() if is_peer(name)}
    if not ours or not peers:
        return ""
    best = max(peers, key=peers.__getitem__)
    times = peers[best] / max(ours)
    return f"{best} does {times:.2f} times as much" if times > 1 else ""


def _slow_start(starts: dict[str, list[float]]) -> str:
    ours = starts["blockyard"][0]
    quicker = [
        f"{peer} {wall * 1000:.0f} ms"
        for peer, (wall, _) in starts.items()
        if peer not in {"blockyard", NOTHING} and wall < ours
    ]
    return f"{ours * 1000:.0f} ms, {', '.join(quicker)}" if quicker else ""


def _note(notes: Notes, work: str) -> str:
    note = notes.get(work)
    return " " + " ".join(note["text"].split()) if note else ""
