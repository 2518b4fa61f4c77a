"""Work on a prefix in other processes: pools of every kind, Dask's workers, and killed ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import blockyard
from blockyard import BlockStore, ExecutorError, UnsupportedError, VerifyReport
from blockyard.distributed import copy_by_prefix, delete_by_prefix, verify_by_prefix
from blockyard.stores.memory import MemoryStore
from tests.small_s3 import small_s3

pytestmark = pytest.mark.thorough

SMALL = {"tasks": 4, "keys_per_task": 40}


def spawned(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with blockyard.open_store(tmp_path.as_uri()) as store:
        _ = store.write_blocks((f"a/{number:03}", b"1234") for number in range(300))
        yield store


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside threads
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pool_of_processes(method: str) -> None:
    context = multiprocessing.get_context(method)
    with (
        small_s3() as server,
        blockyard.open_store(server.store_url()) as store,
        ProcessPoolExecutor(2, context) as pool,
    ):
        _ = store.write_blocks((f"a/{number:03}", b"1234") for number in range(120))
        report = verify_by_prefix(store, "a/", pool, **SMALL)
        assert report == store.verify_by_prefix("a/")
        assert report.verified == {"page checksums": 120}
        assert copy_by_prefix(store, "a", "b", pool, **SMALL).blocks == 120
        assert len(delete_by_prefix(store, "a", pool, **SMALL).deleted) == 120
        assert store.list_by_prefix() == [f"b/{number:03}" for number in range(120)]


def test_errors_come_back_with_their_types() -> None:
    url = "s3://bucket?endpoint=http://127.0.0.1:9&max_attempts=1&anonymous=true&region=x"
    with (
        blockyard.open_store(url) as store,
        spawned(1) as pool,
        pytest.raises(blockyard.TransportConnectionError) as refused,
    ):
        _ = verify_by_prefix(store, "a/", pool, tasks=1)
    assert "in task" in refused.value.__notes__[-1]


def test_memory_is_refused_in_another_process() -> None:
    with blockyard.open_store("memory://") as store, spawned(1) as pool:
        _ = store.write_block("a", b"1")
        with pytest.raises(UnsupportedError, match="is in the memory of the process"):
            _ = verify_by_prefix(store, "", pool)


def test_a_store_of_the_callers_own_can_not_be_sent() -> None:
    with blockyard.open_store(MemoryStore()) as store, spawned(1) as pool:
        _ = store.write_block("a", b"1")
        with pytest.raises(ExecutorError, match="TypeError: a BlockStore over a Store of your own"):
            _ = verify_by_prefix(store, "", pool)


def test_a_worker_that_is_killed_is_named_and_the_call_can_be_made_again(
    store: BlockStore,
) -> None:
    reports: list[VerifyReport] = []

    with spawned(2) as pool:

        def kill_one(report: VerifyReport) -> None:
            reports.append(report)
            if len(reports) == 1:
                [process, *_] = pool._processes.values()
                os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(ExecutorError, match="BrokenProcessPool") as killed:
            _ = verify_by_prefix(store, "a/", pool, progress=kill_one, tasks=4, keys_per_task=10)
    assert isinstance(killed.value.__cause__, BrokenProcessPool)
    assert 0 < reports[-1].unverifiable < 300
    with spawned(2) as pool:
        assert verify_by_prefix(store, "a/", pool, **SMALL) == store.verify_by_prefix("a/")


PROGRAM = """
import os, signal, sys
import blockyard
from blockyard.distributed import copy_by_prefix, delete_by_prefix, verify_by_prefix
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    small = {"tasks": 4, "keys_per_task": 20}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        LocalCluster(**options) as cluster,
        Client(cluster) as client,
        blockyard.open_store(sys.argv[1]) as store,
    ):
        executor = client.get_executor(pure=False)
        expected = store.verify_by_prefix("a/")
        assert verify_by_prefix(store, "a/", executor, **small) == expected
        careless = client.get_executor()  # pure: it would take a task like one before from memory
        assert verify_by_prefix(store, "a/", careless, **small) == expected
        killed = []

        def kill_one(report):
            if not killed:
                killed.append(min(client.run(os.getpid).values()))
                os.kill(killed[0], signal.SIGKILL)

        assert copy_by_prefix(store, "a", "b", executor, progress=kill_one, **small).blocks == 300
        assert killed and killed[0] not in client.run(os.getpid).values()
        assert len(store.list_by_prefix("b/")) == 300
        with blockyard.open_store("memory://") as memory:
            try:
                verify_by_prefix(memory, "", executor, tasks=1)
            except blockyard.UnsupportedError as error:
                assert "memory" in str(error)
            else:
                raise AssertionError("memory:// was taken for empty")
        deleted = delete_by_prefix(store, "a", executor, **small).deleted
        assert deleted == [f"a/{number:03}" for number in range(300)]
    print("all done")
"""


def test_dask(store: BlockStore, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """In a program of its own, since Dask's processes import the main module anew."""
    program = tmp_path_factory.mktemp("dask") / "program.py"
    _ = program.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(program), tmp_path.as_uri()],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert ran.stdout.endswith("all done\n"), ran.stderr
