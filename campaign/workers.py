"""The workers: many actors on threads, as asyncio tasks, or in forked processes.

A job is run in a process of its own (`run` is its entry), so that what it leaves open is its
own: the file descriptors after closing the store are held to those before opening it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blockyard
from blockyard.config import S3Config, StoreConfig
from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end
from campaign import machine
from campaign.actor import Actor
from campaign.faces import AsyncioFace, BlockingFace, Face
from campaign.mix import Mix
from campaign.tally import LEAKED, LOST, Tally

Kind = Literal["threads", "asyncio", "forks", "hypothesis"]
_CHILDREN = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: `operations` by each of `actors`, or as many as fit in `seconds`.

    `settings` are blockyard's S3 settings through the proxy, `direct` those past it. Keys begin
    with `name`; `patience` is the store's no-progress timeout in seconds.
    """

    kind: Kind
    name: str
    seed: int
    actors: int
    operations: int
    seconds: float
    settings: dict[str, Any]
    direct: dict[str, Any]
    patience: float


def store_config(settings: dict[str, Any]) -> StoreConfig:
    """The configuration of a store with these S3 settings."""
    return StoreConfig(s3=S3Config(**settings))


def run(job: Job) -> Tally:
    """Do the job, close everything, and say what came of it."""
    before = open_descriptors()
    tally = _KINDS[job.kind](job)
    check_descriptors(before, tally, job.name)
    return tally


def open_descriptors() -> set[tuple[str, str]]:
    """The file descriptors of this process, each with what it is open on. See proc(5)."""
    found: set[tuple[str, str]] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add((descriptor, str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        except FileNotFoundError:  # the listing's own, closed by now
            continue
    return found


def check_descriptors(before: set[tuple[str, str]], tally: Tally, where: str) -> None:
    """Count the file descriptors that are open now and were not `before`."""
    for descriptor, target in open_descriptors() - before:
        tally.breaks(LEAKED, f"{where}: {descriptor} -> {target}")


def read_back(actors: Iterable[Actor], direct: dict[str, Any], tally: Tally) -> None:
    """Read every block anew, past the proxy, and hold all of them to what must be there."""
    with blockyard.open_store(store_config(direct)) as store:
        for actor in actors:
            checked = Tally()
            reader = Actor(BlockingFace(store), actor.namespace, checked, float("inf"))
            reader.expected = actor.expected
            for key in actor.expected.known:
                tally.read_back += None not in actor.expected.values(key)
                run_to_end(reader.read(key))
            run_to_end(reader.list(f"{actor.namespace}/"))
            for name in checked.failures:
                tally.breaks(LOST, f"{actor.namespace}: {name} when read back without faults")
            tally.add(Tally(broken=checked.broken, details=checked.details))
            tally.settled += len(actor.settled)


async def _perform(job: Job, actor: Actor) -> None:
    mix = Mix(actor, f"{job.seed} {actor.namespace}")
    until = time.monotonic() + job.seconds
    for _ in range(job.operations):
        if time.monotonic() > until:
            return
        await mix.step()


def _actors(job: Job, face: Face, names: Sequence[str]) -> list[Actor]:
    return [Actor(face, f"{job.name}/{name}", Tally(), job.patience) for name in names]


def _numbered(job: Job) -> list[str]:
    return [str(number) for number in range(job.actors)]


def _finished(job: Job, actors: Iterable[Actor]) -> Tally:
    tally = Tally()
    for actor in actors:
        tally.add(actor.tally)
    read_back(actors, job.direct, tally)
    return tally


def _threads(job: Job) -> Tally:
    with blockyard.open_store(store_config(job.settings)) as store:
        actors = _actors(job, BlockingFace(store), _numbered(job))
        _on_threads(job, actors)
    return _finished(job, actors)


def _on_threads(job: Job, actors: Sequence[Actor]) -> None:
    def perform(actor: Actor) -> None:
        run_to_end(_perform(job, actor))

    with ThreadPoolExecutor(len(actors)) as threads:
        _ = list(threads.map(perform, actors))  # where an error would come out


def _asyncio(job: Job) -> Tally:
    async def perform() -> list[Actor]:
        async with await blockyard.open_async_store(store_config(job.settings)) as store:
            actors = _actors(job, AsyncioFace(store), _numbered(job))
            _ = await asyncio.gather(*[_perform(job, actor) for actor in actors])
            return actors

    return _finished(job, asyncio.run(perform()))


def _forks(job: Job) -> Tally:
    """One store, used before it is forked, and then by parent and children at the same time."""
    with blockyard.open_store(store_config(job.settings)) as store:
        mine = _actors(job, BlockingFace(store), ["parent"])
        run_to_end(mine[0].list("nothing"))
        _ = store.read_blocks([])
        children = [_fork(job, store, number) for number in range(_CHILDREN)]
        _on_threads(job, mine)
    tally = _finished(job, mine)
    for pid, results in children:
        with open(results, "rb") as pipe:
            tally.add(pickle.load(pipe))  # noqa: S301 - from a child of this process
        _ = os.waitpid(pid, 0)
    return tally


def _fork(job: Job, store: BlockStore, number: int) -> tuple[int, int]:
    """A child that works on the inherited store; its pid, and where its tally can be read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        with open(writing, "wb") as pipe:
            pickle.dump(_child(job, store, number), pipe)
    except BaseException:  # noqa: BLE001 - told, and the process ends
        traceback.print_exc()
        os._exit(1)  # never back into the parent's code
    os._exit(0)


def _child(job: Job, store: BlockStore, number: int) -> Tally:
    before = open_descriptors()
    names = [f"child{number}-{actor}" for actor in range(job.actors // _CHILDREN)]
    actors = _actors(job, BlockingFace(store), names)
    _on_threads(job, actors)
    store.close()
    tally = _finished(job, actors)
    check_descriptors(before, tally, f"{job.name}, child {number}")
    return tally


def _hypothesis(job: Job) -> Tally:
    tally = Tally()
    with blockyard.open_store(store_config(job.settings)) as store:

        def new_actor(name: str) -> Actor:
            return Actor(BlockingFace(store), f"{job.name}/{name}", tally, job.patience)

        def finished(actor: Actor) -> None:
            read_back([actor], job.direct, tally)

        try:
            machine.explore(new_actor, finished, seed=job.seed, operations=job.operations)
        except AssertionError as error:  # the promise is counted; these are the steps to it
            tally.details += getattr(error, "__notes__", [])
    return tally


_KINDS: dict[Kind, Callable[[Job], Tally]] = {
    "threads": _threads,
    "asyncio": _asyncio,
    "forks": _forks,
    "hypothesis": _hypothesis,
}
