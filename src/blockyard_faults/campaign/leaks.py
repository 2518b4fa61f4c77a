"""What a store must not leave behind: descriptors, threads, and places in its connection pool."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blockyard.aio import AsyncBlockStore
from blockyard.errors import BlockStoreError
from blockyard.sync import BlockStore
from blockyard_faults.campaign.tally import LEAKED, Tally

_WITHIN = 20.0
"""Seconds in which requests that wait for each other must all have got a connection."""
_THREADS_END_WITHIN = 12.0
"""Seconds: a thread that has nothing to do any more ends after five."""


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at one moment."""

    descriptors: frozenset[tuple[str, str]]
    threads: frozenset[threading.Thread]


def held() -> Held:
    """What this process holds now: descriptors with what each is open on (proc(5)), and threads."""
    found: set[tuple[str, str]] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add((descriptor, str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        except FileNotFoundError:  # the listing's own, closed by now
            continue
    return Held(frozenset(found), frozenset(threading.enumerate()))


def check(before: Held, tally: Tally, where: str, within: float = _THREADS_END_WITHIN) -> None:
    """Count what is held `within` seconds from now that was not held `before`."""
    until = time.monotonic() + within
    while (now := held()) != before and time.monotonic() < until:
        if not (now.threads - before.threads or now.descriptors - before.descriptors):
            break
        time.sleep(0.05)
    for descriptor, target in now.descriptors - before.descriptors:
        tally.breaks(LEAKED, f"{where}: descriptor {descriptor} -> {target}")
    for thread in now.threads - before.threads:
        tally.breaks(LEAKED, f"{where}: thread {thread.name}")


def check_permits(store: BlockStore, connections: int, tally: Tally, where: str) -> None:
    """Have as many requests in flight at once as there are connections: singly, and in one call.

    A place in the pool that a failed request kept would be missing.
    """
    patient = store.with_options(deadline=_WITHIN, concurrency=connections)
    _ = store.read_blocks(_no_meeting(connections))

    def read(key: str) -> BlockStoreError | None:
        try:
            _ = patient.read_block(key)
        except BlockStoreError as error:
            return error
        return None

    with ThreadPoolExecutor(connections) as threads:
        _count(list(threads.map(read, _keys(f"{where}-single", connections))), tally, where)
    try:
        _ = patient.read_blocks(_keys(f"{where}-many", connections))
    except BlockStoreError as error:
        _count([error], tally, f"{where}, in one call")


async def check_permits_async(
    store: AsyncBlockStore, connections: int, tally: Tally, where: str
) -> None:
    """As `check_permits`, by tasks."""
    patient = store.with_options(deadline=_WITHIN)
    _ = await store.read_blocks(_no_meeting(connections))
    reads = [patient.read_block(key) for key in _keys(where, connections)]
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    _count([each for each in outcomes if isinstance(each, BaseException)], tally, where)


def _keys(where: str, connections: int) -> Sequence[str]:
    meeting = f"rendezvous/{where}-{os.getpid()}-{time.monotonic_ns()}/{connections}"
    return [f"{meeting}/{number}" for number in range(connections)]


def _no_meeting(connections: int) -> Sequence[str]:
    """Reads that wait for nobody: as many as lift the limit that throttling has put on the store.

    Each success raises it by its inverse (`s3/retry.py`), so it takes half the square of
    what it is to be.
    """
    meeting = f"rendezvous/alone-{os.getpid()}-{time.monotonic_ns()}"
    return [f"{meeting}-{number}/1/0" for number in range(connections**2)]


def _count(outcomes: Sequence[BaseException | None], tally: Tally, where: str) -> None:
    failed = [outcome for outcome in outcomes if outcome is not None]
    if failed:
        tally.breaks(LEAKED, f"{where}: {len(failed)} places in the connection pool: {failed[0]}")
