"""When a read gets a second request: its first byte is later than that of 95 reads in 100.

A few slow replies make the tail of a service's latency; sent again on another connection, most
come at once (Dean and Barroso, "The Tail at Scale", 2013). At most one read in twenty is asked
again, however slow the service becomes, so that hedging never doubles its load.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import count

from blockyard.context import Hedge

_log = logging.getLogger("blockyard.s3")
_REMEMBERED = 512
_ENOUGH = 64
"""Reads to have seen before the first hedge."""
_RECOUNT = 32
"""Reads between two looks at the 95th percentile."""
_PRICE = 20
"""Reads that pay for one hedge. No more than those remembered count."""


class Hedging:
    """What one store has seen of its reads. `sent` counts the second requests.

    `hedge` is for the next read; None while too few have been seen. Threads share this without a
    lock: taking from the credit is one step, and the rest may lose a count.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.sent = 0
        self.hedge: Hedge | None = None
        self._reads = count(1)
        self._credit: deque[None] = deque(maxlen=_REMEMBERED // _PRICE)
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)

    def answered(self, waited: float) -> None:
        """A read's first byte came `waited` seconds after it was first requested."""
        self.reads = reads = next(self._reads)
        self._waits.append(waited)
        if reads % _PRICE == 0:
            self._credit.append(None)
        if reads >= _ENOUGH and reads % _RECOUNT == 0:
            waits = sorted(self._waits)
            self.hedge = Hedge(waits[len(waits) * 95 // 100], self._pay)

    def _pay(self) -> bool:
        """Whether there is credit for one hedge, which is then used up. Never waits."""
        try:
            _ = self._credit.pop()
        except IndexError:
            return False
        self.sent += 1
        _log.debug("a read is sent a second time: its first byte is late")
        return True
