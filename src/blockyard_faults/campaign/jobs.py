"""What one worker process does, and what all of them have in common at their beginning and end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.config import S3Config, StoreConfig
from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign import watch
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.calls import DEADLINE, BlockingClient, Client
from blockyard_faults.campaign.contents import ContentActor
from blockyard_faults.campaign.expected import LOST, Tally, new_tally


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: `operations` by each of `actors`, or as many as fit in `seconds`.

    `settings` are blockyard's S3 settings through the proxy, `direct` those past it. Keys begin
    with `name`; `patience` is the store's no-progress timeout in seconds; `connections` how many
    the store has, where the server can show that all are free at the end. `damages` says that the
    server itself may damage what it stores: then an IntegrityError is a true answer at the end.
    """

    kind: str
    name: str
    seed: int
    actors: int
    operations: int
    seconds: float
    settings: dict[str, Any]
    direct: dict[str, Any]
    patience: float
    connections: int | None = None
    damages: bool = False


@contextmanager
def opened(settings: dict[str, Any]) -> Generator[BlockStore]:
    """A store with these S3 settings, whose end is watched as its calls are."""
    store = blockyard.open_store(store_config(settings))
    try:
        yield store
    finally:
        closing = watch.current().begins("close", DEADLINE)
        store.close()
        watch.current().ends(closing)


@asynccontextmanager
async def opened_async(settings: dict[str, Any]) -> AsyncGenerator[AsyncBlockStore]:
    """As `opened`."""
    store = await blockyard.open_async_store(store_config(settings))
    try:
        yield store
    finally:
        closing = watch.current().begins("close", DEADLINE)
        await store.close()
        watch.current().ends(closing)


class Stepping(Protocol):
    """A mix of operations, one at a time."""

    async def step(self) -> None: ...


def store_config(settings: dict[str, Any]) -> StoreConfig:
    """The configuration of a store with these S3 settings."""
    return StoreConfig(s3=S3Config(**settings))


async def perform(job: Job, mix: Stepping) -> None:
    """The operations of one actor."""
    until = time.monotonic() + job.seconds
    for _ in range(job.operations):
        if time.monotonic() > until:
            return
        await mix.step()


def block_actors(job: Job, client: Client, names: Sequence[str]) -> list[Actor]:
    """Actors with these names and tallies of their own."""
    return [Actor(client, f"{job.name}/{name}", new_tally(), job.patience) for name in names]


def numbered(job: Job) -> list[str]:
    """Names for the actors of a job."""
    return [str(number) for number in range(job.actors)]


def finished(job: Job, actors: Iterable[Actor | ContentActor]) -> Tally:
    """All that came of these actors, when everything they stored has been read back."""
    tally = Tally()
    with opened(job.direct) as store:
        for actor in actors:
            tally.add(actor.tally)
            tally.add(read_back(store, actor, damages=job.damages))
    return tally


def read_back(store: BlockStore, actor: Actor | ContentActor, *, damages: bool = False) -> Tally:
    """Read everything anew, past the proxy, and hold all of it to what must be there."""
    checked, result = Tally(), Tally()
    client = BlockingClient(store)
    if isinstance(actor, Actor):
        reader = Actor(client, actor.namespace, checked, float("inf"))
    else:
        reader = ContentActor(client, actor.namespace, checked, float("inf"), actor.folder)
    reader.expected = actor.expected
    for key in actor.expected.known:
        result.read_back += bool(actor.expected.contents(key)) and all(
            value in actor.expected.contents(key) for value in actor.expected.values(key)
        )
        if isinstance(reader, Actor):
            run_to_end(reader.read(key))
        else:
            run_to_end(reader.read(key, 0, None))
    run_to_end(reader.list(f"{actor.namespace}/") if isinstance(reader, Actor) else reader.list())
    for name in checked.failures:
        answered = name == "IntegrityError" and (damages or isinstance(reader, ContentActor))
        if not answered:
            result.breaks(LOST, f"{actor.namespace}: {name} when read back without faults")
    result.add(Tally(broken=checked.broken, details=checked.details))
    result.settled = len(actor.settled)
    return result


@contextmanager
def temporary_folder() -> Generator[Path]:
    """A folder for the files of one job."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        yield Path(name)
