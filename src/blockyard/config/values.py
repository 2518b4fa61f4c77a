"""What single values may be: readers, which convert, and checks of what was read.

A reader raises anything, and none of it is told. A check returns the value as it will be used, or
raises a `ValueError` that says what is wrong with it, never what it is: it may be a secret, and
whoever reports it knows.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from blockyard.config.showing import shown
from blockyard.model import parse_size
from blockyard.put_options import HEADER, STORAGE_CLASS, WrongOptionError, check_option
from blockyard.s3.endpoints import parse_location
from blockyard.user_code import pass_on_foreign

Reader = Callable[[Any], Any]

_FLAGS = dict.fromkeys(["true", "t", "yes", "y", "on", "1"], True) | dict.fromkeys(
    ["false", "f", "no", "n", "off", "0"], False
)
_ONE_WORD = re.compile(r"[!-~]*")
_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""The name of a certificate in a folder, by the hash of its subject: openssl-rehash(1)."""
_AWS_ID = re.compile(r"A[KS]IA[A-Z0-9]{16}")


class EntryError(ValueError):
    """Which entry of a mapping is wrong, and how: it quotes nothing that may be a secret."""


def instance_of(kind: type) -> Reader:
    """What is a `kind` already."""

    def read(value: object) -> object:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return read


text = instance_of(str)


def path_text(value: Any) -> str:
    """The text of a path."""
    return text(os.fspath(value))


def one_of(*words: str) -> Reader:
    """One of `words`."""
    return lambda value: words[words.index(value)]


def either(first: Reader, second: Reader) -> Reader:
    """What `first` makes of it, or else `second`."""

    def read(value: object) -> object:
        try:
            return first(value)
        except (LookupError, TypeError, ValueError):
            return second(value)

    return read


def flag(value: object) -> bool:
    """True, false, and the words and numbers that mean them."""
    return _FLAGS[str(value).lower() if isinstance(value, bool | int | str) else ""]


def number(value: Any) -> float:
    """Numbers of all libraries, and text of ASCII; but never True, which is a flag, nor b"3"."""
    if isinstance(value, bool | bytes | bytearray | memoryview):
        raise TypeError
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # which `float` takes
        raise ValueError
    return float(value)


def whole(value: Any) -> int:
    """`number`, but only whole numbers."""
    found = number(value)
    if not found.is_integer():
        raise ValueError
    return int(found)


def size(value: Any) -> int:
    """Bytes, as a number or as text such as 64MiB."""
    return parse_size(value) if isinstance(value, str) else whole(value)


def texts(value: object) -> dict[str, str]:
    """Texts by their names: a mapping, or the text of a JSON object."""
    if isinstance(value, str):
        import json  # noqa: PLC0415 - few need it

        try:
            value = json.loads(value)
        except RecursionError:
            raise ValueError from None
    found = dict(cast("Mapping[str, str]", instance_of(Mapping)(value)))
    for name, value in found.items():
        if not isinstance(name, str):
            raise EntryError(f"expected a text for each name, got {type(name).__name__}")
        if not isinstance(value, str):
            raise EntryError(f"{shown(name)}: expected a text, got {type(value).__name__}")
    return found


def within(low: float, high: float, read: Reader) -> Reader:
    """What `read` makes, from `low` to `high`."""

    def bounded(value: object) -> object:
        found = read(value)
        if not low <= found <= high:  # NaN is neither
            raise ValueError
        return found

    return bounded


def one_line(text: str) -> str:
    """Refuse CR, LF and NUL: no setting may end a header, a log line or a file name early."""
    if any(character in text for character in "\r\n\0"):
        raise ValueError("CR, LF and NUL are not allowed")
    return text


def token(text: str) -> str:
    """Refuse what can't stand in a header as one word: an access key, a session token."""
    _refuse_masked(text)
    if not _ONE_WORD.fullmatch(text):
        raise ValueError("only printable ASCII without spaces is allowed")
    return text


def customer_key(text: str) -> str:
    """The base64 of 32 bytes."""
    _refuse_masked(text)
    try:
        size = len(b64decode(text, validate=True))
    except ValueError:
        size = -1
    if text and size != 32:
        raise ValueError("it is not the base64 of 32 bytes")
    return text


def matching(pattern: re.Pattern[str], problem: str) -> Callable[[str], str]:
    """A check of text, which may be empty; `problem` says what is wrong where it does not match."""

    def check(text: str) -> str:
        if text and not pattern.fullmatch(text):
            raise ValueError(problem)
        return text

    return check


owner = matching(re.compile(r"[0-9]{12}"), "an account's id has 12 digits")
storage_class = matching(STORAGE_CLASS, "its name has capital letters, digits and _")
header = matching(HEADER, "it has to be printable ASCII, without blanks at its ends")


def put_option(name: str) -> Callable[[Any], Any]:
    """A check of what the field `name` of `PutOptions` may hold as well."""

    def check(value: object) -> object:
        try:
            check_option(name, value)
        except WrongOptionError as error:
            where = f"{shown(error.entry)}: " if error.entry else ""
            raise ValueError(f"{where}expected {error.expected}") from None
        return value

    return check


def access_key(text: str) -> str:
    """`token`, without the characters that end the key in the Authorization header."""
    if any(character in text for character in "/,="):
        raise ValueError("'/', ',' and '=' are not allowed; a secret key may have them")
    return token(text)


def swapped(access_key: str, secret_key: str) -> bool:
    """Whether one of AWS's access key ids stands where its secret belongs, and not where it does.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    """
    return bool(_AWS_ID.fullmatch(secret_key)) and not _AWS_ID.fullmatch(access_key)


def secret_key(text: str) -> str:
    """Refuse the space or line end that a careless copy leaves at either end."""
    _refuse_masked(text)
    if text != text.strip():
        raise ValueError("it begins or ends with white space")
    try:
        _ = text.encode(errors="surrogateescape")  # a variable may hold bytes that are no UTF-8
    except UnicodeEncodeError:
        raise ValueError("it is not valid unicode") from None
    return one_line(text)


def _refuse_masked(text: str) -> None:
    """Refuse what a secret is dumped as, when a configuration is written to JSON or printed."""
    if text and not text.strip("*"):
        raise ValueError("only asterisks: it was dumped without the secret, which has to be given")


def proxy(text: str) -> str:
    """`http://[USER:PASSWORD@]HOST[:PORT]`: a proxy is reached in the clear and asked to tunnel."""
    if text == "":
        return ""
    scheme, _, location = text.partition("://")
    if scheme.lower() != "http":
        raise ValueError("the scheme is not http")
    user, _, place = location.rpartition("@")
    if any(character in user for character in "/?#"):
        raise ValueError("'/', '?' and '#' have to be percent-encoded in USER and PASSWORD")
    _ = parse_location(place.removesuffix("/"))
    return text


def readable_file(text: str) -> str:
    """The absolute path of a file that can be read; `~` is the home folder, "" stays ""."""
    if text == "":
        return ""
    path = _absolute(text)
    if not os.path.isfile(path):
        raise ValueError("there is no such file")
    if not os.access(path, os.R_OK):
        raise ValueError("the file can't be read")
    return path


def certificates(text: str) -> str:
    """As `readable_file`; or a folder of certificates, as c_rehash names them."""
    path = _absolute(text) if text else ""
    if not os.path.isdir(path):
        return readable_file(text)
    try:
        names = os.listdir(path)
    except OSError as error:
        pass_on_foreign(error)
        raise ValueError("the folder can't be read") from None
    if not any(map(_CERTIFICATE.fullmatch, names)):
        raise ValueError("there is no such file, and no certificate in the folder: see c_rehash")
    return path


def folder(text: str) -> Path:
    """The absolute path of a folder, which need not exist yet; `~` is the home folder."""
    if text == "":
        raise ValueError("an empty path names no folder")
    return Path(_absolute(one_line(text)))


def _absolute(text: str) -> str:
    path = os.path.expanduser(text)
    if path.startswith("~"):  # it would be a folder of that very name
        raise ValueError("there is no such home folder; a name that begins with ~ is ./~")
    try:
        path = os.path.abspath(path)
        _ = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"it can't be written as a path: {error.reason}") from None
    except OSError as error:
        pass_on_foreign(error)
        raise ValueError("the working folder is gone: only an absolute path will do") from None
    return path
