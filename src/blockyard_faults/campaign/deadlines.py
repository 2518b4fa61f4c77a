"""Deadlines from a millisecond to five seconds on every operation: every store, both clients.

S3 is silent, slow or refuses for a while more often than it answers at once, its name takes long to
resolve, and sources are slow; a folder and memory are only themselves. A call has to
be over a second after its deadline (`calls.MARGIN`), whatever it waited for.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import blockyard
from blockyard.model import KIB
from blockyard.transport.blocking import run_to_end
from blockyard_faults import (
    EarlyStatus,
    Fault,
    Hold,
    LoseReply,
    SeenRequest,
    Stall,
    Status,
    TrickleBody,
)
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.calls import ALWAYS, AsyncioClient, BlockingClient, Client
from blockyard_faults.campaign.contents import ContentActor, ContentMix, with_small_blocks
from blockyard_faults.campaign.expected import Tally, new_tally
from blockyard_faults.campaign.jobs import (
    Job,
    Stepping,
    finished,
    perform,
    read_back,
    store_config,
    temporary_folder,
)
from blockyard_faults.campaign.mix import Mix
from blockyard_faults.campaign.user_code import ASYNCIO_SOURCES, BLOCKING_SOURCES, SourceKind

Actors = dict[Actor | ContentActor, Stepping]
Opened = Any
"""What opens a store: a configuration, or a URL."""

_SLOW_NAME = 0.1
"""The share of look-ups of a host's name that take seconds."""


class Silence:
    """A plan for `FaultProxy`: most requests are answered at once, others after long or never."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.requests = 0

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The fault for `request`."""
        self.requests += 1
        seed = zlib.crc32(f"{self._seed} {self.requests}".encode())
        source = random.Random(seed)  # noqa: S311 - to be repeatable
        drawn = source.random()
        if drawn < 0.7:
            return None
        later = source.uniform(0.1, 20.0)
        return source.choice(
            (
                Stall(later),
                Stall(later, after=source.random()),
                Hold(seconds=later),
                Hold(answered=source.choice((1, 2)), seconds=later),
                TrickleBody(KIB, 0.2),
                Status(503, headers=(("Retry-After", "3"),)),
                EarlyStatus(413, "EntityTooLarge", seconds=2.0),
                LoseReply(),
            )
        )


@contextmanager
def slow_names(seed: int) -> Generator[None]:
    """Let the look-ups of host names take up to eight seconds now and then."""
    source = random.Random(seed)  # noqa: S311 - to be repeatable
    resolve = socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> Any:
        if source.random() < _SLOW_NAME:
            time.sleep(source.uniform(0.5, 8.0))
        return resolve(*args, **options)

    with mock.patch("socket.getaddrinfo", look_up):
        yield


def in_time(job: Job) -> Tally:
    """Both clients over S3, a folder and memory, one after the other."""
    with_small_blocks()
    named = {**job.settings, "endpoint": job.settings["endpoint"].replace("127.0.0.1", "localhost")}
    with temporary_folder() as folder, slow_names(job.seed):
        result = Tally()
        (folder / "store").mkdir()
        for name, opened in (
            ("s3", store_config(named)),
            ("file", f"file://{folder}/store"),
            ("memory", "memory://"),
        ):
            result.add(_blocking(job, name, opened, folder))
            result.add(asyncio.run(_tasks(job, name, opened, folder)))
        return result


def _blocking(job: Job, name: str, opened: Opened, folder: Path) -> Tally:
    with blockyard.open_store(opened) as store:
        actors = _actors(job, f"{name}-threads", BlockingClient(store), BLOCKING_SOURCES, folder)
        with ThreadPoolExecutor(len(actors)) as pool:
            _ = list(pool.map(partial(_work, job), actors.values()))
        if name != "s3":
            return _read_back_here(store, actors)
    return finished(job, actors)


async def _tasks(job: Job, name: str, opened: Opened, folder: Path) -> Tally:
    async with await blockyard.open_async_store(opened) as store:
        actors = _actors(job, f"{name}-tasks", AsyncioClient(store), ASYNCIO_SOURCES, folder)
        _ = await asyncio.gather(*[perform(job, mix) for mix in actors.values()])
    if name == "file":
        with blockyard.open_store(opened) as store:
            return _read_back_here(store, actors)
    if name == "memory":  # what was in it went with it
        return sum_of(actors)
    return await asyncio.to_thread(finished, job, actors)


def sum_of(actors: Actors) -> Tally:
    """The tallies of these actors in one."""
    result = Tally()
    for actor in actors:
        result.add(actor.tally)
    return result


def _read_back_here(store: blockyard.BlockStore, actors: Actors) -> Tally:
    result = sum_of(actors)
    for actor in actors:
        result.add(read_back(store, actor))
    return result


def _actors(
    job: Job, name: str, client: Client, kinds: tuple[SourceKind, ...], folder: Path
) -> Actors:
    """Few, so that none is late for the others' sake."""
    actors: Actors = {}
    for number in range(job.actors):
        namespace = f"{job.name}/{name}{number}"
        seed = f"{job.seed} {namespace}"
        if number % 2:
            contents = ContentActor(client, namespace, new_tally(), job.patience, folder)
            actors[contents] = ContentMix(contents, seed, kinds, hurry=ALWAYS)
        else:
            blocks = Actor(client, namespace, new_tally(), job.patience)
            actors[blocks] = Mix(blocks, seed, hurry=ALWAYS)
    return actors


def _work(job: Job, mix: Stepping) -> None:
    run_to_end(perform(job, mix))
