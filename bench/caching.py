"""`python -m bench.caching`: what the cache costs, beside what it has to be held against.

Each row is a pair of calls, made in turns within one process; its ratio is the median of those of
the rounds, of processor time where nothing is waited for. nginx serves blocks with their writer's
checksums on loopback; the cache's folder is on a local disk, what is read of it in the page cache.
`python -m bench.cached` compares other caches.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import data, wire
from blockyard import BlockStore, CacheStore, WrapperStore, open_async_store, open_store
from blockyard.cache.disk import DiskCache
from blockyard.context import Context
from blockyard.model import KIB, MIB, Block
from blockyard.stores.base import ReadRequest, Store
from servers.endpoint import Endpoint

BLOCK, RANGE = 4 * MIB, 16 * KIB
SIZE = 2048 * MIB
PASS = 48
"""Blocks of a pass over a cold cache."""
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` against `theirs`, both done `times` to a sample; `goal` says when it holds."""

    name: str
    ours: Call
    theirs: Call
    at_most: float | None = None
    at_least: float | None = None
    times: int = 1
    after: Call = lambda: None
    clock: Callable[[], float] = time.process_time
    """Hits wait for nothing, so it is their processor time that counts."""


class Late(WrapperStore):
    """A store that answers each read 20 ms later."""

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        await ctx.sleep(0.02)
        return await self.inner.read(ctx, request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10, help="of four processes on one budget")
    parser.add_argument("--entries", type=int, default=100_000)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blockyard-bench-")))
        endpoint = stack.enter_context(wire.serve())
        bench = Bench(stack, endpoint, folder)
        for rows in (bench.memory, bench.disk, bench.passes):
            for row in rows():
                print(compared(row, chosen.rounds), flush=True)
        print(opened(folder / "large", chosen.entries), flush=True)
        print(budget(folder / "shared", chosen.seconds), flush=True)


class Bench:
    """Stores over nginx, over memory and over files, with and without caches."""

    def __init__(self, stack: ExitStack, endpoint: Endpoint, folder: Path) -> None:
        self._stack = stack
        self._endpoint = endpoint
        self._folder = folder
        self._key = data.read_keys(BLOCK)[0]
        self._ranges = [(self._key, RANGE * n, RANGE) for n in range(100)]
        self._cold: list[BlockStore] = []
        self._block = data.content(BLOCK, self._key)

    def memory(self) -> Iterator[Row]:
        """Hits in memory, against the same calls of a `memory://` store."""
        plain = self._opened("memory://")
        _ = plain.write_block(self._key, self._block)
        cached = self._cached({"memory": 256 * MIB})
        _ = cached.read_block(self._key)
        key = self._key
        yield Row(
            "memory hit, 16 KiB, to memory://",
            lambda: cached.read_block_range(key, RANGE, RANGE),
            lambda: plain.read_block_range(key, RANGE, RANGE),
            at_most=2,
            times=2000,
        )
        yield Row(
            "memory hit, whole block, to memory://",
            lambda: cached.read_block(key),
            lambda: plain.read_block(key),
            at_most=2,
            times=2000,
        )
        yield Row(
            "100 cached ranges in one call (memory), to 2.5 us each",
            lambda: cached.read_block_ranges(self._ranges),
            seconds(250e-6),
            at_most=1,
            times=50,
        )

    def disk(self) -> Iterator[Row]:
        """Hits on disk, against files, asyncio, os.pread and nginx."""
        key, cached = self._key, self._cached(self._on_disk("disk"))
        filled(cached, [key])
        files = self._opened((self._folder / "files").as_uri())
        _ = files.write_block(key, self._block)
        runner = self._stack.enter_context(asyncio.Runner())
        both = runner.run(opened_async(files))
        entry = next(
            path
            for path in (self._folder / "disk" / "blocks").glob("*/*")
            if path.stat().st_size > BLOCK
        )
        number = os.open(entry, os.O_RDONLY)
        _ = self._stack.callback(os.close, number)
        uncached = self._s3()

        async def thousand() -> None:
            for _ in range(1000):
                _ = await both.read_block_range(key, RANGE, RANGE)

        yield Row(
            "100 cached ranges in one call (disk), to 10 us each",
            lambda: cached.read_block_ranges(self._ranges),
            seconds(1e-3),
            at_most=1,
            times=10,
        )
        hit = repeated(lambda: cached.read_block_range(key, RANGE, RANGE), 1000)
        yield Row(
            "disk hit, 16 KiB, to file://",
            hit,
            repeated(lambda: files.read_block_range(key, RANGE, RANGE), 1000),
            at_most=1,
        )
        yield Row(
            "disk hit, 16 KiB, to file:// in asyncio as it is now",
            hit,
            lambda: runner.run(thousand()),
            at_most=1,
        )
        yield Row(
            "disk hit, 4 MiB, speed to os.pread of that file",
            lambda: os.pread(number, BLOCK, 4 * KIB),
            lambda: cached.read_block(key),
            at_least=0.7,
            times=20,
        )
        yield Row(
            "disk hit, 4 MiB, speed to nginx on loopback",
            lambda: uncached.read_block(key),
            lambda: cached.read_block(key),
            at_least=2,
            times=20,
            clock=time.perf_counter,
        )

    def passes(self) -> Iterator[Row]:
        """The first pass over a cold cache, against none."""
        keys = data.read_keys(BLOCK)[:PASS]
        inner = self._s3()._operations.store
        for name, source, least in (("+20 ms", Late(inner), 0.95), ("nginx", inner, 0.7)):
            number, plain = iter(range(1 << 30)), self._opened(source)
            yield Row(
                f"first pass over a cold cache, {name}, speed to none",
                partial(read_all, plain, keys),
                partial(self._read_cold, source, name, number, keys),
                at_least=least,
                after=self._close_cold,
                clock=time.perf_counter,
            )

    def _read_cold(
        self, source: Store, name: str, number: Iterator[int], keys: Sequence[str]
    ) -> None:
        """Through a cache on disk that has nothing; it is closed outside of what is timed."""
        disk = DiskCache(self._folder / f"cold {name} {next(number)}", SIZE, name)
        self._cold.append(open_store(CacheStore(source, disk=disk)))
        read_all(self._cold[-1], keys)

    def _close_cold(self) -> None:
        while self._cold:
            self._cold.pop().close()

    def _on_disk(self, name: str) -> dict[str, Any]:
        return {"memory": 0, "disk": {"path": self._folder / name, "size": SIZE}}

    def _cached(self, cache: dict[str, Any]) -> BlockStore:
        return self._s3(cache={**cache, "revalidate": "never"})

    def _s3(self, **more: Any) -> BlockStore:
        endpoint = self._endpoint
        settings: dict[str, Any] = {
            "bucket": data.KEPT,
            "endpoint": endpoint.url,
            "region": "us-east-1",
            "force_path_style": True,
            "access_key": endpoint.access_key,
            "secret_key": endpoint.secret_key,
        }
        return self._stack.enter_context(open_store(**settings, **more))

    def _opened(self, source: Any) -> BlockStore:
        return self._stack.enter_context(open_store(source))


def read_all(store: BlockStore, keys: Sequence[str]) -> None:
    for key in keys:
        assert len(store.read_block(key)) == BLOCK


async def opened_async(store: BlockStore) -> Any:
    return await open_async_store(store)


def repeated(call: Call, times: int) -> Call:
    def calls() -> None:
        for _ in range(times):
            _ = call()

    return calls


def seconds(value: float) -> Call:
    """In place of a call: what it may take."""
    return lambda: value


def filled(store: BlockStore, keys: Sequence[str]) -> None:
    """Read until all is answered from the cache."""
    for key in keys:
        while store.stats().cache.disk_hits == 0:
            _ = store.read_block(key)
            time.sleep(0.05)


def taken(row: Row, call: Call) -> float:
    before = row.clock()
    for _ in range(row.times):
        result = call()
    took = (row.clock() - before) / row.times
    _ = row.after()
    return result if isinstance(result, float) else took


def compared(row: Row, rounds: int) -> str:
    """The line of a row. Speeds are what theirs takes, over ours: see `Bench`."""
    _ = row.ours(), row.theirs()
    pairs = [(taken(row, row.ours), taken(row, row.theirs)) for _ in range(rounds)]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    if row.at_most is not None:
        met, goal = ratio <= row.at_most, f"at most {row.at_most:g}x"
    else:
        met, goal = ratio >= (row.at_least or 0), f"at least {row.at_least:g}x"
    times = f"{ours * 1e6:10,.1f} / {theirs * 1e6:10,.1f} us"
    return f"{row.name:58} {ratio:5.2f}x {goal:14} {'met' if met else 'MISSED':7} {times}"


def opened(root: Path, entries: int) -> str:
    """A store opened on a folder of many entries, and its first hit."""
    source = (root / "source").as_uri()
    cache: Any = {"memory": 0, "disk": {"path": root / "cache", "size": SIZE}}
    with open_store(source) as store:
        _ = store.write_block("k", os.urandom(RANGE))
    with open_store(source, cache=cache) as store:
        filled(store, ["k"])
    entry = next(path for path in (root / "cache" / "blocks").glob("*/*") if path.is_file())
    for number in range(entries):
        if number % 50_000 == 0:  # a file has so many names at most
            entry.with_name(f"copy{number}").write_bytes(entry.read_bytes())
            linked = entry.with_name(f"copy{number}")
        shard = root / "cache" / "blocks" / f"{number % 256:02x}"
        shard.mkdir(mode=0o700, exist_ok=True)
        os.link(linked, shard / f"{number:030x}")
    before, resident = time.perf_counter(), rss()
    with open_store(source, cache=cache) as store:
        _ = store.read_block("k")
        took, grown = time.perf_counter() - before, rss() - resident
        met = took < 0.02 and grown < 5 * MIB and store.stats().cache.disk_hits == 1
    figures = f"{took * 1e3:.1f} ms, {grown / MIB:.1f} MiB"
    name = f"opened with {entries:,} entries, and a hit"
    return f"{name:58} {figures:21} {'met' if met else 'MISSED'}   (under 20 ms and 5 MiB)"


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def budget(root: Path, length: float) -> str:
    """The most that four processes put into one folder, which holds a fifth of what they read."""
    size, count = 40 * MIB, 200
    source = (root / "source").as_uri()
    cache: Any = {"memory": 0, "disk": {"path": root / "cache", "size": size}}
    with open_store(source) as store:
        for number in range(count):
            _ = store.write_block(f"b{number}", os.urandom(MIB))
    ends = time.monotonic() + length
    with processes(4, lambda seed: read_on(source, cache, count, seed, ends)) as running:
        most = 0
        while time.monotonic() < ends - 0.1:
            time.sleep(0.02)
            with stopped(running):
                most = max(most, allocated(root / "cache"))
    ratio = most / size
    name = f"budget, 4 processes for {length:g} s, st_blocks to size"
    return f"{name:58} {ratio:5.3f}x at most 1.02x  {'met' if ratio <= 1.02 else 'MISSED'}"


def read_on(source: str, cache: Any, count: int, seed: int, ends: float) -> None:
    with open_store(source, cache=cache) as store:
        number = seed
        while time.monotonic() < ends:
            number = (number * 1103515245 + 12345) & 0x7FFFFFFF
            _ = store.read_block(f"b{(number >> 8) % count}")


@contextmanager
def processes(count: int, work: Callable[[int], None]) -> Iterator[list[int]]:
    """`work(number)` in so many forked processes, which are waited for."""
    children: list[int] = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            work(number)
            os._exit(0)
        children.append(child)
    yield children
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, "a process of the benchmark failed"


@contextmanager
def stopped(running: Sequence[int]) -> Iterator[None]:
    """What several processes change can't be counted otherwise."""
    for process in running:
        os.kill(process, signal.SIGSTOP)
    time.sleep(0.01)
    try:
        yield
    finally:
        for process in running:
            os.kill(process, signal.SIGCONT)


def allocated(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in (".", *names):
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


if __name__ == "__main__":
    main()
