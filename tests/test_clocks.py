"""Clocks that are set, stand still or jump, and event loops of other kinds, in user's programs."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from freezegun import freeze_time

import blockyard
from blockyard.content.upload import LONGEST_WRITE
from blockyard.fsspec import BlockyardFileSystem
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.transport.clock import monotonic, wall_time
from blockyard.transport.exchanging import NetworkRuntime
from tests.small_s3 import SmallS3, small_s3

YEARS = ("1971-01-01", "2100-01-01")


@pytest.fixture(scope="module")
def s3() -> Generator[SmallS3]:
    with small_s3() as server:
        yield server


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest) -> Iterator[blockyard.BlockStore]:
    with open_client(request.param, "memory://") as client:
        yield client.store


def _pieces(patch: pytest.MonkeyPatch, clock: str, jump: float) -> Iterator[bytes]:
    """A source in the middle of which a clock jumps."""
    yield b"before "
    read = {"wall_time": wall_time, "now": monotonic}[clock]
    patch.setattr(NetworkRuntime, clock, staticmethod(lambda: read() + jump))
    yield b"after"


@pytest.mark.parametrize("jump", [LONGEST_WRITE + 1, -LONGEST_WRITE - 1])
def test_a_wall_clock_that_is_set_meanwhile_ends_no_write(
    store: blockyard.BlockStore, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = store.write_content("c", _pieces(monkeypatch, "wall_time", jump))
    monkeypatch.undo()
    assert store.read_content("c") == b"before after"


def test_a_write_in_which_the_system_was_suspended_is_given_up(
    store: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then its blocks may be taken for orphans."""
    with pytest.raises(blockyard.ContentChangedError, match="took over 12 hours"):
        _ = store.write_content("c", _pieces(monkeypatch, "now", LONGEST_WRITE + 1))


@pytest.mark.parametrize("year", YEARS)
def test_what_fsspec_remembers_under_a_stopped_clock_is_forgotten(
    year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec gives the same file system to all tests of a process."""
    with blockyard.open_store("memory://") as client:
        fs: Any = BlockyardFileSystem(store=client)
        _ = client.write_block("a", b"1")
        with freeze_time(year):
            assert fs.info("a")["size"] == 1
        _ = client.write_block("a", b"22")
        later = monotonic() + 3600
        monkeypatch.setattr("blockyard.fsspec.info_cache.monotonic", lambda: later)
        assert fs.info("a")["size"] == 2


class _Late(LoopbackServer):
    """Says something, a moment after the client has come."""

    async def serve(self, client: Connection) -> None:
        await asyncio.sleep(0.01)
        await client.send(b"late")


def _hear(server: LoopbackServer) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        return sock.recv(100)


@pytest.mark.parametrize("year", YEARS)
def test_a_server_for_tests_under_a_stopped_clock(year: str) -> None:
    with freeze_time(year), _Late() as server:
        assert _hear(server) == b"late"


def test_a_server_for_tests_beside_loops_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of uvloop, say, raise other errors than those of asyncio."""

    def make() -> asyncio.AbstractEventLoop:
        raise NotImplementedError("not the loop that a user's policy makes")

    monkeypatch.setattr(asyncio, "new_event_loop", make)
    monkeypatch.setattr(asyncio.events, "new_event_loop", make)
    with _Late() as server:
        assert _hear(server) == b"late"


@pytest.mark.parametrize("year", YEARS)
def test_timeouts_of_a_loop_whose_clock_was_stopped_for_a_while(s3: SmallS3, year: str) -> None:
    async def main() -> None:
        async with blockyard.open_async_store(
            s3.store_url(no_progress=0.1, max_attempts=1)
        ) as store:
            with freeze_time(year):
                assert not await store.block_exists("a")
            time.sleep(0.2)  # noqa: ASYNC251 - no timer is to fire meanwhile
            async with asyncio.timeout(20):
                with pytest.raises(blockyard.TransportTimeoutError, match="no byte moved"):
                    _ = await store.read_block("silent")

    asyncio.run(main())


def _without_context(loop: asyncio.AbstractEventLoop, coroutine: Any) -> asyncio.Task[Any]:
    """As task factories were up to Python 3.10, and as some still are."""
    return asyncio.Task(coroutine, loop=loop)


_FACTORIES: list[Any] = [_without_context]
if sys.version_info >= (3, 12):
    _FACTORIES.append(asyncio.eager_task_factory)


@pytest.mark.parametrize("factory", _FACTORIES)
def test_task_factories_of_other_kinds(factory: Any) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with blockyard.open_async_store("memory://") as client:
            data = bytes(3 * blockyard.BLOCK_SIZE)
            _ = await client.write_content("c", data)
            async with await client.open_content("c") as file:
                assert await file.read() == data
            assert b"".join([piece async for piece in client.iter_content("c")]) == data

    asyncio.run(main())


def test_a_loop_that_is_not_of_asyncio_is_refused_when_a_store_is_opened() -> None:
    """As trio's, under which nothing of it would work."""

    async def awaited() -> None:
        _ = await blockyard.open_async_store("memory://")

    async def entered() -> None:
        async with blockyard.open_async_store("memory://"):
            pass

    for opening in (awaited(), entered()):
        with pytest.raises(blockyard.ConfigError, match=r"asyncio, and none is running.* trio"):
            opening.send(None)
