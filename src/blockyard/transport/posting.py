"""`call_soon_threadsafe` for threads whose signal handlers may raise.

`loop.call_soon_threadsafe` wakes the loop in Python code that swallows every `OSError`, and with it
the `TimeoutError` of a handler that was called at that moment.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable

from blockyard.syscalls import errors_ignored


class Post:
    """A queue of callbacks for an event loop. Made on the loop's thread; raises `OSError`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: deque[Callable[[], object]] = deque()
        # The lock keeps `put` from writing to a descriptor that is closed, and perhaps another's
        # by now. A signal handler that calls the store takes it again.
        self._lock = threading.RLock()
        self._closed = False
        self._process = os.getpid()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._waker, self._deliver)

    def put(self, callback: Callable[[], object]) -> bool:
        """Schedule `callback` on the loop; False when the loop has ended."""
        with self._lock:
            if self._closed:
                return False
            self._callbacks.append(callback)
            os.eventfd_write(self._waker, 1)
            return True

    def close(self) -> None:
        """Close it, on the loop's thread, before the loop is closed."""
        with self._lock:
            self._close()

    def abandon(self) -> None:
        """Close it when the loop has ended, or is the parent's: see `EpollWatcher.close`."""
        if self._process == os.getpid():
            with self._lock:
                self._close()
        else:  # a thread of the parent's may have held the lock
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        os.close(self._waker)
        if not self._loop.is_closed():
            with errors_ignored():
                _ = self._loop.remove_reader(self._waker)

    def _deliver(self) -> None:
        _ = os.eventfd_read(self._waker)
        while self._callbacks:
            _ = self._callbacks.popleft()()
