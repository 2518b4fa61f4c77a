"""A content as an open file, with `io.BytesIO` as the oracle."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard import ContentReplacedError
from blockyard.aio import AsyncBlockStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import open_client
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 64
DATA = random.Random(7).randbytes(40 * BLOCK + 13)  # noqa: S311 - the same every time


@pytest.fixture(scope="module")
def hooked() -> HookedStore:
    return HookedStore(MemoryStore())


@pytest.fixture(scope="module")
def store(hooked: HookedStore) -> Iterator[BlockStore]:
    with open_client("blocking", hooked) as client:
        shrink_blocks(client.store, BLOCK)
        client.store.write_content("movie", DATA)
        yield client.store


# Reads of up to three blocks, and moves that mostly stay within the content.
READS = st.tuples(st.just("read"), st.integers(-1, 3 * BLOCK))
MOVES = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, len(DATA) + 10), st.just(0)),
    st.tuples(st.just("seek"), st.integers(0, 2 * BLOCK), st.just(1)),
    st.tuples(st.just("seek"), st.integers(-len(DATA), 10), st.just(2)),
    st.tuples(st.just("tell")),
)
OTHERS = st.one_of(
    st.tuples(st.just("read1"), st.integers(0, 3 * BLOCK)),
    st.tuples(st.just("readline")),
    st.tuples(st.just("readinto"), st.integers(0, 3 * BLOCK)),
)


def do(file: io.BufferedReader | io.BytesIO, step: tuple[str, *tuple[int, ...]]) -> object:
    name, *arguments = step
    if name == "readinto":
        buffer = bytearray(arguments[0])
        return file.readinto(buffer), bytes(buffer)
    if name == "read1":  # may be short of what was asked, so the rest is asked for
        data = b""
        while len(data) < arguments[0] and (more := file.read1(arguments[0] - len(data))):
            data += more
        return data
    return getattr(file, name)(*arguments)


@pytest.fixture(scope="module", params=[1, 100, 128 * 1024])
def first_window(request: pytest.FixtureRequest) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockyard.content.files.FIRST_WINDOW", request.param)
        yield request.param


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(READS | MOVES | OTHERS, max_size=12))
def test_it_behaves_as_a_file_in_memory(
    store: BlockStore, first_window: int, steps: list[tuple[str, *tuple[int, ...]]]
) -> None:
    oracle = io.BytesIO(DATA)
    with store.open_content("movie") as file:
        for step in steps:
            assert do(file, step) == do(oracle, step), step


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(READS | MOVES, max_size=12))
def test_the_awaited_file_does_too(
    store: BlockStore, first_window: int, steps: list[tuple[str, *tuple[int, ...]]]
) -> None:
    async def main() -> None:
        oracle = io.BytesIO(DATA)
        async with await asynchronous(store).open_content("movie") as file:
            assert (file.name, file.size) == ("movie", len(DATA))
            for name, *arguments in steps:
                expected = getattr(oracle, name)(*arguments)
                assert await getattr(file, name)(*arguments) == expected, (name, arguments)

    asyncio.run(main())


def asynchronous(store: BlockStore) -> AsyncBlockStore:
    """Another client of the same store."""
    runtime = store._bulk.get()._runtime
    client = AsyncBlockStore(store._operations, runtime, deadline=None, concurrency=4)
    client._reader = store._reader
    return client


def test_it_is_a_buffered_reader_of_bytes(store: BlockStore) -> None:
    with store.open_content("movie") as file:
        assert isinstance(file, io.BufferedReader)
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert (file.name, file.mode) == ("movie", "rb")
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_text_can_be_read_line_by_line(store: BlockStore) -> None:
    lines = [f"line {number}\n" for number in range(500)]
    store.write_content("text", "".join(lines).encode())
    with io.TextIOWrapper(store.open_content("text"), "utf-8") as text:
        assert list(text) == lines


def test_an_empty_content(store: BlockStore) -> None:
    store.write_content("empty", b"")
    with store.open_content("empty") as file:
        assert (file.read(), file.read(1), file.seek(0, 2)) == (b"", b"", 0)


def test_positions_before_the_start_are_refused(store: BlockStore) -> None:
    with store.open_content("movie") as file:
        file.seek(5)
        for offset, whence in ((-1, 0), (-6, 1), (-len(DATA) - 1, 2), (0, 9)):
            with pytest.raises(ValueError, match="seek: "):
                file.raw.seek(offset, whence)
        assert file.tell() == 5


def test_a_content_that_is_replaced_while_open_is_read_to_its_end(store: BlockStore) -> None:
    old = DATA[: 5 * BLOCK]

    async def main() -> None:
        async with await asynchronous(store).open_content("changing") as file:
            _ = store.write_content("changing", DATA[::-1])
            assert await file.read() == old

    _ = store.write_content("changing", old)
    asyncio.run(main())
    _ = store.write_content("changing", old)
    with store.open_content("changing") as file:
        _ = store.write_content("changing", DATA[::-1])
        assert file.read() == old
    assert store.read_content("changing") == DATA[::-1]


def test_a_content_that_is_deleted_while_open_is_an_error(store: BlockStore) -> None:
    async def main() -> None:
        async with await asynchronous(store).open_content("changing") as file:
            store.delete_content("changing")
            with pytest.raises(ContentReplacedError, match="'changing'"):
                await file.read()

    _ = store.write_content("changing", DATA[: 5 * BLOCK])
    asyncio.run(main())
    _ = store.write_content("changing", DATA[: 5 * BLOCK])
    with store.open_content("changing") as file:
        store.delete_content("changing")
        with pytest.raises(ContentReplacedError, match="'changing'"):
            _ = file.read()


def test_two_reads_at_once_of_an_awaited_file_are_refused(store: BlockStore) -> None:
    async def main() -> None:
        file = await asynchronous(store).open_content("movie")
        outcomes = await asyncio.gather(file.read(), file.read(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [bytes, RuntimeError]
        await file.close()
        with pytest.raises(ValueError, match="closed"):
            await file.read()

    asyncio.run(main())
