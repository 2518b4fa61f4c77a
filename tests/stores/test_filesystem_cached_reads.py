"""Small reads of a folder that are answered from the page cache, without a thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockyard import BlockNotFoundError, InvalidRangeError, open_async_store
from blockyard.model import MIB
from blockyard.testing.samples import content
from blockyard.transport.aio import AsyncioRuntime

BLOCK = content(2 * MIB)


@pytest.fixture
def on_threads(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each call that was given to a thread."""
    calls = list[None]()
    blocking = AsyncioRuntime.blocking

    async def counted(self: AsyncioRuntime, call: Callable[[], Any]) -> Any:
        calls.append(None)
        return await blocking(self, call)

    monkeypatch.setattr(AsyncioRuntime, "blocking", counted)
    return calls


def without_no_wait(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def refusing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise error
        return preadv(file, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", refusing)


def test_what_is_in_the_page_cache_takes_no_thread(tmp_path: Path, on_threads: list[None]) -> None:
    async def read() -> None:
        async with open_async_store(tmp_path.as_uri()) as store:
            _ = await store.write_block("a/b", BLOCK)
            _ = await store.write_block("empty", b"")
            assert await store.read_block_range("a/b", 5, 10) == BLOCK[5:15]
            on_threads.clear()
            assert await store.read_block_range("a/b", 70_000, 200_000) == BLOCK[70_000:270_000]
            buffer = bytearray(100)
            assert await store.read_block("empty") == b""
            assert await store.read_block_into("empty", buffer) == 0
            data, info = await store.read_block_with_info("a/b", suffix=7)
            assert (data, info.size) == (BLOCK[-7:], len(BLOCK))
            with pytest.raises(InvalidRangeError):
                _ = await store.read_block_range("a/b", len(BLOCK), 1)
            with pytest.raises(BlockNotFoundError):
                _ = await store.read_block("not there")
            assert on_threads == []
            assert await store.read_block("a/b") == BLOCK  # large: it would hold the loop up
            assert len(on_threads) == 1

    asyncio.run(read())


@pytest.mark.parametrize("answer", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["disk", "mounted there"])
def test_what_is_on_the_disk_is_read_on_a_thread(
    tmp_path: Path, on_threads: list[None], monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    async def read() -> None:
        async with open_async_store(tmp_path.as_uri()) as store:
            _ = await store.write_block("a/b", BLOCK)
            assert await store.read_block_range("a/b", 5, 10) == BLOCK[5:15]
            without_no_wait(OSError(answer, os.strerror(answer)), monkeypatch)
            on_threads.clear()
            assert await store.read_block_range("a/b", 5, 10) == BLOCK[5:15]
            assert len(on_threads) == 1

    asyncio.run(read())


@pytest.mark.parametrize(
    "answer", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM], ids=errno.errorcode.get
)
def test_a_file_system_that_can_not_tell_is_read_on_threads(
    tmp_path: Path, on_threads: list[None], monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """As over NFS, where opening a file asks the server, too; as an old kernel has it, and a
    container whose filter refuses preadv2(2).
    """
    refused = OSError(answer, os.strerror(answer))

    async def read() -> None:
        async with open_async_store(tmp_path.as_uri()) as store:
            _ = await store.write_block("a/b", BLOCK)
            without_no_wait(refused, monkeypatch)
            on_threads.clear()
            for _ in range(3):
                assert await store.read_block_range("a/b", 5, 10) == BLOCK[5:15]
            assert len(on_threads) == 3

    asyncio.run(read())
