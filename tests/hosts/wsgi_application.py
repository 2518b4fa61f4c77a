"""A WSGI application over one store, opened and used when it is imported: before the fork.

`/KEY` reads that block many times, alone and in bulk, and tells as JSON how often it was
another one, by which process, and how many descriptors that has open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import blockyard

READS = 30
KEYS = [f"key-{number}" for number in range(8)]


def data(key: str) -> bytes:
    """What is stored under `key`."""
    return key.encode() * 400


_store = blockyard.open_store(os.environ["BLOCKYARD_TEST_STORE"])
_ = _store.write_blocks([(key, data(key)) for key in KEYS])
_ = [_store.read_block(key) for key in KEYS]


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    key = environ["PATH_INFO"].strip("/")
    if not key:  # whether the server is up
        _ = start("204 No Content", [])
        return []
    wrong = sum(_store.read_block(key) != data(key) for _ in range(READS))
    wrong += sum(block != data(key) for block in _store.read_blocks([key] * READS))
    told = {"pid": os.getpid(), "wrong": wrong, "open": len(os.listdir("/proc/self/fd"))}
    _ = start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
