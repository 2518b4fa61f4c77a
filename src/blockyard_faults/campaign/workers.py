"""The workers: threads, tasks and processes; on blocks, on contents, on what is nearly S3."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import expected, machine, watch
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.calls import AsyncioClient, BlockingClient, Client
from blockyard_faults.campaign.contents import ContentActor, ContentMix, with_small_blocks
from blockyard_faults.campaign.expected import HUNG, UNTYPED, Tally, new_tally
from blockyard_faults.campaign.fault_schedule import SERVICES
from blockyard_faults.campaign.jobs import (
    Job,
    Stepping,
    block_actors,
    finished,
    numbered,
    opened,
    opened_async,
    perform,
    read_back,
    temporary_folder,
)
from blockyard_faults.campaign.mix import Mix
from blockyard_faults.campaign.user_code import (
    ASYNCIO_SOURCES,
    BLOCKING_SOURCES,
    CancellingClient,
    Companion,
    SignalledClient,
    SourceKind,
)

_CHILDREN = 3
_LOOKS = 20
"""Short-lived children from the C library's fork."""


def threads(job: Job) -> Tally:
    """Threads that share a store."""
    with opened(job.settings) as store:
        actors = block_actors(job, BlockingClient(store), numbered(job))
        on_threads(job, actors)
        if job.connections:
            watch.check_permits(store, job.connections, actors[0].tally, job.name)
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
                await watch.check_permits_async(store, job.connections, actors[0].tally, job.name)
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
        hung = expected.so_far()
        hung.breaks(HUNG, f"{job.name}, child {number}: {what}")
        _ = os.write(writing, pickle.dumps(hung))
        os._exit(1)

    try:
        expected.forget()
        _ = watch.start(on_hang)
        done = pickle.dumps(_child(job, store, number))
        with open(writing, "wb") as pipe:
            _ = pipe.write(done)
    except BaseException:  # noqa: BLE001 - told, and the process ends
        traceback.print_exc()
        os._exit(1)  # never back into the parent's code
    os._exit(0)


def _child(job: Job, store: BlockStore, number: int) -> Tally:
    before = watch.held()
    names = [f"child{number}-{actor}" for actor in range(job.actors // _CHILDREN)]
    actors = block_actors(job, BlockingClient(store), names)
    on_threads(job, actors)
    store.close()
    result = finished(job, actors)
    watch.check(before, result, f"{job.name}, child {number}")
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


def on_service(job: Job) -> Tally:
    """Threads, and then tasks, on the service that the job is named after."""
    with_small_blocks()
    with temporary_folder() as folder:
        with opened(job.settings) as store:
            blocking = _mixes(job, "threads", BlockingClient(store), BLOCKING_SOURCES, folder)
            with ThreadPoolExecutor(len(blocking)) as pool:
                _ = list(pool.map(partial(_work, job), blocking.values()))
            if job.connections:
                tally = next(iter(blocking)).tally
                watch.check_permits(store, job.connections, tally, job.name)

        async def work() -> list[Actor | ContentActor]:
            async with opened_async(job.settings) as store:
                mixes = _mixes(job, "tasks", AsyncioClient(store), ASYNCIO_SOURCES, folder)
                _ = await asyncio.gather(*[perform(job, mix) for mix in mixes.values()])
                return list(mixes)

        return finished(job, [*blocking, *asyncio.run(work())])


def _mixes(
    job: Job, name: str, client: Client, kinds: tuple[SourceKind, ...], folder: Path
) -> dict[Actor | ContentActor, Stepping]:
    service = SERVICES[job.name]
    mixes: dict[Actor | ContentActor, Stepping] = {}
    for number in range(job.actors // 2):
        namespace = f"{job.name}/{name}{number}"
        seed = f"{job.seed} {namespace}"
        if number % 2 and service.contents:
            contents = ContentActor(client, namespace, new_tally(), job.patience, folder)
            mixes[contents] = ContentMix(contents, seed, kinds)
        else:
            blocks = Actor(
                client,
                namespace,
                new_tally(),
                job.patience,
                trusted_listings=service.trusted_listings,
            )
            mixes[blocks] = Mix(blocks, seed)
    return mixes


def _work(job: Job, mix: Stepping) -> None:
    run_to_end(perform(job, mix))


_BESIDE = 2
"""Threads that use the store while the main thread is sent signals."""


def content_actors(
    job: Job, client: Client, names: Sequence[str], folder: Path
) -> list[ContentActor]:
    """Actors with these names and tallies of their own."""
    return [
        ContentActor(client, f"{job.name}/{name}", new_tally(), job.patience, folder)
        for name in names
    ]


def contents(job: Job) -> Tally:
    """Threads that share a store; their own code raises, waits, forks and calls back."""
    with_small_blocks()
    with temporary_folder() as folder:
        with opened(job.settings) as store:
            actors = content_actors(job, BlockingClient(store), numbered(job), folder)
            mixes = [
                ContentMix(
                    actor,
                    f"{job.seed} {actor.namespace}",
                    BLOCKING_SOURCES,
                    companion=Companion(store, actor.namespace, actor.tally),
                )
                for actor in actors
            ]
            with ThreadPoolExecutor(len(actors)) as pool:
                _ = list(pool.map(partial(_work, job), mixes))
            if job.connections:
                watch.check_permits(store, job.connections, actors[0].tally, job.name)
        return finished(job, actors)


def cancelled(job: Job) -> Tally:
    """Tasks that share a store, on contents and on blocks, and are cancelled at random moments."""
    with_small_blocks()

    async def work(folder: Path) -> list[Actor | ContentActor]:
        async with opened_async(job.settings) as store:
            actors: list[Actor | ContentActor] = []
            mixes: list[Stepping] = []
            for name in numbered(job):
                seed = f"{job.seed} {job.name} {name}"
                client = CancellingClient(store, seed)
                if int(name) % 3:
                    [actor] = content_actors(job, client, [name], folder)
                    mixes.append(ContentMix(actor, seed, ASYNCIO_SOURCES))
                else:
                    [actor] = block_actors(job, client, [name])
                    mixes.append(Mix(actor, seed))
                actors.append(actor)
            _ = await asyncio.gather(*[perform(job, mix) for mix in mixes])
            if job.connections:
                await watch.check_permits_async(store, job.connections, actors[0].tally, job.name)
            return actors

    with temporary_folder() as folder:
        return finished(job, asyncio.run(work(folder)))


def signalled(job: Job) -> Tally:
    """The main thread, sent signals in the middle of calls, while threads use the store beside."""
    with_small_blocks()
    with temporary_folder() as folder:
        with opened(job.settings) as store:
            seed = f"{job.seed} {job.name}"
            beside = block_actors(
                job, BlockingClient(store), [f"beside{number}" for number in range(_BESIDE)]
            )
            with (
                ThreadPoolExecutor(_BESIDE) as pool,
                SignalledClient(store, seed) as client,
            ):
                others = [
                    pool.submit(run_to_end, perform(job, Mix(actor, f"{seed} {actor.namespace}")))
                    for actor in beside
                ]
                [blocks], [whole] = (
                    block_actors(job, client, ["blocks"]),
                    content_actors(job, client, ["contents"], folder),
                )
                mixes = (Mix(blocks, seed), ContentMix(whole, seed, ("buffer", "path")))
                for _ in range(job.operations // 2):
                    for mix in mixes:
                        run_to_end(mix.step())
                for other in others:
                    other.result()
            if job.connections:
                watch.check_permits(store, job.connections, blocks.tally, job.name)
        return finished(job, [blocks, whole, *beside])
