"""A forked child shares no connection with its parent, whichever of them goes first."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

import blockyard
from blockyard.config import HttpConfig, S3Config, StoreConfig, TimeoutConfig
from blockyard.sync import BlockStore
from blockyard.testing.clients import ClientName, open_client
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from tests.transport.runtimes import LIMIT, EchoServer, ask, echo, eventually, open_sockets

KEYS = [f"key-{number}" for number in range(20)]


def stored(key: str) -> bytes:
    return echo(f"/bucket/{key}")


def store_config(server: EchoServer) -> StoreConfig:
    return StoreConfig(
        s3=S3Config(
            bucket="bucket",
            endpoint=server.url,
            force_path_style=True,
            anonymous=True,
            timeouts=TimeoutConfig(deadline=20),
        )
    )


@contextmanager
def child(work: Callable[[], None]) -> Generator[None, None, None]:
    """Run `work` in a forked child while the block runs here."""
    pid = os.fork()
    if pid == 0:
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not the test runner\'s
        _ = signal.alarm(20)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    yield
    _, status = os.waitpid(pid, 0)
    assert status == 0


@pytest.fixture
def server() -> Generator[EchoServer, None, None]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def store(server: EchoServer) -> Generator[BlockStore, None, None]:
    with blockyard.open_store(store_config(server)) as store:
        yield store


def use(store: BlockStore) -> None:
    for key in KEYS:
        assert store.read_block(key) == stored(key)
    assert store.read_blocks(KEYS) == [stored(key) for key in KEYS]
    assert store.write_block("large", bytes(200_000)).size == 200_000  # hashed on a thread


def test_parent_and_child_use_a_store_at_the_same_time(store: BlockStore) -> None:
    use(store)  # connections, and a background loop, that the child inherits
    for _ in range(3):
        with child(lambda: use(store)):
            use(store)
    use(store)


def test_a_store_first_used_by_children(store: BlockStore) -> None:
    with child(lambda: use(store)), child(lambda: use(store)):
        use(store)


def test_a_child_of_a_child(store: BlockStore) -> None:
    use(store)

    def work() -> None:
        use(store)
        with child(lambda: use(store)):
            use(store)

    with child(work):
        use(store)


def test_a_child_that_closes_its_store_leaves_the_parents_alone(
    store: BlockStore, server: EchoServer
) -> None:
    use(store)
    connections = server.connections
    with child(store.close):
        pass
    use(store)
    assert server.connections == connections


def test_a_child_that_does_nothing_keeps_no_connection_open(server: EchoServer) -> None:
    """Or the parent's close would not reach the server before the child's end."""
    ready, over = os.pipe(), os.pipe()

    def idle() -> None:
        _ = os.write(ready[1], b"!")
        _ = os.read(over[0], 1)

    with blockyard.open_store(store_config(server)) as store:
        use(store)
        with child(idle):
            _ = os.read(ready[0], 1)
            store.close()
            drained = server.wait_until_drained()
            _ = os.write(over[1], b"!")
            assert drained
    for descriptor in (*ready, *over):
        os.close(descriptor)


@pytest.mark.parametrize("client", ["blocking", "asyncio"])
def test_the_socket_of_a_request_under_way_is_not_open_in_the_child(client: ClientName) -> None:
    blocking = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    aio = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))

    def fetch(url: str) -> bytes:
        request = ask(url, target="/x")
        if client == "blocking":
            return run_to_end(blocking.exchange(request, limit=LIMIT)).body
        return asyncio.run(aio.exchange(request, limit=LIMIT)).body

    with EchoServer() as quick, EchoServer(delay=30) as busy:
        waiting = threading.Thread(target=lambda: swallow(lambda: fetch(busy.url)))
        waiting.start()
        assert eventually(lambda: busy.most_at_once == 1)
        pools = [each.connections.here() for each in (blocking, aio)]
        (connection,) = [each() for pool in pools for each in pool._open]
        assert connection is not None
        socket = os.readlink(f"/proc/self/fd/{connection._sock.fileno()}")
        assert socket in open_sockets()

        def work() -> None:
            assert socket not in open_sockets()
            assert fetch(quick.url) == echo("/x")

        with child(work):
            pass
    waiting.join()


def swallow(call: Callable[[], object]) -> None:
    try:
        _ = call()
    except blockyard.BlockStoreError:
        return


def test_an_asyncio_store_in_parent_and_child(server: EchoServer) -> None:
    with open_client("asyncio", store_config(server)) as client:
        use(client.store)

        async def afresh() -> list[bytes]:
            store = await blockyard.open_async_store(store_config(server))
            async with store:
                return await store.read_blocks(KEYS)

        with child(lambda: asyncio.run(check(afresh))):
            use(client.store)
        use(client.store)


async def check(read: Callable[[], object]) -> None:
    assert await read() == [stored(key) for key in KEYS]  # type: ignore[misc]


def test_an_asyncio_store_of_the_parent_used_in_the_child(server: EchoServer) -> None:
    store = asyncio.run(blockyard.open_async_store(store_config(server)))

    async def read() -> None:
        assert await store.read_blocks(KEYS) == [stored(key) for key in KEYS]

    asyncio.run(read())
    with child(lambda: asyncio.run(read())):
        asyncio.run(read())
    asyncio.run(store.close())


_shared: BlockStore | None = None


def read_shared(key: str) -> bytes:
    assert _shared is not None
    return b"".join([_shared.read_block(key), *_shared.read_blocks([key, key])])


def test_a_pool_of_forked_workers(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use(store)
    monkeypatch.setitem(globals(), "_shared", store)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(read_shared, KEYS * 5) == [stored(key) * 3 for key in KEYS * 5]
        use(store)
        pool.close()
        pool.join()
