"""CRC32C: the extension module of the package crc32c, without the rest of that package.

`import crc32c` brings its command line as well and, to know its own version, importlib.metadata
with email and zipfile: 23 ms of CPU, of which the extension takes 1.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crc32c import crc32c

__all__ = ["JoinedSum", "combined", "crc32c"]

_EXTENSION = "crc32c._crc32c"
_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, with its bits reversed. RFC 3720, appendix B.4."""


def _module() -> Any:
    """The extension where it is a file of its own; else, in a frozen program, the package."""
    if "crc32c" not in sys.modules:
        package = PathFinder.find_spec("crc32c")
        spec = package and PathFinder.find_spec(_EXTENSION, package.submodule_search_locations)
        if spec and spec.loader:
            extension = module_from_spec(spec)
            spec.loader.exec_module(extension)
            return sys.modules.setdefault(_EXTENSION, extension)
    import crc32c  # noqa: PLC0415 - only where it has to be

    return crc32c


if not TYPE_CHECKING:
    crc32c = _module().crc32c


def combined(first: int, second: int, size: int) -> int:
    """The CRC32C of two runs of bytes, one behind the other, from that of each of them.

    `size` is how many bytes the second has.
    """
    return _times(_behind(size), first) ^ second


class JoinedSum:
    """The CRC32C of bytes whose parts come in any order: `value` is that of the first `size`."""

    def __init__(self) -> None:
        self.value = self.size = 0
        self._ahead: dict[int, tuple[int, int]] = {}

    def add(self, offset: int, value: int, size: int) -> None:
        """Add the CRC32C of a part of `size` bytes."""
        self._ahead[offset] = value, size
        while (known := self._ahead.pop(self.size, None)) is not None and known[1]:
            self.value = combined(self.value, *known)
            self.size += known[1]


@lru_cache(maxsize=64)
def _behind(size: int) -> tuple[int, ...]:
    """What `size` zero bytes do to a checksum: a matrix over GF(2), a column for each bit."""
    power = (_POLYNOMIAL, *(1 << bit for bit in range(31)))  # one zero bit
    for _ in range(3):  # a byte has eight
        power = _squared(power)
    result = tuple(1 << bit for bit in range(32))
    while size:
        if size & 1:
            result = tuple(_times(power, column) for column in result)
        power = _squared(power)
        size >>= 1
    return result


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_times(matrix, column) for column in matrix)


def _times(matrix: tuple[int, ...], vector: int) -> int:
    product = 0
    for column in matrix:
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
