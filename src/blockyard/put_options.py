"""What a write says of an object besides its bytes: `PutOptions`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, cast, get_args

Encryption: TypeAlias = Literal["AES256", "aws:kms", "aws:kms:dsse"]
Acl: TypeAlias = Literal[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]

RESERVED = "blockyard-"
"""What the names of blockyard's own metadata begin with."""
MOST_TAGS = 10
HEADER = re.compile(r"[!-~](?:[ -~]*[!-~])?")
STORAGE_CLASS = re.compile(r"[A-Z][A-Z0-9_]*")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """How one block is to be stored; what is left out is as the store's settings say.

    `metadata` are the caller's own names and values, of printable ASCII, the names in lower case;
    they share 2 KiB with blockyard's checksums, which take 1,500 bytes for a block of 4 MiB. `tags`
    are at most ten. `kms_key_id` and `kms_context` need an `encryption` by KMS. Raises
    `ValueError`, `TypeError` that name the field.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
    """

    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    metadata: Mapping[str, str] | None = field(default=None, hash=False)
    tags: Mapping[str, str] | None = field(default=None, hash=False)
    storage_class: str | None = None
    encryption: Encryption | None = None
    kms_key_id: str | None = None
    kms_context: Mapping[str, str] | None = field(default=None, hash=False)
    acl: Acl | None = None

    def __post_init__(self) -> None:
        for name in ("metadata", "tags", "kms_context"):
            value = getattr(self, name)
            if isinstance(value, Mapping):  # which its owner may change
                object.__setattr__(self, name, dict(cast("Mapping[str, str]", value)))
        self.check()

    def check(self) -> None:
        """Raise `ValueError`, `TypeError` for a field that is not as it has to be."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                check_option(each.name, value)
        if self.encryption == "AES256" and (self.kms_key_id or self.kms_context):
            raise WrongOptionError(
                "encryption", "aws:kms or aws:kms:dsse beside kms_key_id", self.encryption
            )

    def given(self) -> dict[str, object]:
        """The fields that are set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


_HEADER = "printable ASCII without blanks at its ends"


class WrongOptionError(ValueError):
    """A field of `PutOptions` that is not as it has to be; `expected` says how.

    Of a mapping it may be one `entry`, by its name: the name itself, or its value.
    """

    def __init__(self, name: str, expected: str, value: object, entry: str = "") -> None:
        where = f"{name}[{entry[:60]!r}]" if entry not in {"", value} else name
        super().__init__(f"PutOptions: {where}: expected {expected}, got {str(value)[:60]!r}")
        self.expected = expected
        self.entry = entry


def check_option(name: str, value: object) -> None:
    """Raise `WrongOptionError`, or `TypeError`, unless the field `name` may hold `value`."""
    _ = _CHECKS.get(name, _check_text)(name, value)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"PutOptions: {name}: expected a text, got {type(value).__name__}")
    if not HEADER.fullmatch(value):
        raise WrongOptionError(name, _HEADER, value)


def _check_storage_class(name: str, value: object) -> None:
    _check_text(name, value)
    if not STORAGE_CLASS.fullmatch(str(value)):
        raise WrongOptionError(name, "a storage class such as STANDARD_IA", value)


def _check_encryption(name: str, value: object) -> None:
    if value not in get_args(Encryption):
        raise WrongOptionError(name, "AES256, aws:kms or aws:kms:dsse", value)


def _check_acl(name: str, value: object) -> None:
    if value not in get_args(Acl):
        raise WrongOptionError(name, f"one of {', '.join(get_args(Acl))}", value)


def _pairs(name: str, value: object) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        raise TypeError(f"PutOptions: {name}: expected a mapping, got {type(value).__name__}")
    pairs = list(cast("Mapping[object, object]", value).items())
    for key, text in ((pair[0], text) for pair in pairs for text in pair):
        if not isinstance(text, str):
            where = f"{name}[{key!r}]" if isinstance(key, str) else name
            raise TypeError(f"PutOptions: {where}: expected texts, got {type(text).__name__}")
        try:
            _ = text.encode()
        except UnicodeEncodeError:
            raise WrongOptionError(name, "text that UTF-8 can hold", ascii(text)) from None
    return cast("list[tuple[str, str]]", pairs)


def _check_metadata(name: str, value: object) -> None:
    for key, text in _pairs(name, value):
        if not _NAME.fullmatch(key):
            raise WrongOptionError(name, "names of lower-case letters, digits and -._", key, key)
        if key.startswith(RESERVED):
            raise WrongOptionError(name, f"names that do not begin with {RESERVED}", key, key)
        if text and not HEADER.fullmatch(text):
            raise WrongOptionError(name, _HEADER, text, key)


def _check_tags(name: str, value: object) -> None:
    pairs = _pairs(name, value)
    if len(pairs) > MOST_TAGS:
        raise WrongOptionError(name, f"at most {MOST_TAGS} tags", len(pairs))
    for key, text in pairs:
        if not 1 <= len(key) <= 128:
            raise WrongOptionError(name, "names of 1 to 128 characters", key, key)
        if len(text) > 256:
            raise WrongOptionError(name, "values of at most 256 characters", text, key)


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "acl": _check_acl,
    "encryption": _check_encryption,
    "kms_context": _pairs,
    "metadata": _check_metadata,
    "storage_class": _check_storage_class,
    "tags": _check_tags,
}
