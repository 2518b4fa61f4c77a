"""Watches the calls of this process: which never end, and how late its threads get to run.

One thread wakes every few milliseconds. By how much it wakes too late is time in which the machine,
or another thread's hold on the interpreter, ran nobody here who wanted to run: no call can end
in it, so it does not count against a deadline (see `lateness`). The same thread looks for
calls that are long past their limit, and hands those to `on_hang`.
"""

from __future__ import annotations

import faulthandler
import itertools
import tempfile
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

HUNG_AFTER = 60.0
"""Seconds past its deadline after which a call counts as hung."""
_TICK = 0.02
_KEPT = 20_000  # ticks, which are some minutes


@dataclass(frozen=True, slots=True)
class _Call:
    what: str
    hung_at: float


class Watch:
    """The watch of one process. `on_hang` gets what hung, once, on the watch's thread."""

    def __init__(self, on_hang: Callable[[str], None] | None = None) -> None:
        self._on_hang = on_hang
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count()
        self._ticks: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)], _KEPT)
        self._runs = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        self._runs.set()
        self._thread.start()

    def pause(self) -> None:
        """Let the thread rest until `go_on`; once this has returned it does."""
        self._runs.clear()
        time.sleep(2 * _TICK)

    def go_on(self) -> None:
        """End a `pause`."""
        self._runs.set()

    def begins(self, what: str, deadline: float) -> int:
        """A call that has `deadline` seconds begins; the number is for `ends`."""
        number = next(self._numbers)
        self._calls[number] = _Call(what, time.monotonic() + deadline + HUNG_AFTER)
        return number

    def ends(self, number: int) -> None:
        """The call is over."""
        _ = self._calls.pop(number, None)

    def lateness(self, begin: float, end: float) -> float:
        """The seconds of `begin` to `end` (on the monotonic clock) in which nobody here ran."""
        ticks = list(self._ticks)
        return _late_until(ticks, end) - _late_until(ticks, begin)

    def _run(self) -> None:
        late = 0.0
        while self._runs.wait():
            before = time.monotonic()
            time.sleep(_TICK)
            now = time.monotonic()
            late += max(now - before - 2 * _TICK, 0.0)
            self._ticks.append((now, late))
            hung = [call.what for call in list(self._calls.values()) if now > call.hung_at]
            if hung and self._on_hang is not None:
                self._on_hang("; ".join(hung))
                return


def _late_until(ticks: list[tuple[float, float]], moment: float) -> float:
    index = bisect_right(ticks, moment, key=lambda tick: tick[0]) - 1
    tick, late = ticks[max(index, 0)]
    return late + max(moment - tick - 2 * _TICK, 0.0)  # of the tick that is late at the moment


def stacks() -> str:
    """The stack of every other thread, the newest calls first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        _ = file.seek(0)
        found = file.read().split("\n\n")
        return "\n\n".join(stack for stack in found if not stack.startswith("Current thread"))


_watch = Watch()


def current() -> Watch:
    """The watch of this process: one that never started measures nothing."""
    return _watch


def start(on_hang: Callable[[str], None]) -> Watch:
    """Let a new watch be the current one, as a process begins, and start it."""
    global _watch  # noqa: PLW0603 - there is one to a process, forked ones too
    _watch = Watch(on_hang)
    _watch.start()
    return _watch
