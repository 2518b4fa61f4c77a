"""What the conformance suite stores: contents, buffers of every kind, odd keys."""

from __future__ import annotations

import functools
import importlib.util
import mmap
import random
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blockyard.keys import MAX_KEY_BYTES
from blockyard.model import KIB, MIB

if TYPE_CHECKING:
    from blockyard.buffer import Buffer

SIZES = (0, 1, 16 * KIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 8 * MIB)
"""Bytes: nothing, the least, a page, a block and its neighbours, two blocks."""


@functools.lru_cache(maxsize=16)
def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes that no shift or repetition leaves as they are."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - content, not a secret


def _sliced(size: int) -> memoryview:
    return memoryview(bytearray(size + 7))[3 : size + 3]


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size)


def _four_byte_items(size: int) -> array[int]:
    return array("I", bytes(size))


def _two_dimensional(size: int) -> memoryview:
    return memoryview(bytearray(size)).cast("B", (size // 4, 4))


def _numpy_floats(size: int) -> Any:
    return importlib.import_module("numpy").zeros(size // 8, dtype="f8")


WRITABLE: dict[str, Callable[[int], Buffer]] = {
    "bytearray": bytearray,
    "memoryview slice": _sliced,
    "array": _four_byte_items,
    "mmap": _mapped,
    "two-dimensional memoryview": _two_dimensional,
}
"""Makers of writable buffers of so many bytes (a multiple of 8), by the name of their kind."""

if importlib.util.find_spec("numpy"):
    WRITABLE["numpy array"] = _numpy_floats


def filled(kind: str, data: bytes) -> Buffer:
    """A buffer of that kind with `data` in it."""
    buffer = WRITABLE[kind](len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer


ODD_KEYS = {
    "plain": "share/content/chunk-0/block-0",
    "case": "Share/Content/CHUNK-0/Block-0",
    "double slash": "a//b",
    "only slashes": "//",
    "leading slash": "/a",
    "trailing slash": "a/",
    "dot": ".",
    "dot dot": "..",
    "dots inside": "a/./b/../c",
    "climbing": "../../outside",
    "hidden": ".blockyard/a",
    "plus": "a+b",
    "space": "a b",
    "spaces around": " a ",
    "percent": "100%",
    "percent escape": "a%41b",
    "escaped slash": "a%2Fb%2fc",
    "escaped percent": "a%2541",
    "query": "a?b=c&d=e#f",
    "subresource": "?delete",
    "markup": "&<>\"'",
    "entities": "&amp;&#65;]]>",
    "backslashes": "a\\..\\b",
    "brackets": "[a]{b}(c)|^`~*!@$,;:",
    "marks of the file store": "a=/b%=",
    "reserved elsewhere": "con/nul.txt/aux. /lpt1:",
    "tab": "a\tb",
    "control characters": "\x01\x08\x0b\x0c\x1b\x1f",
    "delete": "a\x7fb",
    "control characters of latin-1": "a\x80\x85\x9fb",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "line separators": "a\u2028b\u2029c",
    "byte order mark": "\ufeffa",
    "noncharacters": "a\ufffe\uffffb",
    "right to left": "\u05d0\u05d1/\u202ea",
    "astral": "\U0001f468\u200d\U0001f680/\U0010ffff",
    "longest": "k" * MAX_KEY_BYTES,
    "longest, two bytes a character": "\u00e9" * (MAX_KEY_BYTES // 2),
    "longest, all escaped": "%" * MAX_KEY_BYTES,
    "longest, in folders": "/".join(["f" * 63] * 16),
}
"""Keys that all stores hold, by what is odd about them."""

REFUSED_KEYS: dict[str, str] = {
    "empty": "",
    "carriage return": "a\rb",
    "line feed": "a\nb",
    "nul": "a\0b",
    "too long": "k" * (MAX_KEY_BYTES + 1),
    "too long in UTF-8": "\u00e9" * (MAX_KEY_BYTES // 2) + "k",
    "lone surrogate": "a\ud800b",
}
"""Keys that no store may be requested, by what is wrong with them."""

MISTYPED_KEYS: dict[str, Any] = {"bytes": b"a", "None": None, "number": 7, "list": ["a"]}
"""What is no text, and so no key."""
