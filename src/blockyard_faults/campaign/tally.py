"""What was done and what came of it, counted; the counts of many workers add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from blockyard_faults.campaign.expected import LOST, WRONG

UNTYPED = "untyped errors"
SWALLOWED = "exceptions of the caller's own code swallowed"
HUNG = "calls hung"
LEAKED = "connections, descriptors, threads and pool permits leaked"
OVERRUN = "deadlines overrun"
PROMISES = (WRONG, LOST, UNTYPED, SWALLOWED, HUNG, LEAKED, OVERRUN)
_ANSWERS = {"BlockExistsError", "BlockNotFoundError", "InvalidRangeError"}
_KEPT = 20  # of each promise


def _counter() -> Counter[str]:
    return Counter()


@dataclass
class Tally:
    """Counts of one worker, or of all.

    `errors` counts the operations that ended in each error, and `hurried` does so for those that
    had been given hardly any time; `examples` has a message for each kind among the former.
    `broken` counts broken promises, of which `details` tells the first ones. `read_back` counts
    the blocks that had to be there at the end, `settled` the keys that were not written again
    (see `expected`), `own` the exceptions that the caller's own code raised, `replaced` the
    contents that were replaced all the same by a call that failed, `unfinished` those whose
    replacement it had begun and could not end; `longest_ending` is the most seconds by which such a
    call outlived its deadline. `overrun` is the same of all calls, of those past the time that they
    have for it; `net_overrun` without the time in which the machine ran nobody in the process (see
    `watch`).
    """

    operations: Counter[str] = field(default_factory=_counter)
    errors: Counter[str] = field(default_factory=_counter)
    hurried: Counter[str] = field(default_factory=_counter)
    broken: Counter[str] = field(default_factory=_counter)
    details: list[str] = field(default_factory=list[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    read_back: int = 0
    settled: int = 0
    own: int = 0
    replaced: int = 0
    unfinished: int = 0
    longest_ending: float = 0.0
    overrun: float = 0.0
    net_overrun: float = 0.0

    @property
    def failures(self) -> Counter[str]:
        """The errors that were no answer to what was asked, of operations that had time."""
        named = {name: count for name, count in self.errors.items() if name not in _ANSWERS}
        return Counter(named)

    def breaks(self, promise: str, what: str) -> None:
        """Count a broken promise."""
        self.broken[promise] += 1
        if self.broken[promise] <= _KEPT:
            self.details.append(f"{promise}: {what}")

    def add(self, other: Tally) -> None:
        """Add another worker's counts to these."""
        self.operations += other.operations
        self.errors += other.errors
        self.hurried += other.hurried
        self.broken += other.broken
        self.details += other.details
        self.examples = other.examples | self.examples
        self.read_back += other.read_back
        self.settled += other.settled
        self.own += other.own
        self.replaced += other.replaced
        self.unfinished += other.unfinished
        self.longest_ending = max(self.longest_ending, other.longest_ending)
        self.overrun = max(self.overrun, other.overrun)
        self.net_overrun = max(self.net_overrun, other.net_overrun)


_kept: list[Tally] = []


def new_tally() -> Tally:
    """A tally that `so_far` counts in: what a process does is not lost when a call hangs."""
    _kept.append(Tally())
    return _kept[-1]


def so_far() -> Tally:
    """The sum of the tallies of this process."""
    total = Tally()
    for tally in _kept:
        total.add(tally)
    return total


def forget() -> None:
    """In a forked child: what the parent counted is not this process's."""
    _kept.clear()
