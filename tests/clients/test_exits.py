"""The end of the main thread and of the interpreter: what is stored then is stored, or an error."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockyard
from tests.small_s3 import SmallS3, small_s3

pytestmark = pytest.mark.thorough

STORES = ("file", "s3")
BLOCKS = [f"{number:03}" for number in range(100)]

USE = """
import asyncio, atexit, sys, threading, time
import blockyard

def use_blocks(store):
    store.write_block("single", b"block")
    assert len(store.write_blocks((f"{n:03}", b"block") for n in range(100))) == 100
    assert store.read_blocks([f"{n:03}" for n in range(100)]) == [b"block"] * 100

def use(store):
    use_blocks(store)
    done = []
    store.write_content("movie", iter([b"old"] * 3))
    store.write_content("movie", iter([b"new"] * 3), progress=done.append)
    assert store.read_content("movie") == b"new" * 3 and done == [9]

async def use_awaited(url):
    async with await blockyard.open_async_store(url) as store:
        await store.write_block("single", b"block")
        assert len(await store.write_blocks((f"{n:03}", b"block") for n in range(100))) == 100
        await store.write_content("movie", iter([b"new"] * 3))
        assert await store.read_content("movie") == b"new" * 3

def use_and_close(store):
    with store:
        use(store)

def after_main(work):
    def wait_then_work():
        while threading.main_thread().is_alive():
            time.sleep(0.01)
        work()
    threading.Thread(target=wait_then_work).start()
"""

SCRIPTS = {
    "a thread that goes on, with a new store": """
        after_main(lambda: use_and_close(blockyard.open_store(url)))
    """,
    "a thread that goes on, with a store in use": """
        store = blockyard.open_store(url)
        use(store)
        after_main(lambda: use_and_close(store))
    """,
    "a thread that goes on, under asyncio": """
        after_main(lambda: asyncio.run(use_awaited(url)))
    """,
    "an exit handler, with a new store": """
        atexit.register(lambda: use_and_close(blockyard.open_store(url)))
    """,
    "an exit handler, with a store in use": """
        store = blockyard.open_store(url)
        use(store)
        atexit.register(lambda: use_and_close(store))
    """,
    "an exit handler, under asyncio": """
        atexit.register(lambda: asyncio.run(use_awaited(url)))
    """,
    "a finalizer as the interpreter ends": """
        class Owner:
            def __init__(self, store):
                self.store = store
            def __del__(self):
                use_blocks(self.store)
                self.store.close()
        with blockyard.open_store(url) as store:
            store.write_content("movie", b"new" * 3)
        owner = Owner(blockyard.open_store(url))
        owner.itself = owner
    """,
    "a finalizer as the interpreter ends, with a store in use": """
        class Owner:
            def __init__(self, store):
                self.store = store
            def __del__(self):
                use_blocks(self.store)
                self.store.close()
        owner = Owner(blockyard.open_store(url))
        owner.store.write_content("movie", b"new" * 3)
    """,
    "a thread that is at it when the main thread ends": """
        store = blockyard.open_store(url)
        begun = threading.Event()
        def slow():
            for n in range(100):
                begun.set()
                time.sleep(0.002)
                yield b"x" if n else b"y"
        def work():
            store.write_content("movie", slow())
            use_and_close(store)
        threading.Thread(target=work).start()
        begun.wait()
    """,
}


@pytest.fixture(scope="module")
def service() -> Iterator[SmallS3]:
    with small_s3() as server:
        yield server


@pytest.mark.parametrize("stored", STORES)
@pytest.mark.parametrize("what", SCRIPTS)
def test_what_is_stored_as_the_interpreter_ends(
    what: str, stored: str, service: SmallS3, tmp_path: Path
) -> None:
    bucket = tmp_path.name.replace("_", "-").lower()[-40:] + stored
    url = tmp_path.as_uri() if stored == "file" else service.store_url(bucket)
    script = USE + f"url = {url!r}\n" + textwrap.dedent(SCRIPTS[what])
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]  # some are dropped without `close`
    run = subprocess.run(
        [sys.executable, *warnings, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    with blockyard.open_store(url) as store:
        assert store.read_content("movie") == b"new" * 3
        assert store.read_block("single") == b"block"
        assert store.read_blocks(BLOCKS) == [b"block"] * len(BLOCKS)


EXHAUSTED = """
import os, resource
import blockyard
store = blockyard.open_store("memory://")
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = len(os.listdir("/proc/self/fd")) - 1
for more in range(20):  # a loop needs a few, and none may be lost where the last one is missing
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + more, limit[1]))
    try:
        store.write_blocks([("a", b"")])
    except blockyard.TransportError as error:
        assert "Too many open files" in str(error), error
    else:
        break
else:
    raise AssertionError("it never worked")
assert more > 0
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
assert len(store.write_blocks([("a", b""), ("b", b"")])) == 2
store.close()
os.close(os.open("/dev/null", os.O_RDONLY))
"""

NO_THREAD = """
import threading, _thread
import blockyard
from blockyard.transport import threads
store = blockyard.open_store("memory://")
start = _thread.start_new_thread
def none_left(*_):
    threads._thread.start_new_thread = start
    raise RuntimeError("can't start new thread")
threads._thread.start_new_thread = none_left
try:
    store.write_blocks([("a", b"")])
except blockyard.TransportError as error:
    assert "can't start new thread" in str(error)
else:
    raise AssertionError("it was not noticed")
assert len(store.write_blocks([("a", b""), ("b", b"")])) == 2
store.close()
"""


@pytest.mark.parametrize("script", [EXHAUSTED, NO_THREAD], ids=["descriptors", "threads"])
def test_what_the_system_has_not_got_is_a_typed_error_once(script: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
