"""A bounded work queue with one thread, for disk cache writes that readers need not wait for.

Work that does not fit is dropped. No lock is taken: a signal handler or a finalizer may call `put`
in the middle of another `put` of its thread. Byte counts are estimates, corrected whenever the
queue is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from blockyard.errors import TransportError
from blockyard.model import MIB
from blockyard.process import PerProcess
from blockyard.transport.clock import monotonic
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.context import Runtime

LIMIT = 64 * MIB
"""Bytes that may wait to be written."""
_MOST = 4096
"""As many pieces of work may wait, at most."""
_CLOSING_SECONDS = 5.0
_THREADS_REMEMBERED = 8

Work = Callable[[float], object]
"""Gets the time, by `Runtime.now()`."""


class WorkQueue:
    """A bounded queue of work for a daemon thread, which exists only while there is work.

    A forked child has a queue of its own, without its parent's work.
    """

    def __init__(self) -> None:
        self._here = PerProcess(_Pending)

    def put(self, runtime: Runtime, work: Work, size: int = 0) -> bool:
        """Enqueue `work`, which holds `size` bytes and must not raise; False if it was dropped."""
        pending = self._here.here()
        if pending.size + size > LIMIT or len(pending.work) >= _MOST:
            return False
        pending.size += size
        pending.work.append((work, size))
        if not pending.at_work or not pending.threads or pending.threads[-1].done():
            pending.at_work = True
            try:
                pending.threads.append(runtime.start(partial(_work_off, pending, runtime.now)))
            except TransportError:  # no thread to be had: the next put tries again
                pending.at_work = False
        return True

    def clear(self) -> int:
        """Drop all waiting work; return how many pieces that was."""
        pending = self._here.here()
        dropped = len(pending.work)
        pending.work.clear()
        pending.size = 0
        return dropped

    def wait(self, seconds: float = _CLOSING_SECONDS) -> bool:
        """Wait until all work is done; False if it is not after `seconds`."""
        pending, ends = self._here.here(), monotonic() + seconds
        for thread in list(pending.threads):
            try:
                thread.result(max(0.0, ends - monotonic()))
            except TimeoutError as error:
                pass_on_foreign(error)
                return False
        return not pending.work


class _Pending:
    """The queue of one process."""

    def __init__(self) -> None:
        self.work: deque[tuple[Work, int]] = deque()
        self.size = 0
        self.at_work = False
        self.threads: deque[Future[None]] = deque(maxlen=_THREADS_REMEMBERED)


def _work_off(pending: _Pending, now: Callable[[], float]) -> None:
    """Run on the thread: do all waiting work. Two threads may, when two puts started one each."""
    try:
        _do_all(pending, now)
    finally:
        pending.at_work = False


def _do_all(pending: _Pending, now: Callable[[], float]) -> None:
    while pending.work:
        pending.at_work = True
        try:
            work, size = pending.work.popleft()
        except IndexError:  # the other one was quicker
            pending.at_work = False
            continue
        try:
            _ = work(now())
        finally:
            del work  # with the bytes that it holds
            pending.size -= size
        if not pending.work:
            pending.size = 0
            pending.at_work = False  # before the last look: who puts looks after it has put
