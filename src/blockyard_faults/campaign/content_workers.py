"""The workers on contents, whose own code does mischief, and those that are interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import leaks
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.clients import BlockingClient, Client
from blockyard_faults.campaign.content_mix import ContentMix, with_small_blocks
from blockyard_faults.campaign.contents import ContentActor
from blockyard_faults.campaign.interrupts import CancellingClient, SignalledClient
from blockyard_faults.campaign.jobs import (
    Job,
    Stepping,
    block_actors,
    finished,
    numbered,
    opened,
    opened_async,
    perform,
    temporary_folder,
)
from blockyard_faults.campaign.mix import Mix
from blockyard_faults.campaign.tally import Tally, new_tally
from blockyard_faults.campaign.user_code import ASYNCIO_SOURCES, BLOCKING_SOURCES, Companion

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
                leaks.check_permits(store, job.connections, actors[0].tally, job.name)
        return finished(job, actors)


def _work(job: Job, mix: Stepping) -> None:
    run_to_end(perform(job, mix))


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
                await leaks.check_permits_async(store, job.connections, actors[0].tally, job.name)
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
                leaks.check_permits(store, job.connections, blocks.tally, job.name)
        return finished(job, [blocks, whole, *beside])
