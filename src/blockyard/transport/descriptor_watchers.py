"""Watch descriptors for an event loop: by an epoll set, or by the loop's own readers and writers.

A watcher calls back once when a descriptor is ready, and forgets it then.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from blockyard.syscalls import errors_ignored


class EpollWatcher:
    """Watches descriptors by an epoll set, whose own descriptor the loop watches."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[int, int], object]
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, descriptor: int, events: int) -> None:
        """Call back once when `descriptor` is ready for one of `events`."""
        try:
            self._epoll.modify(descriptor, events | select.EPOLLONESHOT)
        except FileNotFoundError:  # it was not in the set yet
            self._epoll.register(descriptor, events | select.EPOLLONESHOT)

    def remove(self, descriptor: int) -> None:
        """Stop watching `descriptor`."""
        with errors_ignored():  # it has been closed
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Close the epoll descriptor before removing it from the loop.

        A forked child that continues its parent's loop shares the loop's own epoll set with it; a
        descriptor that is closed already can't be removed from the parent's.
        """
        descriptor = self._epoll.fileno() if not self._epoll.closed else -1
        self._epoll.close()
        if descriptor >= 0 and not self._loop.is_closed():
            with errors_ignored():
                _ = self._loop.remove_reader(descriptor)

    def _ready(self) -> None:
        for descriptor, events in self._epoll.poll(0):
            _ = self._deliver(descriptor, events)


class LoopWatcher:
    """Watches descriptors by `loop.add_reader` and `add_writer`, where there is no epoll."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[int, int], object]
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._added: set[int] = set()

    def add(self, descriptor: int, events: int) -> None:
        """See `EpollWatcher`."""
        self._added.add(descriptor)
        if events & select.POLLIN:
            self._loop.add_reader(descriptor, self._ready, descriptor, select.POLLIN)
        if events & select.POLLOUT:
            self._loop.add_writer(descriptor, self._ready, descriptor, select.POLLOUT)

    def remove(self, descriptor: int) -> None:
        """See `EpollWatcher`."""
        self._added.discard(descriptor)
        for remove in (self._loop.remove_reader, self._loop.remove_writer):
            with errors_ignored():
                _ = remove(descriptor)

    def close(self) -> None:
        """See `EpollWatcher`."""
        if not self._loop.is_closed():
            for descriptor in list(self._added):
                self.remove(descriptor)

    def _ready(self, descriptor: int, event: int) -> None:
        self.remove(descriptor)
        _ = self._deliver(descriptor, event)
