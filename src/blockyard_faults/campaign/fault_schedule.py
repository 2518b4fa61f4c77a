"""The plans of faults: harm at stated rates, and services that are nearly S3.

Which fault a request meets follows from the seed, from what is requested, and from how often that
was requested before: not from the order in which concurrent requests happen to arrive.

No answer of such a service may be taken for a success that it is not; what it damages itself has
to be told, and never served.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from blockyard.model import KIB
from blockyard.testing.messages import Message
from blockyard.testing.steps import Steps
from blockyard_faults import (
    CachedListing,
    Created,
    EarlyStatus,
    Fault,
    FlipBit,
    FlipUploadBit,
    HalfStored,
    Hold,
    IgnoreHeader,
    LoseReply,
    RandomFaults,
    RangeAs200,
    SameToken,
    SeenRequest,
    Stall,
    Status,
    TrickleBody,
    UntilClose,
    WebPage,
    any_reset,
    any_truncation,
)
from blockyard_faults.plans import Draw

RENDEZVOUS = "/rendezvous/"
"""Requests below it are spared: they show what a store can still do (see `watch`)."""
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


Choice = Callable[[random.Random, SeenRequest], Fault | None]

_EARLY_FOR = 0.5
"""Seconds for which an early answer's connection stays open."""


def _lacking(source: random.Random, request: SeenRequest) -> Fault | None:
    """Neither DeleteObjects nor CopyObject."""
    if "?delete" in request.target:
        return source.choice((Status(501, "NotImplemented"), Status(405, "MethodNotAllowed")))
    if "x-amz-copy-source" in request.headers:
        return Status(501, "NotImplemented")
    return None


def _unconditional(source: random.Random, request: SeenRequest) -> Fault | None:
    """If-None-Match is ignored."""
    return IgnoreHeader("If-None-Match") if "if-none-match" in request.headers else None


def _in_front(source: random.Random, request: SeenRequest) -> Fault | None:
    """A gateway in front of it, which answers on its own."""
    drawn = source.random()
    if drawn < 0.04:
        return WebPage()
    if drawn < 0.06:
        return EarlyStatus(403, "AccessDenied", seconds=_EARLY_FOR)
    if drawn < 0.08:
        return EarlyStatus(413, "EntityTooLarge", seconds=_EARLY_FOR)
    return None


def _other_forms(source: random.Random, request: SeenRequest) -> Fault | None:
    """201 to a PUT, ranges under 200, replies that end with the connection."""
    if request.method == "GET" and "range" in request.headers:
        return RangeAs200()
    if source.random() < 0.3:
        return UntilClose()
    is_write = request.method == "PUT" and "x-amz-copy-source" not in request.headers
    return Created() if is_write else None


def _stale() -> Choice:
    """Listings from before."""
    cache = CachedListing()
    return lambda source, request: cache if source.random() < 0.7 else None


def _foreign() -> Choice:
    """Listings of another prefix, and such as never end."""
    cache = CachedListing(foreign=True)

    def choose(source: random.Random, request: SeenRequest) -> Fault | None:
        if "list-type=2" not in request.target:
            return None
        return source.choice((cache, SameToken(), None, None))

    return choose


def _forgetful(source: random.Random, request: SeenRequest) -> Fault | None:
    """Half of a block is stored, now and then."""
    return HalfStored() if source.random() < 0.1 else None


@dataclass(frozen=True, slots=True)
class Service:
    """`choose` makes what picks the fault of a request.

    `trusted_listings` is whether its listings can be compared with what was written, `contents`
    whether contents can be kept in it, and `damages` whether it may damage what it stores.
    """

    choose: Callable[[], Choice]
    trusted_listings: bool = True
    contents: bool = True
    damages: bool = False


SERVICES: Mapping[str, Service] = {
    "lacking": Service(lambda: _lacking),
    "unconditional": Service(lambda: _unconditional),
    "gateway": Service(lambda: _in_front),
    "other-forms": Service(lambda: _other_forms),
    # a content is what a listing says: where that is of another time nobody can tell
    "stale": Service(_stale, trusted_listings=False, contents=False),
    "foreign": Service(_foreign),
    "forgetful": Service(lambda: _forgetful, contents=False, damages=True),
}


class ServicePlan:
    """A plan for `FaultProxy`: the faults of one service, drawn so that a run can be repeated."""

    def __init__(self, seed: int, choose: Choice) -> None:
        self._seed = seed
        self._choose = choose
        self.requests = 0

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The fault for `request`."""
        self.requests += 1
        if RENDEZVOUS in request.target:
            return None
        seed = zlib.crc32(f"{self._seed} {self.requests}".encode())
        return self._choose(random.Random(seed), request)  # noqa: S311 - to be repeatable
