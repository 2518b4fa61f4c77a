"""What a key and a prefix may be, and the error for a range past the end of a block.

A key is text of 1 to 1024 bytes in UTF-8
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html). Every character
survives the round trip except CR, LF and NUL, which are refused: they break headers, listings
and file names.
"""

from __future__ import annotations

from blockyard.errors import InvalidKeyError, InvalidRangeError

MAX_KEY_BYTES = 1024
MANIFEST_SUFFIX = ".blockyard"
"""What the key of a content's manifest ends with, behind the content's id."""
PROBE_PREFIX = ".blockyard-probe-"
"""What the key of an object begins with that shows what a service can do; it is there for an
instant, or until `clean` finds it."""
_REFUSED = ("\r", "\n", "\0")


def check_key(key: str, what: str = "key") -> None:
    """Raise `InvalidKeyError` unless `key`, which the error calls `what`, can name a block."""
    if key == "":
        raise InvalidKeyError(f"{what}: expected at least one character, got an empty string")
    check_prefix(key, what)


def check_prefix(prefix: str, what: str = "prefix") -> None:
    """Raise `InvalidKeyError` unless keys could begin with `prefix`; the empty prefix may."""
    for character in _REFUSED:
        if character in prefix:
            raise InvalidKeyError(f"{what} {_short(prefix)}: CR, LF and NUL are not allowed")
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"{what} {_short(prefix)}: not valid unicode ({error.reason})"
        ) from None
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"{what} {_short(prefix)}: {size} bytes in UTF-8, the limit is {MAX_KEY_BYTES}"
        )


def range_past_end(
    operation: str, key: str, offset: int, size: int | None = None
) -> InvalidRangeError:
    """The error for a range that starts at or past the end of a block of `size` bytes."""
    known = f"the block's {size} bytes" if size is not None else "the block"
    return InvalidRangeError(
        f"{operation} {key!r}: offset {offset} is at or past the end of {known}"
    )


def begins_keys(text: str) -> bool:
    """Whether a text is short enough for a key to be it, or to begin with it."""
    return len(text.encode()) <= MAX_KEY_BYTES


def below(prefix: str) -> str:
    """The literal prefix of the keys below `prefix` as a folder: it ends with `/`."""
    return prefix if prefix.endswith("/") else prefix + "/"


def named_as(folder: str) -> list[str]:
    """The keys of a block, and of a content's manifest, that have the name of a folder."""
    if folder.endswith("/"):
        return []
    named = (folder, folder + MANIFEST_SUFFIX)
    return [key for key in named if begins_keys(key)]


def folder_prefix(text: str) -> str:
    """The prefix of all keys in a folder of a bucket; "" stays. Raises `ValueError`."""
    prefix = below(text) if text else ""
    size = len(prefix.encode())
    if size >= MAX_KEY_BYTES:
        raise ValueError(f"{size} bytes leave no room for a key: the limit is {MAX_KEY_BYTES}")
    return prefix


def _short(text: str) -> str:
    """`text` for a message: the whole of a key, the beginning of what is too long for one."""
    return repr(text) if len(text) <= MAX_KEY_BYTES else f"{text[:40]!r}..."
