"""The thread of a blocking call, while the I/O of the call is done on the background loop.

It waits for the end of the call, and runs what is the caller's own meanwhile: iterators, files,
`progress`. So their code runs where the call was made, may block, may call the same store, and is
where a signal handler expects it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from blockyard.errors import TransportError
from blockyard.transport.clock import monotonic
from blockyard.transport.posting import Post
from blockyard.transport.threads import SIGNALS_SEEN_WITHIN, deadline_passed
from blockyard.user_code import UserCodeError, leave, run_user_code

Result = TypeVar("Result")


class CallingThread:
    """Runs what it is handed, on the thread that calls `serve`.

    A signal handler may raise at any moment of `serve`: what it was handed may be lost then, so
    the call is to be ended. It takes no lock, and waits in C alone.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._over = False
        self.post: Post | None = None
        self.raised: UserCodeError | None = None
        """What the caller's own code raised here; the call may have ended otherwise meanwhile."""
        self.closers: list[Callable[[], object]] = []
        """What closes the caller's own, where an error ends the call."""
        self._process = os.getpid()

    def tell(self, callback: Callable[[], object]) -> object:
        """On that thread: have the loop call `callback`, unless it has ended, with the call."""
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
        """On the loop: the call has ended. Jobs that were not begun never are."""
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
        """On that thread, when `error` has ended the call: close what it left early."""
        while self.closers:
            leave(error, self.closers.pop())

    async def run(self, call: Callable[[], Result], deadline: float | None) -> Result:
        """On the loop: have that thread run `call`. See `UserCode.run`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Result] | UserCodeError] = loop.create_future()

        def deliver(outcome: tuple[Result] | UserCodeError) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def job() -> None:
            if answer.done():  # given up
                return
            try:
                outcome = (run_user_code(call),)
            except UserCodeError as carried:
                outcome = carried
                self.raised = self.raised or carried
            _ = self.tell(partial(deliver, outcome))

        self._jobs.put(job)
        if deadline is None:
            outcome = await answer
        else:
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    outcome = await answer
            except TimeoutError:
                raise deadline_passed() from None
        if isinstance(outcome, UserCodeError):
            raise outcome
        return outcome[0]


calling_thread: ContextVar[CallingThread | None] = ContextVar("calling_thread", default=None)
"""Set in the tasks of a blocking call that runs on the background loop."""
