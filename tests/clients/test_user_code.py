"""The caller's own code inside a call: what it raises is raised, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard import BlockStore, DeadlineExceededError
from blockyard.model import MIN_READ_PART
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import CLIENTS, open_client
from tests.hooked_store import HookedStore, shrink_blocks
from tests.small_s3 import SmallS3, small_s3

BLOCK = 1024
OLD = b"o" * (5 * BLOCK)
NEW = [bytes([number]) * BLOCK for number in range(12)]

EXCEPTIONS: list[type[BaseException]] = [
    concurrent.futures.CancelledError,
    asyncio.CancelledError,
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    SystemExit,
    KeyboardInterrupt,
    TimeoutError,
    MemoryError,
    queue.Empty,
]
STORES = ("memory", "file", "s3")


class Raising:
    """Something of the caller's, which raises `error` at its fourth call."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._calls = 0

    def step(self) -> int:
        self._calls += 1
        if self._calls == 4:
            raise self._error
        return self._calls


class ReadFile(Raising):
    def read(self, size: int, /) -> bytes:
        return NEW[self.step()][:size]


class WrittenFile(Raising):
    def write(self, data: Any, /) -> int:
        self.step()
        return min(len(data), BLOCK)


class Progress(Raising):
    def __call__(self, done: int) -> None:
        self.step()


class Pieces(Raising):
    """An async iterable, but for `StopAsyncIteration`, which is its end."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield NEW[self.step()]


class Memory(Raising):
    """A buffer whose memory can't be had at times (Python 3.12)."""

    def __buffer__(self, flags: int) -> memoryview:
        self.step()
        return memoryview(NEW[0])


def drawn(error: BaseException, make: Callable[[int], Any]) -> Generator[Any]:
    raising = Raising(error)
    while True:
        yield make(raising.step())


def write_content(store: BlockStore, source: Any, **options: Any) -> None:
    _ = store.write_content("movie", source, **options)


def write_memory(store: BlockStore, error: BaseException) -> None:
    memory = Memory(error)
    _ = store.write_blocks((f"new-{number}", memory) for number in range(10))


Kind = Callable[[BlockStore, BaseException, Path], object]
KINDS: dict[str, Kind] = {
    "source generator": lambda s, e, _: write_content(s, drawn(e, NEW.__getitem__)),
    "source file": lambda s, e, _: write_content(s, ReadFile(e)),
    "source pieces": lambda s, e, _: write_content(s, Pieces(e)),
    "progress of a write": lambda s, e, _: write_content(s, b"".join(NEW), progress=Progress(e)),
    "progress of a read": lambda s, e, path: s.read_content_into(
        "movie", path / "target", progress=Progress(e)
    ),
    "progress of a read of an object": lambda s, e, path: s.read_object_into(
        "movie-object", path / "target", part_size=MIN_READ_PART, progress=Progress(e)
    ),
    "target of an object": lambda s, e, _: s.read_object_into(
        "movie-object", WrittenFile(e), part_size=MIN_READ_PART
    ),
    "progress of a copy": lambda s, e, _: s.copy_content("movie", "copy", progress=Progress(e)),
    "progress of verifying": lambda s, e, _: s.verify_by_prefix("movie/", progress=Progress(e)),
    "target": lambda s, e, _: s.read_content_into("movie", WrittenFile(e)),
    "blocks": lambda s, e, _: s.write_blocks(drawn(e, lambda n: (f"new-{n}", b"new"))),
    "keys to read": lambda s, e, _: s.read_blocks(drawn(e, lambda _: "block")),
    "ranges": lambda s, e, _: s.read_block_ranges(drawn(e, lambda _: ("block", 0, 1))),
    "keys to delete": lambda s, e, _: s.delete_blocks(drawn(e, lambda _: "block")),
    "memory": lambda s, e, _: write_memory(s, e),
}


@pytest.fixture(scope="module")
def service() -> Iterator[SmallS3]:
    with small_s3() as server:
        yield server


@contextmanager
def prepared(client: str, kind: str, service: SmallS3, folder: Path) -> Generator[BlockStore]:
    url = {
        "memory": "memory://",
        "file": folder.as_uri(),
        "s3": service.store_url(bucket=f"bucket-{uuid.uuid4()}"),
    }[kind]
    with open_client(client, url) as opened:  # pyright: ignore[reportArgumentType]
        shrink_blocks(opened.store, BLOCK)
        store = opened.store
        _ = store.write_block("block", b"block")
        _ = store.write_content("movie", OLD)
        _ = store.write_block("movie-object", bytes(5 * MIN_READ_PART))
        yield store


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("stored", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_callers_code_raises_is_raised_and_nothing_is_replaced(
    client: str, stored: str, kind: str, service: SmallS3, tmp_path: Path
) -> None:
    if kind == "source pieces" and client == "blocking":
        pytest.skip("pieces are awaited, which a blocking store does not: see its own test")
    if kind == "memory" and sys.version_info < (3, 12):
        pytest.skip("Python 3.11 has no __buffer__")
    targets = tmp_path / "targets"
    targets.mkdir()
    with prepared(client, stored, service, tmp_path / "store") as store:
        kept = 0
        for raised in EXCEPTIONS:
            error = raised("own")
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - any, and then compared
                _ = KINDS[kind](store, error, targets)
            assert the_callers_own(caught.value, error), (raised, caught.value)
            assert store.read_content("movie") == OLD
            assert store.read_block("block") == b"block"
            assert list(targets.iterdir()) == []
            left = [key for key in store.list_by_prefix() if not key.startswith("new-")]
            kept = kept or len(left)
            assert [key for key in left if not key.startswith("movie")] == ["block"]
            assert len(left) == kept


def the_callers_own(caught: BaseException, error: BaseException) -> bool:
    """A `StopIteration` out of their code, and the like of a generator, as PEP 479 has it."""
    if isinstance(error, StopIteration | StopAsyncIteration) and isinstance(caught, RuntimeError):
        return error in {caught.__cause__, getattr(caught.__cause__, "__cause__", None)}
    return caught is error


@pytest.mark.parametrize("client", CLIENTS)
def test_where_progress_and_sources_run(client: str, tmp_path: Path) -> None:
    """On the calling thread of a blocking store, and nowhere else."""
    ran: dict[str, set[int]] = {
        "progress": set(),
        "source": set(),
        "target": set(),
        "blocks": set(),
    }

    def here(what: str) -> None:
        ran[what].add(threading.get_ident())

    class Target:
        def write(self, data: Any, /) -> int:
            here("target")
            return len(data)

    def source() -> Iterator[bytes]:
        for piece in NEW:
            here("source")
            yield piece

    def blocks() -> Iterator[tuple[str, bytes]]:
        for number in range(100):
            here("blocks")
            yield str(number), b""

    with open_client(client, "memory://") as opened:  # pyright: ignore[reportArgumentType]
        store = opened.store
        shrink_blocks(store, BLOCK)
        progress: Callable[[int], None] = lambda _: here("progress")  # noqa: E731
        _ = store.write_content("movie", source(), progress=progress)
        _ = store.read_content_into("movie", Target(), progress=progress)
        _ = store.read_content_into("movie", tmp_path / "movie", progress=progress)
        _ = store.copy_content("movie", "copy", progress=progress)
        _ = store.verify_by_prefix(progress=progress)
        _ = store.write_blocks(blocks())
    this = threading.get_ident()
    assert ran["progress"] == {this}  # also under asyncio: it runs the loop
    for what in ("source", "target", "blocks"):
        assert (ran[what] == {this}) is (client == "blocking"), what
        assert (this in ran[what]) is (client == "blocking"), what


def test_a_blocking_store_awaits_no_pieces() -> None:
    with blockyard.open_store("memory://") as store:
        with pytest.raises(TypeError, match="source: expected"):
            _ = store.write_content("movie", Pieces(ValueError()))  # pyright: ignore
        assert store.list_by_prefix() == []


def test_progress_may_call_the_store() -> None:
    """Also to do many things at once, and to close it."""
    with blockyard.open_store("memory://") as store:
        shrink_blocks(store, BLOCK)
        sizes: list[int] = []

        def progress(done: int) -> None:
            _ = store.write_blocks((f"note-{done}", b"note") for _ in range(3))
            sizes.append(done)

        _ = store.write_content("movie", b"".join(NEW), progress=progress)
        assert sizes == [BLOCK * count for count in range(1, 13)]
        with pytest.raises(blockyard.StoreClosedError):
            _ = store.write_content("film", b"".join(NEW), progress=lambda _: store.close())


def test_a_source_may_read_from_the_store_that_it_is_stored_in(tmp_path: Path) -> None:
    """More of them at once than any pool of threads has."""
    with blockyard.open_store(tmp_path.as_uri()) as store:
        shrink_blocks(store, BLOCK)
        _ = store.write_content("source", b"".join(NEW))

        def copy(number: int) -> None:
            _ = store.write_content(f"copy-{number}", store.iter_content("source"))

        with ThreadPoolExecutor(40) as threads:
            for copied in [threads.submit(copy, number) for number in range(40)]:
                copied.result(60)
        for number in range(40):
            assert store.read_content(f"copy-{number}") == b"".join(NEW)


@pytest.mark.parametrize("stored", STORES)
def test_a_producer_that_waits_for_the_store_holds_up_nobody(
    stored: str, service: SmallS3, tmp_path: Path
) -> None:
    """`iter(queue.get, None)`, whose producer has to see each block before it makes the next."""
    with prepared("blocking", stored, service, tmp_path / "store") as store:
        blocks: queue.Queue[tuple[str, bytes] | None] = queue.Queue()

        def produce() -> None:
            for number in range(20):
                blocks.put((f"made-{number}", b"made"))
                ends = time.monotonic() + 30
                while not store.read_blocks(["block"]) or not store.block_exists(f"made-{number}"):
                    assert time.monotonic() < ends
            blocks.put(None)

        producer = threading.Thread(target=produce)
        producer.start()
        assert len(store.write_blocks(iter(blocks.get, None))) == 20
        producer.join()


def test_a_slow_generator_holds_up_nobody(tmp_path: Path) -> None:
    let_go, drawing = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"1"
        drawing.set()
        assert let_go.wait(30)
        yield b"2"

    with blockyard.open_store(tmp_path.as_uri()) as store, ThreadPoolExecutor(2) as threads:
        slowly = threads.submit(store.write_content, "movie", slow())
        blocks = threads.submit(store.write_blocks, ((piece.hex(), piece) for piece in slow()))
        assert drawing.wait(30)
        for number in range(100):
            _ = store.write_blocks([(f"{number}-{part}", b"x") for part in range(4)])
        assert not slowly.done()
        assert not blocks.done()
        let_go.set()
        assert slowly.result(30).size == 2
        assert len(blocks.result(30)) == 2


def test_no_more_is_drawn_than_there_are_places() -> None:
    """So that with one place a buffer may be used again for the next block."""
    buffer = bytearray(8)

    def blocks() -> Iterator[tuple[str, bytearray]]:
        for number in range(200):
            buffer[:] = number.to_bytes(8)
            yield f"{number:03}", buffer

    with blockyard.open_store("memory://") as store:
        infos = store.with_options(concurrency=1).write_blocks(blocks())
        assert [info.key for info in infos] == [f"{number:03}" for number in range(200)]
        assert store.read_blocks(info.key for info in infos) == [
            number.to_bytes(8) for number in range(200)
        ]


def test_a_failed_write_draws_no_more() -> None:
    drawn_keys: list[str] = []

    def blocks() -> Iterator[tuple[str, bytes]]:
        for key in ("a", "b", "", "c", "d"):
            drawn_keys.append(key)
            yield key, b""

    with blockyard.open_store("memory://") as store, pytest.raises(blockyard.InvalidKeyError):
        _ = store.with_options(concurrency=1).write_blocks(blocks())
    assert drawn_keys == ["a", "b", ""]


def test_a_slow_piece_is_cancelled_at_the_deadline() -> None:
    cancelled = threading.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def main() -> None:
        async with await blockyard.open_async_store("memory://") as store:
            with pytest.raises(DeadlineExceededError):
                _ = await store.with_options(deadline=0.2).write_content("movie", pieces())
            assert await store.list_by_prefix() == []

    begun = time.monotonic()
    asyncio.run(main())
    assert cancelled.is_set()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("write", ["write_content", "write_blocks"])
def test_a_slow_iterable_is_let_go_at_the_deadline(write: str) -> None:
    let_go = threading.Event()

    def slow() -> Iterator[Any]:
        yield b"piece" if write == "write_content" else ("a", b"")
        assert let_go.wait(60)

    async def main() -> None:
        async with await blockyard.open_async_store("memory://") as store:
            late = store.with_options(deadline=0.2)
            given = (slow(),) if write == "write_blocks" else ("movie", slow())
            with pytest.raises(DeadlineExceededError):
                await getattr(late, write)(*given)
            assert await store.list_by_prefix("movie") == []

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < 30
    let_go.set()


@pytest.mark.parametrize("write", ["write_content", "write_blocks"])
def test_the_deadline_is_raised_when_a_slow_source_of_a_blocking_store_has_ended(
    write: str,
) -> None:
    goes_on: list[int] = []

    def slow() -> Iterator[Any]:
        for number in range(100):
            goes_on.append(number)
            time.sleep(0.15)
            yield b"piece" if write == "write_content" else (f"{number}", b"")

    with blockyard.open_store("memory://") as store:
        late = store.with_options(deadline=0.2)
        given = (slow(),) if write == "write_blocks" else ("movie", slow())
        with pytest.raises(DeadlineExceededError):
            getattr(late, write)(*given)
        assert store.list_by_prefix("movie") == []
    assert len(goes_on) < 100


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ValueError])
@pytest.mark.parametrize("call", ["blocks", "content"])
def test_what_a_generator_raises_goes_before_the_error_of_a_write(
    client: str, error: type[BaseException], call: str
) -> None:
    own = error("own")
    drawing, failed = threading.Event(), threading.Event()

    async def fail(operation: str, key: str) -> None:
        if operation == "write_block":
            while not drawing.is_set():  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(0.001)
            failed.set()
            raise blockyard.ServerError("no", status=501, code="NotImplemented")

    def items(make: Callable[[int], Any]) -> Iterator[Any]:
        for number in range(100):
            if number == 4:
                drawing.set()
                assert failed.wait(30)
                time.sleep(0.05)  # until the error of the write has been seen
                raise own
            yield make(number)

    with open_client(client, HookedStore(MemoryStore(), fail)) as opened:
        store = opened.store.with_options(concurrency=8)
        shrink_blocks(opened.store, BLOCK)
        shrink_blocks(store, BLOCK)
        write = {
            "blocks": lambda: store.write_blocks(items(lambda number: (f"new-{number}", b"new"))),
            "content": lambda: store.write_content("movie", items(NEW.__getitem__)),
        }
        with pytest.raises(error) as raised:
            _ = write[call]()
    assert raised.value is own
    assert any(note.startswith("meanwhile ServerError: no") for note in own.__notes__)
