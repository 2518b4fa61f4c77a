"""Jobs, each in a process of its own, and what came of them, also when one hangs or dies."""

from __future__ import annotations

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, cast

from blockyard_faults.campaign import credentials, deadlines, expected, leaving, watch, workers
from blockyard_faults.campaign.expected import HUNG, UNTYPED, Tally
from blockyard_faults.campaign.jobs import Job

KINDS: dict[str, Callable[[Job], Tally]] = {
    "threads": workers.threads,
    "asyncio": workers.asyncio_tasks,
    "forks": workers.forks,
    "hypothesis": workers.hypothesis,
    "contents": workers.contents,
    "cancelled": workers.cancelled,
    "signalled": workers.signalled,
    "leaving": leaving.leave,
    "deadlines": deadlines.in_time,
    "credentials": credentials.looked_for,
    "service": workers.on_service,
}
"""What each kind of job does."""

Pipe: TypeAlias = "Connection[Any, Any]"
UnderWay: TypeAlias = Sequence[tuple[Job, BaseProcess, Pipe]]


def run(job: Job) -> Tally:
    """Do the job, close everything, and say what came of it."""
    before = watch.held()
    done = KINDS[job.kind](job)
    watch.check(before, done, job.name)
    return done


@contextmanager
def started(jobs: Sequence[Job]) -> Generator[UnderWay]:
    """The jobs, each under way in a process of its own."""
    spawn = get_context("spawn")  # so that none inherits what this process has open
    under_way: list[tuple[Job, BaseProcess, Pipe]] = []
    try:
        for job in jobs:
            here, there = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_work, args=(job, there), name=job.name)
            process.start()
            there.close()
            under_way.append((job, process, cast("Pipe", here)))
        yield under_way
    finally:
        for _, process, pipe in under_way:
            process.kill()  # it has ended by itself, unless this was cut short
            process.join()
            pipe.close()


def gathered(under_way: UnderWay) -> tuple[Tally, Counter[str]]:
    """What came of the jobs, and how many operations each did."""
    result = Tally()
    by_job: Counter[str] = Counter()
    for job, process, pipe in under_way:
        try:
            done: Tally = pipe.recv()
        except EOFError:
            process.join()
            done = Tally()
            done.breaks(UNTYPED, f"{job.name}: its process ended with {process.exitcode}")
        by_job[job.name] += done.operations.total()
        result.add(done)
    return result, by_job


class Complaints(logging.Handler):
    """Counts what an event loop reports of errors that nobody came to see."""

    def __init__(self, where: str) -> None:
        super().__init__(logging.ERROR)
        self._where = where
        self.tally = expected.new_tally()

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        self.tally.breaks(UNTYPED, f"{self._where}: {record.getMessage()[:300]}: {raised!r}")


def _work(job: Job, results: Pipe) -> None:
    def on_hang(what: str) -> None:
        hung = expected.so_far()
        hung.breaks(HUNG, f"{job.name}: {what}\n{watch.stacks()}")
        results.send(hung)
        os._exit(1)

    _ = watch.start(on_hang)
    complaints = Complaints(job.name)
    logging.getLogger("asyncio").addHandler(complaints)
    try:
        done = run(job)
        done.add(complaints.tally)
    except BaseException:  # noqa: BLE001 - told as what came of the job
        done = expected.so_far()
        done.breaks(UNTYPED, f"{job.name}: the job ended: {traceback.format_exc()}")
    results.send(done)
    results.close()
    os._exit(0)  # what hangs at the end of the process is for `leaving` to find
