"""What a writer says of a content, checked before anything of it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from blockyard import arguments
from blockyard.content.manifest import (
    BLOCKS_PER_CHUNK,
    METADATA_LIMIT,
    MOST_BLOCKS_PER_CHUNK,
    Manifest,
)
from blockyard.model import KIB, MAX_BLOCK_SIZE
from blockyard.put_options import HEADER, PutOptions

CONTENT_TYPE_LIMIT = KIB
"""The most characters of a `content_type`."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """See `BlockStore.write_content`."""

    if_absent: bool = False
    if_match: str | None = None
    block_size: int | None = None
    chunk_blocks: int | None = None
    content_type: str = ""
    modified: datetime | None = None
    metadata: Mapping[str, str] | None = None
    stored: PutOptions | None = None

    @property
    def conditional(self) -> bool:
        """Whether it depends on the version that is there now."""
        return self.if_absent or self.if_match is not None

    def described(self, operation: str, block_size: int) -> Manifest:
        """The manifest as far as the writer says what is in it.

        `block_size` is that of the store, where the writer names none. Raises `TypeError`,
        `ValueError`.
        """
        size = block_size if self.block_size is None else self.block_size
        chunk = BLOCKS_PER_CHUNK if self.chunk_blocks is None else self.chunk_blocks
        return Manifest(
            "",
            block_size=_from_1(operation, "block_size", size, MAX_BLOCK_SIZE),
            chunk_blocks=_from_1(operation, "chunk_blocks", chunk, MOST_BLOCKS_PER_CHUNK),
            content_type=_content_type(operation, self.content_type),
            modified=_seconds(operation, self.modified),
            metadata=_metadata(operation, self.metadata),
        )


def _from_1(operation: str, name: str, given: int, most: int) -> int:
    value = arguments.whole(operation, given, name)
    if not 1 <= value <= most:
        raise ValueError(f"{operation}: {name}: expected 1 to {most}")
    return value


def _content_type(operation: str, given: str) -> str:
    """A media type as a header can have it, or nothing. Raises `TypeError`, `ValueError`."""
    value = arguments.text(operation, given, "content_type")
    if len(value) > CONTENT_TYPE_LIMIT:
        raise ValueError(
            f"{operation}: content_type: {len(value)} characters, the limit is {CONTENT_TYPE_LIMIT}"
        )
    if value and not HEADER.fullmatch(value):
        raise ValueError(
            f"{operation}: content_type: expected printable ASCII without blanks at its ends, "
            f"got {value[:60]!r}"
        )
    return value


def _seconds(operation: str, modified: datetime | None) -> float | None:
    """A time in seconds since the epoch. Raises `TypeError`, `ValueError`."""
    if modified is None:
        return None
    if not isinstance(modified, datetime):
        raise arguments.unsuitable(operation, "modified", "a datetime", modified)
    if modified.tzinfo is None:
        raise ValueError(f"{operation}: modified: expected a datetime with a time zone")
    try:
        seconds = modified.timestamp()
        _ = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{operation}: modified: expected a time in the years 1 to 9999 in UTC, got {modified}"
        ) from None
    return seconds


def _metadata(operation: str, metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """Names and values of the writer's own. Raises `TypeError`, `ValueError`."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise arguments.unsuitable(operation, "metadata", "a mapping of texts", metadata)
    known = {
        arguments.text(operation, name, "metadata"): arguments.text(operation, value, "metadata")
        for name, value in metadata.items()
    }
    size = len(json.dumps(known).encode())
    if size > METADATA_LIMIT:
        raise ValueError(
            f"{operation}: metadata: {size} bytes of JSON, the limit is {METADATA_LIMIT}"
        )
    return known
