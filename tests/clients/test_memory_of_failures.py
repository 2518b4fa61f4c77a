"""A call that failed holds nothing once its error is gone: no cycle waits for the collector."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import blockyard
from blockyard import AsyncBlockStore, BlockStore
from blockyard.model import MIB
from tests.small_s3 import SmallS3, small_s3
from tests.transport.runtimes import eventually

pytestmark = pytest.mark.thorough

STORES = ("memory", "file", "s3")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallS3]:
    with small_s3() as server:
        yield server


@pytest.fixture(scope="module", params=STORES)
def url(
    request: pytest.FixtureRequest, server: SmallS3, tmp_path_factory: pytest.TempPathFactory
) -> str:
    urls = {
        "memory": "memory://",
        "file": tmp_path_factory.mktemp("blocks").as_uri(),
        "s3": server.store_url(),
    }
    with blockyard.open_store(urls[request.param]) as store:
        _ = prepare(store)
    return urls[request.param]


@contextmanager
def no_collector() -> Generator[None]:
    _ = gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_free(buffer: bytearray) -> None:
    """A buffer that anything holds a view of can't be resized. A thread may be about to end."""

    def resized() -> bool:
        try:
            buffer.append(1)
        except BufferError:
            return False
        return True

    assert eventually(resized, within=2)


async def is_free_soon(buffer: bytearray) -> None:
    """Once the event loop has let go of callbacks."""
    for _ in range(3):
        await asyncio.sleep(0)
    is_free(buffer)


def fail(_: int) -> None:
    raise ZeroDivisionError


def drawn(buffer: bytearray) -> Iterator[tuple[str, bytearray]]:
    yield "x", buffer
    raise ZeroDivisionError


Call = Callable[[Any, bytearray], Any]
CALLS: dict[str, Call] = {
    "write_block": lambda store, buffer: store.write_block("there", buffer, if_absent=True),
    "write_blocks": lambda store, buffer: store.write_blocks([("x", buffer), ("", buffer)]),
    "write_blocks, drawn": lambda store, buffer: store.write_blocks(drawn(buffer)),
    "write_content": lambda store, buffer: store.write_content("c", buffer, progress=fail),
    "write_content, new": lambda store, buffer: store.write_content("new", buffer, progress=fail),
    "write_content, drawn": lambda store, buffer: store.write_content(
        "c", (piece for _, piece in drawn(buffer))
    ),
    "read_block_into, absent": lambda store, buffer: store.read_block_into("absent", buffer),
    "read_block_into, too small": lambda store, buffer: store.read_block_into("large", buffer),
    "read_content_into": lambda store, buffer: store.read_content_into(
        "c", Target(buffer), progress=fail
    ),
    "read_object_into": lambda store, buffer: store.read_object_into(
        "large", Target(buffer), part_size=MIB, progress=fail
    ),
}
LATE: dict[str, Call] = {
    "write_block": lambda store, buffer: store.write_block("x", buffer),
    "write_blocks": lambda store, buffer: store.write_blocks([("x", buffer)]),
    "write_blocks, drawn": lambda store, buffer: store.write_blocks(iter([("x", buffer)])),
    "write_content": lambda store, buffer: store.write_content("c", buffer),
    "read_block_into": lambda store, buffer: store.read_block_into("there", buffer),
    "read_content_into": lambda store, buffer: store.read_content_into("c", Target(buffer)),
    "read_object_into": lambda store, buffer: store.read_object_into(
        "large", Target(buffer), part_size=MIB
    ),
}
SILENT: dict[str, Call] = {
    "write_block": lambda store, buffer: store.write_block("silent", buffer),
    "write_blocks": lambda store, buffer: store.write_blocks([("silent", buffer)]),
    "write_blocks, drawn": lambda store, buffer: store.write_blocks(iter([("silent", buffer)])),
    "write_content": lambda store, buffer: store.write_content("silent", buffer),
    "read_block_into": lambda store, buffer: store.read_block_into("silent", buffer),
}


class Target:
    """A file that holds a view of a buffer for as long as it is there."""

    def __init__(self, buffer: bytearray) -> None:
        self._view = memoryview(buffer)

    def write(self, data: Any, /) -> int:
        return len(data)


def prepare(store: Any) -> list[Any]:
    return [
        store.write_block("there", b"data"),
        store.write_block("large", bytes(6 * MIB)),
        store.write_content("c", bytes(5 * MIB)),
    ]


def failing(call: Call, store: BlockStore, buffer: bytearray) -> None:
    try:
        call(store, buffer)
    except (blockyard.BlockStoreError, ZeroDivisionError):
        return
    raise AssertionError("it did not fail")


async def failing_async(call: Call, store: AsyncBlockStore, buffer: bytearray) -> None:
    try:
        await call(store, buffer)
    except (blockyard.BlockStoreError, ZeroDivisionError, asyncio.CancelledError):
        return
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_failure(call: Call, url: str) -> None:
    with blockyard.open_store(url) as store:
        if url == "memory://":
            _ = prepare(store)
        with no_collector():
            buffer = bytearray(5 * MIB)
            failing(call, store, buffer)
            is_free(buffer)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_failure_under_asyncio(call: Call, url: str) -> None:
    async def main() -> None:
        async with await blockyard.open_async_store(url) as store:
            for each in prepare(store) if url == "memory://" else ():
                _ = await each
            with no_collector():
                buffer = bytearray(5 * MIB)
                await failing_async(call, store, buffer)
                await is_free_soon(buffer)

    asyncio.run(main())


CONTENTS: dict[str, Call] = {
    "replaced": lambda store, buffer: store.write_content("c", buffer),
    "new": lambda store, buffer: store.write_content("other", buffer, if_absent=True),
}


@pytest.mark.parametrize("call", CONTENTS.values(), ids=list(CONTENTS))
def test_a_success_after_a_failure(call: Call, server: SmallS3) -> None:
    """The server ignores conditions, which the first write of a store finds out."""
    with blockyard.open_store(server.store_url()) as store, no_collector():
        buffer = bytearray(5 * MIB)
        _ = call(store, buffer)
        is_free(buffer)


def test_a_condition_that_does_not_hold(url: str) -> None:
    with blockyard.open_store(url) as store:
        if url == "memory://":
            _ = prepare(store)
        with no_collector():
            buffer = bytearray(5 * MIB)
            failing(lambda *_: store.write_content("c", buffer, if_absent=True), store, buffer)
            is_free(buffer)


@pytest.mark.parametrize("deadline", [1e-9, 0.003])
@pytest.mark.parametrize("call", LATE.values(), ids=list(LATE))
def test_a_deadline(call: Call, deadline: float, url: str) -> None:
    with blockyard.open_store(url) as store:
        if url == "memory://":
            _ = prepare(store)
        late = store.with_options(deadline=deadline)
        with no_collector():
            buffer = bytearray(5 * MIB)
            with suppress(blockyard.DeadlineExceededError):
                call(late, buffer)
            is_free(buffer)


@pytest.mark.parametrize("deadline", [1e-9, 0.003])
@pytest.mark.parametrize("call", LATE.values(), ids=list(LATE))
def test_a_deadline_under_asyncio(call: Call, deadline: float, url: str) -> None:
    async def main() -> None:
        async with await blockyard.open_async_store(url) as store:
            for each in prepare(store) if url == "memory://" else ():
                _ = await each
            late = store.with_options(deadline=deadline)
            with no_collector():
                buffer = bytearray(5 * MIB)
                with suppress(blockyard.DeadlineExceededError):
                    await call(late, buffer)
                await is_free_soon(buffer)

    asyncio.run(main())


@pytest.mark.parametrize("call", SILENT.values(), ids=list(SILENT))
def test_a_deadline_of_a_request_under_way(call: Call, server: SmallS3) -> None:
    with blockyard.open_store(server.store_url()) as store:
        late = store.with_options(deadline=0.05)
        with no_collector():
            buffer = bytearray(5 * MIB)
            failing(call, late, buffer)
            is_free(buffer)


@pytest.mark.parametrize("call", SILENT.values(), ids=list(SILENT))
def test_a_deadline_of_a_request_under_way_under_asyncio(call: Call, server: SmallS3) -> None:
    async def main() -> None:
        async with await blockyard.open_async_store(server.store_url()) as store:
            with no_collector():
                buffer = bytearray(5 * MIB)
                await failing_async(call, store.with_options(deadline=0.05), buffer)
                await is_free_soon(buffer)

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0.001, 0.004, 0.03])
@pytest.mark.parametrize("call", LATE.values(), ids=list(LATE))
def test_a_cancellation(call: Call, seconds: float, url: str) -> None:
    async def main() -> None:
        async with await blockyard.open_async_store(url) as store:
            for each in prepare(store) if url == "memory://" else ():
                _ = await each
            with no_collector():
                buffer = bytearray(5 * MIB)
                task: asyncio.Future[Any] = asyncio.ensure_future(call(store, buffer))
                await asyncio.sleep(seconds)
                _ = task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                del task
                await is_free_soon(buffer)

    asyncio.run(main())


@pytest.mark.parametrize("call", SILENT.values(), ids=list(SILENT))
def test_an_interrupt(call: Call, server: SmallS3) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with blockyard.open_store(server.store_url()) as opened:
        store = opened.with_options(deadline=1)
        with no_collector():
            buffer = bytearray(5 * MIB)
            timer = threading.Timer(0.1, interrupt)
            timer.start()
            try:
                call(store, buffer)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("it was not interrupted")
            timer.join()
            is_free(buffer)


def test_a_closed_store(server: SmallS3) -> None:
    store = blockyard.open_store(server.store_url())
    with no_collector():
        buffer = bytearray(5 * MIB)
        timer = threading.Timer(0.1, store.close)
        timer.start()
        failing(SILENT["write_blocks"], store, buffer)
        timer.join()
        is_free(buffer)
