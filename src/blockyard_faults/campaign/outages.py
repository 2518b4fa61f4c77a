"""The campaign on Ceph, while its OSD and then its gateway are killed and started again.

Ceph is started by the package `servers`, which is in the repository alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from blockyard_faults import FaultProxy
from blockyard_faults.campaign.fault_schedule import FaultSchedule, fault_rates
from blockyard_faults.campaign.processes import gathered, started
from blockyard_faults.campaign.run import (
    PATIENCE,
    Result,
    Share,
    check_proxy,
    make_jobs,
    real_target,
)
from servers import ceph
from servers.endpoint import Endpoint

_PLENTY = 10_000_000
JOBS = {"threads": Share(32, 1.0), "asyncio": Share(64, 1.0), "forks": Share(24, 1.0)}


@dataclass(frozen=True, slots=True)
class Outage:
    """Kill `process` when `at` (a share of the run) has passed; start it `seconds` later."""

    process: str
    at: float
    seconds: float


OUTAGES = (Outage("osd", 0.25, 3.0), Outage("radosgw", 0.6, 2.0))


def run_outages(seed: int, seconds: float) -> Result:
    """Operations on Ceph for `seconds`, in rough schedule, its processes killed meanwhile."""
    begun = time.monotonic()
    schedule = FaultSchedule(seed, fault_rates(patience=PATIENCE, uploads_verified=True))
    # the blocks are in a file: those in memory would not survive the OSD
    with (
        ceph.serve("bluestore") as endpoint,
        FaultProxy(endpoint.url, schedule, log_limit=1) as proxy,
    ):
        jobs = make_jobs(real_target(endpoint), proxy.url, seed, _PLENTY, JOBS, seconds=seconds)
        with started(jobs) as under_way:
            events = _strike(endpoint, seconds, OUTAGES)
            tally, by_job = gathered(under_way)
        check_proxy(proxy, tally)
        took = time.monotonic() - begun
        return Result(
            "ceph",
            seed,
            took,
            tally,
            by_job,
            schedule.requests,
            proxy.counts,
            proxy.upstream_failures,
            events,
        )


def _strike(endpoint: Endpoint, seconds: float, outages: Sequence[Outage]) -> list[str]:
    """Kill and start, on time; says what was done."""
    begun = time.monotonic()
    events: list[str] = []
    for outage in outages:
        time.sleep(max(outage.at * seconds - (time.monotonic() - begun), 0.0))
        process = endpoint.processes[outage.process]
        pid = process.pid
        killed = time.monotonic()
        process.kill()
        time.sleep(outage.seconds)
        process.start()
        down = time.monotonic() - killed
        events.append(f"{outage.process} (pid {pid}) killed, up again after {down:.1f} s")
    return events
