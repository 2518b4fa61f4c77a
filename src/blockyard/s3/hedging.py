"""Hedged reads: a read whose reply is late is sent a second time, on another connection.

A few slow replies make the tail of a service's latency. A read whose first byte takes longer than
the 95th percentile is sent again, and the reply that begins first is read (Dean and Barroso, "The
Tail at Scale", 2013). At most one read in twenty is hedged, however slow the service becomes, so
that hedging never doubles its load. Imported only where the setting `hedge_reads` is on.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import count

from blockyard.context import Hedge

_log = logging.getLogger("blockyard.s3")
_READS_KEPT = 512
_READS_BEFORE_FIRST = 64
"""Reads needed before the first hedge."""
_UPDATE_EVERY = 32
"""Reads between two updates of the 95th percentile."""
_READS_PER_HEDGE = 20
"""Reads that earn the credit for one hedge."""


class Hedging:
    """The latencies of a store's reads, and the credit for hedging.

    `hedge` is for the next read; None until enough have been measured. `sent` counts the second
    requests, `won` those of them that were answered first. Threads share this without a lock: to
    take a credit is atomic, and the other counts are estimates.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.sent = 0
        self.won = 0
        self.hedge: Hedge | None = None
        self._reads = count(1)
        self._credit: deque[None] = deque(maxlen=_READS_KEPT // _READS_PER_HEDGE)
        self._waits: deque[float] = deque(maxlen=_READS_KEPT)

    def answered(self, waited: float) -> None:
        """Record that the first byte of a read came after `waited` seconds."""
        self.reads = reads = next(self._reads)
        self._waits.append(waited)
        if reads % _READS_PER_HEDGE == 0:
            self._credit.append(None)
        if reads >= _READS_BEFORE_FIRST and reads % _UPDATE_EVERY == 0:
            waits = sorted(self._waits)
            self.hedge = Hedge(waits[len(waits) * 95 // 100], self._take_credit, self._count_won)

    def _count_won(self) -> None:
        self.won += 1

    def _take_credit(self) -> bool:
        """Use up the credit for one hedge; False where there is none. Never waits."""
        try:
            _ = self._credit.pop()
        except IndexError:
            return False
        self.sent += 1
        _log.debug("a read is sent a second time: its first byte is late")
        return True
