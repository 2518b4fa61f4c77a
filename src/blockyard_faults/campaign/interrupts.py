"""What comes from outside in the middle of a call: signals, and cancellations.

Each of the clients here interrupts a share of its calls at a random moment, once (a cancellation
also again and again, as the cancel scopes of anyio do), and notes the exception in the call's
`Own`.
"""

from __future__ import annotations

import asyncio
import queue
import random
import signal
import threading
import time
from collections.abc import Awaitable
from types import FrameType
from typing import Any

from blockyard.aio import AsyncBlockStore
from blockyard.sync import BlockStore
from blockyard_faults.campaign.clients import AsyncioClient, BlockingClient
from blockyard_faults.campaign.own import Own

_SHARE = 0.4
_MEAN = 0.015
"""Seconds on average until a call is interrupted; some are over by then."""


class AlarmError(TimeoutError):
    """What the idiom of `signal.alarm` raises."""


_RAISED: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: SystemExit,
    signal.SIGALRM: AlarmError,
}


class SignalledClient(BlockingClient):
    """A blocking client on the main thread, to which signals are sent in the middle of calls.

    The handlers raise: of SIGINT KeyboardInterrupt, of SIGTERM SystemExit, of SIGALRM an error of
    the caller's.
    """

    def __init__(self, store: BlockStore, seed: str) -> None:
        super().__init__(store)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable
        self._armed: Own | None = None
        self._main = threading.get_ident()
        self._due: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="signals", daemon=True)

    def __enter__(self) -> SignalledClient:
        for each in _RAISED:
            _ = signal.signal(each, self._handle)
        self._sender.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._due.put(None)
        self._sender.join()
        _ = signal.signal(signal.SIGINT, signal.default_int_handler)
        _ = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        if self._random.random() >= _SHARE:
            return self.now(deadline, method, *args, **options)
        due = (self._random.expovariate(1 / _MEAN), self._random.choice(list(_RAISED)))
        try:
            self._armed = own
            self._due.put(due)
            return self.now(deadline, method, *args, **options)
        finally:
            self._armed = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        own, self._armed = self._armed, None
        if own is not None:  # else it came too late
            own.interrupt(_RAISED[number](f"signal {number}"))

    def _send(self) -> None:
        while (due := self._due.get()) is not None:
            time.sleep(due[0])
            signal.pthread_kill(self._main, due[1])


class CancellingClient(AsyncioClient):
    """An asyncio client whose calls are cancelled at random moments."""

    def __init__(self, store: AsyncBlockStore, seed: str) -> None:
        super().__init__(store)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        call = super().call(own, deadline, method, *args, **options)
        if self._random.random() >= _SHARE:
            return await call
        task = asyncio.ensure_future(_outcome(call, own))
        _ = await asyncio.wait([task], timeout=self._random.expovariate(1 / _MEAN))
        times = self._random.choice((1, 2, 1_000_000))
        asked = 0
        while not task.done() and asked < times:
            asked += task.cancel()
            _ = await asyncio.wait([task], timeout=0.001)
        _ = await asyncio.wait([task])
        if task.cancelled():
            own.interrupt(asyncio.CancelledError("from outside"))
        if asked and not own.raised:  # and the call went on to an end of its own
            own.interrupted = True
            own.raised.append(asyncio.CancelledError("from outside, not passed on"))
        result, error = task.result()
        if error is not None:
            raise error
        return result


async def _outcome(call: Awaitable[Any], own: Own) -> tuple[Any, BaseException | None]:
    """What the call returns or raises; a task is ended by a cancellation from outside alone."""
    try:
        return await call, None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and not own.reached(error):
            raise
        return None, error
