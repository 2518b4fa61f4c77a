"""Several processes against one endpoint at once: what they do together, and what stops them.

The workers are those of `fleet`, told to begin at the same time. CPU time is taken of them, of
nginx and of the whole machine, so that the limit shows: a core each, the server's one worker,
or all cores taken.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.fleet import Worker, command_for
from bench.machine import busy_seconds
from bench.workloads import Workload
from servers.endpoint import Endpoint
from servers.procfs import living_members

COUNTS = (1, 2, 4)
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Together:
    """`processes` at work: operations per second in all, and how many cores each side used."""

    processes: int
    rate: float
    client_cores: float
    server_cores: float
    machine_cores: float


def measure(
    workload: Workload, contender: str, endpoint: Endpoint, processes: int, seconds: float
) -> Together:
    """Let so many processes of a contender work at the same time."""
    command = command_for(workload, contender, endpoint, seconds)
    peer = contender.partition(" ")[0]
    with ExitStack() as stack, ThreadPoolExecutor(processes) as pool:
        workers = [stack.enter_context(Worker(peer)) for _ in range(processes)]
        _ = list(pool.map(lambda worker: worker.ask({**command, "seconds": 0.1}), workers))
        server = partial(_cpu_seconds, endpoint.processes["nginx"].pid)
        begun, server_before, machine_before = (
            time.monotonic(),
            server(),
            busy_seconds(interrupts=True),
        )
        samples = list(pool.map(lambda worker: worker.ask(command), workers))
        passed = time.monotonic() - begun
        server_after, machine_after = server(), busy_seconds(interrupts=True)
    return Together(
        processes,
        sum(sample.operations / sample.seconds for sample in samples),
        sum(sample.cpu / sample.seconds for sample in samples),
        (server_after - server_before) / passed,
        (machine_after - machine_before) / passed,
    )


def limit_of(together: Together, cores: int) -> str:
    """What the processes ran into, in words."""
    if together.machine_cores > 0.9 * cores:
        return f"CPU: all {cores} cores are taken"
    if together.server_cores > 0.9:
        return "the server: its one worker has no core time left"
    if together.client_cores > 0.9 * together.processes:
        return "CPU: each client process has a core to itself and no more"
    return "waiting: neither side's cores are full"


def _cpu_seconds(session: int) -> float:
    """User and system seconds of all processes of a session. proc(5)."""
    total = 0
    for pid in living_members(session):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICK
