"""A campaign as a whole: server, proxy, jobs in processes of their own, and one result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from blockyard.testing.faults import FaultProxy
from campaign import bucket
from campaign.tally import LEAKED, Tally
from campaign.weather import Weather, forecast
from campaign.workers import Job, Kind
from campaign.workers import run as run_job
from servers import ceph, localstack, moto
from servers.endpoint import Endpoint, create_bucket

SERVERS = ("memory", "moto", "localstack", "ceph")
_VERIFIES_UPLOADS = ("memory", "localstack", "ceph")
PATIENCE = 2.0
"""The no-progress timeout of the stores, in seconds."""
_CONNECTIONS = 64
_SHARES: dict[Kind, tuple[int, float]] = {
    "threads": (32, 0.35),
    "asyncio": (64, 0.45),
    "forks": (24, 0.16),
    "hypothesis": (1, 0.04),
}
"""For each kind of worker: how many actors, and their share of the operations."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a campaign; `faults` are those met, by name, `events` what was done besides.

    `server_lost` is how often the server behind the faults was not reached or broke off.
    """

    server: str
    seed: int
    seconds: float
    tally: Tally
    by_kind: Counter[str]
    requests: int
    faults: Counter[str]
    server_lost: int = 0
    events: Sequence[str] = ()


def run_campaign(seed: int, operations: int, server: str) -> Result:
    """About `operations` operations against `server`, through rough weather."""
    begun = time.monotonic()
    rates = forecast(patience=PATIENCE, uploads_verified=server in _VERIFIES_UPLOADS)
    weather = Weather(seed, rates)
    with serve(server) as endpoint, FaultProxy(endpoint.url, weather, log_limit=1) as proxy:
        jobs = make_jobs(endpoint, proxy.url, seed, operations)
        with started(jobs) as under_way:
            tally, by_kind = gathered(jobs, under_way)
        check_proxy(proxy, tally)
        return Result(
            server,
            seed,
            time.monotonic() - begun,
            tally,
            by_kind,
            weather.requests,
            proxy.counts,
            proxy.upstream_failures,
        )


@contextmanager
def serve(server: str) -> Generator[Endpoint]:
    """A server that is up, with an empty bucket."""
    if server == "memory":
        with bucket.serve() as url:
            yield Endpoint("memory", url, "campaign", "campaign")
        return
    serving = {"moto": moto.serve, "localstack": localstack.serve, "ceph": ceph.serve}[server]
    with serving() as endpoint:
        create_bucket(endpoint, bucket.BUCKET)
        yield endpoint


def make_jobs(
    endpoint: Endpoint,
    proxy_url: str,
    seed: int,
    operations: int,
    *,
    seconds: float = float("inf"),
    kinds: Sequence[Kind] = tuple(_SHARES),
) -> list[Job]:
    """A job for each kind of worker; together about `operations`, within `seconds`."""
    direct = endpoint.s3_settings(bucket.BUCKET)
    through: dict[str, Any] = {
        **direct,
        "endpoint": proxy_url,
        "timeouts": {"no_progress": PATIENCE},
        "http": {"max_connections": _CONNECTIONS},
    }
    return [
        Job(
            kind=kind,
            name=kind,
            seed=seed,
            actors=_SHARES[kind][0],
            operations=max(round(operations * _SHARES[kind][1] / _SHARES[kind][0]), 1),
            seconds=seconds,
            settings=through,
            direct=direct,
            patience=PATIENCE,
        )
        for kind in kinds
    ]


@contextmanager
def started(jobs: Sequence[Job]) -> Generator[list[Future[Tally]]]:
    """The jobs, each under way in a process of its own."""
    # spawned, so that none inherits what this process has open
    with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as processes:
        yield [processes.submit(run_job, job) for job in jobs]


def gathered(jobs: Sequence[Job], under_way: Sequence[Future[Tally]]) -> tuple[Tally, Counter[str]]:
    """What came of the jobs, and how many operations each kind did."""
    tally = Tally()
    by_kind: Counter[str] = Counter()
    for job, future in zip(jobs, under_way, strict=True):
        done = future.result()
        by_kind[job.kind] += done.operations.total()
        tally.add(done)
    return tally, by_kind


def check_proxy(proxy: FaultProxy, tally: Tally, within: float = 5.0) -> None:
    """Count the connections still open `within` seconds after their clients are gone."""
    if not proxy.wait_until_drained(within):
        tally.breaks(LEAKED, f"{proxy.open_connections} connections to the proxy are open")
