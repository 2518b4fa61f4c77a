"""Background uploads of staged blocks: a few daemon threads, which exist only while there is work.

No lock is taken where callers add work: a signal handler or a finalizer may do so in the middle of
another call of its thread. A forked child does not inherit its parent's uploads.
"""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from blockyard.errors import TransportError
from blockyard.process import PerProcess
from blockyard.transport.pool import took_one
from blockyard.user_code import pass_on_foreign

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
    """The names to be uploaded, first in first out."""

    def __init__(self, runtime: Runtime, upload: Upload) -> None:
        self._runtime = runtime
        self._upload = upload
        self._here = PerProcess(_Queue)
        self._closed = False

    def add(self, name: bytes) -> None:
        """Schedule the upload of the version that is staged under a name."""
        work = self._here.here()
        self._enqueue(work, name)
        self._wake(work)

    def idle(self, until: float) -> bool:
        """Whether no upload is waiting, running, or due before `until`, by `Runtime.now()`.

        Starts a thread where that failed before.
        """
        work = self._here.here()
        if work.waiting or (work.later and not work.threads):
            self._wake(work)
        due = any(each <= until for each in list(work.later.values()))
        return not (due or work.waiting or work.busy)

    def close(self) -> None:
        """Start no more uploads."""
        self._closed = True
        work = self._here.here()
        for _ in work.threads:
            work.wakeups.put(None)

    def wait(self, seconds: float) -> None:
        """After `close`: wait until the threads have ended, for `seconds` at most."""
        ends = self._runtime.now() + seconds
        for thread in list(self._here.here().started):
            try:
                thread.result(max(0.0, ends - self._runtime.now()))
            except TimeoutError as error:
                pass_on_foreign(error)
                return

    @staticmethod
    def _enqueue(work: _Queue, name: bytes) -> None:
        if name not in work.waiting:
            work.waiting[name] = None
            work.wakeups.put(None)

    def _wake(self, work: _Queue) -> None:
        """Start another thread, if there is more work than threads."""
        if self._closed or len(work.threads) >= min(PARALLEL, max(1, len(work.waiting))):
            return
        try:
            work.threads.append(None)
            started = self._runtime.start(partial(self._work, work))
        except TransportError:  # no thread to be had: the next name tries again
            _ = took_one(work.threads)
            return
        except BaseException:  # a signal handler's: a thread too many is better than none
            _ = took_one(work.threads)
            raise
        for each in [each for each in list(work.started) if each.done()]:
            with suppress(ValueError):  # another thread was quicker
                work.started.remove(each)
        work.started.append(started)

    def _work(self, work: _Queue) -> None:
        """Run on a thread: upload until nothing is left."""
        while True:
            try:
                self._work_off(work)
            finally:
                _ = took_one(work.threads)
            others = len(work.threads)
            if (
                self._closed
                or others >= PARALLEL
                or not (work.waiting or (work.later and not others))
            ):
                return
            work.threads.append(None)  # what was added when this one was about to end

    def _work_off(self, work: _Queue) -> None:
        while not self._closed:
            if self._upload_next(work):
                continue
            try:
                work.wakeups.get(timeout=self._pause(work))
            except queue.Empty:
                if not (work.waiting or (work.later and len(work.threads) == 1)):
                    return

    def _upload_next(self, work: _Queue) -> bool:
        """Upload the first name that waits; False if there is none."""
        work.busy.append(None)
        try:
            try:
                name, _ = work.waiting.popitem(last=False)
            except KeyError:
                return False
            with suppress(queue.Empty):
                work.wakeups.get_nowait()
            again: float | None = self._runtime.now() + _LINGER_SECONDS
            try:
                again = self._upload(name)
            finally:  # it raises nothing, but for a defect: the name is not lost for that
                if again is not None:
                    work.later[name] = again
        finally:
            _ = took_one(work.busy)
        return True

    def _pause(self, work: _Queue) -> float:
        """How long a thread may wait. Enqueues the retries that are due by now."""
        now = self._runtime.now()
        for name, due in list(work.later.items()):
            if due <= now:
                self._enqueue(work, name)
                _ = work.later.pop(name, None)
        if work.waiting:
            return 0.0
        soonest = min(list(work.later.values()), default=now + _LINGER_SECONDS)
        return max(0.0, min(_LINGER_SECONDS, soonest - now))


class _Queue:
    """The uploads of one process.

    A signal handler may raise between any two steps of `add`. So a name is added in one step, and
    any thread uploads it, whether it was woken for it or not.
    """

    def __init__(self) -> None:
        self.waiting: OrderedDict[bytes, None] = OrderedDict()
        """What is to be uploaded, the first to come first."""
        self.wakeups: SimpleQueue[None] = SimpleQueue()
        """One for each name, for a thread that waits."""
        self.later: dict[bytes, float] = {}
        """What is to be tried again, and when."""
        self.busy: list[None] = []
        """One for each upload under way."""
        self.threads: list[None] = []
        """One for each thread."""
        self.started: list[Future[None]] = []
