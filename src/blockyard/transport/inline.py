"""The caller's own code on the thread that awaits it, in one copy of the caller's context.

Nothing here needs asyncio, which a blocking store is opened without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from blockyard.transport.clock import monotonic
from blockyard.transport.threads import deadline_passed
from blockyard.user_code import leave, run_user_code

if TYPE_CHECKING:
    from types import TracebackType

Result = TypeVar("Result")


class Inline:
    """See `UserCode`. It need not be entered where there is nothing to close."""

    def __init__(self, deadline: float | None, close: Callable[[], object] | None) -> None:
        self._deadline = deadline
        self._close = close
        self._context = copy_context()
        self._entered = False

    async def run(self, call: Callable[[], Result]) -> Result:
        if self._entered:  # by a call that runs the loop itself, as `nest_asyncio` lets it
            return self._context.copy().run(run_user_code, call)
        self._entered = True
        try:
            result = self._context.run(run_user_code, call)
        finally:
            self._entered = False
        if self._deadline is not None and monotonic() >= self._deadline:
            raise deadline_passed()
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._close is not None:
            leave(error, partial(self._context.run, self._close))
