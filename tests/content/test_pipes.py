"""Contents from pipes, sockets and terminals: what a call that ended leaves for the next one."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard import DeadlineExceededError
from blockyard.content.types import ContentSource
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.samples import content

DATA = content(1_500_001)
"""More than a pipe can be made to hold: who writes it waits for its reader."""

WRITES: dict[str, Callable[[BlockStore, ContentSource], object]] = {
    "content": lambda store, source: store.write_content("k", source),
    "object": lambda store, source: store.write_object("k", source),
}
READS: dict[str, Callable[[BlockStore], bytes]] = {
    "content": lambda store: store.read_content("k"),
    "object": lambda store: store.read_block("k"),
}


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest) -> Iterator[BlockStore]:
    with open_client(request.param, MemoryStore()) as client:
        yield client.store


@pytest.fixture(params=["path", "file", "buffered"])
def piped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ContentSource, int]]:
    """A pipe as a source, and a descriptor to write to it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    if request.param == "path":
        yield path, writer
    else:
        with path.open("rb", buffering=-1 if request.param == "buffered" else 0) as file:
            yield file, writer


def send(writer: int, data: bytes) -> threading.Thread:
    """Write `data` to a pipe and close it, on a thread of its own."""

    def run() -> None:
        with open(writer, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", WRITES)
def test_a_call_that_ends_at_its_deadline_takes_nothing_that_comes_later(
    store: BlockStore, piped: tuple[ContentSource, int], kind: str
) -> None:
    source, writer = piped
    for _ in range(3):
        with pytest.raises(DeadlineExceededError):
            WRITES[kind](store.with_options(deadline=0.1), source)
    sending = send(writer, DATA)
    WRITES[kind](store, source)
    sending.join()
    assert READS[kind](store) == DATA


def test_a_task_that_is_cancelled_takes_nothing_that_comes_later(
    piped: tuple[ContentSource, int],
) -> None:
    source, writer = piped

    async def main() -> bytes:
        async with await blockyard.open_async_store("memory://") as store:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.write_content("k", source)
            sending = send(writer, DATA)
            await store.write_content("k", source)
            sending.join()
            return await store.read_content("k")

    assert asyncio.run(main()) == DATA


def test_a_named_pipe_without_a_writer_is_waited_for(store: BlockStore, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opened = threading.Event()

    def run() -> None:
        with path.open("wb", buffering=0) as file:
            opened.set()
            file.write(DATA)

    thread = threading.Thread(target=run)
    thread.start()
    store.write_content("k", path)
    thread.join()
    assert opened.is_set()
    assert store.read_content("k") == DATA


def test_a_writer_that_writes_nothing_ends_it(store: BlockStore, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.open("wb").close())
    thread.start()
    store.write_content("k", path)
    thread.join()
    assert store.read_content("k") == b""


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("buffering", [0, -1])
def test_what_a_file_has_read_ahead_comes_first(
    store: BlockStore, buffering: int, blocking: bool
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, blocking)
    with open(reader, "rb", buffering=buffering) as file:
        sending = send(writer, b"a line\n" + DATA)
        if blocking:
            assert file.readline() == b"a line\n"
        store.write_content("k", file)
        sending.join()
    assert store.read_content("k") == (b"" if blocking else b"a line\n") + DATA


@pytest.mark.parametrize("path", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_pipe_of_this_process(store: BlockStore, path: str) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"):
        with open(writer, "wb") as file:
            file.write(DATA[:60_000])
        store.write_content("k", path.format(reader))  # which nobody can write to any more
    assert store.read_content("k") == DATA[:60_000]


def test_a_socket(store: BlockStore) -> None:
    here, there = socket.socketpair()
    with closing(here), open(here.fileno(), "rb", closefd=False) as file:
        with pytest.raises(DeadlineExceededError):
            store.with_options(deadline=0.1).write_content("k", file)
        sending = send(there.detach(), DATA)
        store.write_content("k", file)
        sending.join()
    assert store.read_content("k") == DATA


def test_a_device_that_cannot_be_waited_for(store: BlockStore) -> None:
    with open("/dev/null", "rb") as file:
        for source in ("/dev/null", file):
            store.write_content("k", source)
            assert store.read_content("k") == b""


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("of", [bytes, bytearray, memoryview, partial(array.array, "B")])
def test_an_empty_buffer_of_any_type_is_the_end(store: BlockStore, kind: str, of: Any) -> None:
    pieces = [DATA, b""]

    class Source:
        def read(self, size: int) -> Any:
            assert pieces, "read after the end"
            return of(pieces.pop(0))

    WRITES[kind](store, Source())
    assert READS[kind](store) == DATA


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("answer", ["", None, 0, [], {}])
def test_what_is_no_buffer_is_no_end(store: BlockStore, kind: str, answer: object) -> None:
    class Source:
        def read(self, size: int) -> Any:
            return answer

    with pytest.raises(TypeError, match=r"read of the source returned: expected bytes"):
        WRITES[kind](store, Source())
