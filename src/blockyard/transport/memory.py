"""Memory to receive into that becomes `bytes` without a copy.

Python's own ways to fill memory (`bytearray`, then `bytes`) zero it first and copy it after,
which together cost more than receiving it. CPython lets a `bytes` object be made uninitialised
and filled before anyone else sees it: https://docs.python.org/3/c-api/bytes.html
(PyBytes_FromStringAndSize). This is the only place that makes use of that.
"""

from __future__ import annotations

import ctypes

_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype = ctypes.py_object
_new_bytes.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
_data_address = ctypes.pythonapi.PyBytes_AsString
_data_address.restype = ctypes.c_void_p
_data_address.argtypes = [ctypes.py_object]


def receivable(size: int) -> tuple[bytes, memoryview]:
    """A `bytes` of `size` undefined bytes, and a writable view of it.

    The caller fills all of the view before the bytes go anywhere else (not even `hash` may see
    them), and keeps a reference to them for as long as it uses the view.
    """
    block: bytes = _new_bytes(None, size)
    if size <= 1:  # CPython shares the empty and the one-byte objects
        raise ValueError("receivable memory starts at two bytes")
    view = memoryview((ctypes.c_char * size).from_address(_data_address(block)))
    return block, view.cast("B")
