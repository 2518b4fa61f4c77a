"""The thread of a blocking call, while the I/O of the call is done on the background loop.

It waits for the end of the call, and runs what is the caller's own meanwhile: iterators, files,
`progress`. So their code runs where the call was made, may block, may call the same store, and is
where a signal handler expects it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from blockyard.errors import TransportError
from blockyard.transport.clock import monotonic
from blockyard.transport.posting import Post
from blockyard.transport.tasks import in_time
from blockyard.transport.threads import SIGNALS_SEEN_WITHIN, deadline_passed
from blockyard.user_code import UserCodeError, leave, run_user_code

Result = TypeVar("Result")


class CallingThread:
    """Runs what it is handed, on the thread that calls `serve`.

    A signal handler may raise at any moment of `serve`: what it was handed may be lost then, so
    the call is to be ended. It takes no lock, and waits in C alone.
    """

    def __init__(self, *, nested: bool = False) -> None:
        self.nested = nested
        """Whether this call was made in the middle of another one's exchange, on its thread."""
        self.thread: int | None = threading.get_ident()
        """Its id; None for what goes on when the call is over, which no thread waits for."""
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._over = False
        self.post: Post | None = None
        self.raised: UserCodeError | None = None
        """What the caller's own code raised here; the call may have ended otherwise meanwhile."""
        self.closers: list[Callable[[], object]] = []
        """What closes the caller's own, where an error ends the call."""
        self._process = os.getpid()

    def take_raised(self) -> UserCodeError | None:
        """`raised`, which is not held any more: its traceback refers to this."""
        raised, self.raised = self.raised, None
        return raised

    def tell(self, callback: Callable[[], object]) -> object:
        """From that thread: schedule `callback` on the loop, unless loop and call have ended."""
        return self.post is not None and self.post.put(callback)

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._over

    @property
    def in_parent(self) -> bool:
        """Whether the call goes on in the parent process alone: this one was forked meanwhile."""
        return self._process != os.getpid()

    def end(self) -> None:
        """From the loop: end `serve`. Jobs that were not begun never are."""
        self._over = True
        self._jobs.put(None)

    def serve(self) -> None:
        """Run what is handed over until the call has ended.

        Raises `TransportError` in a child that was forked meanwhile: nobody does its I/O there.
        """
        while not self._over:
            if self.in_parent:
                raise TransportError("this call was begun before a fork, by the parent process")
            job = None
            with suppress(Empty):
                job = self._jobs.get(timeout=SIGNALS_SEEN_WITHIN)
            if job is not None and not self._over:
                job()

    def wait(self) -> None:
        """Wait until the call has ended, and run nothing more."""
        while not self._over and not self.in_parent:
            with suppress(Empty):
                _ = self._jobs.get(timeout=SIGNALS_SEEN_WITHIN)

    def close_all(self, error: BaseException) -> None:
        """On that thread, after `error` ended the call: close the caller's objects left open."""
        while self.closers:
            leave(error, self.closers.pop())

    async def run(self, call: Callable[[], Result], deadline: float | None) -> Result:
        """From the loop: run `call` on that thread. See `UserCode.run`."""
        job = _Job(self, call)
        self._jobs.put(job.run)
        outcome = await job.outcome(deadline)
        if not isinstance(outcome, UserCodeError):
            return outcome[0]
        try:
            raise outcome
        finally:
            del outcome  # which its traceback refers to, by way of this frame


class _Job(Generic[Result]):
    """Some of the caller's own code: `outcome` is for the loop, `run` for the calling thread."""

    def __init__(self, caller: CallingThread, call: Callable[[], Result]) -> None:
        self._caller = caller
        self._call: Callable[[], Result] | None = call
        self._answer: asyncio.Future[tuple[Result] | UserCodeError] | None
        self._answer = asyncio.get_running_loop().create_future()

    async def outcome(self, deadline: float | None) -> tuple[Result] | UserCodeError:
        """What the code returns or raises, or `DeadlineExceededError`."""
        answer = self._answer
        assert answer is not None  # noqa: S101 - it is awaited once
        try:
            if deadline is None:
                return await answer
            if await in_time(answer, deadline - monotonic()):
                return answer.result()
        finally:
            self._call = self._answer = None  # this may stay in the queue
        raise deadline_passed()

    def run(self) -> None:
        """Run the code, unless nobody waits for it any more."""
        call = self._call
        if call is None:
            return
        try:
            outcome = (run_user_code(call),)
        except UserCodeError as carried:
            outcome = carried
            self._caller.raised = self._caller.raised or carried
        _ = self._caller.tell(partial(self._deliver, outcome))
        del _, outcome  # whose traceback refers to this frame

    def _deliver(self, outcome: tuple[Result] | UserCodeError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(outcome)


calling_thread: ContextVar[CallingThread | None] = ContextVar("calling_thread", default=None)
"""Set in the tasks of a blocking call that runs on the background loop."""
