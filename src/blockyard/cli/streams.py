"""Standard input and output, as a content's source and target."""

from __future__ import annotations

import os
import select
import sys

from blockyard.cli.signals import stopping

_LOOK_AROUND = 0.2
"""Seconds of waiting for input until the next look whether the command is to end."""


class StandardInput:
    """What comes on standard input. A signal ends the wait for more."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        file = sys.stdin.fileno()
        while not stopping.is_set():
            ready, _, _ = select.select([file], [], [], _LOOK_AROUND)
            if ready:
                return os.read(file, size)
        raise InterruptedError("standard input: no longer read")
