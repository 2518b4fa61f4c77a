"""Disks that fail their users: a small one that becomes full, and modes that root feels as well."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_DETACH = 2
_VERSION = 0x20080522
_OVERRIDE = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: see capabilities(7)."""


@contextmanager
def small_disk(folder: Path, size: int) -> Generator[bool]:
    """Have a file system of so many bytes at the folder meanwhile, which is made.

    Gives False, and leaves the folder a plain one, where this user can mount none: it takes root.
    """
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = b"mode=700,size=%d" % size
    mounted = libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options) == 0
    try:
        yield mounted
    finally:
        if mounted:
            _ = libc.umount2(os.fsencode(folder), _DETACH)


def feel_modes() -> None:
    """Give up, in this thread and those it starts, root's right to pass over modes of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~_OVERRIDE  # those in effect
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")
