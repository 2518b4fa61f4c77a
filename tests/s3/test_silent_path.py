"""A path that is silent for a minute, with many calls in flight: all of them come through it.

The calls run side by side in pretended time, so that a minute takes no time.
"""

from __future__ import annotations

import heapq
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from blockyard.context import Context, Request, Response
from blockyard.errors import TransportTimeoutError
from blockyard.stores.base import ReadRequest
from tests.s3.pretend import Pretended, PretendRuntime, PretendS3

NO_PROGRESS = 30.0
CONNECTING = 5.0
ROUND_TRIP = 0.05


@dataclass
class Pause:
    """What a call that waits asks of `side_by_side`."""

    seconds: float

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


class SilentPath(PretendRuntime):
    """Silent until `back`: calls in flight time out, and no connection comes about."""

    def __init__(self, service: PretendS3, back: float, connected: int) -> None:
        super().__init__(service)
        self.back = back
        self.connections = connected
        self.jitters = count(1)
        self.most = 0

    async def exchange(self, request: Request, **options: object) -> Response:
        if self.connections > 0:
            self.connections -= 1
            limit, established = NO_PROGRESS, True
        else:
            limit, established = CONNECTING, False
        if self.clock < self.back:
            await Pause(limit)
            raise TransportTimeoutError("silent", established=established)
        await Pause(ROUND_TRIP)
        return await super().exchange(request, **options)  # pyright: ignore[reportArgumentType]

    async def sleep(self, seconds: float) -> None:
        await Pause(seconds)

    def jitter(self) -> float:
        return next(self.jitters) * 0.618 % 1


def side_by_side(runtime: PretendRuntime, calls: list[Coroutine[Any, Any, bytes]]) -> list[bytes]:
    """The results of calls that run at the same time, on the clock of the runtime."""
    results: list[bytes] = []
    waiting = [(runtime.clock, number, call) for number, call in enumerate(calls)]
    while waiting:
        moment, number, call = heapq.heappop(waiting)
        runtime.clock = moment
        try:
            pause = call.send(None)
        except StopIteration as done:
            results.append(done.value)
        else:
            heapq.heappush(waiting, (moment + pause.seconds, number, call))
    return results


@pytest.mark.parametrize("calls", [1, 32, 64, 200])
@pytest.mark.parametrize("connected", [True, False])
def test_calls_in_flight_outlast_a_silence_of_a_minute(calls: int, connected: bool) -> None:
    s3 = Pretended()
    s3.put("k", b"data")
    runtime = SilentPath(s3.service, back=60.0, connected=calls if connected else 0)
    ctx = Context(runtime)
    reads = [s3.store.read(ctx, ReadRequest("k")) for _ in range(calls)]
    assert [block.data for block in side_by_side(runtime, reads)] == [b"data"] * calls
    assert runtime.clock < 180
