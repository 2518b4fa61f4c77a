"""The campaign's fault schedule, drawn so that a run can be repeated.

Which fault a request meets follows from the seed, from what is requested, and from how often
that was requested before: not from the order in which concurrent requests happen to arrive.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from blockyard.model import KIB
from blockyard.testing.messages import Message
from blockyard.testing.steps import Steps
from blockyard_faults import (
    Fault,
    FlipBit,
    FlipUploadBit,
    Hold,
    LoseReply,
    RandomFaults,
    SeenRequest,
    Stall,
    Status,
    TrickleBody,
    any_reset,
    any_truncation,
)
from blockyard_faults.plans import Draw

RENDEZVOUS = "/rendezvous/"
"""Requests below it are spared: they show what a store can still do (see `leaks`)."""
_SPARED = 8
"""How many requests for the same block meet no flipped bit after one that did."""
_LONG_STALL = 1.3
"""Times the no-progress timeout."""


class CountedPlan(Protocol):
    """A plan for `FaultProxy` that counts the requests it has seen."""

    @property
    def requests(self) -> int:
        """How many requests there have been."""
        ...

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The fault for `request`."""
        ...


class FlipBlockBit(FlipBit):
    """A flipped bit in a block's bytes; in an error's XML nobody could tell."""

    def steps(self, request: Message, reply: Message) -> Steps | None:
        return super().steps(request, reply) if reply.head.status in (200, 206) else None


class FaultSchedule:
    """A plan of faults for `FaultProxy`, at the rates that `fault_rates` gives."""

    def __init__(self, seed: int, rates: Mapping[Fault | Draw, float]) -> None:
        self._seed = seed
        self._rates = rates
        self._seen: Counter[str] = Counter()
        self._targets: Counter[str] = Counter()
        self._spared_until: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """How many requests there have been."""
        return self._seen.total()

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The fault for `request`."""
        if RENDEZVOUS in request.target:
            return None
        what = f"{request.method} {request.target} {request.headers.get('range', '')}"
        self._seen[what] += 1
        self._targets[request.target] += 1
        nth = self._seen[what]
        seed = zlib.crc32(f"{self._seed} {nth} {what}".encode(), self._seed & 0xFFFFFFFF)
        fault = RandomFaults(seed, self._rates)(request)
        return None if isinstance(fault, FlipBit) and self._spared(request.target) else fault

    def _spared(self, target: str) -> bool:
        """Two wrong reads running are an IntegrityError, as they should be: not done here."""
        if self._targets[target] <= self._spared_until[target]:
            return True
        self._spared_until[target] = self._targets[target] + _SPARED
        return False


def fault_rates(*, patience: float, uploads_verified: bool) -> Mapping[Fault | Draw, float]:
    """The rates: 15% resets, 10% 503, 5% 429, 2% truncations, 1% flipped bits, and more.

    `patience` is the client's no-progress timeout in seconds. Bits of uploads are flipped only
    where the server verifies them (`uploads_verified`): nobody else could notice.
    """

    def flipped_bit(source: random.Random, request: SeenRequest) -> Fault | None:
        at, bit = source.random(), source.randrange(8)
        if request.reads_object:
            return FlipBlockBit(at, bit)
        return FlipUploadBit(at, bit) if uploads_verified and request.body_length else None

    def stall(source: random.Random, request: SeenRequest) -> Fault:
        seconds = source.choice((0.2, _LONG_STALL * patience))
        return Stall(seconds, source.choice((None, source.random())))

    def hold(source: random.Random, request: SeenRequest) -> Fault:
        later = source.uniform(0.5, 3) * patience
        return Hold(answered=source.choice((None, 1, 2)), seconds=later)

    return {
        any_reset: 0.15,
        Status(503): 0.10,
        Status(429): 0.05,
        any_truncation: 0.02,
        flipped_bit: 0.01,
        LoseReply(): 0.01,
        stall: 0.005,
        hold: 0.003,
        TrickleBody(4 * KIB, 0.005): 0.005,
    }
