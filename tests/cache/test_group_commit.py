"""Group commit: who shares a sync, and whose error it is."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator

import pytest

from blockyard import LocalStorageError
from blockyard.cache.group_commit import GroupCommit
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections


class Disk:
    """Each sync takes until `goes_on` is set; those whose number is in `failing` fail."""

    def __init__(self) -> None:
        self.syncs = 0
        self.failing: set[int] = set()
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def sync(self) -> None:
        self.syncs += 1
        number = self.syncs
        self.begun.set()
        assert self.goes_on.wait(60)
        if number in self.failing:
            raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.goes_on.set()


def context() -> Context:
    return Context(AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig())))


async def outcome(commit: GroupCommit, ctx: Context, failures: int | None = None) -> str:
    """What becomes of a change that is made now."""
    before = commit.failures if failures is None else failures
    try:
        await commit.synced(ctx, before, "write_block 'k'")
    except LocalStorageError as error:
        return str(error)
    return "synced"


FAILED = "write_block 'k': the cache's folder can't be synced: [Errno 5] Input/output error"


def test_a_failed_sync_is_the_error_of_those_too_who_wait_for_the_next(disk: Disk) -> None:
    """What they have changed may be lost by it, and the next one would not say so."""
    commit = GroupCommit(disk.sync)
    disk.failing = {1}
    disk.goes_on.clear()

    async def run() -> None:
        ctx = context()
        first = asyncio.create_task(outcome(commit, ctx))
        _ = await asyncio.to_thread(disk.begun.wait, 60)
        others = [asyncio.create_task(outcome(commit, ctx)) for _ in range(3)]
        await asyncio.sleep(0.05)
        disk.goes_on.set()
        assert [await each for each in (first, *others)] == [FAILED] * 4
        assert disk.syncs == 2
        assert await outcome(commit, ctx) == "synced"

    asyncio.run(run())


def test_the_error_of_a_sync_whose_caller_was_cancelled_is_not_lost(disk: Disk) -> None:
    commit = GroupCommit(disk.sync)
    disk.failing = {1}
    disk.goes_on.clear()

    async def run() -> None:
        ctx = context()
        first = asyncio.create_task(outcome(commit, ctx))
        await asyncio.sleep(0)
        other = asyncio.create_task(outcome(commit, ctx))
        _ = await asyncio.to_thread(disk.begun.wait, 60)
        _ = first.cancel()
        await asyncio.sleep(0.05)
        disk.goes_on.set()
        assert await other == FAILED
        assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)

    asyncio.run(run())


def test_a_sync_by_who_waits_for_nobody_is_seen_by_those_who_do(disk: Disk) -> None:
    """An upload syncs what it has removed, and an error is reported once."""
    commit = GroupCommit(disk.sync)
    disk.failing = {1}

    async def run() -> None:
        before = commit.failures
        with pytest.raises(OSError, match="Input/output"):
            commit.sync_alone()
        assert await outcome(commit, context(), before) == FAILED
        assert await outcome(commit, context()) == "synced"

    asyncio.run(run())
