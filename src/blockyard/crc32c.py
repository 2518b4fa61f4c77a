"""CRC32C: the extension module of the package crc32c, without the rest of that package.

`import crc32c` brings its command line as well and, to know its own version, importlib.metadata
with email and zipfile: 23 ms of CPU, of which the extension takes 1.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crc32c import crc32c

__all__ = ["crc32c"]

_EXTENSION = "crc32c._crc32c"


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
