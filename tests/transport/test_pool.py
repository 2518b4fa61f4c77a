"""Which connection a request gets: the pool's decisions, without any connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard.context import Origin
from blockyard.transport.pool import Pool, Take

A = Origin("http", "a", 80)
B = Origin("https", "a", 443)
KEEP = 30.0


class Holder:
    """A call that takes a connection."""


class Lending(Pool[Any]):
    """A pool, and the calls that have taken of it: the one that took last gives back first."""

    def __init__(self, max_connections: int, max_idle: int, keep_alive: float) -> None:
        super().__init__(max_connections, max_idle, keep_alive)
        self.holders: dict[Origin, list[Holder]] = {A: [], B: []}
        self.past: list[Holder] = []
        """Those that have given back: not for their end is a slot free."""

    def lend(
        self, origin: Origin, now: float, *, fresh: bool = False, over_limit: bool = False
    ) -> Any:
        holder = Holder()
        taken = self.take(origin, holder, now, fresh=fresh, over_limit=over_limit)
        if taken is not WAIT:
            self.holders[origin].append(holder)
        return taken

    def get_back(self, origin: Origin, connection: object, now: float) -> list[Any]:
        self.past.append(self.holders[origin].pop())
        return self.give_back(origin, self.past[-1], connection, now)

    def get_none_back(self, origin: Origin) -> None:
        self.past.append(self.holders[origin].pop())
        self.drop(origin, self.past[-1])


Step = tuple[Callable[[Lending], Any], Any]


def take(
    now: float, origin: Origin = A, *, fresh: bool = False, over_limit: bool = False
) -> Callable[[Lending], Any]:
    return lambda pool: pool.lend(origin, now, fresh=fresh, over_limit=over_limit)


def back(name: str, now: float, origin: Origin = A) -> Callable[[Lending], Any]:
    return lambda pool: pool.get_back(origin, name, now)


def drop(origin: Origin = A) -> Callable[[Lending], Any]:
    return lambda pool: pool.get_none_back(origin)


def ended(origin: Origin = A) -> Callable[[Lending], Any]:
    """An exception ended the call before it gave back what it took."""
    return lambda pool: pool.holders[origin].clear()


def counts(pool: Lending) -> tuple[int, int]:
    return pool.counts()


OPEN, WAIT = Take.OPEN, Take.WAIT
TABLE: dict[str, list[Step]] = {
    "opens up to the limit, then waits": [(take(0), OPEN), (take(0), OPEN), (take(0), WAIT)],
    "a dropped place is free": [(take(0), OPEN), (take(0), OPEN), (drop(), None), (take(0), OPEN)],
    "what a call that was cut off had is free": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(2), "x"),
        (take(2), OPEN),
        (take(2), WAIT),
        (ended(), None),
        (counts, (0, 0)),
        (take(2), OPEN),
    ],
    "a connection given back is used again": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(2), "x"),
        (counts, (1, 0)),
    ],
    "the one given back last goes first": [
        (take(0), OPEN),
        (take(0), OPEN),
        (back("x", 1), []),
        (back("y", 2), []),
        (take(3), "y"),
        (take(3), "x"),
    ],
    "idle connections are no taken places": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(1), "x"),
        (take(1), OPEN),
        (take(1), WAIT),
    ],
    "one idle for too long is not used": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(1 + KEEP), OPEN),
    ],
    "one idle for almost too long is used": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(0.9 + KEEP), "x"),
    ],
    "those idle for too long are closed when another comes back": [
        (take(0), OPEN),
        (take(0), OPEN),
        (back("x", 1), []),
        (back("y", 2 + KEEP), ["x"]),
        (counts, (0, 1)),
    ],
    "a fresh one is never an idle one": [
        (take(0), OPEN),
        (back("x", 1), []),
        (take(2, fresh=True), OPEN),
        (take(2), "x"),
    ],
    "a fresh one waits for a place too": [
        (take(0), OPEN),
        (take(0), OPEN),
        (take(0, fresh=True), WAIT),
    ],
    "each origin has connections and a limit of its own": [
        (take(0), OPEN),
        (take(0), OPEN),
        (take(0, B), OPEN),
        (back("b", 1, B), []),
        (take(2), WAIT),
        (take(2, B), "b"),
        (counts, (3, 0)),
    ],
    "one taken over the limit leaves the limit as it was": [
        (take(0), OPEN),
        (take(0), OPEN),
        (take(0, over_limit=True), OPEN),
        (counts, (3, 0)),
        (drop(), None),
        (take(0), WAIT),
        (back("x", 1), []),
        (back("y", 1), []),
        (take(2), "y"),
        (take(2), "x"),
        (take(2), WAIT),
    ],
    "clearing gives up what is idle and nothing else": [
        (take(0), OPEN),
        (take(0), OPEN),
        (back("x", 1), []),
        (lambda pool: pool.clear(), ["x"]),
        (counts, (1, 0)),
        (take(2), OPEN),
    ],
}


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE.keys())
def test_decisions(steps: list[Step]) -> None:
    pool = Lending(2, 2, KEEP)
    for step, outcome in steps:
        assert step(pool) == outcome


def test_the_surplus_of_idle_connections_is_closed_oldest_first() -> None:
    pool = Lending(4, 2, KEEP)
    for _ in range(4):
        assert pool.lend(A, 0) is OPEN
    surplus = [pool.get_back(A, name, 1) for name in "wxyz"]
    assert surplus == [[], [], ["w"], ["x"]]
    assert pool.counts() == (0, 2)


@pytest.mark.parametrize(("max_idle", "keep_alive"), [(0, KEEP), (2, 0.0)])
def test_nothing_is_kept_where_nothing_may_be(max_idle: int, keep_alive: float) -> None:
    pool = Lending(2, max_idle, keep_alive)
    assert pool.lend(A, 0) is OPEN
    assert pool.get_back(A, "x", 0) == ["x"]
    assert pool.lend(A, 0) is OPEN


@given(
    limits=st.tuples(st.integers(1, 4), st.integers(0, 4), st.sampled_from([0.0, 1.5, 100.0])),
    moves=st.lists(
        st.tuples(st.sampled_from(["take", "fresh", "back", "drop", "wait"]), st.integers(0, 9)),
        max_size=60,
    ),
)
def test_no_connection_is_lost_handed_out_twice_or_over_a_limit(
    limits: tuple[int, int, float], moves: list[tuple[str, int]]
) -> None:
    max_connections, max_idle, keep_alive = limits
    pool = Lending(*limits)
    now, made = 0.0, 0
    out: list[int] = []
    idle: dict[int, float] = {}
    for move, which in moves:
        if move == "wait":
            now += 0.5
        elif move in {"take", "fresh"}:
            taken = pool.lend(A, now, fresh=move == "fresh")
            assert (taken is WAIT) == (len(out) >= max_connections)
            if taken is OPEN:
                made += 1
                out.append(made)
            elif not isinstance(taken, Take):
                assert move != "fresh"
                assert now - idle.pop(taken) < keep_alive
                out.append(taken)
        elif out:
            connection = out.pop(which % len(out))
            if move == "drop":
                pool.get_none_back(A)
                continue
            idle[connection] = now
            for surplus in pool.get_back(A, connection, now):
                _ = idle.pop(surplus)
            assert len(idle) <= max_idle
        assert pool.counts() == (len(out), len(idle))
    assert sorted(pool.clear()) == sorted(idle)
