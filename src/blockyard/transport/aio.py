"""The asyncio runtime."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Request, Response

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

Item = TypeVar("Item")
Result = TypeVar("Result")


class AsyncioRuntime:
    """I/O on the running event loop."""

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
        await asyncio.sleep(seconds)

    async def blocking(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(None, call)

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item],
        concurrency: int,
    ) -> list[Result]:
        """As many workers as places, each drawing the next item: one task a worker, not an item."""
        results: list[Any] = []
        numbered = enumerate(items)

        async def work() -> None:
            for index, item in numbered:
                results.append(None)
                results[index] = await operation(item)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    _ = workers.create_task(work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return results

    now = staticmethod(time.monotonic)
    wall_time = staticmethod(time.time)
    jitter = staticmethod(random.random)

    async def close(self) -> None:
        """Close every connection."""
