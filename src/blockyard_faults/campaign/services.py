"""Services that are nearly S3, each a plan of faults: what it always or now and then does wrong.

No answer of these may be taken for a success that it is not; what such a service damages itself
has to be told, and never served.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blockyard_faults import (
    CachedListing,
    Created,
    EarlyStatus,
    Fault,
    HalfStored,
    IgnoreHeader,
    RangeAs200,
    SameToken,
    SeenRequest,
    Status,
    UntilClose,
    WebPage,
)
from blockyard_faults.campaign.fault_schedule import RENDEZVOUS

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
