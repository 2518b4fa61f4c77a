"""The checksum comes from its extension module alone, and is right whichever way it is found."""

from __future__ import annotations

import subprocess
import sys

import pytest

FOUND = "assert blockyard.crc32c.crc32c(b'123456789') == 0xE3069283"  # RFC 3720's check value
WAYS = {
    "alone": f"import blockyard.crc32c; {FOUND}; assert 'crc32c' not in sys.modules",
    "before the package": f"import blockyard.crc32c, crc32c; {FOUND};"
    "assert crc32c.crc32c is blockyard.crc32c.crc32c",
    "after the package": f"import crc32c, blockyard.crc32c; {FOUND};"
    "assert crc32c.crc32c is blockyard.crc32c.crc32c",
    "in a frozen program": "from importlib import machinery; found = machinery.PathFinder;"
    "nothing = {'find_spec': classmethod(lambda *_: None)};"
    "machinery.PathFinder = type('PathFinder', (found,), nothing);"
    f"import blockyard.crc32c; {FOUND}; assert 'crc32c' in sys.modules",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_extension_is_found(way: str) -> None:
    """In an interpreter of its own, where nothing has imported it yet."""
    done = subprocess.run(
        [sys.executable, "-Werror", "-c", f"import sys; {WAYS[way]}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
