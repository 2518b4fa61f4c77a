"""Host names to addresses: one look-up in flight for a host, whoever waits for it.

`getaddrinfo` takes no time limit and can't be cancelled, so it runs on a private thread, and goes
on for the others when one that waits gives up. What it finds is used again for a few seconds, so
that many connections at once ask once; a failure is not. All stores of a process share this, as
they share the system's resolver. No lock: a signal handler may make calls of its own in between.
"""

from __future__ import annotations

import copy
import ipaddress
import os
import socket
from typing import Any, NamedTuple

from blockyard.transport.clock import monotonic
from blockyard.transport.threads import Call, Threads
from blockyard.user_code import pass_on_foreign

_KEPT = 5.0
"""Seconds for which what was found is used again."""

_threads = Threads(idle=0)
"""Nobody closes them, so that none waits for more to do."""
_look_ups: dict[tuple[int, str], LookUp] = {}
_MOST = 1000
"""Hosts: of more, those are forgotten whose addresses are not used again."""


class Address(NamedTuple):
    """A socket address, as `socket.getaddrinfo` returns it; the port is 0."""

    family: int
    kind: int
    protocol: int
    address: tuple[Any, ...]

    def at(self, port: int) -> tuple[Any, ...]:
        """What `socket.connect` takes."""
        return (self.address[0], port, *self.address[2:])


class LookUp(Call[list[Address]]):
    """A look-up under way, or done."""

    def __init__(self, host: str) -> None:
        super().__init__(self._ask)
        self._host = host
        self._good_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is under way, or found addresses a short while ago."""
        return not self.done() or monotonic() < self._good_until

    def addresses(self) -> list[Address]:
        """What it found, once done. Raises `OSError` or `UnicodeError`, a new one each time."""
        error = self.exception()
        if error is not None:
            raise copy.copy(error)
        return self.result()

    def _ask(self) -> list[Address]:
        found = socket.getaddrinfo(self._host, 0, type=socket.SOCK_STREAM)
        self._good_until = monotonic() + _KEPT
        return [Address(*each[:3], each[4]) for each in found]


def look_up(host: str) -> LookUp:
    """The look-up of `host`, begun if need be. Raises `TransportError` without a thread."""
    mine = LookUp(host)
    if _is_address(host):
        mine.run()
        error = mine.exception()
        try:
            if isinstance(error, OSError):
                pass_on_foreign(error)  # of a signal handler, which can't wait to be asked for
            elif error is not None and not isinstance(error, UnicodeError):
                raise error  # of one, too: itself, not the copy that `addresses` raises
        finally:
            del error  # which its traceback refers to
        return mine
    key = os.getpid(), host
    known = _look_ups.setdefault(key, mine)
    if known is not mine and not known.usable:
        known = _look_ups[key] = mine
    if known is mine:
        if len(_look_ups) > _MOST:
            _forget_unusable()
        try:
            _ = _threads.start(mine.run)
        except BaseException:
            _ = _look_ups.pop(key, None)
            raise
    return known


def forget(host: str) -> None:
    """Have the next one ask anew: no connection came about at what was found."""
    key = os.getpid(), host
    known = _look_ups.get(key)
    if known is not None and known.done():
        _ = _look_ups.pop(key, None)


def _forget_unusable() -> None:
    for key, known in list(_look_ups.items()):
        if not known.usable and key[0] == os.getpid():
            _ = _look_ups.pop(key, None)


def _is_address(host: str) -> bool:
    try:
        _ = ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
