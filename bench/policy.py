"""`python -m bench.policy [FILE]`: what the cache's policy misses, to what an LRU misses.

On the traces of `traces.py`, and on the disk of a virtual machine where FILE has it (see
`traces.virtual_disk`). Nothing is timed: the numbers are the same each time.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

from bench.traces import TRACES, virtual_disk
from blockyard.cache.policy import MOST_HITS, S3Fifo

PARTS = (0.02, 0.1, 0.3)
"""The room that the caches have, as a part of all keys of a trace."""
SEED = 16
_UNITS = {"64 KiB": 65_536, "4 MiB": 4_194_304, "512 bytes": 512}


@dataclass(slots=True)
class _Entry:
    key: str
    cost: int = 1
    hits: int = 0
    charged: int = 0


def main() -> None:
    ratios = list[float]()
    for trace in TRACES:
        keys = trace(Random(SEED), 1)
        ratios += _compared(trace.__name__.replace("_", " "), keys, PARTS)
    if len(sys.argv) > 1:
        for name, unit in _UNITS.items():
            keys = virtual_disk(Path(sys.argv[1]), unit)
            ratios += _compared(f"virtual disk, {name}", keys, PARTS[1:2])
    _say(f"misses to an LRU's: {fmean(ratios):.3f} on the mean, {max(ratios):.2f} at the worst\n")


def room_for(keys: Sequence[str], part: float) -> int:
    """The entries of a cache with room for a part of all keys."""
    return max(1, int(len(set(keys)) * part))


def misses_of_s3_fifo(keys: Sequence[str], room: int) -> int:
    """What `S3Fifo` misses with room for so many entries."""
    policy, kept, misses = S3Fifo[_Entry](room), dict[str, _Entry](), 0
    for key in keys:
        entry = kept.get(key)
        if entry is not None:
            entry.hits = min(entry.hits + 1, MOST_HITS)
            continue
        misses += 1
        kept[key] = _Entry(key)
        for gone in policy.keep(kept[key]):
            del kept[gone.key]
        assert len(kept) == policy.used <= room
    return misses


def misses_of_lru(keys: Sequence[str], room: int) -> int:
    """What an LRU misses with room for so many entries."""
    kept, misses = OrderedDict[str, None](), 0
    for key in keys:
        if key in kept:
            kept.move_to_end(key)
            continue
        misses += 1
        kept[key] = None
        if len(kept) > room:
            _ = kept.popitem(last=False)
    return misses


def _compared(name: str, keys: Sequence[str], parts: Sequence[float]) -> list[float]:
    ratios, cells = list[float](), list[str]()
    for part in parts:
        room = room_for(keys, part)
        lru, ours = misses_of_lru(keys, room), misses_of_s3_fifo(keys, room)
        ratios.append(ours / lru)
        hits = [100 * (1 - misses / len(keys)) for misses in (lru, ours)]
        cells.append(f"{hits[0]:.1f} {hits[1]:.1f} {ratios[-1]:.2f}")
    _say(f"| {name} | {' | '.join(cells)} |\n")
    return ratios


def _say(text: str) -> None:
    _ = sys.stdout.write(text)
    _ = sys.stdout.flush()


if __name__ == "__main__":
    main()
