"""Which request meets which fault.

A plan is any function from a `SeenRequest` to a fault, or to None for no fault. It is called
once for each request, in the order in which their heads come, on the proxy's own thread.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from blockyard_faults.fault import Fault
from blockyard_faults.replies import FlipBit, LoseReply, ResetDuringBody, Truncate
from blockyard_faults.requests import ResetBefore, ResetDuringRequest, Status


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as the proxy saw it.

    `number` counts requests from 1, `connection` the client's connections; `headers` have
    lower-case names, and "***" for each value that proves who asks; `body_length` is the
    Content-Length in bytes, None for a chunked body.
    """

    number: int
    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body_length: int | None

    @property
    def reads_object(self) -> bool:
        """Whether this is a GET of an object's bytes, rather than of a listing or a setting."""
        return self.method == "GET" and "?" not in self.target


Plan = Callable[[SeenRequest], Fault | None]


@dataclass(frozen=True)
class Match:
    """Picks requests: by `method`, and by a regular expression found in the `target`."""

    method: str | None = None
    target: str = ""

    def __call__(self, request: SeenRequest) -> bool:
        """Whether `request` is meant."""
        return (
            self.method in (None, request.method)
            and re.search(self.target, request.target) is not None
        )


class Script:
    """One fault (or None) for each request that matches, in order; then no more faults."""

    def __init__(self, faults: Iterable[Fault | None], match: Match = Match()) -> None:
        self._left = deque(faults)
        self._match = match

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The next fault, if `request` matches."""
        return self._left.popleft() if self._left and self._match(request) else None

    @property
    def left(self) -> int:
        """How many faults have not been met yet."""
        return len(self._left)


Draw = Callable[[random.Random, SeenRequest], Fault | None]
"""A kind of fault whose particulars are drawn for each request."""


class RandomFaults:
    """Faults at random, each at its rate (a share of the matching requests, 0 to 1).

    `rates` has faults, or functions that draw one, as keys. The same `seed` and the same order
    of requests give the same faults. Raises `ValueError` for rates that come to more than 1.
    """

    def __init__(
        self,
        seed: int,
        rates: Mapping[Fault | Draw, float],
        match: Match = Match(),
    ) -> None:
        if sum(rates.values()) > 1:
            raise ValueError(f"rates: expected at most 1 in all, got {sum(rates.values())}")
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable, not to be secret
        self._rates = dict(rates)
        self._match = match

    def __call__(self, request: SeenRequest) -> Fault | None:
        """The fault drawn for `request`, if it matches."""
        if not self._match(request):
            return None
        drawn = self._random.random()
        for kind, rate in self._rates.items():
            drawn -= rate
            if drawn < 0:
                return kind if isinstance(kind, Fault) else kind(self._random, request)
        return None


def any_reset(source: random.Random, request: SeenRequest) -> Fault:
    """A reset before, during or after the request, or within its reply."""
    moments: list[Fault] = [
        ResetBefore(),
        ResetDuringRequest(source.random()),
        LoseReply(),
        ResetDuringBody(source.random()),
    ]
    return source.choice(moments)


def any_truncation(source: random.Random, request: SeenRequest) -> Fault:
    """A body that ends anywhere before its end."""
    return Truncate(source.random())


def any_flipped_bit(source: random.Random, request: SeenRequest) -> Fault | None:
    """A flipped bit anywhere in an object's bytes; in a listing nobody could tell."""
    flipped = FlipBit(source.random(), source.randrange(8))
    return flipped if request.reads_object else None


FAULT_RATES: Mapping[Fault | Draw, float] = {
    any_reset: 0.15,
    Status(503): 0.10,
    Status(429): 0.05,
    any_truncation: 0.02,
    any_flipped_bit: 0.01,
}
"""The rates that blockyard itself is tested under."""
