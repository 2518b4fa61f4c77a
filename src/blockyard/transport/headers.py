"""The headers of a reply. A reply has twice as many as anyone looks at: they are decoded late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

Default = TypeVar("Default")

_REMEMBERED = 1024


class _Names(dict[bytes, str]):
    """Names as servers spell them, and in lower case: the same few in every reply."""

    def __missing__(self, name: bytes) -> str:
        lower = name.decode("latin-1").lower()
        if len(self) < _REMEMBERED:
            self[name] = lower
        return lower


_names = _Names()


class Headers(Mapping[str, str]):
    """Header values by lower-case name."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self._fields = {_names[name]: value for name, value in fields.items()}

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
