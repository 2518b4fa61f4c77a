"""One run: every measurement, the tables on the terminal, and the results in one JSON file."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import gettempdir
from typing import Any

from bench import machine, memory, processes, startup, stores, tables
from bench.ecosystem import comparing as ecosystem
from bench.fleet import REPOSITORY, Fleet, environment, where
from bench.measuring import Effort, measure
from bench.path import comparing
from bench.path.network import PathUnavailableError, require_path
from bench.peers import NAMES
from bench.samples import samples_as_json
from bench.workloads import LIMIT, MIB, Workload, all_workloads

RESULTS = REPOSITORY / "bench" / "results"
_QUIET = 0.1
"""Cores that others may use before the figures are not to be trusted."""
_LONG_FROM = 64 * MIB
"""Bytes in flight from which on a short sample would show each place's first block alone."""
_LOCK = Path(gettempdir()) / "bench.lock"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure: the promised ratios, the grid of all other work, and what follows.

    `starts` are those of each client, `memory_bytes` what is read to find the peak, and the
    seconds those of a sample of several processes, and of each store that `stores` looks at.
    """

    name: str
    headline: Effort
    services: Effort
    grid: Effort | None
    peers: tuple[str, ...]
    starts: int
    memory_bytes: int
    process_seconds: float
    stores_seconds: float

    def effort(self, workload: Workload) -> Effort:
        if workload.operation in {"list", "delete"}:
            return self.services
        long = workload.headline or workload.size * workload.in_flight >= _LONG_FROM
        return self.headline if long or self.grid is None else self.grid


FULL = Scale(
    name="full",
    headline=Effort(rounds=5, seconds=0.5),
    services=Effort(rounds=3, seconds=0),
    grid=Effort(rounds=3, seconds=0.25),
    peers=NAMES,
    starts=5,
    memory_bytes=10 * 1024 * MIB,
    process_seconds=1.0,
    stores_seconds=8.0,
)
QUICK = Scale(
    name="quick",
    headline=Effort(rounds=3, seconds=0.25),
    services=Effort(rounds=2, seconds=0),
    grid=None,
    peers=("blockyard", "obstore", "minio", "boto3"),
    starts=3,
    memory_bytes=1024 * MIB,
    process_seconds=0.5,
    stores_seconds=0.0,
)
TINY = Scale(
    name="tiny",
    headline=Effort(rounds=1, seconds=0.01),
    services=Effort(rounds=1, seconds=0),
    grid=None,
    peers=("blockyard", "obstore", "boto3"),
    starts=1,
    memory_bytes=160 * MIB,
    process_seconds=0.1,
    stores_seconds=0.0,
)


def over_a_path(effort: Effort, congestion: str, save: str) -> int:
    """Measure over an emulated path, print and save; where there can't be one, say so."""
    try:
        require_path()
    except PathUnavailableError as error:
        print(f"over a network path: skipped: {error}")
        return 0
    begun = time.monotonic()
    with _alone():
        print(f"blockyard {machine.commit()} over a network path", flush=True)
        others = machine.Disturbance()
        measured = comparing.measure(effort, congestion)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe_host(),
        "versions": {peer: machine.versions()[peer] for peer in comparing.PEERS},
        "congestion": congestion,
        "rounds": effort.rounds,
        "others": round(others.cores(), 2),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "samples": samples_as_json(measured.samples),
        "failures": measured.failures,
    }
    path = Path(save) if save else RESULTS / f"{results['date'][:10]}-path.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _ = path.write_text(_as_lines(results))
    for title, rows in comparing.tables(measured.samples):
        print(f"\n{title}\n{tables.as_text(rows)}")
    for what, why in measured.failures.items():
        print(f"\nFAILED {what}\n{why}")
    print(f"\nsaved to {path} after {results['minutes']:g} minutes")
    return 0


def in_the_ecosystem(scale: ecosystem.Scale, save: str) -> int:
    """Measure under Zarr and fsspec, print and save."""
    begun = time.monotonic()
    with _alone():
        print(f"blockyard {machine.commit()} under Zarr and fsspec", flush=True)
        others = machine.Disturbance()
        measured = ecosystem.measure(scale)
    versions = machine.versions()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": {peer: versions[peer] for peer in ("blockyard", "obstore", "boto3", "s3fs")}
        | {name: version(name) for name in ("zarr", "fsspec")},
        "rounds": scale.chunks.rounds,
        "upload_bytes": scale.upload_bytes,
        "upload_rounds": scale.upload_rounds,
        "others": round(others.cores(), 2),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "samples": samples_as_json(measured.samples),
        "uploads": ecosystem.uploads_as_json(measured.uploads),
        "failures": measured.failures,
    }
    path = Path(save) if save else RESULTS / f"{results['date'][:10]}-ecosystem.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _ = path.write_text(_as_lines(results))
    print(f"\n{tables.as_text(ecosystem.chunk_rows(measured.samples))}")
    print(f"\n{tables.as_text(ecosystem.upload_rows(measured.uploads, scale.upload_bytes))}")
    for what, why in measured.failures.items():
        print(f"\nFAILED {what}\n{why}")
    print(f"\nsaved to {path} after {results['minutes']:g} minutes")
    return 0


def main(scale: Scale, only: str, save: str) -> int:
    """Measure, print and save. Returns the process's exit status."""
    begun = time.monotonic()
    with _alone():
        print(f"blockyard {machine.commit()}, {scale.name} run", flush=True)
        others = machine.Disturbance()
        results = _measure_all(scale, only)
        results["others"] = round(others.cores(), 2)
    results["minutes"] = round((time.monotonic() - begun) / 60, 1)
    path = Path(save) if save else RESULTS / f"{results['date'][:10]}-{scale.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _ = path.write_text(_as_lines(results))
    tables.show(results)
    print(f"\nsaved to {path} after {results['minutes']:g} minutes")
    if results["others"] > _QUIET:
        print(
            f"warning: other programs used {results['others']:g} cores meanwhile; "
            "on a machine that is not quiet, no figure here is worth much",
            file=sys.stderr,
        )
    return 0


def _measure_all(scale: Scale, only: str) -> dict[str, Any]:
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "scale": scale.name,
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(),
    }
    with Fleet() as fleet:
        measured = measure(fleet, _workloads(scale, only), scale.effort)
        results["samples"] = samples_as_json(measured.samples)
        results["failures"] = measured.failures
        if not only:
            results["startup"] = _startup(fleet, scale)
            results["memory"] = _memory(fleet, scale)
            results["processes"] = _processes(fleet, scale)
    if not only and scale.stores_seconds:
        results["stores"] = stores.measure(scale.stores_seconds)
    return results


def _workloads(scale: Scale, only: str) -> list[Workload]:
    """Those of the scale, the promised ones first, and their contenders that take part."""
    wanted = [each for each in all_workloads() if each.headline or scale.grid is not None]
    taking_part = (*scale.peers, LIMIT)
    return [
        replace(
            each,
            contenders=tuple(
                name
                for name in each.contenders
                if name.partition(" ")[0].partition("/")[0] in taking_part
            ),
        )
        for each in sorted(wanted, key=lambda each: not each.headline)
        if only in each.name
    ]


def _startup(fleet: Fleet, scale: Scale) -> dict[str, list[float]]:
    """Wall and CPU seconds, by client: the medians of some starts in turn."""
    print("  time to the first result", flush=True)
    endpoint = fleet.endpoint("nginx")
    peers = (startup.NOTHING, *scale.peers)
    taken: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}
    for _ in range(scale.starts):
        for peer in peers:
            taken[peer].append(startup.measure(peer, where(endpoint, peer), environment()))
    return {
        peer: [median(wall for wall, _ in times), median(cpu for _, cpu in times)]
        for peer, times in taken.items()
    }


def _memory(fleet: Fleet, scale: Scale) -> dict[str, Any]:
    print("  peak memory", flush=True)
    endpoint = fleet.endpoint("nginx")
    peaks: dict[str, Any] = {"bytes": scale.memory_bytes, "allowed": memory.ALLOWED}
    for contender in memory.CONTENDERS:
        peer = contender.partition(" ")[0]
        if peer in scale.peers:
            peak = memory.measure(
                contender, where(endpoint, peer), environment(), scale.memory_bytes
            )
            peaks[contender] = asdict(peak)
    return peaks


def _processes(fleet: Fleet, scale: Scale) -> list[dict[str, Any]]:
    print("  several processes", flush=True)
    found: list[dict[str, Any]] = []
    endpoint = fleet.endpoint("nginx")
    cores = int(machine.describe()["cores"])
    for workload in all_workloads():
        if workload.name not in {"16 KiB ranges, 32 in flight", "read 4 MiB, 8 in flight"}:
            continue
        for contender in ("blockyard many", "obstore asyncio"):
            for count in processes.COUNTS:
                together = processes.measure(
                    workload, contender, endpoint, count, scale.process_seconds
                )
                limit = processes.limit_of(together, cores)
                found.append(
                    {"workload": workload.name, "contender": contender, "limit": limit}
                    | asdict(together)
                )
    return found


@contextmanager
def _alone() -> Generator[None]:
    """Wait until no other benchmark runs on this machine."""
    with _LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another benchmark is running; waiting for its end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _as_lines(results: dict[str, Any]) -> str:
    """JSON with a line for each contender's samples: readable, and small when it changes."""
    lines: list[str] = []
    for key, value in results.items():
        if key == "samples":
            by_workload = ",\n".join(
                f"  {json.dumps(workload)}: {{\n"
                + ",\n".join(
                    f"   {json.dumps(name)}: {json.dumps(taken)}" for name, taken in each.items()
                )
                + "\n  }"
                for workload, each in value.items()
            )
            lines.append(f' "samples": {{\n{by_workload}\n }}')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
