"""A fork that runs none of Python's hooks, as uWSGI and other C code forks.

The server is a process of its own: in a child of such a fork the interpreter waits for ever for
a thread that was about to run when it was made, so nothing else may be running here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import ref

import pytest

import blockyard
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.process import PerProcess
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from servers.certificates import issue_certificate
from tests.small_s3 import SmallS3, small_s3
from tests.transport.runtimes import ask

pytestmark = pytest.mark.alone

_fork: Callable[[], int] = ctypes.PyDLL(None).fork
"""fork(2), called with the interpreter lock held, and nothing before or after it."""
WORKERS = 4
READS = 50


@contextmanager
def children(works: Sequence[Callable[[], None]]) -> Generator[None]:
    """Run each work in a child while the block runs here."""
    wait_for_rest()
    pids = [child(work, _fork) for work in works]
    yield
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


def wait_for_rest() -> None:
    """Wait until every other thread waits for work, which needs no interpreter."""
    at_rest = 0
    while at_rest < 3:
        time.sleep(0.03)
        threads = {int(name) for name in os.listdir("/proc/self/task")} - {os.getpid()}
        at_rest = at_rest + 1 if all(_sleeps(thread) for thread in threads) else 0


def _sleeps(thread: int) -> bool:
    try:
        stat = Path(f"/proc/self/task/{thread}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False
    return stat.rpartition(")")[2].split()[0] == "S"


def child(work: Callable[[], None], fork: Callable[[], int]) -> int:
    """The id of a forked process, which ends with 0 when `work` did."""
    pid = fork()
    if pid == 0:
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not the test runner's
        _ = signal.alarm(30)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


@pytest.fixture(scope="module")
def plain() -> Generator[SmallS3]:
    with small_s3() as server:
        yield server


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[SmallS3, Path]]:
    issued = issue_certificate(tmp_path_factory.mktemp("certificates"))
    with small_s3(issued.certificate, issued.key) as server:
        yield server, issued.authority


@pytest.fixture(params=["plain", "TLS", "memory", "file"])
def url(
    request: pytest.FixtureRequest,
    plain: SmallS3,
    over_tls: tuple[SmallS3, Path],
    tmp_path: Path,
) -> str:
    tls, authority = over_tls
    return {
        "plain": plain.store_url(),
        "TLS": tls.store_url(ca_bundle=authority),
        "memory": "memory://",
        "file": tmp_path.as_uri(),
    }[request.param]


def key(worker: int) -> str:
    return f"worker-{worker}/own"


def data(worker: int) -> bytes:
    return b"%d" % worker * (1000 + 3000 * worker)


BLOCKS = [(key(worker), data(worker)) for worker in range(WORKERS + 1)]


def single_calls(store: blockyard.BlockStore, worker: int) -> None:
    for _ in range(READS):
        assert store.read_block(key(worker)) == data(worker)


def bulk_calls(store: blockyard.BlockStore, worker: int) -> None:
    for _ in range(READS // 10):
        assert store.read_blocks([key(worker)] * 10) == [data(worker)] * 10
    content = f"content-{worker}"
    _ = store.write_content(content, data(worker))
    assert store.read_content(content) == data(worker)


@pytest.mark.parametrize("use", [single_calls, bulk_calls])
def test_workers_and_parent_read_each_their_own_blocks(
    url: str, use: Callable[[blockyard.BlockStore, int], None]
) -> None:
    with blockyard.open_store(url) as store:
        _ = store.write_blocks(BLOCKS)
        use(store, 0)
        works = [lambda worker=worker: use(store, worker) for worker in range(1, WORKERS + 1)]
        for _ in range(2):
            with children(works):
                use(store, 0)
        use(store, 0)


def test_tasks_of_a_loop_of_the_childs_own_read_their_own_blocks(url: str) -> None:
    async def use(worker: int) -> None:
        reads = [store.read_block(key(worker)) for _ in range(READS)]
        assert await asyncio.gather(*reads) == [data(worker)] * READS

    async def begin() -> blockyard.AsyncBlockStore:
        store = await blockyard.open_async_store(url)
        _ = await store.write_blocks(BLOCKS)
        return store

    store = asyncio.run(begin())
    with asyncio.Runner() as kept_open:
        kept_open.run(use(0))
        works = [lambda worker=worker: asyncio.run(use(worker)) for worker in range(1, WORKERS + 1)]
        with children(works):
            kept_open.run(use(0))
        kept_open.run(use(0))
        kept_open.run(store.close())


def test_a_child_goes_on_with_the_loop_it_inherited(plain: SmallS3) -> None:
    """As a daemon does. Both at once would be woken for each other: they share an epoll set."""

    async def use(worker: int) -> None:
        for _ in range(READS):
            assert await store.read_block(key(worker)) == data(worker)

    with asyncio.Runner() as shared:
        store = shared.run(blockyard.open_async_store(plain.store_url()))
        _ = shared.run(store.write_blocks(BLOCKS))
        shared.run(use(0))
        with children([lambda: shared.run(use(1))]):
            pass
        shared.run(use(0))
        shared.run(store.close())


def test_a_child_that_closes_or_drops_the_store_ends_no_connection_of_its_parent(
    over_tls: tuple[SmallS3, Path],
) -> None:
    """Nor says goodbye on it: a TLS close_notify would end the parent's session."""
    server, authority = over_tls
    runtime = BlockingRuntime(Connections(HttpConfig(ca_bundle=str(authority)), TimeoutConfig()))
    request = ask(server.url, target="/bucket")
    assert run_to_end(runtime.exchange(request, limit=100)).status == 200
    (connection,) = [each() for each in runtime.connections.here()._open]
    assert connection is not None
    with children([runtime.close, runtime.connections._pools._states.clear]):
        pass
    assert connection.usable()
    assert run_to_end(runtime.exchange(request, limit=100)).status == 200
    assert runtime.connections.here()._open == {ref(connection)}
    runtime.close()


def test_a_store_closed_before_the_fork_stays_closed(plain: SmallS3) -> None:
    with blockyard.open_store(plain.store_url()) as store:
        _ = store.write_blocks(BLOCKS)
        store.close()

        def work() -> None:
            for call in (lambda: store.read_block(key(0)), lambda: store.read_blocks([key(0)])):
                with pytest.raises(blockyard.StoreClosedError):
                    _ = call()

        with children([work]):
            pass


def test_threads_that_ask_at_once_get_one_value_and_the_parents_is_let_go() -> None:
    let_go: list[object] = []
    state = PerProcess(object, let_go.append)
    parents = state.here()
    assert state.here() is parents

    def work() -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as threads:
            mine = set(threads.map(lambda _: state.here(), range(100)))
        assert len(mine) == 1
        assert mine != {parents}
        assert let_go == [parents]

    with children([work]):
        pass
    assert state.here() is parents
    assert let_go == []


def test_retries_of_two_workers_do_not_wait_equally_long() -> None:
    """A generator's state is copied by a fork, and so would the moments of all retries be."""
    runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    _ = runtime.jitter()
    receiving, sending = os.pipe()
    with children([lambda: _write(sending, [runtime.jitter() for _ in range(3)])] * 2):
        pass
    os.close(sending)
    with open(receiving) as told:
        first, second = told.read().splitlines()
    assert first != second


def _write(descriptor: int, values: list[float]) -> None:
    _ = os.write(descriptor, f"{values}\n".encode())
