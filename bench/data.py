"""The blocks that are read and written: pseudo-random bytes that any process can make again."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bench.workloads import CHUNKED, CHUNKS, LISTED, RANGED_BLOCK, SIZES

PLAIN, KEPT = "plain", "kept"
"""The buckets: objects as anyone stores them, and with blockyard's checksums beside them."""

LISTED_KEYS = sorted(  # as every listing is
    f"share/content-{n // 1000:03}/chunk-{n // 16 % 63}/block-{n:06}" for n in range(LISTED)
)

_DISTINCT = 16
_NAMES = {size: 1024 if size <= RANGED_BLOCK else 64 for size in (*SIZES, *CHUNKS)}
"""So many names a size, for `_DISTINCT` different files: more than the signatures that a client
could remember, in little memory."""
_WRITTEN = 32


def read_keys(size: int) -> list[str]:
    """The keys of the blocks of `size` bytes that are there to be read."""
    return [f"{_folder(size, n)}/block-{n:04}" for n in range(_NAMES[size])]


def written_keys(size: int) -> list[str]:
    """The keys that are written, over and over, by one contender after the other."""
    return [f"written/{size}/block-{number:02}" for number in range(_WRITTEN)]


def content(size: int, key: str) -> bytes:
    """What is stored under one of `read_keys(size)`."""
    return _content(size, int(key.rpartition("-")[2]) % _DISTINCT)


def body(size: int) -> bytes:
    """What is written to `written_keys(size)`."""
    return _content(size, 0)


def distinct_blocks() -> Iterator[tuple[str, bytes]]:
    """Each folder of blocks to be read, with what all blocks in it hold."""
    for size in (*SIZES, *CHUNKS):
        for number in range(_DISTINCT):
            yield _folder(size, number), _content(size, number)
    for size in CHUNKS:
        yield f"{array_path(size)}/c", chunk(size)


def seed_files(root: Path) -> None:
    """Put the blocks to be read into both buckets below `root`, as links to a few files.

    What will be written is there as well, empty: nginx answers 201 to a PUT that makes a file,
    which S3 never does and some clients refuse.
    """
    for size in (*SIZES, *CHUNKS):
        keys = read_keys(size)
        for bucket in (PLAIN, KEPT):
            for number, key in enumerate(keys):
                path = root / bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                if bucket == PLAIN and number < _DISTINCT:
                    _ = path.write_bytes(_content(size, number))
                else:
                    os.link(root / PLAIN / keys[number % _DISTINCT], path)
            for key in written_keys(size):
                path = root / bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    for size in CHUNKS:
        for bucket in (PLAIN, KEPT):
            folder = root / bucket / array_path(size)
            (folder / "c").mkdir(parents=True)
            for name, held in array(size).items():
                _ = (folder / name).write_bytes(held)


def array_path(size: int) -> str:
    """The Zarr array of bytes whose `CHUNKED` chunks have that size each."""
    return f"arrays/{size}"


def chunk(size: int) -> bytes:
    """What each of its chunks holds."""
    return _content(size, 0)


def array(size: int) -> dict[str, bytes]:
    """The files of the array, by their paths below `array_path(size)`.

    Version 3, and uncompressed: https://zarr-specs.readthedocs.io/en/latest/v3/core/
    """
    regular = {"name": "regular", "configuration": {"chunk_shape": [size]}}
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [CHUNKED * size],
        "data_type": "uint8",
        "chunk_grid": regular,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    chunks = {f"c/{number}": chunk(size) for number in range(CHUNKED)}
    return {"zarr.json": json.dumps(metadata).encode(), **chunks}


def _folder(size: int, number: int) -> str:
    return f"read/{size}/{number % _DISTINCT:02}"


@cache
def _content(size: int, number: int) -> bytes:
    return random.Random(f"{size}/{number}").randbytes(size)
