"""A signal handler or a finalizer that uses the store which the same thread is in the middle of."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

import blockyard
from tests.docs.markdown_pages import REPOSITORY
from tests.small_s3 import SmallS3, small_s3
from tests.transport.test_fork_without_hooks import child, wait_for_rest

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server() -> Generator[SmallS3]:
    with small_s3() as server:
        yield server


@pytest.fixture(params=["memory", "file", "s3", "s3 over one connection"])
def url(request: pytest.FixtureRequest, server: SmallS3, tmp_path: Path) -> str:
    return {
        "memory": "memory://",
        "file": tmp_path.as_uri(),
        "s3": server.store_url(),
        "s3 over one connection": server.store_url(max_connections=1),
    }[request.param]


@pytest.mark.parametrize("how", ["signal", "__del__", "weakref"])
def test_calls_in_the_middle_of_calls_work(url: str, how: str) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.clients.nested_calls", url, how],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")


FORKS: dict[str, Callable[[], int]] = {"os.fork": os.fork, "C": ctypes.PyDLL(None).fork}


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_children_forked_while_threads_use_a_store(kind: str, tmp_path: Path) -> None:
    """Whatever those threads were at, the child is alone with what they left."""
    url = "memory://" if kind == "memory" else tmp_path.as_uri()
    over = threading.Event()

    def work(number: int) -> None:
        step = 0
        while not over.is_set():
            step += 1
            _ = store.write_block(f"{number}/{step % 50}", b"data")
            _ = store.delete_block(f"{number}/{(step + 25) % 50}")
            _ = store.list_by_prefix(f"{number}/")

    def in_child() -> None:
        _ = store.write_block("child", b"data")
        assert store.read_block("child") == b"data"
        assert store.list_by_prefix("child") == ["child"]
        assert store.read_blocks(["child"] * 3) == [b"data"] * 3
        store.delete_block("child")

    with blockyard.open_store(url) as store:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(12):
                time.sleep(0.002)
                assert os.waitpid(child(in_child, os.fork), 0)[1] == 0
        finally:
            over.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("fork", FORKS)
def test_a_source_that_forks_in_the_middle_of_a_call(server: SmallS3, fork: str) -> None:
    """The call goes on in the parent. In the child it ends, and later calls work."""
    outcome: list[int] = []

    def blocks() -> Iterator[tuple[str, bytes]]:
        yield "before", b"data"
        wait_for_rest()
        pid = FORKS[fork]()
        if pid == 0:
            _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not the test runner\'s
            _ = signal.alarm(30)
            in_child.append(True)
        else:
            outcome.append(os.waitpid(pid, 0)[1])
        yield "after", b"data"

    in_child: list[bool] = []
    with blockyard.open_store(server.store_url()) as store:
        try:
            stored = store.write_blocks(blocks())
        except blockyard.TransportError as error:
            works = "fork" in str(error) and store.read_blocks(["before"]) == [b"data"]
            os._exit(0 if in_child and works else 1)
        except BaseException:
            if in_child:
                os._exit(2)
            raise
        if in_child:
            os._exit(3)
        assert outcome == [0]
        assert [info.key for info in stored] == ["before", "after"]
