"""The workers on blocks: many actors on threads, as asyncio tasks, in forked processes, and
one that Hypothesis leads."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import leaks, machine, tally, watch
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.clients import AsyncioClient, BlockingClient
from blockyard_faults.campaign.jobs import (
    Job,
    block_actors,
    finished,
    numbered,
    opened,
    opened_async,
    perform,
    read_back,
)
from blockyard_faults.campaign.mix import Mix
from blockyard_faults.campaign.tally import HUNG, UNTYPED, Tally, new_tally
from blockyard_faults.campaign.user_code import Companion

_CHILDREN = 3
_LOOKS = 20
"""Short-lived children from the C library's fork."""


def threads(job: Job) -> Tally:
    """Threads that share a store."""
    with opened(job.settings) as store:
        actors = block_actors(job, BlockingClient(store), numbered(job))
        on_threads(job, actors)
        if job.connections:
            leaks.check_permits(store, job.connections, actors[0].tally, job.name)
    return finished(job, actors)


def on_threads(job: Job, actors: Sequence[Actor]) -> None:
    """Each actor's operations on a thread of its own."""

    def work(actor: Actor) -> None:
        run_to_end(perform(job, Mix(actor, f"{job.seed} {actor.namespace}")))

    with ThreadPoolExecutor(len(actors)) as pool:
        _ = list(pool.map(work, actors))  # where an error would come out


def asyncio_tasks(job: Job) -> Tally:
    """Tasks that share a store."""

    async def work() -> list[Actor]:
        async with opened_async(job.settings) as store:
            actors = block_actors(job, AsyncioClient(store), numbered(job))
            mixes = [Mix(actor, f"{job.seed} {actor.namespace}") for actor in actors]
            _ = await asyncio.gather(*[perform(job, mix) for mix in mixes])
            if job.connections:
                await leaks.check_permits_async(store, job.connections, actors[0].tally, job.name)
            return actors

    return finished(job, asyncio.run(work()))


def forks(job: Job) -> Tally:
    """One store, used before it is forked, and then by parent and children at the same time.

    One of the children, and some that only look, come from the C library's fork, of which Python
    hears nothing. That is done while no thread but this one wants to run.
    """
    with opened(job.settings) as store:
        mine = block_actors(job, BlockingClient(store), ["parent"])
        companion = Companion(store, f"{job.name}/parent", mine[0].tally)
        _ = companion.prepare()
        watching = watch.current()
        watching.pause()
        for _ in range(_LOOKS):
            companion.call_back()
            companion.fork_in_c()
        children = [_fork(job, store, number) for number in range(_CHILDREN)]
        watching.go_on()
        on_threads(job, mine)
    result = finished(job, mine)
    for number, (pid, results) in enumerate(children):
        with open(results, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(pid, 0)
        if answer:
            result.add(pickle.loads(answer))  # noqa: S301 - from a child of this process
        else:
            result.breaks(UNTYPED, f"{job.name}: child {number} ended with status {status}")
    return result


def _fork(job: Job, store: BlockStore, number: int) -> tuple[int, int]:
    """A child that works on the inherited store; its pid, and where its tally can be read."""
    reading, writing = os.pipe()
    pid = os.fork() if number else ctypes.PyDLL(None).fork()
    if pid:
        os.close(writing)
        return pid, reading

    def on_hang(what: str) -> None:  # without stacks: those of the parent's threads are no more
        hung = tally.so_far()
        hung.breaks(HUNG, f"{job.name}, child {number}: {what}")
        _ = os.write(writing, pickle.dumps(hung))
        os._exit(1)

    try:
        tally.forget()
        _ = watch.start(on_hang)
        done = pickle.dumps(_child(job, store, number))
        with open(writing, "wb") as pipe:
            _ = pipe.write(done)
    except BaseException:  # noqa: BLE001 - told, and the process ends
        traceback.print_exc()
        os._exit(1)  # never back into the parent's code
    os._exit(0)


def _child(job: Job, store: BlockStore, number: int) -> Tally:
    before = leaks.held()
    names = [f"child{number}-{actor}" for actor in range(job.actors // _CHILDREN)]
    actors = block_actors(job, BlockingClient(store), names)
    on_threads(job, actors)
    store.close()
    result = finished(job, actors)
    leaks.check(before, result, f"{job.name}, child {number}")
    return result


def hypothesis(job: Job) -> Tally:
    """Sequences of operations that Hypothesis looks for."""
    result = new_tally()
    with (
        opened(job.settings) as store,
        opened(job.direct) as direct,
    ):

        def new_actor(name: str) -> Actor:
            return Actor(BlockingClient(store), f"{job.name}/{name}", result, job.patience)

        def ended(actor: Actor) -> None:
            result.add(read_back(direct, actor))

        try:
            machine.explore(new_actor, ended, seed=job.seed, operations=job.operations)
        except AssertionError as error:  # the promise is counted; these are the steps to it
            result.details += getattr(error, "__notes__", [])
    return result
