"""How the filesystem store names its files: every key has one path, every path at most one key.

The folders of a path are the key's parts up to each `/`, its file is the last part and a `=`:
the key `share/content/block-0` is the file `share/content/block-0=`. The mark lets a block and a
folder of one name (`a` and `a/b`) live side by side. Names are made of printable ASCII alone,
so that no file system refuses or folds them:

- ASCII letters, digits and ``!(),-_@+~`` stand for themselves, and so does `.` but for the
  first character of a name: no key can name `.`, `..` or the store's own `.blockyard`;
- every other byte of the key's UTF-8 is `%` and two lower-case hexadecimal digits;
- an empty part (in `a//b`, `/a`, `a/`) is the folder `%`, or the file `=`;
- a part whose name reaches 240 characters goes on one folder further down: the piece so far
  and a `%` are the name of that folder. Where it is cut depends on nothing that comes after.

So everything below one folder is exactly what begins with one text, and names sorted by what
they add to the key (`Entry.adds`) are in the order of the keys. Pure: no disk call in here.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from blockyard.errors import InvalidKeyError
from blockyard.keys import check_key

OWN_AREA = ".blockyard"
"""The folder in the root that holds the store's temporary files."""

_FULL = 240
_FILE = "="
_FURTHER = "%"
_PLAIN = ascii_letters + digits + "!(),-_@+~."
_NAMES = tuple(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02x}" for byte in range(256))
_FIRST_DOT = "%2e"
_PLAIN_NAME = re.compile(rf"[{re.escape(_PLAIN[:-1])}][{re.escape(_PLAIN)}]{{0,{_FULL - 2}}}")


class BlockPath(NamedTuple):
    """The path of a block below the root."""

    folders: tuple[str, ...]
    name: str


class Entry(NamedTuple):
    """A name found in a folder, decoded: `adds` is the part of the key that it stands for."""

    adds: bytes
    name: str
    is_block: bool


def path_of(key: str) -> BlockPath:
    """The path of a key."""
    folder, slash, last = key.encode().rpartition(b"/")
    pieces, rest = _pieces(last)
    return BlockPath((*folders_of(folder + slash), *pieces), rest + _FILE)


def folders_of(above: bytes) -> tuple[str, ...]:
    """The folders that hold the keys beginning with `above`, which is empty or ends with `/`."""
    names: list[str] = []
    for part in above.split(b"/")[:-1]:
        pieces, rest = _pieces(part)
        names += pieces
        names.append(rest or _FURTHER)
    return tuple(names)


def entry_of(name: str) -> Entry | None:
    """Decode a name found in a folder; None for a name that the store never gives."""
    is_block = name.endswith(_FILE)
    goes_on = name.endswith(_FURTHER) and name != _FURTHER
    part = _part_of(name[:-1] if is_block or name.endswith(_FURTHER) else name)
    if part is None or b"/" in part:
        return None
    pieces, rest = _pieces(part)
    if goes_on:
        return Entry(part, name, is_block=False) if pieces == [name] and not rest else None
    if pieces or name != (rest + _FILE if is_block else rest or _FURTHER):
        return None
    return Entry(part if is_block else part + b"/", name, is_block)


def key_of(written: bytes) -> str | None:
    """The key for the bytes that a path spells; None when that is no valid key."""
    try:
        key = written.decode()
        check_key(key)
    except (UnicodeDecodeError, InvalidKeyError):
        return None
    return key


def _part_of(written: str) -> bytes | None:
    """Unescape a name without its mark; None when it is not escaped as we do."""
    if _PLAIN_NAME.fullmatch(written):
        return written.encode()
    return unquote_to_bytes(written) if written.isascii() else None


def _pieces(part: bytes) -> tuple[list[str], str]:
    """Escape a part of a key and split it into folder names and the rest for its last name."""
    written = part.decode("latin-1")
    if _PLAIN_NAME.fullmatch(written):
        return [], written
    pieces: list[str] = []
    rest = ""
    for byte in part:
        rest += _NAMES[byte] if rest or byte != ord(".") else _FIRST_DOT
        if len(rest) >= _FULL:
            pieces.append(rest + _FURTHER)
            rest = ""
    return pieces, rest
