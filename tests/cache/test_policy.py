"""S3-FIFO: what stays, against an LRU on the same traces, and its books."""

from __future__ import annotations

import random
from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard.cache.policy import MOST_HITS, S3Fifo

_KEYS = 4000
_READS = 40_000


@dataclass
class _Entry:
    key: str
    cost: int = 1
    hits: int = 0
    charged: int = 0


def misses_of_s3_fifo(trace: list[str], room: int) -> int:
    policy, kept, misses = S3Fifo[_Entry](room), dict[str, _Entry](), 0
    for key in trace:
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


def misses_of_lru(trace: list[str], room: int) -> int:
    kept, misses = OrderedDict[str, None](), 0
    for key in trace:
        if key in kept:
            kept.move_to_end(key)
            continue
        misses += 1
        kept[key] = None
        if len(kept) > room:
            _ = kept.popitem(last=False)
    return misses


def zipf(chance: random.Random) -> list[str]:
    """Keys by rank, the first read most: the exponent is 0.9."""
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(_KEYS)))
    return [f"k{bisect(weights, chance.random() * weights[-1])}" for _ in range(_READS)]


def zipf_with_one_off_scans(chance: random.Random) -> list[str]:
    return _with_scans(chance, lambda at, number: f"scan {at} {number}")


def zipf_with_the_same_scan(chance: random.Random) -> list[str]:
    return _with_scans(chance, lambda _, number: f"scan {number}")


def _with_scans(chance: random.Random, key_of: Callable[[int, int], str]) -> list[str]:
    trace = list[str]()
    for at, key in enumerate(zipf(chance)):
        trace.append(key)
        if at % 2000 == 0:
            trace += [key_of(at, number) for number in range(800)]
    return trace


def shuffled_epochs(chance: random.Random) -> list[str]:
    trace, epoch = list[str](), [f"k{number}" for number in range(_KEYS)]
    for _ in range(12):
        chance.shuffle(epoch)
        trace += epoch
    return trace


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3])
@pytest.mark.parametrize(
    ("trace", "most"),
    [
        (zipf, 0.95),
        (zipf_with_one_off_scans, 0.96),
        (zipf_with_the_same_scan, 0.93),
        (shuffled_epochs, 1.0),
    ],
)
def test_fewer_misses_than_an_lru(
    trace: Callable[[random.Random], list[str]], most: float, part: float
) -> None:
    """`most` of the LRU's misses, with room for a `part` of the keys."""
    keys = trace(random.Random(16))  # noqa: S311 - a trace, not a secret
    room = int(len(set(keys)) * part)

    assert misses_of_s3_fifo(keys, room) <= most * misses_of_lru(keys, room)


def test_what_is_hit_outlives_a_scan() -> None:
    policy = S3Fifo[_Entry](100)
    hot = [_Entry(f"hot {number}") for number in range(10)]
    gone = list[_Entry]()
    for entry in hot:
        gone += policy.keep(entry)
        entry.hits = 1
    for number in range(1000):
        gone += policy.keep(_Entry(f"scan {number}"))

    assert not {entry.key for entry in hot} & {entry.key for entry in gone}
    assert len(policy) == policy.used == 100


def test_what_comes_back_soon_is_in_the_main_queue() -> None:
    policy = S3Fifo[_Entry](10)
    for number in range(11):
        gone = [entry.key for entry in policy.keep(_Entry(f"{number}"))]
    assert gone == ["0"]

    _ = list(policy.keep(_Entry("0")))
    for number in range(100, 107):
        gone += [entry.key for entry in policy.keep(_Entry(f"{number}"))]

    assert gone.count("0") == 1


def test_what_is_larger_than_all_leaves_the_others_alone() -> None:
    policy = S3Fifo[_Entry](100)
    small, large = _Entry("small", cost=60), _Entry("large", cost=101)
    assert list(policy.keep(small)) == []
    assert list(policy.keep(large)) == [large]
    assert (len(policy), policy.used) == (1, 60)

    small.cost = 102  # it grew
    assert list(policy.keep(small)) == [small]
    assert (len(policy), policy.used) == (0, 0)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["keep", "grow", "hit", "remove"]),
        st.integers(0, 12),
        st.integers(1, 40),
    ),
    max_size=80,
)


@given(_STEPS, st.integers(20, 150))
def test_the_books_are_those_of_the_entries(steps: list[tuple[str, int, int]], room: int) -> None:
    policy, kept = S3Fifo[_Entry](room), dict[str, _Entry]()
    for step, number, cost in steps:
        key = f"k{number}"
        entry = kept.get(key)
        if step == "remove":
            policy.remove(key)
            _ = kept.pop(key, None)
        elif step == "hit" and entry is not None:
            entry.hits = min(entry.hits + 1, MOST_HITS)
        elif step in {"keep", "grow"}:
            if entry is None or step == "keep":
                entry = _Entry(key, cost)
            else:
                entry.cost += cost
            kept[key] = entry
            for gone in policy.keep(entry):
                assert kept.pop(gone.key) is gone
        assert len(policy) == len(kept)
        assert policy.used == sum(entry.cost for entry in kept.values()) <= room
