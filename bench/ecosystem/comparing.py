"""What blockyard costs where people already are: Zarr, fsspec, and a large file written by it.

Chunks are read from nginx, and from moto, which is slow, but what many test with: their processor
time is the client's alone. The file goes to the sink. Everyone takes turns: a ratio is of figures
taken within seconds of each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import blockyard
from bench import data, wire
from bench.ecosystem import uploads
from bench.ecosystem.chunks import ON_MOTO, STORED, WORKS, work_names
from bench.ecosystem.uploads import Upload, Uploads
from bench.fleet import Worker, WorkerError, where
from bench.measuring import Effort, in_turn
from bench.peers.blockyard import settings
from bench.samples import Samples, cpu_per_operation, rate
from bench.site import Site
from bench.tables import Rows
from bench.workloads import CHUNKS, MIB
from servers import moto
from servers.endpoint import Endpoint, boto3_client, create_bucket

GIB = 1024 * MIB
_PEERS = ("blockyard", "obstore", "s3fs", "memory")
_AT_MOST = {"obstore": 0.6, "s3fs": 0.25}
"""The CPU that blockyard may take for a chunk, as a part of theirs.

Of an array it is not held to that: much of it is Zarr's own, whatever it is read from.
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure: the samples of chunks, and the uploads of a file of so many bytes."""

    chunks: Effort
    upload_rounds: int
    upload_bytes: int


FULL = Scale(Effort(rounds=5, seconds=1.0), upload_rounds=5, upload_bytes=GIB)
QUICK = Scale(Effort(rounds=2, seconds=0.2), upload_rounds=1, upload_bytes=256 * MIB)
TINY = Scale(Effort(rounds=1, seconds=0.01), upload_rounds=1, upload_bytes=32 * MIB)


@dataclass(slots=True)
class Measured:
    """Samples by work and contender, uploads by contender; and why a contender has none."""

    samples: Samples = field(default_factory=dict)
    uploads: Uploads = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(scale: Scale) -> Measured:
    """All works; a client that fails is left out of one."""
    measured = Measured()
    with wire.serve() as endpoint:
        _measure_on(endpoint, [kind for kind in WORKS if kind != ON_MOTO], scale.chunks, measured)
    with moto.serve() as endpoint:
        fill(endpoint)
        _measure_on(endpoint, [ON_MOTO], scale.chunks, measured)
    print(f"  a file of {scale.upload_bytes // MIB:,} MiB, uploaded", flush=True)
    measured.uploads = uploads.measure(scale.upload_bytes, scale.upload_rounds)
    return measured


def fill(endpoint: Endpoint) -> None:
    """Store the chunks that are read, as each client would have: see `fleet.where`."""
    plain = boto3_client(endpoint)
    try:
        for bucket in (data.PLAIN, data.KEPT):
            create_bucket(endpoint, bucket)
        with blockyard.open_store(**settings(Site(endpoint.url, data.KEPT))) as kept:
            for size in CHUNKS:
                for key in data.read_keys(size)[:STORED]:
                    body = data.content(size, key)
                    plain.put_object(Bucket=data.PLAIN, Key=key, Body=body)
                    _ = kept.write_block(key, body)
    finally:
        plain.close()


def _measure_on(
    endpoint: Endpoint, kinds: Sequence[str], effort: Effort, measured: Measured
) -> None:
    with ExitStack() as running:
        workers: dict[str, Worker] = {}
        for peer in _PEERS:
            there = where(endpoint, peer)
            module = [sys.executable, "-m", "bench.ecosystem.chunks", peer]
            command = [*module, there["url"], there["bucket"]]
            workers[peer] = running.enter_context(Worker(peer, command))
        for name, (kind, size) in work_names().items():
            if kind not in kinds:
                continue
            begun = time.monotonic()
            _measure_one(workers, name, {"kind": kind, "size": size}, effort, measured)
            print(f"  {name:40} took {time.monotonic() - begun:.0f} s", flush=True)


def _measure_one(
    workers: dict[str, Worker],
    name: str,
    work: dict[str, Any],
    effort: Effort,
    measured: Measured,
) -> None:
    contenders = WORKS[work["kind"]]
    taken = measured.samples[name] = {who: [] for who in contenders}
    for number in range(effort.rounds):
        for who in in_turn(contenders, number):
            if f"{name}: {who}" in measured.failures:
                continue
            command = {**work, "contender": who, "seconds": effort.seconds}
            try:
                taken[who].append(workers[who.partition(" ")[0]].ask(command))
            except WorkerError as error:
                measured.failures[f"{name}: {who}"] = str(error)
                taken[who].clear()


def chunk_rows(samples: Samples) -> Rows:
    """A line for each contender of each work, and its CPU beside ours."""
    rows: Rows = [["read", "client", "op/s", "CPU us", "blockyard's CPU", "at most", ""]]
    for name, taken in samples.items():
        for who, each in taken.items():
            if not each:
                rows.append([name, who, "failed", "", "", "", ""])
                continue
            cells = [name, who, f"{rate(each):,.0f}", f"{cpu_per_operation(each) * 1e6:,.0f}"]
            rows.append([*cells, *_compared(taken, who, judged="array" not in name)])
    return rows


def _compared(taken: dict[str, list[Any]], who: str, *, judged: bool) -> list[str]:
    """The CPU of our like way of reading as a part of theirs, by the rounds."""
    peer, _, mode = who.partition(" ")
    ours = taken.get(f"blockyard {mode}".strip())
    if peer not in _AT_MOST or not ours:
        return ["", "", ""]
    ratio = median(
        (mine.cpu / mine.operations) / (its.cpu / its.operations)
        for mine, its in zip(ours, taken[who], strict=True)
    )
    if not judged:
        return [f"{ratio:.2f}x", "", ""]
    limit = _AT_MOST[peer]
    return [f"{ratio:.2f}x", f"{limit:g}x", "pass" if ratio <= limit else "FAIL"]


def upload_rows(taken: Uploads, size: int) -> Rows:
    """A line for each contender, and how fast blockyard is against it, by the rounds."""
    rows: Rows = [["upload", "MB/s", "CPU s", "peak MiB", "blockyard's rate", "at least", ""]]
    for who, each in taken.items():
        seconds = median(one.seconds for one in each)
        cells = [
            who,
            f"{size / seconds / 1e6:,.0f}",
            f"{median(one.cpu for one in each):.1f}",
            f"{max(one.peak for one in each) / MIB:,.0f}",
        ]
        if who == uploads.OURS:
            fits = max(one.peak for one in each) <= uploads.ALLOWED
            limit = f"{uploads.ALLOWED // MIB} MiB at most"
            rows.append([*cells, "", limit, "pass" if fits else "FAIL"])
            continue
        ratios = [
            its.seconds / own.seconds for own, its in zip(taken[uploads.OURS], each, strict=True)
        ]
        held = "pass" if median(ratios) >= uploads.AT_LEAST else "FAIL"
        spread = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append([*cells, spread, f"{uploads.AT_LEAST:g}x", held])
    return rows


def uploads_as_json(taken: Uploads) -> dict[str, list[dict[str, float]]]:
    """As it is saved."""
    return {who: [asdict(each) for each in all_of_it] for who, all_of_it in taken.items()}


def uploads_from_json(saved: dict[str, list[dict[str, Any]]]) -> Uploads:
    """What was saved."""
    return {who: [Upload(**each) for each in all_of_it] for who, all_of_it in saved.items()}
