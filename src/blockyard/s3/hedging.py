"""When a read gets a second request: its first byte is later than that of 95 reads in 100.

A few slow replies make the tail of a service's latency; asked again on another connection, most
come at once (Dean and Barroso, "The Tail at Scale", 2013). At most one read in twenty is asked
again, however slow the service becomes, so that hedging never doubles its load.
"""

from __future__ import annotations

from collections import deque

from blockyard.context import Response

_REMEMBERED = 512
_ENOUGH = 64
"""Reads to have seen before the first hedge."""
_RECOUNT = 32
"""Reads between two looks at the 95th percentile."""
_BUDGET = 0.05


class Hedging:
    """What one store has seen of its reads. `sent` counts the second requests."""

    def __init__(self) -> None:
        self.reads = 0
        self.sent = 0
        self._promised = 0
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)
        self._late: float | None = None

    def promise(self) -> float | None:
        """Seconds without a byte after which to ask again for the next read; None not to.

        A promise counts against the budget until it is settled, so reads that are under way at
        the same time can't overdraw it.
        """
        if self._late is None or self.sent + self._promised + 1 > self.reads * _BUDGET:
            return None
        self._promised += 1
        return self._late

    def settle(self, reply: Response | None, *, promised: bool) -> None:
        """A read has ended, with `reply` or without."""
        self._promised -= promised
        if reply is None:
            return
        self.reads += 1
        self.sent += reply.hedged
        self._waits.append(reply.waited)
        if self.reads >= _ENOUGH and self.reads % _RECOUNT == 0:
            waits = sorted(self._waits)
            self._late = waits[len(waits) * 95 // 100]
