"""Memory to receive into that becomes `bytes` without a copy.

Python's own ways to fill memory (`bytearray`, then `bytes`) zero it first and copy it after,
which together cost more than receiving it. CPython lets a `bytes` object be made uninitialised
and filled before anyone else sees it: https://docs.python.org/3/c-api/bytes.html
(PyBytes_FromStringAndSize). This is the only place that makes use of that.

Fresh memory costs a page fault for every 4 KiB that is first written, a third of the time of
reading many large blocks. Linux is therefore asked for pages of 2 MiB (madvise(2),
MADV_HUGEPAGE), which it gives where they fit and are to be had.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

from blockyard.model import MIB

_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype = ctypes.py_object
_new_bytes.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
_data_address = ctypes.pythonapi.PyBytes_AsString
_data_address.restype = ctypes.c_void_p
_data_address.argtypes = [ctypes.py_object]
_HUGE_FROM = 1 * MIB
_advise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
if _advise is not None:
    _advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def receivable(size: int) -> tuple[bytes, memoryview]:
    """A `bytes` of `size` undefined bytes, and a writable view of it.

    The caller fills all of the view before the bytes go anywhere else (not even `hash` may see
    them), and keeps a reference to them for as long as it uses the view.
    """
    block: bytes = _new_bytes(None, size)
    if size <= 1:  # CPython shares the empty and the one-byte objects
        raise ValueError("receivable memory starts at two bytes")
    address = _data_address(block)
    if size >= _HUGE_FROM:
        _ask_for_huge_pages(address, address + size)
    view = memoryview((ctypes.c_char * size).from_address(address))
    return block, view.cast("B")


def _ask_for_huge_pages(begin: int, end: int) -> None:
    """Advise the kernel; a system without huge pages reports an error, which does not matter."""
    begin -= begin % -mmap.PAGESIZE
    end -= end % mmap.PAGESIZE
    if _advise is not None:
        _ = _advise(begin, end - begin, mmap.MADV_HUGEPAGE)
