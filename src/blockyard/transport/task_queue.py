"""Operations that go on between calls, their results taken in the order in which they began.

The next blocks of a content are read while the code that reads it works on the one before. They
belong to the process and the event loop that began them. A child that was forked meanwhile, or
the next `asyncio.run`, begins its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from blockyard.transport.calling_thread import CallingThread, calling_thread
from blockyard.transport.clock import monotonic
from blockyard.transport.tasks import in_time, look_at_error, until_done
from blockyard.transport.threads import deadline_passed

Result = TypeVar("Result")
_STOPPED = "what was read was closed meanwhile"

Run = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]
Post = Callable[[Callable[[], object]], object]
"""From any thread: have the loop call a function."""


class TaskQueue(Generic[Result]):
    """See `context.TaskQueue`. Dropped, it cancels what is under way."""

    def __init__(self, run: Run, post: Post, places: int) -> None:
        self._run = run
        self._post = post
        self._places = asyncio.Semaphore(places)
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._tasks: deque[asyncio.Task[Result]] = deque()
        self._stopped = False
        caller = calling_thread.get()
        self._nested = caller is not None and caller.nested
        self._caller: CallingThread | None = None
        if caller is not None:  # what goes on after its call must not refer to that
            self._caller = CallingThread(nested=self._nested)
            self._caller.thread = None

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def usable(self) -> bool:
        """A call in the middle of another one may not wait for what waits for that."""
        caller = calling_thread.get()
        would_deadlock = caller is not None and caller.nested and not self._nested
        return not self._stopped and self._is_here() and not would_deadlock

    def begin(self, operation: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        # the task is not to hold this, which cancels it when dropped
        self_run, places = self._run, self._places

        async def run() -> Result:
            async with places:
                return await self_run(operation())

        # not all task factories that a loop may be given take a context
        task = self._context().run(self._loop.create_task, run())
        task.add_done_callback(look_at_error)
        self._tasks.append(task)
        if self._stopped:  # by another thread, meanwhile
            _ = task.cancel()

    async def is_ready(self, seconds: float) -> bool:
        for task in list(self._tasks)[:1]:
            return task.done() or await in_time(asyncio.wait((task,)), seconds)
        return True

    async def next(self, deadline: float | None) -> Result:
        try:
            task = self._tasks.popleft()
        except IndexError:
            raise ValueError(_STOPPED) from None
        seconds = None if deadline is None else deadline - monotonic()
        try:
            ended = task.done() or await in_time(asyncio.wait((task,)), seconds)
        finally:
            if not task.done():
                _ = task.cancel()
                await until_done((task,))
        try:
            if task.cancelled() and not ended:
                raise deadline_passed()
            if task.cancelled() and self._stopped:
                raise ValueError(_STOPPED)
            return task.result()
        finally:
            del task  # which holds the error, whose traceback refers to this frame

    def stop(self) -> None:
        self._stopped = True
        tasks = self._take()
        if self._process != os.getpid():
            _inherited.extend(tasks)
        elif tasks:
            _ = self._post(lambda: _cancel(tasks))

    async def end(self) -> None:
        if not self._is_here():
            self.stop()
            return
        self._stopped = True
        tasks = self._take()
        _cancel(tasks)
        await until_done(tasks)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.stop()

    def _is_here(self) -> bool:
        return self._process == os.getpid() and self._loop is asyncio.get_running_loop()

    def _take(self) -> list[asyncio.Task[Result]]:
        """Take the tasks that have not ended, and are not awaited."""
        tasks, self._tasks = self._tasks, deque()
        return [task for task in tasks if not task.done()]

    def _context(self) -> Context:
        context = copy_context()
        if self._caller is not None:
            _ = context.run(calling_thread.set, self._caller)
        return context


_inherited: list[asyncio.Task[Any]] = []
"""Those of parent processes, kept: asyncio complains of pending tasks that are destroyed."""


def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        _ = task.cancel()
