"""`python -m bench.staged [FOLDER [KIB ...]]`: what a write in write-back mode takes.

The least that a write can do which is acknowledged once it is safe: write a file, fsync it, rename
it, fsync its folder. That is done below FOLDER (the present one unless it is given) in turns with
`write_block` of a store in write-back mode, of 16 KiB and 4 MiB unless sizes are given, by one
writer and by 32 threads, while what was staged is uploaded to a store in memory, and while it is
not. Ratios are of rounds; the plain files a second time (`again`) show the noise.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from blockyard import BlockStore
from blockyard.cache.disk import DiskCache
from blockyard.cache.folder import Folder
from blockyard.cache.store import CacheStore
from blockyard.cache.write_back import WriteBackStore
from blockyard.client import Stack
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.errors import TransportError
from blockyard.opening import blocking_client
from blockyard.operations import Operations
from blockyard.stores.memory import MemoryStore
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.connections import Connections

KIB = 1024
MIB = 1024 * KIB
_ROUNDS = 9
_SECONDS = 0.4
_WRITERS = 32
_KEYS = 64
Write = Callable[[bytes], object]


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else "."
    sizes = [int(each) * KIB for each in sys.argv[2:]]
    with tempfile.TemporaryDirectory(dir=given) as folder:
        for size in sizes or (16 * KIB, 4 * MIB):
            for writers in (1, _WRITERS):
                for uploading in (False, True):
                    _compare(Path(folder), os.urandom(size), writers, uploading)


def _compare(folder: Path, data: bytes, writers: int, uploading: bool) -> None:
    with _store(folder / "cache", uploading) as store:
        plain, key = _plain(folder), count()

        def staged(block: bytes) -> object:
            return store.write_block(f"k{next(key) % _KEYS}", block)

        works = {"again": plain, "blockyard": staged}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ("plain", *works)}
        for _ in range(_ROUNDS):
            for name, write in {"plain": plain, **works}.items():
                taken[name].append(_timed(write, data, writers))
    how = "uploading" if uploading else "not uploading"
    _say(f"{len(data) // KIB} KiB, {writers} at once, {how}", taken)


def _timed(write: Write, data: bytes, writers: int) -> tuple[float, float]:
    """Seconds and CPU seconds that a write takes, of so many threads together."""
    done = list[int]()
    began, cpu = time.perf_counter(), time.process_time()

    def work() -> None:
        ends, times = time.perf_counter() + _SECONDS, 0
        while time.perf_counter() < ends:
            _ = write(data)
            times += 1
        done.append(times)

    if writers == 1:
        work()
    else:
        threads = [threading.Thread(target=work) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return took / sum(done), used / sum(done)


def _plain(folder: Path) -> Write:
    """The plain files."""
    root, number = folder / "plain", count()
    root.mkdir(exist_ok=True)

    def write(data: bytes) -> None:
        mine = next(number)
        temporary, path = root / f".{mine}", root / f"k{mine % _KEYS}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _ = os.write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
        above = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(above)
        finally:
            os.close(above)

    return write


@contextmanager
def _store(folder: Path, uploading: bool) -> Iterator[BlockStore]:
    """A store in memory behind a stage; without uploads they find no thread."""
    connections = Connections(HttpConfig(), TimeoutConfig())
    runtime = BlockingRuntime(connections) if uploading else _NoThreads(connections)
    below = MemoryStore()
    cached = CacheStore(below, disk=DiskCache(folder, 64 * MIB, below.identity))
    layer = WriteBackStore(cached, Folder(folder), 4096 * MIB, runtime)
    with blocking_client(Stack(Operations(layer))) as store:
        yield store
        _ = store.drain()


class _NoThreads(BlockingRuntime):
    """Uploads nothing."""

    def start(self, call: Callable[[], object]) -> object:  # pyright: ignore
        raise TransportError("none")


def _say(what: str, taken: dict[str, list[tuple[float, float]]]) -> None:
    _ = sys.stdout.write(f"{what}\n")
    plain = taken["plain"]
    for name, samples in taken.items():
        wall = [ours[0] / its[0] for ours, its in zip(samples, plain, strict=True)]
        middle = statistics.median(each[0] for each in samples)
        cpu = statistics.median(each[1] for each in samples)
        _ = sys.stdout.write(
            f"    {name:10}{1e3 * middle:9.3f} ms{1e6 * cpu:9.0f} us of CPU   "
            f"{statistics.median(wall):5.2f}x ({min(wall):.2f} to {max(wall):.2f})\n"
        )


if __name__ == "__main__":
    main()
