"""What a key, a prefix and a range may be, checked before anything is sent.

A key is text of 1 to 1024 bytes in UTF-8
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html). Every character
survives the round trip except CR, LF and NUL, which are refused: they break headers, listings
and file names.
"""

from __future__ import annotations

from blockyard.errors import InvalidKeyError, InvalidRangeError

MAX_KEY_BYTES = 1024
_REFUSED = ("\r", "\n", "\0")


def check_key(key: str) -> None:
    """Raise `InvalidKeyError` unless `key` can name a block."""
    if isinstance(key, str) and key == "":
        raise InvalidKeyError("key: expected at least one character, got an empty string")
    _check_text("key", key)


def check_prefix(prefix: str) -> None:
    """Raise `InvalidKeyError` unless keys could begin with `prefix`; the empty prefix may."""
    _check_text("prefix", prefix)


def check_range(key: str, offset: int, length: int | None) -> None:
    """Raise `InvalidRangeError` unless offset and length (bytes) are whole and not negative."""
    if not isinstance(offset, int) or offset < 0:
        raise InvalidRangeError(
            f"read_block_range {key!r}: offset: expected a whole number from 0, got {offset!r}"
        )
    if length is not None and (not isinstance(length, int) or length < 0):
        raise InvalidRangeError(
            f"read_block_range {key!r}: length: expected a whole number from 0 or None, "
            f"got {length!r}"
        )


def range_past_end(key: str, offset: int, size: int | None = None) -> InvalidRangeError:
    """The error for a range that starts at or past the end of a block of `size` bytes."""
    known = f"the block's {size} bytes" if size is not None else "the block"
    return InvalidRangeError(
        f"read_block_range {key!r}: offset {offset} is at or past the end of {known}"
    )


def below(prefix: str) -> str:
    """The literal prefix of the keys below `prefix` as a folder: it ends with `/`."""
    return prefix if prefix.endswith("/") else prefix + "/"


def _check_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise InvalidKeyError(f"{what}: expected str, got {type(text).__name__}")
    for character in _REFUSED:
        if character in text:
            raise InvalidKeyError(f"{what} {text!r}: CR, LF and NUL are not allowed")
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidKeyError(f"{what} {text!r}: not valid unicode ({error.reason})") from None
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"{what} {text[:40]!r}...: {size} bytes in UTF-8, the limit is {MAX_KEY_BYTES}"
        )
