"""Uploads in the background: a few daemon threads, which are there only while there is work.

No lock is taken where callers add work: a signal handler or a finalizer may do so in the middle of
another call of its thread. A forked child uploads nothing that its parent was to.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from blockyard.errors import TransportError
from blockyard.process import PerProcess
from blockyard.transport.pool import took_one

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.context import Runtime

PARALLEL = 8
"""Uploads at a time."""
_LINGER_SECONDS = 1.0
"""For so long a thread waits for more to do."""

Upload = Callable[[bytes], float | None]
"""Uploads what is staged under a name, and raises nothing; when to try again, or None."""


class Uploads:
    """Names that are to be uploaded, in the order in which they were added."""

    def __init__(self, runtime: Runtime, upload: Upload) -> None:
        self._runtime = runtime
        self._upload = upload
        self._here = PerProcess(_Queue)
        self._closed = False

    def add(self, name: bytes) -> None:
        """Have what is staged under that name uploaded soon."""
        work = self._here.here()
        if name not in work.queued:
            work.queued.add(name)
            work.names.put(name)
        self._wake(work)

    def idle(self, until: float) -> bool:
        """Whether nothing is left to do before that time, by `Runtime.now()`.

        What could not be begun for lack of a thread is begun now.
        """
        work = self._here.here()
        if work.queued:
            self._wake(work)
        due = any(each <= until for each in list(work.later.values()))
        return not (work.queued or work.busy or due)

    def close(self) -> None:
        """Begin nothing more."""
        self._closed = True
        work = self._here.here()
        for _ in work.threads:
            work.names.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until the threads have ended, once this is closed; for so long at most."""
        ends = self._runtime.now() + seconds
        for thread in list(self._here.here().started):
            try:
                thread.result(max(0.0, ends - self._runtime.now()))
            except TimeoutError:
                return

    def _wake(self, work: _Queue) -> None:
        """Have a thread more, if there are not enough of them."""
        if self._closed or len(work.threads) >= min(PARALLEL, max(1, len(work.queued))):
            return
        work.threads.append(None)
        try:
            started = self._runtime.start(partial(self._work, work))
        except TransportError:  # no thread to be had: the next name tries again
            _ = took_one(work.threads)
            return
        work.started = [each for each in work.started if not each.done()] + [started]

    def _work(self, work: _Queue) -> None:
        """Upload until nothing is left, then end."""
        while True:
            try:
                self._work_off(work)
            finally:
                _ = took_one(work.threads)
            others = len(work.threads)
            if (
                self._closed
                or others >= PARALLEL
                or not (work.queued or (work.later and not others))
            ):
                return
            work.threads.append(None)  # what was added when this one was about to end

    def _work_off(self, work: _Queue) -> None:
        while not self._closed:
            try:
                name = work.names.get(timeout=self._pause(work))
            except queue.Empty:
                if work.later and len(work.threads) == 1:
                    continue
                return
            if name is None:
                return
            work.busy.append(None)
            try:
                work.queued.discard(name)
                again = self._upload(name)
                if again is not None:
                    work.later[name] = again
            finally:
                _ = took_one(work.busy)

    def _pause(self, work: _Queue) -> float:
        """For how long a thread is to wait; what is due by now is added before."""
        now = self._runtime.now()
        for name, due in list(work.later.items()):
            if due <= now and work.later.pop(name, None) is not None and name not in work.queued:
                work.queued.add(name)
                work.names.put(name)
        soonest = min(list(work.later.values()), default=now + _LINGER_SECONDS)
        return max(0.0, min(_LINGER_SECONDS, soonest - now))


class _Queue:
    """What is to be done in one process."""

    def __init__(self) -> None:
        self.names: SimpleQueue[bytes | None] = SimpleQueue()
        self.queued: set[bytes] = set()
        """What is in `names`."""
        self.later: dict[bytes, float] = {}
        """What is to be tried again, and when."""
        self.busy: list[None] = []
        """One for each upload under way."""
        self.threads: list[None] = []
        """One for each thread."""
        self.started: list[Future[None]] = []
