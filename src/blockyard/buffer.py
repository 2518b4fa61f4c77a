"""`Buffer`: the type of everything that exports its memory (PEP 688), for Python 3.11 as well.

Annotations of public methods are looked at while programs run (`typing.get_type_hints`), so it has
to be there then.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer  # type checkers bring it themselves
elif sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:

    class Buffer(metaclass=ABCMeta):  # noqa: B024 - that others register with
        """`collections.abc.Buffer` of Python 3.12; classes have to be registered."""

    for _each in (bytes, bytearray, memoryview):
        _ = Buffer.register(_each)

__all__ = ["Buffer"]
