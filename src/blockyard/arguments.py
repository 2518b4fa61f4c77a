"""Validation of the arguments of public methods, for the operations, the contents and both clients.

Each function takes the name of the operation, the value and, where it varies, the name of the
parameter. It returns the value in the one form that the code below works with (an exact `str`
or `int`, flat bytes) or raises before anything is sent or lost: `TypeError` for a wrong type; for
a wrong value `ValueError`, or the subclass of it in `errors.py` that says more. Integers are what
`operator.index` takes, numpy's included, but never a `bool`.
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Set
from enum import Enum
from inspect import iscoroutinefunction
from operator import index
from typing import TypeVar, cast, get_args

from blockyard.buffer import Buffer
from blockyard.context import CacheUse, Lifetime
from blockyard.errors import BlockTooLargeError, InvalidKeyError, InvalidRangeError
from blockyard.keys import MAX_KEY_BYTES, check_key, check_prefix
from blockyard.model import (
    MAX_BLOCK_SIZE,
    MAX_CONCURRENCY,
    MAX_SECONDS,
    MIN_PART_SIZE,
    MIN_READ_PART,
    Method,
)
from blockyard.put_options import PutOptions

Item = TypeVar("Item")
Called = TypeVar("Called", bound=Callable[..., object])

_LARGEST = 2**63 - 1
"""The largest offset that files and services can hold, in bytes."""

_IN_MEMORY = (list, tuple, deque, Set)
"""Collections whose items are all there: they are checked before the first one is used."""

_RANGE = ("ranges", "(key, offset, length)", 3)
_BLOCK = ("blocks", "(key, data)", 2)

_PLAIN = re.compile(f"[ -~]{{1,{MAX_KEY_BYTES}}}").fullmatch
"""Printable ASCII within the limit, as almost every key is: no other check is needed."""

_ETAG = re.compile(r"[!#-~]{1,1024}")  # RFC 9110, section 8.8.3
_FIELD_NAMES = re.compile(r":[^:]*:")


class Same(Enum):
    """The type of `SAME`, which stands for an option left as it is."""

    SAME = "same"

    def __repr__(self) -> str:
        return "SAME"


SAME = Same.SAME


def key(operation: str, value: str, name: str = "key") -> str:
    """Check the key of a block. Raises `TypeError`, `InvalidKeyError`."""
    if type(value) is str and _PLAIN(value):
        return value
    found = text(operation, value, name)
    check_key(found, f"{operation}: {name}")
    return found


def check_not_all(operation: str, prefix: str, literal: bool) -> None:
    """Raise `InvalidKeyError` for a delete of everything that does not say so."""
    if prefix == "" and not literal:
        raise InvalidKeyError(
            f"{operation}: an empty prefix would delete every block; pass literal=True to mean that"
        )


def prefix(operation: str, value: str, name: str = "prefix") -> str:
    """Check a prefix of keys; it may be empty. Raises `TypeError`, `InvalidKeyError`."""
    found = text(operation, value, name)
    check_prefix(found, f"{operation}: {name}")
    return found


def keys(operation: str, values: Iterable[str]) -> list[str]:
    """Check several keys. Raises what `key` does, naming the index of the wrong one."""
    several = list(_iterable(operation, values, "keys", "keys"))
    if _all_plain(several):
        return several
    for place, value in enumerate(several):
        if not (type(value) is str and _PLAIN(value)):
            several[place] = key(operation, value, f"keys[{place}]")
    return several


def _all_plain(keys: list[str]) -> bool:
    """Whether none of `keys` needs another check: all are `str` that `_PLAIN` matches."""
    if set(map(type, keys)) != {str}:
        return False
    together = "".join(keys)
    sizes = set(map(len, keys))
    return (
        together.isascii()
        and together.isprintable()
        and min(sizes) > 0
        and max(sizes) <= MAX_KEY_BYTES
    )


def span(operation: str, subject: str, offset: int, length: int | None) -> tuple[int, int | None]:
    """Check a range of `subject`: its offset, and its length or None for everything after it.

    A length past what anything can hold becomes None. Raises `TypeError`, `InvalidRangeError`.
    """
    if (
        type(offset) is int
        and type(length) is int
        and 0 <= offset < _LARGEST
        and 0 <= length < _LARGEST - offset
    ):  # as almost always, and told quickly
        return offset, length
    start = _bytes(operation, subject, offset, "offset")
    if start > _LARGEST:
        raise InvalidRangeError(
            f"{operation} {subject!r}: offset: expected less than 2**63, got {_shown(start)}"
        )
    if length is None:
        return start, None
    size = _bytes(operation, subject, length, "length")
    return start, size if start + size <= _LARGEST else None


def suffix(operation: str, subject: str, value: int | None, offset: int) -> int | None:
    """Check the length of a suffix of `subject`, which excludes an `offset`.

    Raises `TypeError`, `InvalidRangeError`, and `ValueError` where there is an offset as well.
    """
    if value is None:
        return None
    size = _bytes(operation, subject, value, "suffix")
    if offset != 0:
        raise ValueError(f"{operation} {subject!r}: suffix: expected no offset with it")
    return min(size, _LARGEST // 2)  # pages are added to it


def etag(operation: str, value: str | None, name: str) -> str | None:
    """Check an ETag as `BlockInfo` has it. Raises `TypeError`, `ValueError`."""
    if value is None:
        return None
    found = text(operation, value, name)
    if not _ETAG.fullmatch(found):
        raise ValueError(
            f"{operation}: {name}: expected an ETag as BlockInfo.etag has it, without quotes, "
            f"got {_shown(found)}"
        )
    return found


def conditions(
    operation: str, subject: str, if_absent: bool, if_match: str | None
) -> tuple[bool, str | None]:
    """Check the conditions of a write of `subject`. Raises `TypeError`, `ValueError` for both."""
    absent = flag(operation, if_absent, "if_absent")
    match = etag(operation, if_match, "if_match")
    if absent and match is not None:
        raise ValueError(f"{operation} {subject!r}: if_match: expected no if_absent with it")
    return absent, match


def part_size(operation: str, value: int) -> int:
    """Check the part size of an upload in bytes. Raises `TypeError`, `ValueError`."""
    return _part_size(operation, value, MIN_PART_SIZE)


def read_part_size(operation: str, value: int) -> int:
    """Check the part size of a download in bytes. Raises `TypeError`, `ValueError`."""
    return _part_size(operation, value, MIN_READ_PART)


def _part_size(operation: str, value: int, least: int) -> int:
    size = whole(operation, value, "part_size")
    if not least <= size <= MAX_BLOCK_SIZE:
        raise ValueError(
            f"{operation}: part_size: expected {least} to {MAX_BLOCK_SIZE} bytes, "
            f"got {_shown(size)}"
        )
    return size


def ranges(
    operation: str, values: Iterable[tuple[str, int, int | None]]
) -> list[tuple[str, int, int | None]]:
    """Check several `(key, offset, length)`. Raises what `key` and `span` do."""
    several = list(_iterable(operation, values, "ranges", "(key, offset, length)"))
    return [_range(operation, place, value) for place, value in enumerate(several)]


def blocks(
    operation: str, values: Iterable[tuple[str, Buffer]]
) -> Iterable[tuple[str, bytes | memoryview]]:
    """Check several `(key, data)`: at once where they are in memory, else as they are drawn."""
    if isinstance(values, _IN_MEMORY):
        return [_block(operation, place, value) for place, value in enumerate(values)]
    return _checked_blocks(operation, _iterable(operation, values, "blocks", "(key, data)"))


def _checked_blocks(
    operation: str, values: Iterable[tuple[str, Buffer]]
) -> Generator[tuple[str, bytes | memoryview]]:
    """A generator of the caller's is closed where this one is left early."""
    iterator = iter(values)
    try:
        for place, value in enumerate(iterator):
            yield _block(operation, place, value)
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def data(operation: str, subject: str, value: Buffer) -> bytes | memoryview:
    """Check the data of a block: flat, not copied. Raises `TypeError`, `BlockTooLargeError`."""
    block = value if type(value) is bytes else flat(operation, value, "data")
    if len(block) > MAX_BLOCK_SIZE:
        raise BlockTooLargeError(
            f"{operation} {subject!r}: {len(block)} bytes, the limit is {MAX_BLOCK_SIZE}"
        )
    return block


def writable(operation: str, value: Buffer) -> memoryview:
    """Check a buffer to read into: flat bytes. Raises `TypeError`."""
    view = flat(operation, value, "buffer")
    if memoryview(value).readonly:
        raise TypeError(f"{operation}: buffer: expected a writable buffer, got a read-only one")
    return view


def flat(operation: str, value: Buffer, name: str) -> memoryview:
    """View a contiguous buffer of any item type as flat bytes, not copied.

    Raises `TypeError`, and `ValueError` for memory that was released.
    """
    what = f"{operation}: {name}"
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(f"{what}: expected bytes or another buffer, got {_type(value)}") from None
    except ValueError as error:  # a view that was released, a map that was closed
        raise ValueError(f"{what}: expected a buffer that can be used: {error}") from None
    if not view.c_contiguous:
        raise TypeError(
            f"{what}: expected a buffer that is contiguous in C's order, such as the copy that "
            "bytes() or numpy.ascontiguousarray() makes"
        )
    if "O" in _FIELD_NAMES.sub("", view.format):
        raise TypeError(f"{what}: expected a buffer of bytes, got one of Python objects")
    if not view.nbytes:
        return memoryview(bytearray())
    return view.cast("B")


def is_buffer(value: object) -> bool:
    """Whether `value` supports the buffer protocol, contiguous or not."""
    try:
        _ = memoryview(cast("Buffer", value))
    except TypeError:
        return False
    except ValueError:  # released; `flat` says so
        return True
    return True


def flag(operation: str, value: bool, name: str) -> bool:
    """Check a bool. Raises `TypeError` for everything else: the text "no" would be true."""
    if value is True or value is False:
        return value
    raise TypeError(f"{operation}: {name}: expected True or False, got {_shown(value)}")


def whole(operation: str, value: int, name: str) -> int:
    """Check an integer. Raises `TypeError`."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, bool):
            return index(value)
    except TypeError:
        pass  # it has no __index__, or is an array of several
    raise TypeError(f"{operation}: {name}: expected a whole number, got {_shown(value)}")


def concurrency(operation: str, value: int) -> int:
    """Check a number of requests, 1 to `MAX_CONCURRENCY`. Raises `TypeError`, `ValueError`."""
    number = whole(operation, value, "concurrency")
    if not 1 <= number <= MAX_CONCURRENCY:
        raise ValueError(
            f"{operation}: concurrency: expected a whole number from 1 to {MAX_CONCURRENCY}, "
            f"got {_shown(number)}"
        )
    return number


def deadline(value: float | Same | None, default: float | None) -> float | None:
    """Check a deadline; `SAME` gives `default`. Raises `TypeError`, `ValueError`."""
    return default if value is SAME else seconds("with_options", "deadline", value)


def seconds(operation: str, name: str, value: float | None) -> float | None:
    """Check a limit in seconds, more than 0 and up to `MAX_SECONDS`; or None.

    Raises `TypeError`, `ValueError`.
    """
    if value is None:
        return None
    limit = _number(value)
    if limit is None:
        raise TypeError(f"{operation}: {name}: expected a number of seconds, got {_shown(value)}")
    if not 0 < limit <= MAX_SECONDS:  # nan is neither
        raise ValueError(
            f"{operation}: {name}: expected seconds, more than 0 and up to a week, "
            f"got {_shown(value)}"
        )
    return limit


def _one_of(operation: str, name: str, value: str, words: tuple[str, ...], expected: str) -> str:
    """Check a text that has to be one of `words`. Raises `TypeError`, `ValueError`."""
    found = text(operation, value, name)
    if found not in words:
        raise ValueError(f"{operation}: {name}: expected {expected}, got {_shown(found)}")
    return found


def cache_use(value: CacheUse | Same, default: CacheUse) -> CacheUse:
    """Check how reads use a cache; `SAME` gives `default`. Raises `TypeError`, `ValueError`."""
    if value is SAME:
        return default
    found = _one_of("with_options", "cache", value, get_args(CacheUse), "use, bypass or refresh")
    return cast("CacheUse", found)


def cache_memory(operation: str, value: int | None) -> int:
    """Bytes of a cache in memory, 0 for None. Raises `TypeError`, `ValueError`."""
    size = 0 if value is None else whole(operation, value, "memory")
    if size < 0:
        raise ValueError(f"{operation}: memory: expected bytes, from 0, got {_shown(size)}")
    return size


def cache_age(operation: str, value: float | str) -> float:
    """Seconds that a cache asks nobody, from "never" and "always" too. Raises as the others do."""
    if isinstance(value, str) and value in {"never", "always"}:
        return math.inf if value == "never" else 0.0
    age = _number(value)
    if age is None:
        expected = "never, always or a number of seconds"
        raise TypeError(f"{operation}: revalidate: expected {expected}, got {_shown(value)}")
    if not 0 <= age <= MAX_SECONDS:  # nan is neither
        raise ValueError(
            f"{operation}: revalidate: expected seconds, from 0 to a week, got {_shown(value)}"
        )
    return age


def lifetime(operation: str, value: Lifetime) -> Lifetime:
    """Check the lifetime of a block for caches. Raises `TypeError`, `ValueError`."""
    expected = "default, immutable or mutable"
    return cast("Lifetime", _one_of(operation, "lifetime", value, get_args(Lifetime), expected))


def presigned(operation: str, method: Method, expires: float) -> tuple[Method, int]:
    """Check method and expiry of a presigned request. Raises `TypeError`, `ValueError`."""
    methods = get_args(Method)
    method = cast("Method", _one_of(operation, "method", method, methods, ", ".join(methods)))
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise unsuitable(operation, "expires", "a number of seconds", expires)
    if not 1 <= expires <= MAX_SECONDS:  # nan is neither
        raise ValueError(
            f"{operation}: expires: expected 1 to {MAX_SECONDS} seconds, got {_shown(expires)}"
        )
    return method, int(expires)


def put_options(operation: str, value: PutOptions | None) -> PutOptions | None:
    """Check options of a write, or None. Raises `TypeError`."""
    if value is None or isinstance(value, PutOptions):
        return value
    raise unsuitable(operation, "options", "PutOptions", value)


def progress(operation: str, value: Called | None) -> Called | None:
    """Check a progress callback, or None. Raises `TypeError`."""
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"{operation}: progress: expected a function, got {_shown(value)}")
    if iscoroutinefunction(value) or iscoroutinefunction(type(value).__call__):
        raise TypeError(
            f"{operation}: progress: expected a function, got a coroutine function, "
            "which nobody would await"
        )
    return value


def path(operation: str, value: str | os.PathLike[str], name: str) -> str:
    """Check the path of a file; return it as text. Raises `ValueError` when no file can have it.

    Only what the system can't be asked about: NUL, and text that can't be encoded.
    """
    what = f"{operation}: {name}"
    text = os.fsdecode(value)
    try:
        written = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: {text!r} can't be written as a path: {error.reason}") from None
    if b"\0" in written:
        raise ValueError(f"{what}: expected a path without NUL, got {text!r}")
    return text


def unsuitable(operation: str, name: str, expected: str, value: object) -> TypeError:
    """The `TypeError` for a value of a wrong type."""
    return TypeError(f"{operation}: {name}: expected {expected}, got {_type(value)}")


def text(operation: str, value: str, name: str) -> str:
    """Check a text. Raises `TypeError`."""
    if isinstance(value, str):
        return str.__str__(value)  # of an enum's member, too, its text and not its name
    raise unsuitable(operation, name, "str", value)


def _number(value: object) -> float | None:
    """`value` as a float, infinite where it is too large for one; None when it is not a number."""
    if isinstance(value, str | bytes | bytearray | bool):  # which `float` takes
        return None
    try:
        return float(cast("float", value))
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _bytes(operation: str, subject: str, value: int, name: str) -> int:
    number = whole(f"{operation} {subject!r}", value, name)
    if number < 0:
        raise InvalidRangeError(
            f"{operation} {subject!r}: {name}: expected a whole number from 0, got {_shown(number)}"
        )
    return number


def _range(operation: str, place: int, value: object) -> tuple[str, int, int | None]:
    items = cast("tuple[object, ...]", value)
    if type(items) is tuple and len(items) == 3:  # as almost always, and told quickly
        found, start, size = items
        if (
            type(found) is str
            and _PLAIN(found)
            and type(start) is int
            and type(size) is int
            and 0 <= start < _LARGEST
            and 0 <= size < _LARGEST - start
        ):
            return found, start, size
    given = _items(operation, _RANGE, place, value)
    found, start, size = cast("tuple[str, int, int | None]", given)
    found = key(operation, found, f"ranges[{place}]: key")
    return found, *span(operation, found, start, size)


def _block(operation: str, place: int, value: object) -> tuple[str, bytes | memoryview]:
    pair = _items(operation, _BLOCK, place, value)
    found, given = cast("tuple[str, Buffer]", pair)
    if not (type(found) is str and _PLAIN(found)):
        found = key(operation, found, f"blocks[{place}]: key")
    if type(given) is not bytes:
        given = flat(f"{operation} {found!r}", given, f"blocks[{place}]: data")
    return found, data(operation, found, given)


def _items(operation: str, form: tuple[str, str, int], place: int, value: object) -> object:
    """Check a tuple or list of that form: parameter, items in words, their number."""
    name, expected, count = form
    if not isinstance(value, tuple | list):
        raise unsuitable(operation, f"{name}[{place}]", expected, value)
    given = cast("tuple[object, ...] | list[object]", value)
    if len(given) != count:
        raise ValueError(
            f"{operation}: {name}[{place}]: expected {expected}, got {len(given)} items"
        )
    return given


def _iterable(operation: str, values: Iterable[Item], name: str, item: str) -> Iterable[Item]:
    """Check an iterable; a single text or buffer, or a mapping, is refused as a likely mistake."""
    what = f"{operation}: {name}: expected several {item}"
    if isinstance(values, str | bytes | bytearray | memoryview):
        raise TypeError(f"{what}, got one {_type(values)}")
    if isinstance(values, Mapping):
        raise TypeError(f"{what}, got a mapping: pass its keys() or items()")
    if not isinstance(values, Iterable) and not hasattr(type(values), "__getitem__"):
        raise TypeError(f"{what}, got {_type(values)}")
    return values


def _shown(value: object) -> str:
    """`value` for an error message, short."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int) and value.bit_length() <= 64:
        return repr(int(value))
    if isinstance(value, str) and len(value) <= 40:
        return repr(value)
    return f"a value of type {_type(value)}"


def _type(value: object) -> str:
    """The name of the type of `value`; with its module, since numpy has a `bool` of its own."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
