"""The clocks that all I/O goes by, read in one way.

`freezegun` and its like replace `time.monotonic` and `time.time` in some modules and not in
others; a deadline that was set on one clock and held to the other has passed at once, or never
does. They leave `clock_gettime` alone, and a timeout of a socket is no business of theirs.

Time passes while the machine is suspended: CLOCK_MONOTONIC of Linux stands still meanwhile, and
what was found before would be taken for fresh after a night (time_namespaces(7), clock_gettime(2)).
"""

from __future__ import annotations

import time
from functools import partial

monotonic = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds on a clock that never goes back."""
wall_time = partial(time.clock_gettime, time.CLOCK_REALTIME)
"""Seconds since the epoch."""
