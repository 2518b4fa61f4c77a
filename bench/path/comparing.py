"""Clients beside each other over the emulated path, at several delays and losses.

In every round each client works in turn on the same path, so that a ratio is of two figures taken
within seconds of each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from bench.driving import Sample
from bench.fleet import Worker, WorkerError
from bench.measuring import Effort, Measured, in_turn
from bench.path.network import Path
from bench.path.service import at_the_far_end
from bench.path.works import CONDITIONS, PEERS, RATE, Condition, Work, works_over
from bench.samples import Samples, rate
from bench.tables import Rows
from bench.targets import ratios
from bench.workloads import MIB, is_ours, is_peer, split_contender

FULL = Effort(rounds=2, seconds=0.3)
QUICK = Effort(rounds=1, seconds=0.2)
_COMPARED = ("obstore", "boto3")


def measure(effort: Effort, congestion: str) -> Measured:
    """The samples of every work on every path; a client that fails is left out of a work."""
    measured = Measured()
    with Path(congestion=congestion) as path, ExitStack() as running:
        url = running.enter_context(at_the_far_end(path)).url
        workers: dict[str, Worker] = {}
        for peer in PEERS:
            module = [sys.executable, "-m", "bench.path.worker", peer, url]
            workers[peer] = running.enter_context(Worker(peer, path.command("client", module)))
            _ = workers[peer].ask({"work": None})
        for condition in CONDITIONS:
            path.change(rtt=condition.rtt, loss=condition.loss, rate=RATE)
            for work in works_over(condition):
                name = work_name(condition, work)
                measured.samples[name] = {who: [] for who in work.contenders}
                begun = time.monotonic()
                _measure_one(workers, work, name, effort, measured)
                print(f"  {name:45} took {time.monotonic() - begun:.0f} s", flush=True)
    return measured


def work_name(condition: Condition, work: Work) -> str:
    """What its samples are found under."""
    return f"{condition.name}: {work.name}"


def _measure_one(
    workers: dict[str, Worker], work: Work, name: str, effort: Effort, measured: Measured
) -> None:
    taken = measured.samples[name]
    for number in range(effort.rounds):
        for contender in in_turn(work.contenders, number):
            if f"{name}: {contender}" in measured.failures:
                continue
            command = {
                "work": work.as_json(),
                "contender": contender,
                "seconds": effort.seconds,
            }
            try:
                taken[contender].append(workers[split_contender(contender)[0]].ask(command))
            except WorkerError as error:
                measured.failures[f"{name}: {contender}"] = str(error)
                taken[contender].clear()


def tables(samples: Samples) -> list[tuple[str, Rows]]:
    """A table for each path: the clients, and how many times as fast our faster mode is."""
    return [(condition.name, _rows(condition, samples)) for condition in CONDITIONS]


def _rows(condition: Condition, samples: Samples) -> Rows:
    heading = ["work", "blockyard", "blockyard asyncio", "obstore", "boto3"]
    rows: Rows = [[*heading, "to obstore", "to boto3"]]
    for work in works_over(condition):
        name = work_name(condition, work)
        if name in samples:
            cells = [_figure(work, samples[name][who]) for who in work.contenders]
            rows.append([work.name, *cells, *_ratios(name, samples)])
    return rows


def _ratios(name: str, samples: Samples) -> list[str]:
    taken = {who: each for who, each in samples[name].items() if each}
    ours = max(filter(is_ours, taken), key=lambda who: rate(taken[who]), default=None)
    theirs = {split_contender(who)[0]: who for who in taken if is_peer(who)}
    return [
        f"{median(ratios(samples, name, ours, theirs[peer])):.2f}x"
        if ours and peer in theirs
        else ""
        for peer in _COMPARED
    ]


def _figure(work: Work, taken: Sequence[Sample]) -> str:
    """How long one takes, or what many come to."""
    if not taken:
        return "failed"
    done = rate(list(taken))
    if work.size >= MIB:
        return f"{done * work.size / 1e6:,.1f} MB/s"
    return f"{done:,.0f} op/s" if work.in_flight > 1 else f"{1e3 / done:,.1f} ms"
