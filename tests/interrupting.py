"""Calls in the middle of others: what a signal handler does, at a line that is chosen."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def at_line(
    number: int, files: Collection[str], call: Callable[[], object]
) -> Generator[list[int]]:
    """Make the call at that line of those that this thread runs in the files, and count them.

    Garbage is left alone meanwhile: a `__del__` in those files would be run, and counted, at a
    moment of the collector's choosing, and what is raised in one is lost.
    """
    seen = [0]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == number:
                sys.settrace(None)
                frame.f_trace = None
                _ = call()
        return trace

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
