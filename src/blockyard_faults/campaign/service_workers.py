"""The workers on services that are nearly S3: both clients, on blocks and on contents."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import leaks
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.clients import AsyncioClient, BlockingClient, Client
from blockyard_faults.campaign.content_mix import ContentMix, with_small_blocks
from blockyard_faults.campaign.contents import ContentActor
from blockyard_faults.campaign.jobs import (
    Job,
    Stepping,
    finished,
    opened,
    opened_async,
    perform,
    temporary_folder,
)
from blockyard_faults.campaign.mix import Mix
from blockyard_faults.campaign.services import SERVICES
from blockyard_faults.campaign.tally import Tally, new_tally
from blockyard_faults.campaign.user_code import ASYNCIO_SOURCES, BLOCKING_SOURCES, SourceKind


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
                leaks.check_permits(store, job.connections, tally, job.name)

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
