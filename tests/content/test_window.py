"""Sliding windows of contents: reading ahead and what ends it, and writes without barriers."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import blockyard
from blockyard import BlockStore, DeadlineExceededError, StoreClosedError, TransportError
from blockyard.content.reading import ContentReader
from blockyard.context import Context
from blockyard.model import Block, BlockInfo
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 1024
COUNT = 24
MOVIE = b"".join(bytes([number]) * BLOCK for number in range(COUNT))
PATIENCE = 20.0


class Gate(HookedStore):
    """Counts the reads of blocks: those under way, and all that were begun; it may hold them."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.begun: list[int] = []
        self.spans: list[tuple[int, int]] = []
        """Of the content's bytes: where the reads started, and stopped."""
        self.under_way = 0
        self.most = 0
        self.cancelled = 0
        self.held = False
        self.failing: set[int] = set()
        self.slow: set[int] = set()

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if request.key.endswith(".blockyard"):
            return await self.inner.read(ctx, request)
        chunk, block = (int(part.rpartition("-")[2]) for part in request.key.split("/")[-2:])
        number = 16 * chunk + block
        self.begun.append(number)
        start = number * BLOCK + (request.offset or 0)
        self.spans.append((start, start + (request.length or BLOCK)))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            while self.held or number in self.slow:
                await ctx.runtime.sleep(0.001)
            if number in self.failing:
                raise TransportError(f"block {number}")
            return await self.inner.read(ctx, request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


@contextmanager
def gated(client: ClientName = "blocking") -> Generator[tuple[BlockStore, Gate]]:
    gate = Gate()
    with open_client(client, gate) as opened:
        shrink_blocks(opened.store, BLOCK)
        _ = opened.store.write_content("movie", MOVIE)
        yield opened.store, gate


def eventually(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - of another thread, or of tasks that tell nobody
            await asyncio.sleep(0.001)


async def rest(iterator: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in iterator])


def take(iterator: Iterator[bytes], count: int) -> bytes:
    return b"".join(next(iterator) for _ in range(count))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, nobody waits for long enough to have more read ahead."""
    monkeypatch.setattr("blockyard.content.window.GROWS_AFTER", 10 * PATIENCE)


def test_more_and_more_is_read_ahead_while_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockyard.content.window.GROWS_AFTER", 0.001)
    with gated() as (store, gate):
        gate.held = True

        def release() -> None:
            eventually(lambda: gate.under_way >= 12)
            gate.held = False

        releasing = threading.Thread(target=release)
        releasing.start()
        narrow = store.with_options(concurrency=12)
        shrink_blocks(narrow, BLOCK)
        assert next(narrow.iter_content("movie")) == MOVIE[:BLOCK]
        releasing.join()
        assert gate.most == 12


@pytest.mark.parametrize("client", CLIENTS)
def test_closing_in_the_middle_of_a_step_ends_that(client: ClientName) -> None:
    """By another thread, or task."""

    async def under_asyncio() -> None:
        gate = Gate()
        async with await blockyard.open_async_store(gate) as store:
            shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
            _ = await store.write_content("movie", MOVIE)
            gate.held = True
            file = await store.open_content("movie")
            reading = asyncio.ensure_future(file.read())
            await until(lambda: gate.under_way > 0)
            closing = asyncio.ensure_future(file.close())
            await asyncio.sleep(0.01)
            gate.held = False
            with pytest.raises(ValueError, match="closed"):
                _ = await reading
            await closing

    if client == "asyncio":
        asyncio.run(under_asyncio())
        return
    with gated() as (store, gate):
        gate.held = True
        iterator = store.iter_content("movie")

        def close() -> None:
            eventually(lambda: gate.under_way > 0)
            iterator.close()
            gate.held = False

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(ValueError, match="closed"):
            _ = list(iterator)
        closing.join()
        eventually(lambda: gate.under_way == 0)


def test_more_and_more_is_read_ahead_while_the_reader_works() -> None:
    with gated() as (store, gate):
        iterator = store.iter_content("movie")
        for taken, ahead in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 16)):
            assert next(iterator) == MOVIE[(taken - 1) * BLOCK :][:BLOCK]
            eventually(lambda: sorted(gate.begun) == list(range(taken + ahead)))  # noqa: B023
        eventually(lambda: gate.under_way == 0)
        assert b"".join(iterator) == MOVIE[5 * BLOCK :]
        assert sorted(gate.begun) == list(range(COUNT))


def test_no_more_are_under_way_than_concurrency_says() -> None:
    with gated() as (store, gate):
        for concurrency in (1, 2, 5):
            narrow = store.with_options(concurrency=concurrency)
            shrink_blocks(narrow, BLOCK)
            gate.most = 0
            assert b"".join(narrow.iter_content("movie")) == MOVIE
            assert gate.most <= concurrency


def test_each_read_begins_as_soon_as_a_block_is_taken() -> None:
    """There is no batch that all wait for: the slowest block holds up only those behind it."""
    with gated() as (store, gate):
        narrow = store.with_options(concurrency=3)
        shrink_blocks(narrow, BLOCK)
        iterator = narrow.iter_content("movie")
        assert take(iterator, 4) == MOVIE[: 4 * BLOCK]
        for taken in range(5, COUNT - 6):
            assert next(iterator) == MOVIE[(taken - 1) * BLOCK :][:BLOCK]
            eventually(lambda: sorted(gate.begun) == list(range(taken + 6)))  # noqa: B023


def test_those_behind_a_slow_block_go_on() -> None:
    """As many as there are places for again: they wait in memory."""
    with gated() as (store, gate):
        narrow = store.with_options(concurrency=3)
        shrink_blocks(narrow, BLOCK)
        iterator = narrow.iter_content("movie")
        assert take(iterator, 4) == MOVIE[: 4 * BLOCK]
        eventually(lambda: len(gate.begun) == 10)
        gate.slow = {10}
        assert take(iterator, 6) == MOVIE[4 * BLOCK : 10 * BLOCK]
        eventually(lambda: sorted(gate.begun) == list(range(16)) and gate.under_way == 1)
        gate.slow = set()
        assert b"".join(iterator) == MOVIE[10 * BLOCK :]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_target_gets_the_blocks_in_order_from_a_window(client: ClientName) -> None:
    with gated(client) as (store, gate):
        got: list[bytes] = []

        class Target:
            def write(self, data: Any) -> int:
                got.append(bytes(data))
                # all that may be on its way is, also while this is written
                eventually(lambda: len(gate.begun) >= min(COUNT, len(got) + 5))
                return len(data)

        narrow = store.with_options(concurrency=6)
        shrink_blocks(narrow, BLOCK)
        assert narrow.read_content_into("movie", Target()) == len(MOVIE)
        assert (b"".join(got), gate.most <= 6) == (MOVIE, True)
        assert (gate.under_way, gate.cancelled) == (0, 0)


def test_a_target_that_fails_leaves_nothing_under_way() -> None:
    with gated() as (store, gate):

        class Target:
            def write(self, data: Any) -> int:
                gate.held = True
                raise RuntimeError("full")

        with pytest.raises(RuntimeError, match="full"):
            _ = store.read_content_into("movie", Target())
        assert gate.under_way == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_is_raised_where_its_block_is_asked_for(client: ClientName) -> None:
    with gated(client) as (store, gate):
        gate.failing = {7}
        iterator = store.iter_content("movie")
        assert take(iterator, 7) == MOVIE[: 7 * BLOCK]
        for _ in range(3):
            with pytest.raises(TransportError, match="block 7"):
                _ = next(iterator)
        gate.failing.clear()
        assert b"".join(iterator) == MOVIE[7 * BLOCK :]
        assert gate.under_way == 0


def test_a_block_that_is_read_ahead_has_the_deadline_of_the_step_that_waits_for_it() -> None:
    with gated() as (store, gate):
        hasty = store.with_options(deadline=0.3)
        hasty._reader = ContentReader(hasty._operations, BLOCK)
        iterator = hasty.iter_content("movie")
        assert next(iterator) == MOVIE[:BLOCK]
        eventually(lambda: len(gate.begun) == 2)
        time.sleep(0.4)  # the step that began it is long over
        assert next(iterator) == MOVIE[BLOCK : 2 * BLOCK]
        gate.held = True
        with pytest.raises(DeadlineExceededError):
            _ = take(iterator, COUNT)
        eventually(lambda: gate.under_way == 0)
        gate.held = False
        assert MOVIE.endswith(b"".join(iterator))


@pytest.fixture
def small_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files begin with a quarter of a block."""
    monkeypatch.setattr("blockyard.content.files.FIRST_WINDOW", BLOCK // 4)


@pytest.mark.usefixtures("small_first")
class TestOpenFiles:
    def spans(self, gate: Gate) -> list[tuple[float, float]]:
        """What was read since the last time, in blocks."""
        eventually(lambda: gate.under_way == 0)
        spans = [(start / BLOCK, stop / BLOCK) for start, stop in sorted(gate.spans)]
        gate.spans.clear()
        return spans

    def test_reads_in_order_are_read_ahead_more_and_more(self) -> None:
        with gated() as (store, gate), store.open_content("movie") as file:
            raw = file.raw
            first = raw.read(100)
            assert self.spans(gate) == [(0, 0.25), (0.25, 0.5)]
            first += raw.read(1000)
            assert self.spans(gate) == []
            first += raw.read(1000)
            assert self.spans(gate) == [(0.5, 1), (1, 2)]
            while raw.tell() < 2 * BLOCK:
                first += raw.read(1000)
            assert self.spans(gate) == [(n, n + 1) for n in range(2, 10)]
            while raw.tell() < 3 * BLOCK:
                first += raw.read(1000)
            assert self.spans(gate) == [(n, n + 1) for n in range(10, 19)]
            assert first + file.read() == MOVIE

    def test_one_piece_after_a_seek_and_none_for_who_reads_here_and_there(self) -> None:
        with gated() as (store, gate), store.open_content("movie") as file:
            raw = file.raw
            _ = raw.read(2 * BLOCK), raw.read(2 * BLOCK)
            _ = self.spans(gate)
            places = (20, 4, 12, 9)
            for at, place in enumerate(places):
                _ = raw.seek(place * BLOCK)
                assert raw.read(10) == MOVIE[place * BLOCK :][:10]
                ahead = [] if at else [(place + 0.25, place + 0.5)]
                assert self.spans(gate) == [(place, place + 0.25), *ahead]
            assert raw.read(1024) == MOVIE[9 * BLOCK + 10 :][: BLOCK // 4 - 10]
            assert self.spans(gate) == []
            assert raw.read(1024) == MOVIE[9 * BLOCK + BLOCK // 4 : 10 * BLOCK]
            assert self.spans(gate) == [(9.25, 10), (10, 11)]

    def test_a_large_read_has_all_of_it_on_its_way(self) -> None:
        with gated() as (store, gate), store.open_content("movie") as file:
            _ = file.seek(5 * BLOCK + 10)
            gate.most = 0
            assert file.read(8 * BLOCK) == MOVIE[5 * BLOCK + 10 :][: 8 * BLOCK]
            eventually(lambda: gate.under_way == 0)
            assert {5, 6, 7, 8, 9, 10, 11, 12, 13} <= set(gate.begun)

    def test_what_was_skipped_is_not_read_twice(self) -> None:
        with gated() as (store, gate), store.open_content("movie") as file:
            raw = file.raw
            while raw.tell() < 3 * BLOCK:
                _ = raw.read(1000)
            eventually(lambda: max(gate.begun) > 7 and gate.under_way == 0)
            for place in (4 * BLOCK + 100, 4 * BLOCK + 200, 6 * BLOCK + 1, 7 * BLOCK):
                _ = raw.seek(place)
                assert raw.read(50) == MOVIE[place:][:50]
            eventually(lambda: gate.under_way == 0)
            assert len(set(gate.spans)) == len(gate.spans)

    @pytest.mark.parametrize("how", ["close", "drop", "close the store", "a read elsewhere"])
    def test_what_ends_reading_ahead(self, how: str) -> None:
        with gated() as (store, gate):
            file = store.open_content("movie")
            _ = file.read(3 * BLOCK)
            eventually(lambda: gate.under_way == 0)
            gate.held = True
            _ = file.read(1000)
            eventually(lambda: gate.under_way > 0)
            match how:
                case "close":
                    file.close()
                case "drop":
                    del file
                case "close the store":
                    store.close()
                    with pytest.raises(StoreClosedError):
                        _ = file.read()
                case _:
                    before = gate.under_way
                    timer = threading.Timer(0.1, lambda: setattr(gate, "held", False))
                    timer.start()
                    _ = file.seek(0)
                    assert file.read(10) == MOVIE[:10]
                    timer.join()
                    assert gate.cancelled == before
            eventually(lambda: gate.under_way == 0)
            assert gate.cancelled > 0

    def test_what_ends_reading_ahead_under_asyncio(self) -> None:
        async def main() -> None:
            gate = Gate()
            async with await blockyard.open_async_store(gate) as store:
                shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
                _ = await store.write_content("movie", MOVIE)
                before = asyncio.all_tasks()
                for how in ("close", "drop", "cancel"):
                    gate.held = False
                    file = await store.open_content("movie")
                    gate.begun.clear()
                    assert await file.read(3 * BLOCK) == MOVIE[: 3 * BLOCK]
                    await until(lambda: len(gate.begun) > 5 and not gate.under_way)
                    gate.held = True
                    _ = await file.read(BLOCK)
                    await until(lambda: gate.under_way > 0)
                    if how == "close":
                        await file.close()
                        assert asyncio.all_tasks() == before
                    elif how == "drop":
                        del file
                    else:
                        with pytest.raises(TimeoutError):
                            _ = await asyncio.wait_for(file.read(), 0.05)
                        assert asyncio.all_tasks() == before
                        gate.held = False
                        assert await file.read() == MOVIE[4 * BLOCK :]
                        await file.close()
                    await until(lambda: asyncio.all_tasks() == before)
                    assert gate.under_way == 0

        asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "drop", "close the store"])
def test_what_ends_reading_ahead(how: str) -> None:
    with gated() as (store, gate):
        iterator = store.iter_content("movie")
        _ = take(iterator, 3)
        eventually(lambda: gate.under_way == 0)
        gate.held = True
        _ = next(iterator)
        eventually(lambda: gate.under_way > 0)
        if how == "close":
            iterator.close()
        elif how == "drop":
            del iterator
        else:
            store.close()
            with pytest.raises(StoreClosedError):
                _ = take(iterator, COUNT)
        eventually(lambda: gate.under_way == 0)
        assert gate.cancelled > 0


def test_what_ends_reading_ahead_under_asyncio() -> None:
    async def main() -> None:
        gate = Gate()
        async with await blockyard.open_async_store(gate) as store:
            shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
            _ = await store.write_content("movie", MOVIE)
            before = asyncio.all_tasks()
            for how in ("aclose", "drop", "cancel"):
                gate.held = False
                iterator = store.iter_content("movie")
                gate.begun.clear()
                for _ in range(3):
                    _ = await anext(iterator)
                await until(lambda: len(gate.begun) > 5 and not gate.under_way)
                gate.held = True
                _ = await anext(iterator)
                await until(lambda: gate.under_way > 0)
                if how == "aclose":
                    await iterator.aclose()
                    assert asyncio.all_tasks() == before
                elif how == "drop":
                    del iterator
                else:
                    with pytest.raises(TimeoutError):
                        _ = await asyncio.wait_for(rest(iterator), 0.05)
                    assert asyncio.all_tasks() == before
                await until(lambda: asyncio.all_tasks() == before)
                assert gate.under_way == 0

    asyncio.run(main())


def test_an_iterator_goes_on_in_another_event_loop() -> None:
    gate = Gate()
    store = asyncio.run(blockyard.open_async_store(gate))
    shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
    _ = asyncio.run(store.write_content("movie", MOVIE))
    iterator = store.iter_content("movie")

    async def some() -> bytes:
        return b"".join([await anext(iterator) for _ in range(4)])

    read = b"".join(asyncio.run(some()) for _ in range(COUNT // 4))
    assert read == MOVIE
    asyncio.run(store.close())


def test_a_forked_child_reads_on_by_itself() -> None:
    with gated() as (store, gate):
        iterator = store.iter_content("movie")
        assert take(iterator, 4) == MOVIE[: 4 * BLOCK]
        eventually(lambda: gate.under_way == 0)
        gate.held = True
        assert next(iterator) == MOVIE[4 * BLOCK : 5 * BLOCK]
        eventually(lambda: gate.under_way > 0)
        child = os.fork()
        if child == 0:
            try:
                gate.held = False
                whole = b"".join(iterator) == MOVIE[5 * BLOCK :]
                del iterator
                gc.collect()
                os._exit(0 if whole else 1)
            finally:
                os._exit(2)
        gate.held = False
        assert b"".join(iterator) == MOVIE[5 * BLOCK :]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class OneSlowWrite(HookedStore):
    """The write of block 1 ends when that of the last block has."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.last_is_written = False

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        info = await self.inner.write(ctx, request)
        self.last_is_written |= bytes(request.data) == MOVIE[-BLOCK:]
        ends = ctx.runtime.now() + PATIENCE
        while bytes(request.data) == MOVIE[BLOCK : 2 * BLOCK] and not self.last_is_written:
            assert ctx.runtime.now() < ends
            await ctx.runtime.sleep(0.001)
        return info


def pieces() -> Iterator[bytes]:
    for start in range(0, len(MOVIE), 100):
        yield MOVIE[start : start + 100]


async def async_pieces() -> AsyncIterator[bytes]:
    for piece in pieces():
        yield piece


@pytest.mark.parametrize("source", ["bytes", "path", "pipe", "file", "pieces", "async pieces"])
def test_a_slow_write_holds_up_no_other(source: str, tmp_path: Path) -> None:
    """No batch is waited for: a source is drawn on as long as one place is free."""
    path = tmp_path / "file"
    if source == "pipe":
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(MOVIE,), daemon=True).start()
    else:
        _ = path.write_bytes(MOVIE)
    store = OneSlowWrite()

    async def under_asyncio() -> None:
        async with await blockyard.open_async_store(store) as opened:
            client = opened.with_options(concurrency=4)
            shrink_blocks(client, BLOCK)  # pyright: ignore[reportArgumentType]
            _ = await client.write_content("movie", async_pieces())
            assert await client.read_content("movie") == MOVIE

    if source == "async pieces":
        asyncio.run(under_asyncio())
        return
    with blockyard.open_store(store) as opened:
        client = opened.with_options(concurrency=4)
        shrink_blocks(client, BLOCK)
        sources: dict[str, Callable[[], Any]]
        sources = {"bytes": lambda: MOVIE, "file": lambda: io.BytesIO(MOVIE), "pieces": pieces}
        _ = client.write_content("movie", sources.get(source, lambda: path)())
        assert client.read_content("movie") == MOVIE


class HandlerError(Exception):
    """Raised by a signal handler."""


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals are for it"
)
def test_a_signal_that_raises_leaves_nothing_under_way_and_loses_no_block() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise HandlerError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with gated() as (store, gate):
            iterator = store.iter_content("movie")
            read = take(iterator, 3)
            eventually(lambda: gate.under_way == 0)
            gate.held = True
            timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), 10))
            timer.start()
            with pytest.raises(HandlerError):  # noqa: PT012
                while True:
                    read += next(iterator)
            timer.join()
            assert gate.under_way == 0
            gate.held = False
            assert read + b"".join(iterator) == MOVIE
    finally:
        _ = signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_may_read_on_in_the_middle_of_another_call() -> None:
    got: list[bytes] = []

    def handler(number: int, frame: FrameType | None) -> None:
        gate.held = False
        got.append(next(iterator))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with gated() as (store, gate):
            _ = store.write_block("other/chunk-0/block-3", b"another block")
            iterator = store.iter_content("movie")
            got.append(next(iterator))
            eventually(lambda: gate.under_way == 0)
            gate.held = True
            timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), 10))
            timer.start()
            assert store.read_block("other/chunk-0/block-3") == b"another block"
            timer.join()
            assert b"".join(got) == MOVIE[: 2 * BLOCK]
            assert b"".join(iterator) == MOVIE[2 * BLOCK :]
    finally:
        _ = signal.signal(signal.SIGUSR1, before)


BEFORE_THE_END = """
import atexit, sys, threading, time
import blockyard
from tests.content.test_window import BLOCK, MOVIE, Gate, shrink_blocks

gate = Gate()
store = blockyard.open_store(gate)
shrink_blocks(store, BLOCK)
store.write_content("movie", MOVIE)
file, iterator = store.open_content("movie"), store.iter_content("movie")
assert file.read(3 * BLOCK) + next(iterator) == MOVIE[: 3 * BLOCK] + MOVIE[:BLOCK]

def rest():
    gate.held = False
    assert file.read() + b"".join(iterator) == MOVIE[3 * BLOCK :] + MOVIE[BLOCK:]
    print("read")
"""
ENDS = {
    "reads under way": "gate.held = True; file.read(10); next(iterator); print('read')",
    "the main thread": "threading.Thread(target=lambda: (time.sleep(0.3), rest())).start()",
    "atexit": "atexit.register(rest)",
}


@pytest.mark.parametrize("end", ENDS)
def test_an_interpreter_that_ends(end: str) -> None:
    program = BEFORE_THE_END + ENDS[end]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "read\n", "")
