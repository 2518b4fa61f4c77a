"""Processes whose main thread is at its end while others store, and what became of their work.

`python -m blockyard_faults.campaign.leaving` is such a process: it reads its job, starts threads,
of which each performs operations, and returns. An `atexit` handler performs some more. What
everybody did, and what may be found now, goes to standard output, which the job's own process
reads.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import blockyard
from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import watch
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.calls import AsyncioClient, BlockingClient, Client
from blockyard_faults.campaign.expected import HUNG, UNTYPED, Tally
from blockyard_faults.campaign.jobs import Job, opened, opened_async, read_back, store_config
from blockyard_faults.campaign.mix import Mix

_STEPS = 12
"""Operations of each thread: enough that all but the first come after the end of `main`."""
_AT_EXIT = 4
_HUNG_AFTER = 150.0


class _Child:
    """The process that is left: three threads on one store, one with an event loop and its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._told = threading.Lock()
        self._store = blockyard.open_store(store_config(job.settings))

    def begin(self) -> None:
        """Start everything, and return while it goes on."""
        _ = atexit.register(self._at_exit)
        for number in range(3):
            threading.Thread(target=self._work, args=(f"thread{number}",)).start()
        threading.Thread(target=self._work_async, args=("loop",)).start()

    def _work(self, name: str, steps: int = _STEPS) -> None:
        run_to_end(self._perform(BlockingClient(self._store), name, steps))

    def _work_async(self, name: str) -> None:
        async def work() -> None:
            async with opened_async(self._job.settings) as store:
                await self._perform(AsyncioClient(store), name, _STEPS)

        asyncio.run(work())

    def _at_exit(self) -> None:
        self._work("atexit", _AT_EXIT)
        self._store.close()

    async def _perform(self, client: Client, name: str, steps: int) -> None:
        actor = Actor(client, f"{self._job.name}/{name}", Tally(), self._job.patience)
        mix = Mix(actor, f"{self._job.seed} {actor.namespace}")
        for _ in range(steps):
            await mix.step()
        told = pickle.dumps((actor.namespace, actor.tally, actor.expected, actor.settled))
        with self._told:
            _ = sys.stdout.buffer.write(len(told).to_bytes(4, "big") + told)
            _ = sys.stdout.buffer.flush()


def leave(job: Job) -> Tally:
    """As many such processes as make the job's operations, two at once; their results checked."""
    each = 4 * _STEPS + _AT_EXIT
    names = [f"{job.name}/{number}" for number in range(max(job.operations // each, 2))]
    with ThreadPoolExecutor(2) as pool, opened(job.direct) as direct:
        total = Tally()
        for done, actors in pool.map(partial(_child, job), names):
            total.add(done)
            for actor in actors:
                total.add(read_back(direct, actor))
        return total


def _child(job: Job, name: str) -> tuple[Tally, list[Actor]]:
    result = Tally()
    actors: list[Actor] = []
    given = pickle.dumps(replace(job, name=name))
    command = [sys.executable, "-m", "blockyard_faults.campaign.leaving"]
    try:
        done = subprocess.run(  # noqa: S603 - this very module
            command, input=given, capture_output=True, timeout=_HUNG_AFTER, check=False
        )
    except subprocess.TimeoutExpired as hung:
        said = (hung.stderr or b"").decode()
        result.breaks(HUNG, f"{name}: its main thread has ended, and it has not: {said}")
        return result, actors
    told = done.stdout
    while told:
        size = int.from_bytes(told[:4], "big")
        namespace, tally, expected, settled = pickle.loads(told[4 : 4 + size])  # noqa: S301
        told = told[4 + size :]
        actor = Actor(_NO_CLIENT, namespace, tally, job.patience)
        actor.expected, actor.settled = expected, settled
        actors.append(actor)
        result.add(tally)
    if done.returncode or done.stderr or len(actors) != 5:
        what = f"{len(actors)} of 5 told, exit code {done.returncode}: {done.stderr.decode()}"
        result.breaks(UNTYPED, f"{name}: {what}")
    return result, actors


_NO_CLIENT: Any = None  # these actors have done their work elsewhere


def main() -> None:
    """Begin, and return."""
    job: Job = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the job's process
    _ = watch.start(lambda what: os.abort())
    _Child(job).begin()


if __name__ == "__main__":
    main()
