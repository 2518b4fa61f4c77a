"""What a process must not do: hang, run late, or keep descriptors, threads and pool permits.

One thread wakes every few milliseconds. By how much it wakes too late is time in which the machine,
or another thread's hold on the interpreter, ran nobody here who wanted to run: no call can end
in it, so it does not count against a deadline (see `lateness`). The same thread looks for
calls that are long past their limit, and hands those to `on_hang`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import os
import tempfile
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blockyard.aio import AsyncBlockStore
from blockyard.errors import BlockStoreError
from blockyard.sync import BlockStore
from blockyard_faults.campaign.expected import LEAKED, Tally

HUNG_AFTER = 60.0
"""Seconds past its deadline after which a call counts as hung."""
_TICK = 0.02
_KEPT = 20_000  # ticks, which are some minutes


@dataclass(frozen=True, slots=True)
class _Call:
    what: str
    hung_at: float
    """On a clock that stands while nobody here runs."""


class Watch:
    """The watch of one process. `on_hang` gets what hung, once, on the watch's thread."""

    def __init__(self, on_hang: Callable[[str], None] | None = None) -> None:
        self._on_hang = on_hang
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count()
        self._late = 0.0
        self._ticks: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)], _KEPT)
        self._runs = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        self._runs.set()
        self._thread.start()

    def pause(self) -> None:
        """Let the thread rest until `go_on`; once this has returned it does."""
        self._runs.clear()
        time.sleep(2 * _TICK)

    def go_on(self) -> None:
        """End a `pause`."""
        self._runs.set()

    def begins(self, what: str, deadline: float) -> int:
        """A call that has `deadline` seconds begins; the number is for `ends`."""
        number = next(self._numbers)
        ran = time.monotonic() - self._late
        self._calls[number] = _Call(what, ran + deadline + HUNG_AFTER)
        return number

    def ends(self, number: int) -> None:
        """The call is over."""
        _ = self._calls.pop(number, None)

    def lateness(self, begin: float, end: float) -> float:
        """The seconds of `begin` to `end` (on the monotonic clock) in which nobody here ran."""
        ticks = list(self._ticks)
        return _late_until(ticks, end) - _late_until(ticks, begin)

    def _run(self) -> None:
        while self._runs.wait():
            before = time.monotonic()
            time.sleep(_TICK)
            now = time.monotonic()
            self._late += max(now - before - 2 * _TICK, 0.0)
            self._ticks.append((now, self._late))
            ran = now - self._late
            hung = [call.what for call in list(self._calls.values()) if ran > call.hung_at]
            if hung and self._on_hang is not None:
                self._on_hang("; ".join(hung))
                return


def _late_until(ticks: list[tuple[float, float]], moment: float) -> float:
    index = bisect_right(ticks, moment, key=lambda tick: tick[0]) - 1
    tick, late = ticks[max(index, 0)]
    return late + max(moment - tick - 2 * _TICK, 0.0)  # of the tick that is late at the moment


def stacks() -> str:
    """The stack of every other thread, the newest calls first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        _ = file.seek(0)
        found = file.read().split("\n\n")
        return "\n\n".join(stack for stack in found if not stack.startswith("Current thread"))


_watch = Watch()


def current() -> Watch:
    """The watch of this process: one that never started measures nothing."""
    return _watch


def start(on_hang: Callable[[str], None]) -> Watch:
    """Let a new watch be the current one, as a process begins, and start it."""
    global _watch  # noqa: PLW0603 - there is one to a process, forked ones too
    _watch = Watch(on_hang)
    _watch.start()
    return _watch


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
