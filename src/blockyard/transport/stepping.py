"""Runs the caller's own code (`UserCode`, `UserTask`): each object on one thread or in one task.

A generator may hold what belongs to a thread (a connection of sqlite3, a lock), to a task (an
`asyncio.timeout`, a cancel scope) or to a context (a context variable) from one step to the next.
So all steps of one object, its end included, are made on the same thread, or in the same task, and
in one copy of the context that the call was made in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar, cast

from blockyard.transport.calling_thread import CallingThread
from blockyard.transport.clock import monotonic
from blockyard.transport.tasks import in_time, until_done_or
from blockyard.transport.threads import Threads, deadline_passed, outcome_of
from blockyard.user_code import UserCodeError, leave, run_user_code

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

Item = TypeVar("Item")
Result = TypeVar("Result")

Close: TypeAlias = Callable[[], object]
_Call: TypeAlias = tuple[Callable[[AsyncIterator[Any]], Awaitable[Any]], asyncio.Future[Any]]

_LET_GO_AFTER = 0.5
"""Seconds that the caller's own code has to end when its call is over."""
_NO_FAILURE = (asyncio.CancelledError, StopAsyncIteration)
"""What a step raises that was cancelled, or is the last."""


class OnCallingThread:
    """`UserCode` that runs on the thread that made the blocking call."""

    def __init__(self, thread: CallingThread, deadline: float | None, close: Close | None) -> None:
        self._thread = thread
        self._deadline = deadline
        self._close = close
        self.tell = thread.tell
        """On that thread: have the loop call a function."""

    async def run(self, call: Callable[[], Result]) -> Result:
        return await self._thread.run(call, self._deadline)

    async def __aenter__(self) -> Self:
        if self._close is not None:
            self._thread.closers.append(self._close)
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is left early is closed there at the end of the call, which may be cut off."""


class OnOwnThread(OnCallingThread):
    """`UserCode` that runs on a thread of its own while this is entered."""

    def __init__(self, threads: Threads, deadline: float | None, close: Close | None) -> None:
        self._served = _ServedThread(asyncio.get_running_loop())
        close = None if close is None else partial(run_user_code, close)
        super().__init__(self._served, deadline, close)
        self._threads = threads
        self._serving: Future[None]

    async def __aenter__(self) -> Self:
        self._serving = self._threads.start(partial(copy_context().run, self._served.serve))
        return await super().__aenter__()

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Code that does not return is let go after a moment, and what it left closed then."""
        self._served.end_with(error)
        try:
            await until_done_or(self._serving, _LET_GO_AFTER)
            if self._serving.done():
                outcome_of(self._serving)
            _raise_first(self._served.take_raised(), error)
        except asyncio.CancelledError as cancelled:
            _raise_first(self._served.take_raised(), cancelled)
            raise
        finally:
            del error  # which its traceback refers to, by way of this frame


class _ServedThread(CallingThread):
    """The calling thread of `OnOwnThread`: it only runs user code."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._made_on = threading.get_ident()
        self._error: BaseException | None = None
        self._none_left = False
        """Whether there was no thread to have, since the interpreter is ending."""

    def tell(self, callback: Callable[[], object]) -> object:
        try:
            return self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop has ended, and the call with it
            return False

    def serve(self) -> None:
        self._none_left = threading.get_ident() == self._made_on
        if not self._none_left:
            super().serve()
            self._close_all()

    def end_with(self, error: BaseException | None) -> None:
        self._error = error
        self.end()
        if self._none_left:
            self._close_all()

    def _close_all(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self.close_all(error)
        del error  # whose traceback refers to this, by way of who ended it

    async def run(self, call: Callable[[], Result], deadline: float | None) -> Result:
        if self._none_left:
            return run_user_code(call)
        return await super().run(call, deadline)


class InTask(Generic[Item]):
    """An async iterable of the caller's own, stepped in a task of its own while this is entered.

    An async generator that is left early is closed there. This is its iterator where a step was
    interrupted, or made ahead, between two calls of `run`.
    """

    def __init__(self, items: AsyncIterable[Item], deadline: float | None) -> None:
        self._items = items
        self._deadline = deadline
        self._iterator: AsyncIterator[Item] | None = None
        self._ahead: tuple[Item] | BaseException | None = None
        self._interrupted: asyncio.CancelledError | None = None
        self._raised: UserCodeError | None = None
        """What a step raised; the call may have ended otherwise meanwhile."""
        self._calls: asyncio.Queue[_Call | None] = asyncio.Queue()
        self._stepping = False
        self._leaving = False
        self._task: asyncio.Task[None]

    async def run(self, call: Callable[[AsyncIterator[Item]], Awaitable[Result]]) -> Result:
        """What `call(iterator)` returns, awaited in that task."""
        answer: asyncio.Future[tuple[Result] | UserCodeError]
        answer = asyncio.get_running_loop().create_future()
        self._calls.put_nowait((call, answer))
        seconds = None if self._deadline is None else self._deadline - monotonic()
        if not await in_time(answer, seconds):
            raise deadline_passed()
        outcome = answer.result()
        del answer
        if isinstance(outcome, UserCodeError):
            try:
                raise outcome
            finally:
                del outcome  # which its traceback refers to
        return outcome[0]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the task has ended; a cancellation meanwhile is passed on to it."""
        self._leaving = True
        if self._stepping:
            _ = self._task.cancel()
        else:
            self._calls.put_nowait(None)
        at_last = self._cancel_later()
        cancelled: asyncio.CancelledError | None = None
        while not self._task.done():
            try:
                _ = await asyncio.wait((self._task,))
            except asyncio.CancelledError as again:
                cancelled = again
                _ = self._task.cancel()
        if at_last is not None:
            at_last.cancel()
        raised, self._raised = self._raised, None
        try:
            leave(error, self._task.result)
            _raise_first(raised, cancelled or error)
            if cancelled is not None:
                raise cancelled
        finally:
            del self._task, error, cancelled, raised  # which a traceback refers to

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        assert self._iterator is not None  # noqa: S101 - `_steps` has made it
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            if isinstance(ahead, BaseException):
                try:
                    raise ahead
                finally:
                    del ahead  # which its traceback refers to
            return ahead[0]
        if self._interrupted is not None:
            _ = self._task.cancel(*self._interrupted.args)  # anyio tells its own by the message
            self._interrupted = None
        return await anext(self._iterator)

    async def _serve(self) -> None:
        while (asked := await self._next_call()) is not None:
            call, answer = asked
            self._stepping = True
            outcome: tuple[Any] | UserCodeError
            try:
                outcome = (await call(self._steps()),)
            except BaseException as error:  # noqa: BLE001 - whatever it is, and it is carried on
                outcome = UserCodeError(error)
            self._stepping = False
            if not answer.done():
                answer.set_result(outcome)
            self._keep(outcome)
            del call, answer, outcome, asked
        if isinstance(self._iterator, AsyncGenerator):
            try:
                await cast("AsyncGenerator[Any]", self._iterator).aclose()
            except BaseException as error:  # noqa: BLE001 - it is carried on
                raise UserCodeError(error) from None

    def _steps(self) -> AsyncIterator[Item]:
        if self._iterator is None:
            self._iterator = aiter(self._items)
        as_it_is = self._ahead is None and self._interrupted is None
        return self._iterator if as_it_is else self

    async def _next_call(self) -> _Call | None:
        while not self._leaving:
            try:
                return await self._calls.get()
            except asyncio.CancelledError as error:
                if not self._leaving:
                    await self._interrupt(error)
        return None

    async def _interrupt(self, error: asyncio.CancelledError) -> None:
        """What the source began (a timeout, a cancel scope) cancels the task between two steps.

        It has to end inside of the source: a generator is given it where it stands, any other
        iterator at its next step.
        """
        if not isinstance(self._iterator, AsyncGenerator):
            self._interrupted = error
            _ = self._task.uncancel()
            return
        generator = cast("AsyncGenerator[Item]", self._iterator)
        self._stepping = True
        try:
            self._ahead = (await generator.athrow(error),)
        except BaseException as raised:  # noqa: BLE001 - its next step raises it
            self._ahead = raised
            self._keep(UserCodeError(raised))
        self._stepping = False

    def _keep(self, outcome: tuple[Any] | UserCodeError) -> None:
        if isinstance(outcome, UserCodeError) and not isinstance(outcome.error, _NO_FAILURE):
            self._raised = outcome

    def _cancel_later(self) -> asyncio.TimerHandle | None:
        """Cancel the task a moment after the deadline of the call."""
        if self._deadline is None:
            return None
        seconds = max(0.0, self._deadline - monotonic()) + _LET_GO_AFTER
        return asyncio.get_running_loop().call_later(seconds, self._task.cancel)


def _raise_first(users: UserCodeError | None, error: BaseException | None) -> None:
    """Raise what the caller's own code raised in place of another `error` of the call.

    It is the cause of a cancellation.
    """
    try:
        if users is None or isinstance(error, UserCodeError):
            return
        if isinstance(error, asyncio.CancelledError):
            raise error from users
        if error is not None:
            users.note_meanwhile(error)
        raise users
    finally:
        del users, error  # which their tracebacks refer to, by way of this frame
