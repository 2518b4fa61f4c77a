"""The ratios that are promised, and whether a run's samples keep them.

A ratio is the median, over the rounds of a run, of the figures of two contenders in the same
round. Where several modes of a client take part, its fastest stands for it, on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from bench.samples import Samples, cpu_per_operation, rate
from bench.workloads import DELETED, LIMIT, LISTED, is_ours, is_peer


@dataclass(frozen=True, slots=True)
class Target:
    """`ours` should reach `at_least` times the rate of the fastest of `against`."""

    workload: str
    ours: tuple[str, ...]
    against: tuple[str, ...]
    at_least: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target's ratio: the median of the rounds, the least and the most."""

    target: Target
    ours: str
    against: str
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def held(self) -> bool:
        return self.ratio >= self.target.at_least


_MANY_RANGES = "16 KiB ranges, 32 in flight"
_OURS_TOGETHER = ("blockyard many", "blockyard asyncio", "blockyard threads")
_OBSTORE_TOGETHER = ("obstore asyncio", "obstore threads")

TARGETS = (
    Target("16 KiB ranges, one at a time", ("blockyard",), ("obstore",), 2.0),
    Target("16 KiB ranges, one at a time", ("blockyard",), ("boto3",), 12.0),
    *(
        Target(_MANY_RANGES, (ours,), (against,), at_least)
        for ours in ("blockyard many", "blockyard asyncio")
        for against, at_least in (
            ("obstore asyncio", 1.5),
            ("obstore threads", 1.2),
            ("boto3 threads", 30.0),
            (LIMIT, 0.4),
        )
    ),
    Target("read 4 MiB, one at a time", ("blockyard",), ("obstore",), 1.3),
    Target("read 4 MiB, one at a time", ("blockyard",), ("boto3",), 1.2),
    Target("read 4 MiB, one at a time", ("blockyard",), (LIMIT,), 1.0),
    Target("read 4 MiB, 8 in flight", _OURS_TOGETHER, _OBSTORE_TOGETHER, 1.15),
    Target("read 4 MiB, 8 in flight", ("blockyard many",), ("obstore held",), 1.0),
    Target("write 4 MiB, one at a time", ("blockyard",), ("obstore",), 1.1),
    Target("write 4 MiB, one at a time", ("blockyard",), ("minio",), 1.1),
    Target("write 4 MiB, one at a time", ("blockyard",), ("boto3",), 1.5),
    Target("write 4 MiB, 8 in flight", _OURS_TOGETHER, _OBSTORE_TOGETHER, 1.0),
    Target("read 4 MiB, one at a time, TLS", ("blockyard",), ("obstore",), 1.3),
    Target("read 4 MiB, one at a time, TLS", ("blockyard",), ("boto3",), 1.3),
    *(
        Target(f"{what} 1 KiB, 32 in flight", (ours,), ("obstore asyncio",), 3.0)
        for what in ("write", "read")
        for ours in ("blockyard many", "blockyard asyncio")
    ),
    Target("copy, one at a time", ("blockyard",), ("obstore",), 1.0),
    Target(f"delete {DELETED:,} keys", ("blockyard",), ("obstore",), 1.0),
    Target(f"list {LISTED:,} keys", ("blockyard",), ("obstore",), 1.2),
    Target(f"list {LISTED:,} keys", ("blockyard",), ("boto3",), 5.0),
)


def outcomes(samples: Samples) -> list[Outcome | Target]:
    """Each target with what came of it, or the bare target when the run has no samples for it."""
    return [_outcome(samples, target) or target for target in TARGETS]


def _outcome(samples: Samples, target: Target) -> Outcome | None:
    ours = _fastest(samples, target.workload, target.ours)
    against = _fastest(samples, target.workload, target.against)
    if ours is None or against is None:
        return None
    return Outcome(target, ours, against, ratios(samples, target.workload, ours, against))


def ratios(samples: Samples, workload: str, ours: str, against: str) -> tuple[float, ...]:
    """Our rate over theirs, round by round."""
    taken = samples[workload]
    return tuple(
        (a.operations / a.seconds) / (b.operations / b.seconds)
        for a, b in zip(taken[ours], taken[against], strict=True)
    )


def _fastest(samples: Samples, workload: str, contenders: tuple[str, ...]) -> str | None:
    taking_part = [name for name in contenders if samples.get(workload, {}).get(name)]
    if not taking_part:
        return None
    return max(taking_part, key=lambda name: rate(samples[workload][name]))


@dataclass(frozen=True, slots=True)
class CpuOutcome:
    """CPU seconds per operation: our leanest mode, and the leanest of all peers."""

    workload: str
    ours: str
    our_cpu: float
    peer: str
    peer_cpu: float

    @property
    def held(self) -> bool:
        return self.our_cpu <= self.peer_cpu


def cpu_outcomes(samples: Samples) -> list[CpuOutcome]:
    """For every workload of the table above: no peer does the work with less CPU."""
    found: list[CpuOutcome] = []
    for workload in dict.fromkeys(target.workload for target in TARGETS):
        by_cpu = sorted(
            (cpu_per_operation(taken), name)
            for name, taken in samples.get(workload, {}).items()
            if taken
        )
        ours = [pair for pair in by_cpu if is_ours(pair[1])]
        peers = [pair for pair in by_cpu if is_peer(pair[1])]
        if ours and peers:
            found.append(CpuOutcome(workload, ours[0][1], ours[0][0], peers[0][1], peers[0][0]))
    return found
