"""Reads and writes of all bytes of open files, in steps between which the deadline is checked.

Blocking calls, which raise `OSError`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from blockyard import syscalls
from blockyard.model import MIB
from blockyard.stores.base import Data

_NOT_COPIED_INSIDE = (
    errno.ENOSYS,
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EPERM,
    errno.EIO,
    errno.ETXTBSY,
)
"""What copy_file_range(2) fails with where reading and writing may work: some of FUSE and SMB."""
STEP = 64 * MIB
"""Bytes read, written or copied between two checks of the deadline: well below a second's work."""

Check = Callable[[], None]
"""Raises `DeadlineExceededError` once the deadline of the call has passed."""


def write_all(file: int, data: bytes | memoryview, check: Check) -> None:
    """Write all of `data`, synced after each step: one fsync of much data can't be interrupted."""
    view = memoryview(data)
    check()
    syscalls.write_all(file, view[:STEP])
    for start in range(STEP, len(view), STEP):
        os.fdatasync(file)
        check()
        syscalls.write_all(file, view[start : start + STEP])


def write_part(file: int, data: Data, offset: int, check: Check) -> None:
    """Write all of `data` at `offset`, synced to the disk."""
    view = memoryview(data)
    for start in range(0, len(view), STEP):
        check()
        syscalls.write_all_at(file, view[start : start + STEP], offset + start)
        os.fdatasync(file)


def copy_all(source: int, target: int, size: int, check: Check) -> None:
    """Copy `size` bytes, in the kernel and as shared extents where the file system can."""
    copied = 0
    while copied < size:
        check()
        step = min(STEP, size - copied)
        count = _copied_inside(source, target, step, copied)
        if count == 0:  # the end, or a kernel that does not say that it can't
            data = os.pread(source, step, copied)
            if not data:
                raise broken_off(copied, size)
            syscalls.write_all_at(target, data, copied)
            count = len(data)
        copied += count


def _copied_inside(source: int, target: int, size: int, position: int) -> int:
    """copy_file_range(2) from a position: how many bytes it copied; 0 where it is not supported."""
    try:
        return os.copy_file_range(source, target, size, position, position)
    except OSError as error:
        if error.errno not in _NOT_COPIED_INSIDE:
            raise
        return 0


def read_range(file: int, offset: int, length: int, check: Check) -> bytes:
    """Read `length` bytes from `offset`, all of which the file had when it was opened."""
    data = os.pread(file, min(length, STEP), offset)
    if len(data) == length:
        return data
    whole = bytearray(length)
    whole[: len(data)] = data
    read_into(file, memoryview(whole), check, offset, len(data))
    return bytes(whole)


def read_into(
    file: int, buffer: memoryview, check: Check, offset: int = 0, filled: int = 0
) -> None:
    """Fill `buffer` with the bytes of the file from `offset` on; `filled` of them are there."""
    while filled < len(buffer):
        check()
        count = os.preadv(file, [buffer[filled : filled + STEP]], offset + filled)
        if count == 0:
            raise broken_off(offset + filled, offset + len(buffer))
        filled += count


def broken_off(at: int, expected: int) -> OSError:
    """The error for a file that was truncated while it was read."""
    return OSError(errno.EIO, f"the file ends at byte {at} of {expected}")
