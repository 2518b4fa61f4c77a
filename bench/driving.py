"""Keeping a client busy for a while, in each of its modes, and counting what it gets done.

The loops around the calls are as lean as they can be, and the same for all clients of a mode:
threads and tasks take the next item from one iterator, so there is neither an executor nor a
task for each call. Every read is held to its length.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Item = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was done: operations, the seconds they took, and the process's CPU seconds."""

    operations: int
    seconds: float
    cpu: float


class WrongLengthError(Exception):
    """A read gave fewer or more bytes than the block or range has."""


class Stopwatch:
    """Wall and CPU time (user and system, of all threads) since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def sample(self, operations: int) -> Sample:
        return Sample(operations, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def drive_plain(
    call: Callable[..., Any], items: Sequence[Item], seconds: float, size: int | None
) -> Sample:
    """One call after the other."""
    endless = itertools.cycle(items)
    watch = Stopwatch()
    return watch.sample(_work(call, endless, time.perf_counter() + seconds, size))


def drive_threads(
    call: Callable[..., Any], items: Sequence[Item], seconds: float, size: int | None, count: int
) -> Sample:
    """`count` threads."""
    endless = itertools.cycle(items)  # safe to share: its next() runs under the interpreter lock
    done: list[int] = []
    errors: list[BaseException] = []
    watch = Stopwatch()
    end = time.perf_counter() + seconds

    def work() -> None:
        try:
            done.append(_work(call, endless, end, size))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return watch.sample(sum(done))


async def drive_asyncio(
    call: Callable[..., Awaitable[Any]],
    items: Sequence[Item],
    seconds: float,
    size: int | None,
    count: int,
) -> Sample:
    """`count` tasks."""
    endless = itertools.cycle(items)
    watch = Stopwatch()
    end = time.perf_counter() + seconds

    async def work() -> int:
        done = 0
        for item in endless:
            result = await call(*item)
            done += 1
            if size is not None and len(result) != size:
                raise WrongLengthError(f"{item}: {len(result)} bytes, expected {size}")
            if time.perf_counter() >= end:
                break
        return done

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(count)]
    return watch.sample(sum(task.result() for task in tasks))


def drive_held(
    call: Callable[..., Any],
    items: Sequence[Item],
    seconds: float,
    size: int,
    *,
    count: int,
    batch: int,
) -> Sample:
    """`count` threads, which keep the results of a `batch` until all of it is there."""
    with ThreadPoolExecutor(count) as threads:

        def call_all(some: list[Item]) -> list[Any]:
            return list(threads.map(lambda item: call(*item), some))

        return drive_many(call_all, items, seconds, size, batch)


def drive_many(
    call: Callable[[list[Any]], Sequence[Any] | None],
    items: Sequence[Any],
    seconds: float,
    size: int | None,
    batch: int,
) -> Sample:
    """Calls of `batch` operations each."""
    endless = itertools.cycle(items)
    done = 0
    watch = Stopwatch()
    end = time.perf_counter() + seconds
    while True:
        results = call(list(itertools.islice(endless, batch)))
        done += batch
        if size is not None:
            _check_all(results, size, batch)
        results = None  # not to hold two batches at once
        if time.perf_counter() >= end:
            return watch.sample(done)


def _work(call: Callable[..., Any], endless: Iterator[Item], end: float, size: int | None) -> int:
    done = 0
    for item in endless:
        result = call(*item)
        done += 1
        if size is not None and len(result) != size:
            raise WrongLengthError(f"{item}: {len(result)} bytes, expected {size}")
        if time.perf_counter() >= end:
            break
    return done


def _check_all(results: Sequence[Any] | None, size: int, batch: int) -> None:
    lengths = [len(result) for result in results or ()]
    if lengths != [size] * batch:
        raise WrongLengthError(f"{len(lengths)} results, expected {batch} of {size} bytes each")
