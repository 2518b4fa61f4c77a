"""The headers of a reply. A reply has twice as many as anyone looks at: they are decoded late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

Default = TypeVar("Default")

_REMEMBERED = 1024
_names: dict[bytes, str] = {}
"""Names as servers spell them, and in lower case: the same few in every reply."""


class Headers(Mapping[str, str]):
    """Header values by lower-case name."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self._fields = {_names.get(name) or _lower(name): fields[name] for name in fields}

    def __getitem__(self, name: str) -> str:
        return self._fields[name].decode("latin-1").rstrip()

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str | Default) -> str | Default: ...
    def get(self, name: str, default: str | Default | None = None) -> str | Default | None:
        """`Mapping.get` without the detour over an exception."""
        value = self._fields.get(name)
        return default if value is None else value.decode("latin-1").rstrip()


def _lower(name: bytes) -> str:
    lower = name.decode("latin-1").lower()
    if len(_names) < _REMEMBERED:
        _names[name] = lower
    return lower
