"""What S3 services may lack, and what a store does then: one table.

`SERVICES` says it of the servers that blockyard is tested on. A conformance class takes its
`lacks` from here, or declares those of a service of your own; the suite then holds the store to
what `WITHOUT` says. docs/services.md shows both tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum


class Capability(Enum):
    """Something that S3 does and a service that speaks its protocol may not."""

    CONDITIONAL_WRITES = "a conditional write (`If-None-Match: *`)"
    MATCHING_WRITES = "a write in place of one version (`If-Match`)"
    MATCHING_DELETES = "a delete of one version (`If-Match`)"
    CONDITIONAL_UPLOADS = "an upload in parts where nothing is (`If-None-Match: *` at its end)"
    MATCHING_UPLOADS = "an upload in parts in place of one version (`If-Match` at its end)"
    PARTIAL_CONTENT = "status 206 for a range"
    UPLOAD_CHECKSUMS = "verifies the checksum of an upload (`x-amz-checksum-crc32c`)"
    ATOMIC_REPLACEMENT = "readers of a block that is replaced get the old one or the new"
    NESTED_KEYS = "a key beside keys below it (`a` and `a/b`)"
    ODD_PATHS = "keys that are no paths (`a//b`, `..`, `a/`, a part of over 255 bytes)"
    SLASHES_ALONE = "a key of nothing but slashes"


WITHOUT: Mapping[Capability, str] = {
    Capability.CONDITIONAL_WRITES: "`if_absent=True` raises `UnsupportedError`",
    Capability.MATCHING_WRITES: "a write with `if_match` raises `UnsupportedError`",
    Capability.MATCHING_DELETES: "a delete with `if_match` raises `UnsupportedError`",
    Capability.CONDITIONAL_UPLOADS: (
        "`write_object` of more than one part with `if_absent=True` raises `UnsupportedError`"
    ),
    Capability.MATCHING_UPLOADS: "and so it does with `if_match`",
    Capability.PARTIAL_CONTENT: "a 200 is verified against its `Content-Range`: every read works",
    Capability.UPLOAD_CHECKSUMS: "damage on the way there is found when the block is read",
    Capability.ATOMIC_REPLACEMENT: (
        "such a read may raise a typed error or, where the service has lost the block's metadata "
        "meanwhile and so its checksums, give a part of the block, or of two: do not replace "
        "blocks there"
    ),
    Capability.NESTED_KEYS: (
        "the second of the two is refused with a typed error; the service may have lost the first"
    ),
    Capability.ODD_PATHS: (
        "such a key is refused with a typed error; the service may take `a/` for `a`"
    ),
    Capability.SLASHES_ALONE: "such a key is refused with a typed error",
}
"""What a store does where a service lacks it."""

SERVICES: Mapping[str, frozenset[Capability]] = {
    "moto 5": frozenset({Capability.UPLOAD_CHECKSUMS, Capability.MATCHING_UPLOADS}),
    "LocalStack 4.13": frozenset({Capability.SLASHES_ALONE, Capability.MATCHING_DELETES}),
    "MiniStack 1.5": frozenset(),
    "rclone 1.75": frozenset(Capability),
    "Ceph 16.2": frozenset(
        {
            Capability.UPLOAD_CHECKSUMS,
            Capability.MATCHING_DELETES,
            Capability.CONDITIONAL_UPLOADS,
            Capability.MATCHING_UPLOADS,
        }
    ),
}
"""What the servers lack that CI runs the conformance suite on."""

_LONGEST_PART = 255
"""Bytes of a file's name: NAME_MAX of Linux's file systems."""


def is_held(key: str, lacks: Collection[Capability]) -> bool:
    """Whether a service without these capabilities has a place for `key`."""
    parts = key.split("/")
    if Capability.SLASHES_ALONE in lacks and not any(parts):
        return False
    return Capability.ODD_PATHS not in lacks or all(
        part not in {"", ".", ".."} and len(part.encode()) <= _LONGEST_PART for part in parts
    )


def held_together(keys: Iterable[str], lacks: Collection[Capability]) -> list[str]:
    """Those of `keys` that a service without these capabilities can hold at the same time."""
    held = [key for key in keys if is_held(key, lacks)]
    if Capability.NESTED_KEYS in lacks:
        folders = {key[:at] for key in held for at, character in enumerate(key) if character == "/"}
        held = [key for key in held if key not in folders]
    return held
