"""Connection pool bookkeeping: decisions only, no I/O, no lock, no clock.

A request waits while `max_connections` of its origin are taken. It gets the connection that was
given back last, since that one is the least likely to have been closed by the other side.

Threads share a pool without a lock: a signal handler or a finalizer may make whole calls between
any two steps here, and wait for another thread that is here too. So each step changes one set or
deque, in one operation of it, and what another thread may have done meanwhile is looked at again.

A signal handler that raises may also end a call before it gives back what it took. So a slot is
taken for an object that the call holds, and is free again when that object is gone.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar
from weakref import ref

from blockyard.context import Origin

Connection = TypeVar("Connection")


class Take(Enum):
    """What to do when there is no idle connection."""

    OPEN = "open"
    WAIT = "wait"


@dataclass(slots=True, eq=False)
class _Host(Generic[Connection]):
    """The connections to one origin."""

    taken: set[ref[object]] = field(default_factory=set[ref[object]])
    """What holds each slot that is taken."""
    idle: deque[tuple[float, Connection]] = field(default_factory=deque[tuple[float, Connection]])


class Pool(Generic[Connection]):
    """The connections of one process, by origin."""

    def __init__(self, max_connections: int, max_idle: int, keep_alive: float) -> None:
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._keep_alive = keep_alive
        self._hosts: dict[Origin, _Host[Connection]] = {}

    def take(
        self,
        origin: Origin,
        holder: object,
        now: float,
        fresh: bool = False,
        over_limit: bool = False,
    ) -> Connection | Take:
        """An idle connection, or OPEN when the caller may make one (its slot is taken), or WAIT.

        With `fresh`, never an idle one; with `over_limit`, never WAIT.

        Every connection, and every slot that OPEN gave, comes back by `give_back` or `drop`, or
        when `holder` is gone.
        """
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts.setdefault(origin, _Host())
        taken = host.taken
        if len(taken) >= self._max_connections and not over_limit:
            return Take.WAIT
        slot = ref(holder, taken.discard)  # called in C, where no signal handler comes between
        taken.add(slot)
        if len(taken) > self._max_connections and not over_limit:  # another thread was quicker
            taken.discard(slot)
            return Take.WAIT
        try:
            idle = None if fresh else host.idle.pop()
        except IndexError:
            idle = None
        if idle is not None and idle[0] + self._keep_alive <= now:
            host.idle.append(idle)  # `give_back` closes it
            idle = None
        return Take.OPEN if idle is None else idle[1]

    def has_room(self, origin: Origin) -> bool:
        """Whether `take` would not say WAIT."""
        host = self._hosts.get(origin)
        return host is None or len(host.taken) < self._max_connections

    def give_back(
        self, origin: Origin, holder: object, connection: Connection, now: float
    ) -> list[Connection]:
        """Put a reusable connection into the idle ones. Returns connections to close now."""
        host = self._hosts[origin]
        host.idle.append((now, connection))
        host.taken.discard(ref(holder))
        idle, surplus = host.idle, list[Connection]()
        try:
            while True:
                if len(idle) <= self._max_idle and idle[0][0] + self._keep_alive > now:
                    return surplus
                surplus.append(idle.popleft()[1])
        except IndexError:  # another call took the last
            return surplus

    def drop_idle_since(self, origin: Origin, before: float) -> list[Connection]:
        """Remove the connections that were given back before then. Returns them, to be closed.

        For when one of them turned out to be dead: a middlebox may have forgotten all of that age.
        """
        idle = self._hosts[origin].idle
        older: list[Connection] = []
        with suppress(IndexError):  # another call took the last
            while True:
                if idle[0][0] >= before:
                    break
                older.append(idle.popleft()[1])
        return older

    def drop(self, origin: Origin, holder: object) -> None:
        """Free the slot of a connection that was closed, or could not be made."""
        self._hosts[origin].taken.discard(ref(holder))

    def clear(self) -> list[Connection]:
        """Remove all idle connections. Returns them, to be closed."""
        cleared: list[Connection] = []
        for host in list(self._hosts.values()):
            with suppress(IndexError):
                while True:
                    cleared.append(host.idle.popleft()[1])
        return cleared

    def counts(self) -> tuple[int, int]:
        """How many connections are taken and how many idle, over all origins."""
        hosts = list(self._hosts.values())
        return sum(len(host.taken) for host in hosts), sum(len(host.idle) for host in hosts)


def took_one(slots: list[None]) -> bool:
    """Pop an item, if there is any; atomic, so threads need no lock."""
    try:
        slots.pop()
    except IndexError:
        return False
    return True
