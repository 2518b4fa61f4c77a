"""Paths of universal-pathlib: `UPath("blockyard://BUCKET/KEY")`. Needs `universal-pathlib`."""

from __future__ import annotations

from upath import UPath

from blockyard.fsspec.untyped import file_system_class
from blockyard.fsspec.urls import url_of

for _protocol in ("blockyard", "blockyard+content"):  # by which UPath tells what a URL means
    file_system_class(_protocol)


class BlockyardPath(UPath):
    """A path with the methods of `pathlib.Path`. Its first part is the bucket."""

    __slots__ = ()

    def __str__(self) -> str:
        text, begin = super().__str__(), f"{self.protocol}://"
        if not text.startswith(begin):  # relative
            return text
        return url_of(text.removeprefix(begin), self.protocol)
