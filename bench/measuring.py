"""The rounds: every contender of a workload once, in turn, then all of them again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bench.fleet import Fleet, WorkerError
from bench.samples import Samples, rate
from bench.tables import rate_text
from bench.workloads import Workload, is_ours, is_peer


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, and seconds a sample."""

    rounds: int
    seconds: float


@dataclass(slots=True)
class Measured:
    """`failures` say why a contender of a workload has no samples."""

    samples: Samples = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(
    fleet: Fleet, workloads: Iterable[Workload], effort: Callable[[Workload], Effort]
) -> Measured:
    """Measure each workload; a contender that fails is left out and its error kept."""
    measured = Measured()
    for workload in workloads:
        taken = measured.samples[workload.name] = {name: [] for name in workload.contenders}
        wanted = effort(workload)
        for number in range(wanted.rounds):
            for contender in in_turn(workload.contenders, number):
                if f"{workload.name}: {contender}" in measured.failures:
                    continue
                try:
                    taken[contender].append(fleet.sample(workload, contender, wanted.seconds))
                except (WorkerError, RuntimeError) as error:
                    measured.failures[f"{workload.name}: {contender}"] = str(error)
                    taken[contender].clear()
        _tell(workload, measured)
    return measured


def in_turn(contenders: tuple[str, ...], number: int) -> Iterator[str]:
    """Everyone once, each round beginning with the next, so that no place is anyone's own."""
    first = number % len(contenders)
    yield from contenders[first:]
    yield from contenders[:first]


def _tell(workload: Workload, measured: Measured) -> None:
    """One line as the work goes on; the tables come at the end."""
    rates = {name: rate(taken) for name, taken in measured.samples[workload.name].items() if taken}
    ours = {name: value for name, value in rates.items() if is_ours(name)}
    peers = {name: value for name, value in rates.items() if is_peer(name)}
    line = f"  {workload.name:40}"
    if ours and peers:
        best, next_best = max(ours, key=ours.__getitem__), max(peers, key=peers.__getitem__)
        line += f" {rate_text(workload, ours[best]):>12}"
        line += f"  {ours[best] / peers[next_best]:5.2f}x {next_best}"
    print(line, flush=True)
    for contender in workload.contenders:
        failure = measured.failures.get(f"{workload.name}: {contender}")
        if failure:
            print(f"    {contender} failed: {failure.strip().splitlines()[-1]}", file=sys.stderr)
