"""The blocking runtime."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Request, Response

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_to_end(operation: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends, as all do over the blocking runtime."""
    try:
        operation.send(None)
    except StopIteration as done:
        return done.value
    operation.close()
    raise RuntimeError("an operation suspended under the blocking runtime")


class BlockingRuntime:
    """I/O on the calling thread, over plain sockets. Shared by threads."""

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self._http = http
        self._timeouts = timeouts

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> Response:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def blocking(self, call: Callable[[], Result]) -> Result:
        return call()

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item],
        concurrency: int,
    ) -> list[Result]:
        """One after the other: the blocking face sends what gains from more to the background."""
        return [await operation(item) for item in items]

    now = staticmethod(time.monotonic)
    wall_time = staticmethod(time.time)
    jitter = staticmethod(random.random)

    def close(self) -> None:
        """Close every idle connection."""
