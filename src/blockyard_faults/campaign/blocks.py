"""The bytes that the campaign stores: made again from a number whenever they are needed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from blockyard.model import MIB

_POOL_SIZE = 8 * MIB
_POOL = random.Random(0).randbytes(_POOL_SIZE)  # noqa: S311 - to be repeatable, not secret
_STRIDE = 4099  # prime, so that no two numbers near each other share their bytes


@dataclass(frozen=True, slots=True)
class Content:
    """`size` bytes, up to 4 MiB, that differ from those of another `number` (below 2**64)."""

    number: int
    size: int

    @property
    def data(self) -> bytes:
        """The bytes."""
        begin = self.number * _STRIDE % (_POOL_SIZE // 2)
        return (self.number.to_bytes(8, "big") + _POOL[begin : begin + self.size])[: self.size]

    def part(self, offset: int, length: int | None) -> bytes:
        """`length` bytes from `offset`, clamped at the end."""
        return self.data[offset : None if length is None else offset + length]
