"""Private daemon threads for calls that may block: disks, credential sources, the caller's files.

Never an executor of the interpreter: those refuse work once the main thread has ended, and calls
that wait for one another fill them and stand still. An idle thread is used again, and ends after
a few seconds or when it is told to.

A signal handler may raise at any bytecode of the main thread, inside of `threading` and
`concurrent.futures` too, whose Python code then keeps its locks. So what runs on a caller's thread
here waits in C alone (`SimpleQueue.get`), and holds none but C locks.
"""

from __future__ import annotations

import _thread
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from blockyard.errors import DeadlineExceededError, TransportError
from blockyard.process import PerProcess
from blockyard.transport.clock import monotonic
from blockyard.transport.pool import took_one

Result = TypeVar("Result")

SIGNALS_SEEN_WITHIN = 0.5
"""Seconds. A signal that comes just as a wait begins does not end it: each is begun again."""

_IDLE_SECONDS = 5.0


class Call(Future[Result], Generic[Result]):
    """A call under way on a thread of its own. Waiters take no lock; it can't be cancelled."""

    def __init__(self, call: Callable[[], Result]) -> None:
        super().__init__()
        self._call: Callable[[], Result] | None = call
        self._owner = os.getpid()
        self._over = False
        self._outcome: tuple[Result] | BaseException
        self._tell: list[Callable[[Future[Result]], object]] = []

    def run(self) -> None:
        """Make the call, on the thread that it got."""
        call, self._call = self._call, None
        assert call is not None  # noqa: S101 - it runs once
        try:
            self._outcome = (call(),)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._outcome = error
        del call  # with the block it may hold: once told, its caller fetches the next one
        self._over = True
        self._tell_waiters()
        del self  # the error's traceback refers to this frame

    def cancel(self) -> bool:
        return False

    def done(self) -> bool:
        return self._over

    def running(self) -> bool:
        return not self._over

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        if not self._over and self._owner != os.getpid():
            raise TransportError("this call was begun before a fork, by the parent process")
        self._tell.append(fn)
        if self._over:
            self._tell_waiters()

    def result(self, timeout: float | None = None) -> Result:
        """The result, or what the call raised; `TimeoutError` after `timeout` seconds."""
        if not wait_until_done(self, timeout):
            raise TimeoutError
        outcome = self._outcome
        if not isinstance(outcome, BaseException):
            return outcome[0]
        try:
            raise outcome
        finally:
            del outcome, self  # which its traceback refers to, by way of this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not wait_until_done(self, timeout):
            raise TimeoutError
        return self._outcome if isinstance(self._outcome, BaseException) else None

    def _tell_waiters(self) -> None:
        while self._tell:
            try:
                tell = self._tell.pop()
            except IndexError:  # another thread was quicker
                return
            _ = tell(self)


class Threads:
    """Starts calls on daemon threads: on as many as are needed, or on at most `limit`.

    A thread that is idle for so many seconds ends.
    """

    def __init__(self, limit: int | None = None, idle: float = _IDLE_SECONDS) -> None:
        self._limit = limit
        self._workers = PerProcess(partial(_Workers, idle))

    def start_at_once(self, call: Callable[[], Result]) -> Future[Result] | None:
        """Begin a call, unless that would have to wait for another one, or there is no thread."""
        begun = Call(call)
        try:
            return begun if self._workers.here().take(begun, self._limit, wait=False) else None
        except RuntimeError:
            return None

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        """Begin a call. Raises `TransportError` when the system has no thread to give."""
        begun = Call(call)
        if sys.is_finalizing():
            begun.run()
            return begun
        try:
            _ = self._workers.here().take(begun, self._limit)
        except RuntimeError as error:
            if not threads_are_over():
                raise TransportError(f"no thread could be started: {error}") from error
            begun.run()
        return begun

    def close(self) -> None:
        """Let idle threads end now, and busy ones after their calls."""
        self._workers.here().dismiss()


class _Workers:
    """The threads of one process, and the calls that they are to take.

    A signal handler or a finalizer may start a call in the middle of any method: the lock can be
    taken again by its thread, and each count changes in the step after it was looked at.
    """

    def __init__(self, idle: float) -> None:
        self._idle_seconds = idle
        self._lock = threading.RLock()
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        """For the threads that wait: a call, or None for one that is to end."""
        self._dismissed = False
        self._alive = 0
        self._idle: list[None] = []
        """One for each thread that waits and has no call coming to it."""
        self._queued: list[None] = []
        """One for each call that no thread waits for: as many were at work as are allowed."""

    def take(self, call: Call[Any], limit: int | None, *, wait: bool = True) -> bool:
        """Whether it is to be made: without `wait`, only when a thread has nothing else to do."""
        with self._lock:
            if not took_one(self._idle):
                if limit is None or self._alive < limit:
                    start_thread(self._work, "blockyard-call")
                    self._alive += 1
                elif wait:
                    self._queued.append(None)
                else:
                    return False
            self._calls.put(call)
            return True

    def dismiss(self) -> None:
        with self._lock:
            self._dismissed = True
            self._end_idle()

    def _end_idle(self) -> None:
        while took_one(self._idle):
            self._alive -= 1
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._next_call()) is not None:
            call.run()
            del call  # and with it what the call returned or raised, which its waiters have
            if not self._goes_on():
                return

    def _next_call(self) -> Call[Any] | None:
        """Wait for a call; None when this thread is to end."""
        while True:
            try:
                return self._calls.get(timeout=self._idle_seconds)
            except Empty:
                with self._lock:
                    if self._calls.empty():  # it is put there under the lock: none is coming
                        self._alive -= 1
                        _ = took_one(self._idle)
                        return None

    def _goes_on(self) -> bool:
        """After a call: whether this thread is to wait for another one."""
        with self._lock:
            if took_one(self._queued):
                return True
            if self._dismissed:
                self._alive -= 1
                return False
            self._idle.append(None)
            return True


def start_thread(run: Callable[[], object], name: str) -> None:
    """Run `run` on a daemon thread. Raises `RuntimeError` when the system has none to give.

    `Thread.start` waits in Python code for the new thread, which an exception out of a signal
    handler can end with a lock taken: so it is left to a thread where no handler runs.
    """

    def begin() -> None:
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except Exception:  # noqa: BLE001 - there is none more, or no memory: this one will do
            _ = run()

    if threading.current_thread() is threading.main_thread():
        _ = _thread.start_new_thread(begin, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()


def threads_are_over() -> bool:
    """Whether the main thread has ended: Python 3.12 starts no thread after that."""
    return sys.is_finalizing() or not threading.main_thread().is_alive()


def wait_until_done(call: Future[Any], seconds: float | None) -> bool:
    """Wait on this thread for a call of `Threads.start`: False after so many `seconds`."""
    ends = math.inf if seconds is None else monotonic() + seconds
    over: SimpleQueue[object] = SimpleQueue()
    if not call.done():
        call.add_done_callback(over.put)
    while not call.done():
        left = ends - monotonic()
        if left <= 0:
            return False
        with suppress(Empty):
            _ = over.get(timeout=min(left, SIGNALS_SEEN_WITHIN))
    return True


def outcome_of(call: Future[Result]) -> Result:
    """What a call that is done returned or raised, for a coroutine to pass on.

    A `SystemExit` would stop the event loop, and others read as a cancellation or an end.
    """
    try:
        return call.result()
    except (StopIteration, StopAsyncIteration) as error:
        raise RuntimeError(f"{error!r} on a thread of its own") from error
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{error!r} on a thread of its own") from error
    finally:
        del call  # which holds the error, whose traceback refers to this frame


def deadline_passed() -> DeadlineExceededError:
    """The error for a wait that the deadline ended."""
    return DeadlineExceededError("the deadline of this call has passed")
