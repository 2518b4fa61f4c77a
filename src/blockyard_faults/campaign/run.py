"""A campaign as a whole: server, stages with a proxy each, jobs in processes, and one result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blockyard_faults import FaultProxy
from blockyard_faults.campaign import bucket
from blockyard_faults.campaign.deadlines import Silence
from blockyard_faults.campaign.expected import LEAKED, PROMISES, Tally
from blockyard_faults.campaign.fault_schedule import (
    SERVICES,
    CountedPlan,
    FaultSchedule,
    Service,
    ServicePlan,
    fault_rates,
)
from blockyard_faults.campaign.jobs import Job
from blockyard_faults.campaign.processes import gathered, started

if TYPE_CHECKING:
    from servers.endpoint import Endpoint


SERVERS = ("memory", "moto", "localstack", "ceph")
_VERIFIES_UPLOADS = ("memory", "localstack", "ceph")
PATIENCE = 2.0
"""The no-progress timeout of the stores, in seconds."""
_CONNECTIONS = 32
_ONLY_DEADLINES = {"timeouts": {"no_progress": 60.0, "connect": 60.0}}


@dataclass(frozen=True, slots=True)
class Target:
    """The server behind the faults, with an empty bucket; `settings` open it without them."""

    kind: str
    url: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Share:
    """How many actors a job has, and their share of the operations; `damages` is told in `Job`.

    Its `kind` is by default its name; `settings` win over those of all stores.
    """

    actors: int
    operations: float
    kind: str = ""
    damages: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Stage:
    """Jobs, by name, that are under way at the same time, through one proxy."""

    jobs: dict[str, Share]
    plan: Callable[[int], CountedPlan]


def _fault_schedule(uploads_verified: bool) -> Callable[[int], CountedPlan]:
    rates = fault_rates(patience=PATIENCE, uploads_verified=uploads_verified)
    return lambda seed: FaultSchedule(seed, rates)


def stages(server: str) -> list[Stage]:
    """The stages, one after the other: on two cores all at once would be late for everything."""
    schedule = _fault_schedule(server in _VERIFIES_UPLOADS)
    blocks = {
        "threads": Share(32, 0.28),
        "asyncio": Share(64, 0.36),
        "forks": Share(24, 0.13),
        "hypothesis": Share(1, 0.03),
    }
    contents = {
        "contents": Share(8, 0.05),
        "cancelled": Share(24, 0.07),
        "signalled": Share(1, 0.01),
        "leaving": Share(1, 0.02),
    }
    services = [
        Stage({name: Share(6, 0.01, "service", service.damages)}, _plan_of(service))
        for name, service in SERVICES.items()
    ]
    late = Stage({"deadlines": Share(4, 0.002, settings=_ONLY_DEADLINES)}, Silence)
    keys = Stage({"credentials": Share(6, 0.005)}, schedule)
    return [Stage(blocks, schedule), Stage(contents, schedule), *services, late, keys]


def _plan_of(service: Service) -> Callable[[int], CountedPlan]:
    return lambda seed: ServicePlan(seed, service.choose())


@dataclass(slots=True)
class Result:
    """What came of a campaign; `faults` are those met, by name, `events` what was done besides.

    `server_lost` is how often the server behind the faults was not reached or broke off.
    """

    server: str
    seed: int
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    by_job: Counter[str] = field(default_factory=Counter[str])
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    server_lost: int = 0
    events: Sequence[str] = ()


def run_campaign(seed: int, operations: int, server: str, only: Sequence[str] = ()) -> Result:
    """About `operations` operations against `server`, in all jobs or `only` in some."""
    begun = time.monotonic()
    result = Result(server, seed)
    with serve(server) as target:
        for stage in stages(server):
            jobs = {name: stage.jobs[name] for name in stage.jobs if not only or name in only}
            if jobs:
                _run_stage(target, result, operations, Stage(jobs, stage.plan))
    result.seconds = time.monotonic() - begun
    return result


def _run_stage(target: Target, result: Result, operations: int, stage: Stage) -> None:
    plan = stage.plan(result.seed)
    with FaultProxy(target.url, plan, log_limit=1) as proxy:
        jobs = make_jobs(target, proxy.url, result.seed, operations, stage.jobs)
        with started(jobs) as under_way:
            tally, by_job = gathered(under_way)
        check_proxy(proxy, tally)
        result.tally.add(tally)
        result.by_job += by_job
        result.requests += plan.requests
        result.faults += proxy.counts
        result.server_lost += proxy.upstream_failures


@contextmanager
def serve(server: str) -> Generator[Target]:
    """A server that is up, with an empty bucket."""
    if server == "memory":
        with bucket.serve() as url:
            settings = {
                "bucket": bucket.BUCKET,
                "endpoint": url,
                "force_path_style": True,
                "access_key": "campaign",
                "secret_key": "campaign",
            }
            yield Target("memory", url, settings)
        return
    # the real servers are in the repository alone, not in the distribution
    from servers import ceph, localstack, moto  # noqa: PLC0415

    serving = {"moto": moto.serve, "localstack": localstack.serve, "ceph": ceph.serve}[server]
    with serving() as endpoint:
        yield real_target(endpoint)


def real_target(endpoint: Endpoint) -> Target:
    """A real server that is up, with an empty bucket made in it."""
    from servers.endpoint import create_bucket  # noqa: PLC0415

    create_bucket(endpoint, bucket.BUCKET)
    return Target(endpoint.kind, endpoint.url, endpoint.s3_settings(bucket.BUCKET))


def make_jobs(
    target: Target,
    proxy_url: str,
    seed: int,
    operations: int,
    shares: dict[str, Share],
    *,
    seconds: float = float("inf"),
) -> list[Job]:
    """A job for each of `shares`; together their share of `operations`, within `seconds`."""
    through: dict[str, Any] = {
        **target.settings,
        "endpoint": proxy_url,
        "timeouts": {"no_progress": PATIENCE},
        "http": {"max_connections": _CONNECTIONS},
    }
    return [
        Job(
            kind=share.kind or name,
            name=name,
            seed=seed,
            actors=share.actors,
            operations=max(round(operations * share.operations / share.actors), 1),
            seconds=seconds,
            settings={**through, **share.settings},
            direct=dict(target.settings),
            patience=PATIENCE,
            damages=share.damages,
            connections=_CONNECTIONS if target.kind == "memory" else None,
        )
        for name, share in shares.items()
    ]


def check_proxy(proxy: FaultProxy, tally: Tally, within: float = 5.0) -> None:
    """Count the connections still open `within` seconds after their clients are gone."""
    if not proxy.wait_until_drained(within):
        tally.breaks(LEAKED, f"{proxy.open_connections} connections to the proxy are open")


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
