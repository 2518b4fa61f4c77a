"""One event loop on one thread, for the blocking face's many-at-once calls.

Many operations at once run better on one loop than on many threads that fight for the
interpreter lock. The thread starts with the first such call and ends with the store. It does I/O
alone: the caller's own code runs on the thread that made the call (`calling_thread.py`).

A signal handler may raise at any bytecode of the calling thread. So the loop's thread makes and
closes the loop, and begins, ends and cancels the calls; the calling thread asks for that, any
number of times, and waits in C. A handler or a finalizer may also make calls of its own there, so
the lock can be taken again by its thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from blockyard.context import CacheUse, Context
from blockyard.errors import StoreClosedError, TransportError
from blockyard.process import PerProcess
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.calling_thread import CallingThread, calling_thread
from blockyard.transport.clock import monotonic
from blockyard.transport.connections import Connections, would_deadlock
from blockyard.transport.posting import Post
from blockyard.transport.tasks import closed_meanwhile, copy_notes
from blockyard.transport.threads import SIGNALS_SEEN_WITHIN, start_thread, threads_are_over
from blockyard.user_code import UserCodeError

_DESCRIPTORS_OF_A_LOOP = 5
"""Its selector, two sockets to wake it, and ours: one to post callbacks, and an epoll set."""

_CANCELLED_AGAIN = 1.0
"""Seconds after which what still runs is cancelled again: it may have begun to tidy up."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class BackgroundLoop:
    """Runs operations on its own event loop while the calling thread waits."""

    def __init__(self, connections: Connections) -> None:
        self._runtime = AsyncioRuntime(connections)
        self._threads = PerProcess(_LoopThread, _inherited.append)
        self._closed = False

    def run(
        self,
        operation: Callable[[Context, Argument], Coroutine[Any, Any, Result]],
        argument: Argument,
        deadline: float | None,
        concurrency: int,
        cache: CacheUse = "use",
    ) -> Result:
        """`operation(context, argument)` on the loop.

        Whatever is raised on this thread meanwhile (an interrupt, a signal handler's exception)
        cancels the operation there, and is raised when it has ended: what an operation does on
        its way out is done by then. Raises `StoreClosedError` when `close` cuts it off,
        and `TransportError` when the system has no thread or descriptor to give, and in a child
        that was forked meanwhile.
        """
        ends = None if deadline is None else self._runtime.now() + deadline
        context = Context(self._runtime, ends, concurrency, cache=cache)
        caller = CallingThread(nested=would_deadlock(self._runtime.connections.here()))
        call = _Call(caller, operation(context, argument), self._runtime.run)
        try:
            try:
                self._begin(call)
                call.caller.serve()
            except BaseException as error:
                call.cut_off(error)
                raise
            return call.result()
        except BaseException as error:
            call.caller.close_all(error)
            raise

    def close(self) -> None:
        """Cut off what is under way, which may tidy up: see `AsyncioRuntime.close`.

        Then close the connections, and stop the loop and its thread.

        On that thread, where a finalizer may run, it returns before that is done.
        """
        thread = self._threads.here()
        with thread.beginning:
            self._closed = True
        if thread.is_current():
            _ = thread.begin_to_end(self._runtime.close)
        elif not thread.end(self._runtime.close):
            self._runtime.abandon()

    def __del__(self) -> None:
        """Dropped without `close`: end the thread, from whichever thread this runs on."""
        if self._closed or sys.is_finalizing():
            return
        self._closed = True
        if self._threads.here().begin_to_end(self._runtime.close):
            self._runtime.connections.warn_of_drop()

    def _begin(self, call: _Call[Any]) -> None:
        """Begin `call` on the loop, ordered before what `close` does there."""
        thread = self._threads.here()
        with thread.beginning:
            if self._closed:
                raise StoreClosedError("the store is closed")
            if thread.is_current():  # a finalizer's call: the loop waits for it
                start_thread(call.run_here, "blockyard")
                return
            try:
                post = thread.post()
            except TransportError:
                if not threads_are_over():
                    raise
            else:
                call.caller.post = post
                _ = post.put(partial(copy_context().run, call.begin))
                return
        call.run_here()


class PrivateLoop(asyncio.SelectorEventLoop):
    """asyncio's own, whatever policy is set, with a clock that no test library stops."""

    def time(self) -> float:
        return monotonic()


class _LoopThread:
    """An event loop on a daemon thread of its own, which ends when `end` is called."""

    def __init__(self) -> None:
        self.beginning = threading.RLock()
        """Held while a call is begun: it starts the loop at most once, and before `close`."""
        self._lock = threading.RLock()
        self._post: Post | None = None
        self._ident: int | None = None
        self._ending = False
        self._winding_up: asyncio.Task[None] | None = None
        self._ended: SimpleQueue[None] = SimpleQueue()

    def is_current(self) -> bool:
        """Whether this is that thread."""
        return threading.get_ident() == self._ident

    def post(self) -> Post:
        """What reaches the loop, which is started if need be; else raises `TransportError`."""
        if sys.is_finalizing():
            raise TransportError("the interpreter is ending, and its threads have")
        if self._post is None:
            told: SimpleQueue[OSError | None] = SimpleQueue()
            try:
                start_thread(partial(self._serve, told), "blockyard")
            except RuntimeError as error:
                raise TransportError(f"no thread could be started: {error}") from error
            failure = told.get()
            if failure is not None:
                raise TransportError(f"no event loop could be made: {failure}") from failure
        post = self._post
        assert post is not None  # noqa: S101 - the thread has published it
        return post

    def end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Await `close()` on the loop, cancel what still runs there, and wait for the thread's end.

        False when there is nothing to end: no loop was started, or all threads have ended.
        """
        if not self.begin_to_end(close) or sys.is_finalizing():
            return False
        while self._post is not None:
            with suppress(Empty):
                self._ended.get(timeout=SIGNALS_SEEN_WITHIN)
        return True

    def begin_to_end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """`end`, without waiting; whether there is something to end."""
        with self._lock:
            self._ending = True
            post = self._post
        return post is not None and post.put(partial(self._begin_to_end, close))

    def _serve(self, told: SimpleQueue[OSError | None]) -> None:
        try:
            _check_thread()
            _check_descriptors()
            loop = PrivateLoop()
        except OSError as error:
            told.put(error)
            return
        try:
            post = Post(loop)
        except OSError as error:
            loop.close()
            told.put(error)
            return
        with self._lock:
            surplus = self._ending or self._post is not None  # the start before was interrupted
            if not surplus:
                self._post, self._ident = post, threading.get_ident()
        told.put(None)
        if not surplus:
            loop.run_forever()
        post.close()
        loop.close()
        if not surplus:
            self._post = self._ident = None
            self._ended.put(None)

    def _begin_to_end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._winding_up is None:
            loop = asyncio.get_running_loop()
            self._winding_up = loop.create_task(_wind_up(close))
            self._winding_up.add_done_callback(lambda _: loop.stop())


_inherited: list[_LoopThread] = []
"""Those of parent processes, kept: a loop that never ran here can't be closed here."""


def _check_thread() -> None:
    """Raise `OSError` when this is a greenlet, and the thread it is on runs a loop already."""
    try:
        _ = asyncio.get_running_loop()
    except RuntimeError:
        return
    raise OSError(
        "threads are gevent's greenlets here, and one of them runs a loop: many-at-once calls and "
        "contents of one store at a time can be used in such a process"
    )


def _check_descriptors() -> None:
    """Raise `OSError` unless the system has the descriptors for a loop.

    One that can't be made whole is left half-made by asyncio, with the descriptors that it got.
    """
    taken: list[int] = []
    try:
        for _ in range(_DESCRIPTORS_OF_A_LOOP):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    finally:
        for each in taken:
            os.close(each)


async def _wind_up(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await close()
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            _ = task.cancel()
        ended = asyncio.gather(*left, return_exceptions=True)
        _ = await asyncio.wait([ended], timeout=_CANCELLED_AGAIN)


class _Call(Generic[Result]):
    """One call: `begin` and `cancel` are for the loop, the rest for the calling thread."""

    def __init__(
        self,
        caller: CallingThread,
        operation: Coroutine[Any, Any, Result],
        run: Callable[[Coroutine[Any, Any, Result]], Coroutine[Any, Any, Result]],
    ) -> None:
        self.caller = caller
        self._operation = operation
        self._run = run
        self._task: asyncio.Task[Result] | None = None
        self._cancelled = False
        self._outcome: tuple[Result] | BaseException

    def begin(self) -> None:
        """Start the operation through `run`; it finds the calling thread in its context."""
        if not self._cancelled:
            _ = calling_thread.set(self.caller)
            self._task = asyncio.get_running_loop().create_task(self._run(self._operation))
            self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel the operation, once."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._task is not None:
            _ = self._task.cancel()
        elif not self.caller.over:
            self._operation.close()
            self._outcome = StoreClosedError("the call never began")
            self.caller.end()

    def run_here(self) -> None:
        """Run the operation to its end on a loop of this thread's."""
        try:
            # Made without a policy, which is found by an import: too late in a finalizer.
            with asyncio.Runner(loop_factory=PrivateLoop) as runner:
                self._outcome = (runner.run(self._operation),)
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._outcome = _bare(error)
        self.caller.end()

    def cut_off(self, error: BaseException) -> None:
        """Cancel the operation, and wait until it has ended, whatever is raised here meanwhile.

        What it could not tidy up is noted on `error`.
        """
        try:
            if self.caller.in_parent:
                return
            if not self.caller.over:
                if not self.caller.tell(self.cancel):  # it never got to the loop, or ended with it
                    self._operation.close()
                    return
                self.caller.wait()
            copy_notes(self._outcome, error)
        except BaseException as again:
            self.cut_off(again)
            raise

    def result(self) -> Result:
        """What the operation returned or raised, once it has ended.

        What the caller's own code raised meanwhile goes before it: the operation may have ended
        without waiting for that.
        """
        outcome, users = self._outcome, self.caller.take_raised()
        del self._outcome  # whose traceback refers to this
        if users is not None and users.error is not outcome:
            if isinstance(outcome, BaseException):
                users.note_meanwhile(outcome)
            outcome = users.error
        del users
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome  # which its traceback refers to
        return outcome[0]

    def _end(self, task: asyncio.Task[Result]) -> None:
        self._operation.close()  # it never began where the task was cancelled at once
        if not task.cancelled():
            error = task.exception()
            self._outcome = (task.result(),) if error is None else _bare(error)
        else:
            try:
                _ = task.result()
            except asyncio.CancelledError as cancelled:
                self._outcome = _bare(closed_meanwhile(cancelled))
        self._task = None  # freed here: that runs Python code, where a signal's exception is lost
        self.caller.end()


def _bare(error: BaseException) -> BaseException:
    """An error as the caller gets it: what their own code raised is no longer carried."""
    return error.error if isinstance(error, UserCodeError) else error
