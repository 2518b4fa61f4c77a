"""The clocks that all I/O goes by, read in one way.

`freezegun` and its like replace `time.monotonic` and `time.time` in some modules and not in
others; a deadline that was set on one clock and held to the other has passed at once, or never
does. They leave `clock_gettime` alone, and a timeout of a socket is no business of theirs. Python's
`time.monotonic` is CLOCK_MONOTONIC (PEP 418), so deadlines of either kind can be compared.
"""

from __future__ import annotations

import time
from functools import partial

monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
"""Seconds on a clock that never goes back."""
wall_time = partial(time.clock_gettime, time.CLOCK_REALTIME)
"""Seconds since the epoch."""
