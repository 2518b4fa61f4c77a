"""Traces of reads, to compare what caches keep: the keys in the order in which they are read.

They are made anew each time, the same ones from the same `Random`. Their sizes are such that an LRU
hits what is written beside them, of 100 reads, with room for 2, 10 and 30 % of the keys. `scale`
divides numbers of keys and reads.
"""

from __future__ import annotations

import csv
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from random import Random

_KEYS = 20_000
_READS = 300_000
_SCAN_EVERY, _SCAN = 20_000, 8_000
Trace = Callable[[Random, int], list[str]]


def zipf(chance: Random, scale: int = 1) -> list[str]:
    """Keys by rank, the first read most, with an exponent of 0.9: 36.1, 56.8, 74.4."""
    ranks = _ranks(chance, _KEYS // scale, 0.9)
    return [f"z{next(ranks)}" for _ in range(_READS // scale)]


def zipf_with_one_off_scans(chance: Random, scale: int = 1) -> list[str]:
    """A scan now and then, each over keys of its own: 42.3, 53.6, 63.6."""
    trace = list[str]()
    for at, key in enumerate(zipf(chance, scale)):
        trace.append(key)
        if at % (_SCAN_EVERY // scale) == 0:
            trace += [f"{at} {number}" for number in range(_SCAN // scale)]
    return trace


def zipf_with_the_same_scan(chance: Random, scale: int = 1) -> list[str]:
    """The same scan again and again: 28.4, 42.2, 47.1."""
    trace = list[str]()
    for at, key in enumerate(zipf(chance, scale)):
        trace.append(key)
        if at % (_SCAN_EVERY // scale) == 0:
            trace += [f"scan {number}" for number in range(_SCAN // scale)]
    return trace


def zipf_with_a_loop(chance: Random, scale: int = 1) -> list[str]:
    """A loop that goes on beside it, two reads after each five: 25.1, 38.6, 49.3."""
    trace, turn = list[str](), 0
    for at, key in enumerate(zipf(chance, scale)):
        trace.append(key)
        if at % 5 in {2, 4}:
            trace.append(f"loop {turn % (_SCAN // scale)}")
            turn += 1
    return trace


def loop(_: Random, scale: int = 1) -> list[str]:
    """The same keys in the same order, ten times: 0, 0, 0."""
    return [f"l{number}" for _ in range(10) for number in range(_KEYS // scale)]


def shuffled_epochs(chance: Random, scale: int = 1) -> list[str]:
    """All keys in an order that is another one each of 12 times: 0, 0.5, 4.7."""
    trace, epoch = list[str](), [f"e{number}" for number in range(_KEYS // scale)]
    for _ in range(12):
        chance.shuffle(epoch)
        trace += epoch
    return trace


def map_tiles(chance: Random, scale: int = 1) -> list[str]:
    """Views of 4 by 3 tiles that are moved ten times, from one of 200 places: 73.9, 80.6, 86.8."""
    side = 4096
    places = [(chance.randrange(side), chance.randrange(side)) for _ in range(200)]
    popular = _ranks(chance, len(places), 1.0)
    trace = list[str]()
    for _ in range(900 // scale):
        x, y = places[next(popular)]
        for _ in range(10):
            x, y = x + chance.choice((-1, 0, 1)), y + chance.choice((-1, 0, 1))
            trace += [f"t{x + right},{y + down}" for right in range(4) for down in range(3)]
    return trace


def columnar_queries(chance: Random, scale: int = 1) -> list[str]:
    """Two columns each of 50 files of a table: 7.0, 15.1, 29.4.

    Tables have 200 files of 20 columns.
    """
    tables, columns = _ranks(chance, 50, 0.7), _ranks(chance, 20, 0.7)
    trace = list[str]()
    for _ in range(1500 // scale):
        table, first = next(tables), chance.randrange(200)
        wanted = [next(columns), next(columns)]
        for file in range(50):
            trace += [f"c{table},{(first + file) % 200},{column}" for column in wanted]
    return trace


def moving_favourites(chance: Random, scale: int = 1) -> list[str]:
    """5,000 keys by rank, a fifth of them others after 20,000 reads: 49.7, 73.5, 89.7.

    The first ones go, and the next ones get their ranks.
    """
    ranks = _ranks(chance, 5000 // scale, 0.95)
    each, step = 20_000 // scale, 1000 // scale
    return [f"f{at // each * step + next(ranks)}" for at in range(10 * each)]


TRACES: list[Trace] = [
    zipf,
    zipf_with_one_off_scans,
    zipf_with_the_same_scan,
    loop,
    shuffled_epochs,
    zipf_with_a_loop,
    map_tiles,
    columnar_queries,
    moving_favourites,
]


def virtual_disk(path: Path, unit: int) -> list[str]:
    """The requests of a virtual machine's disk, by the unit in bytes that each begins in.

    `path` is `data/cloudPhysicsIO.csv` of https://github.com/1a1a11a/libCacheSim. With room for
    10 %: 40.8 of 64 KiB, 96.1 of 4 MiB, 19.5 of 512 bytes.
    """
    with path.open(newline="", encoding="ascii") as file:
        return [str(int(row["lbn"]) * 512 // unit) for row in csv.DictReader(file)]


def _ranks(chance: Random, count: int, exponent: float) -> Iterator[int]:
    """Numbers below `count`, each as often as Zipf's law has it."""
    weights = list(accumulate(1 / (rank + 1) ** exponent for rank in range(count)))
    while True:
        yield bisect(weights, chance.random() * weights[-1])
