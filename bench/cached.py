"""`python -m bench.cached`: caches on disk beside each other, on one trace over a folder of blocks.

The trace reads blocks with a Zipf exponent of 0.9 and goes through all of them once in the middle,
whole (4 MiB) or by ranges of 16 KiB. Each cache begins empty in each round, and holds all: what is
compared is what a miss and a hit cost, not what is evicted. Of the peers only those that are
installed take part: fsspec, diskcache, zarr. Ratios are of rounds, in which all run one after the
other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

KIB = 1024
BLOCK = 4096 * KIB
RANGE = 16 * KIB
SIZE = 2048 * 1024 * KIB
Read = Callable[[str, int, int], bytes]
Opened = tuple[Read, Callable[[], object]]


def blockyard(source: Path, cache: Path) -> Opened:
    """Verified on each read; nothing in memory."""
    from blockyard import open_store

    settings: Any = {"memory": 0, "disk": {"path": cache, "size": SIZE}, "revalidate": "never"}
    blocks = source.with_name("blocks").as_uri()
    with open_store(blocks) as uncached:  # its names of files are not those of the keys
        if not uncached.list_by_prefix():
            for path in source.iterdir():
                _ = uncached.write_block(path.name, path.read_bytes())
    store = open_store(blocks, cache=settings)

    def read(key: str, offset: int, length: int) -> bytes:
        if length == BLOCK:
            return store.read_block(key)
        return store.read_block_range(key, offset, length)

    return read, store.close


def fsspec_cache(protocol: str) -> Callable[[Path, Path], Opened]:
    """One of fsspec's, which verify nothing."""

    def opened(source: Path, cache: Path) -> Opened:
        import fsspec

        system = fsspec.filesystem(protocol, target_protocol="file", cache_storage=str(cache))

        def read(key: str, offset: int, length: int) -> bytes:
            with system.open(f"{source}/{key}", "rb") as file:
                file.seek(offset)
                return file.read(length)

        return read, lambda: None

    return opened


def diskcache_cache(source: Path, cache: Path) -> Opened:
    """What is read, whole or by range, under a key of its own."""
    import diskcache

    kept = diskcache.Cache(str(cache), size_limit=SIZE)

    def read(key: str, offset: int, length: int) -> bytes:
        found = kept.get((key, offset, length))
        if found is None:
            with open(source / key, "rb") as file:
                file.seek(offset)
                found = file.read(length)
            kept.set((key, offset, length), found)
        return found

    return read, kept.close


def zarr_cache(source: Path, cache: Path) -> Opened:
    """Its stores are coroutines, run on one loop here."""
    from zarr.abc.store import RangeByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.experimental.cache_store import CacheStore
    from zarr.storage import LocalStore

    loop = asyncio.new_event_loop()
    store = CacheStore(LocalStore(source), cache_store=LocalStore(cache), max_size=SIZE)
    prototype = default_buffer_prototype()

    def read(key: str, offset: int, length: int) -> bytes:
        span = None if length == BLOCK else RangeByteRequest(offset, offset + length)
        found = loop.run_until_complete(store.get(key, prototype, span))
        return found.to_bytes()

    return read, loop.close


CACHES: dict[str, Callable[[Path, Path], Opened]] = {
    "blockyard": blockyard,
    "fsspec filecache": fsspec_cache("filecache"),
    "fsspec simplecache": fsspec_cache("simplecache"),
    "fsspec blockcache": fsspec_cache("blockcache"),
    "diskcache": diskcache_cache,
    "zarr CacheStore": zarr_cache,
}


def trace(requests: int, blocks: int, length: int) -> list[tuple[str, int, int]]:
    """Keys, offsets and lengths."""
    chance = random.Random(16)
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(blocks)))
    numbers = chance.choices(range(blocks), cum_weights=weights, k=requests)
    numbers[requests // 2 : requests // 2] = range(blocks)
    return [(f"b{n}", chance.randrange(BLOCK // length) * length, length) for n in numbers]


def run(
    opened: Opened, reads: list[tuple[str, int, int]], check: Callable[[str, int], bytes]
) -> Any:
    """Microseconds of time and of CPU for each read of the trace, and of its last half's hits."""
    read, close = opened
    for key, offset, length in reads[:3]:
        assert read(key, offset, length)[:64] == check(key, offset)
    began, cpu = time.perf_counter(), time.process_time()
    times = list[float]()
    for key, offset, length in reads:
        before = time.perf_counter()
        assert len(read(key, offset, length)) == length
        times.append(time.perf_counter() - before)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    close()
    hits = statistics.median(times[len(times) * 3 // 4 :])
    return took / len(reads) * 1e6, used / len(reads) * 1e6, hits * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--requests", type=int, default=600)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blockyard-bench-") as name:
        source = Path(name) / "source"
        source.mkdir()
        for number in range(chosen.blocks):
            (source / f"b{number}").write_bytes(os.urandom(BLOCK))

        def check(key: str, offset: int) -> bytes:
            with open(source / key, "rb") as file:
                file.seek(offset)
                return file.read(64)

        for length in (RANGE, BLOCK):
            reads = trace(chosen.requests, chosen.blocks, length)
            rounds: dict[str, list[Any]] = {}
            for number in range(chosen.rounds):
                for cache, open_cache in CACHES.items():
                    folder = Path(name) / f"cache-{length}-{number}-{cache.replace(' ', '-')}"
                    try:
                        opened = open_cache(source, folder)
                    except ImportError:
                        continue
                    rounds.setdefault(cache, []).append(run(opened, reads, check))
            show(length, rounds)


def show(length: int, rounds: dict[str, list[Any]]) -> None:
    print(
        f"\n{length // KIB} KiB: us a read of the trace, us of CPU, us a hit; blockyard is so many"
    )
    print("times as fast (medians of paired rounds): trace, CPU, hits")
    ours = rounds["blockyard"]
    for cache, results in rounds.items():
        medians = [statistics.median(result[each] for result in results) for each in range(3)]
        ratios = [
            statistics.median(its[each] / own[each] for its, own in zip(results, ours, strict=True))
            for each in range(3)
        ]
        numbers = " ".join(f"{value:9.1f}" for value in medians)
        print(f"{cache:20} {numbers}   " + " ".join(f"{ratio:7.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
