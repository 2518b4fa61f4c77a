"""What a test server can do on a connection, as values: scripts and faults are lists of these.

A `bytes` step is sent as it is; the classes are all the rest.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockyard.testing.loopback import Connection


class Step(ABC):
    """Something other than sending bytes."""

    @abstractmethod
    async def play(self, client: Connection) -> None:
        """Do it."""


Steps = Iterable[bytes | Step]


@dataclass(frozen=True)
class Pause(Step):
    """Nothing for `seconds`."""

    seconds: float

    async def play(self, client: Connection) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class Trickle(Step):
    """Send `data` in pieces of `size` bytes, `tick` seconds apart (0: as fast as they go)."""

    data: bytes
    size: int = 1
    tick: float = 0.0

    async def play(self, client: Connection) -> None:
        for start in range(0, len(self.data), self.size):
            await client.send(self.data[start : start + self.size])
            await asyncio.sleep(self.tick)


@dataclass(frozen=True)
class Close(Step):
    """Close the connection cleanly (FIN)."""

    async def play(self, client: Connection) -> None:
        await client.close()


@dataclass(frozen=True)
class Reset(Step):
    """Reset the connection (RST), after what was sent before has arrived."""

    async def play(self, client: Connection) -> None:
        await client.reset()


async def play(steps: Steps, client: Connection) -> None:
    """Play `steps` in order; raises `ConnectionError` when the client left in the middle."""
    for step in steps:
        if isinstance(step, Step):
            await step.play(client)
        else:
            await client.send(step)
