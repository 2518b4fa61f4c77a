"""What obspec's errors, ETags, ranges, attributes and sources are to blockyard."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from obspec import Attributes, ListResult, ObjectMeta, PutMode, PutResult
from obspec import exceptions as obspec_errors

from blockyard import arguments
from blockyard.buffer import Buffer
from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    InvalidKeyError,
    NotModifiedError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.managing import contextmanager
from blockyard.model import MIN_PART_SIZE, BlockInfo
from blockyard.put_options import PutOptions

_EPOCH = datetime.fromtimestamp(0, UTC)
_ERRORS: dict[type[BlockStoreError], type[obspec_errors.BaseError]] = {
    BlockNotFoundError: obspec_errors.NotFoundError,
    BlockExistsError: obspec_errors.AlreadyExistsError,
    PreconditionFailedError: obspec_errors.PreconditionError,
    NotModifiedError: obspec_errors.NotModifiedError,
    InvalidKeyError: obspec_errors.InvalidPathError,
    UnsupportedError: obspec_errors.NotSupportedError,
    AccessDeniedError: obspec_errors.PermissionDeniedError,
}
_UNAUTHENTICATED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_CONTENT = {
    "content-type": "content_type",
    "cache-control": "cache_control",
    "content-disposition": "content_disposition",
    "content-encoding": "content_encoding",
    "content-language": "content_language",
}


@contextmanager
def translated() -> Generator[None]:
    """Raise obspec's exceptions for those of blockyard that have one there."""
    try:
        yield
    except BlockStoreError as error:
        code = getattr(error, "code", "")
        found = next((known for own, known in _ERRORS.items() if isinstance(error, own)), None)
        if isinstance(error, AccessDeniedError) and code in _UNAUTHENTICATED:
            found = obspec_errors.UnauthenticatedError
        if found is None:
            raise
        raise found(str(error)) from error


def length_of(operation: str, start: int, end: int | None, length: int | None) -> int:
    """How many bytes a range has. Raises `ValueError`."""
    if (end is None) == (length is None):
        raise ValueError(f"{operation}: expected either end or length")
    size = length if end is None else end - start
    if size is None or size <= 0:
        raise ValueError(f"{operation}: expected a range of one byte or more from {start}")
    return size


def ranges_of(
    path: str, starts: Sequence[int], ends: Sequence[int] | None, lengths: Sequence[int] | None
) -> list[tuple[str, int, int | None]]:
    """Ranges of one object. Raises `ValueError`."""
    if (ends is None) == (lengths is None):
        raise ValueError("get_ranges: expected either ends or lengths")
    if ends is not None:
        pairs = zip(starts, ends, strict=True)
        return [(path, start, length_of("get_ranges", start, end, None)) for start, end in pairs]
    pairs = zip(starts, lengths or [], strict=True)
    return [(path, start, length_of("get_ranges", start, None, size)) for start, size in pairs]


def one_etag(name: str, value: str) -> str:
    """The ETag of a condition, without its quotes. Raises `NotSupportedError`."""
    etag = value.strip()
    if etag == "*" or "," in etag or etag.startswith("W/"):
        raise obspec_errors.NotSupportedError(f"get: {name}: expected one strong ETag")
    return etag.strip('"')


def meta_of(info: BlockInfo) -> ObjectMeta:
    """A block as obspec describes an object."""
    return {
        "path": info.key,
        "last_modified": info.last_modified or _EPOCH,
        "size": info.size,
        "e_tag": f'"{info.etag}"' if info.etag else None,
        "version": None,
    }


def listing_of(
    folders: Iterable[str], blocks: Iterable[BlockInfo]
) -> ListResult[Sequence[ObjectMeta]]:
    """What lies directly in a folder, as obspec has it: folders without the slash."""
    return {
        "common_prefixes": [folder.rstrip("/") for folder in folders],
        "objects": [meta_of(block) for block in blocks],
    }


def folder_of(prefix: str | None) -> str:
    """The prefix of the keys in a folder."""
    return f"{prefix.rstrip('/')}/" if prefix else ""


def how_to_put(
    attributes: Attributes | None,
    tags: dict[str, str] | None,
    mode: PutMode | None,
) -> dict[str, Any]:
    """The conditions and options of a write."""
    how: dict[str, Any] = {}
    match mode:
        case None | "overwrite":
            pass
        case "create":
            how["if_absent"] = True
        case {"e_tag": str(etag)}:
            how["if_match"] = one_etag("mode", etag)
        case _:
            raise obspec_errors.NotSupportedError("put: mode: expected create, overwrite or e_tag")
    options: dict[str, Any] = {"tags": tags} if tags else {}
    metadata: dict[str, str] = {}
    for name, value in (attributes or {}).items():
        field = _CONTENT.get(name.lower())
        if field is None:
            metadata[name.lower()] = value
        else:
            options[field] = value
    if metadata:
        options["metadata"] = metadata
    if options:
        how["options"] = PutOptions(**options)
    return how


def put_result(info: BlockInfo) -> PutResult:
    """What a write has made."""
    return {"e_tag": f'"{info.etag}"' if info.etag else None, "version": None}


def whole_if(
    file: object, use_multipart: bool | None, chunk_size: int
) -> bytes | memoryview | None:
    """All bytes of a source that is to go in one request; None for one to go in parts."""
    try:
        data = memoryview(cast("Buffer", file))
    except TypeError:
        return _whole(file) if use_multipart is False else None
    return data if use_multipart is False or data.nbytes <= chunk_size else None


def _whole(file: object) -> bytes:
    if isinstance(file, os.PathLike):
        return Path(cast("os.PathLike[str]", file)).read_bytes()
    if hasattr(file, "read"):
        return cast("IO[bytes]", file).read()
    return b"".join([bytes_of(piece) for piece in cast("Iterable[Buffer]", source_of_put(file))])


def bytes_of(piece: Buffer) -> bytes:
    """A copy of a piece, which may be used again. Raises `TypeError` for what is no buffer."""
    return bytes(arguments.flat("put", piece, "a piece of the file"))


def source_of_put(file: Any) -> Any:
    """What `write_object` takes for it. Raises `TypeError` for a text, which is no path here."""
    if isinstance(file, str | Mapping):
        expected = "a path, a buffer, a file or an iterable of buffers"
        raise arguments.unsuitable("put", "file", expected, cast("object", file))
    return file


def parts_of(chunk_size: int, max_concurrency: int) -> dict[str, int]:
    """How an object is cut: S3 takes no smaller parts."""
    return {"part_size": max(chunk_size, MIN_PART_SIZE), "concurrency": max_concurrency}


def check_overwrite(operation: str, overwrite: bool) -> None:
    """Raise `NotSupportedError` for what S3 can't do."""
    if not overwrite:
        raise obspec_errors.NotSupportedError(
            f"{operation}: overwrite: S3 has no copy that leaves an object alone"
        )
