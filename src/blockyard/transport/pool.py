"""Which connection a request gets, and which ones go: decisions only, no I/O, no lock, no clock.

A request waits while `max_connections` of its origin are taken. It gets the connection that was
given back last, since that one is the least likely to have been closed by the other side.

Threads take turns under their caller's lock. Calls of one thread can be nested, though: a signal
handler or a finalizer may make whole calls between any two steps here.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from blockyard.context import Origin

Connection = TypeVar("Connection")


class Take(Enum):
    """What to do when there is no idle connection."""

    OPEN = "open"
    WAIT = "wait"


@dataclass(slots=True)
class _Host(Generic[Connection]):
    taken: int = 0
    idle: deque[tuple[float, Connection]] = field(default_factory=deque[tuple[float, Connection]])


class Pool(Generic[Connection]):
    """The connections of one runtime, by origin."""

    def __init__(self, max_connections: int, max_idle: int, keep_alive: float) -> None:
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._keep_alive = keep_alive
        self._hosts: dict[Origin, _Host[Connection]] = {}

    def take(
        self, origin: Origin, now: float, *, fresh: bool = False, over_limit: bool = False
    ) -> Connection | Take:
        """An idle connection, or OPEN when the caller may make one (its place is taken), or WAIT.

        With `fresh`, never an idle one; with `over_limit`, never WAIT.

        Every connection, and every place that OPEN gave, comes back by `give_back` or `drop`.
        """
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts.setdefault(origin, _Host())
        if host.taken >= self._max_connections and not over_limit:
            return Take.WAIT
        taken: Connection | Take = Take.OPEN
        if not fresh and host.idle:
            taken = self._newest(host, now)
        host.taken += 1  # last: nothing that an interrupt can end comes between this and the caller
        return taken

    def _newest(self, host: _Host[Connection], now: float) -> Connection | Take:
        """The connection given back last, unless it has been idle for too long."""
        try:
            given_back, connection = host.idle.pop()
        except IndexError:  # a signal handler's call took it
            return Take.OPEN
        if given_back + self._keep_alive > now:
            return connection
        host.idle.append((given_back, connection))  # `give_back` closes it
        return Take.OPEN

    def has_room(self, origin: Origin) -> bool:
        """Whether `take` would not say WAIT."""
        host = self._hosts.get(origin)
        return host is None or host.taken < self._max_connections

    def give_back(self, origin: Origin, connection: Connection, now: float) -> list[Connection]:
        """The connection is ready for another request. Returns those to close now."""
        host = self._hosts[origin]
        host.taken -= 1
        host.idle.append((now, connection))
        surplus: list[Connection] = []
        with suppress(IndexError):  # a signal handler's call took the last
            while len(host.idle) > self._max_idle or host.idle[0][0] + self._keep_alive <= now:
                surplus.append(host.idle.popleft()[1])
        return surplus

    def drop_idle_since(self, origin: Origin, before: float) -> list[Connection]:
        """Give up the connections that were given back before then. Returns them, to close.

        For when one of their age turned out to be dead: what forgot it may have forgotten them.
        """
        idle = self._hosts[origin].idle
        older: list[Connection] = []
        with suppress(IndexError):  # a signal handler's call took the last
            while idle[0][0] < before:
                older.append(idle.popleft()[1])
        return older

    def drop(self, origin: Origin) -> None:
        """The connection was closed, or never came about: its place is free."""
        self._hosts[origin].taken -= 1

    def clear(self) -> list[Connection]:
        """Give up every idle connection. Returns them, to close."""
        idle = [entry[1] for host in self._hosts.values() for entry in host.idle]
        for host in self._hosts.values():
            host.idle.clear()
        return idle

    def counts(self) -> tuple[int, int]:
        """How many connections are taken and how many idle, over all origins."""
        hosts = self._hosts.values()
        return sum(host.taken for host in hosts), sum(len(host.idle) for host in hosts)
