"""The background loop of a blocking store is made, and asyncio imported, at its first bulk call."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROLOGUE = """
import gc, signal, sys, threading, time
import blockyard
store = blockyard.open_store("memory://")
store.write_block("k", b"abc")
assert "asyncio" not in sys.modules
"""
PROGRAMS = {
    "many threads at once": """
def read():
    ready.wait()
    found.append(store.read_blocks(["k"]))
found, ready = [], threading.Barrier(8)
threads = [threading.Thread(target=read) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert found == [[b"abc"]] * 8
assert sum(each.name == "blockyard" for each in threading.enumerate()) == 1
store.close()
""",
    "a signal handler that raises meanwhile": """
class Interrupted(Exception): pass
def handler(*_): raise Interrupted
signal.signal(signal.SIGALRM, handler)
interrupted = 0
for _ in range(40):
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        try:
            store.read_blocks(["k"])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        interrupted += 1
    if "blockyard.transport.background" in sys.modules: break
assert interrupted, "the import takes longer than that"
assert store.read_blocks(["k"]) == [b"abc"]
import asyncio
assert asyncio.events.get_event_loop_policy, "asyncio is whole"
store.close()
""",
    "a finalizer that calls while the import goes on": """
class Calls:
    def __init__(self): self.itself = self
    def __del__(self):
        where.append(threading.current_thread().name)
        try: outcomes.append(store.read_blocks(["k"]))
        except blockyard.TransportError as error: outcomes.append(error)
outcomes, where = [], []
gc.collect(); gc.set_threshold(1)
for _ in range(200): Calls()
assert store.read_blocks(["k"]) == [b"abc"]
gc.set_threshold(700); gc.collect()
assert len(outcomes) == 200
store.close()
""",
    "closed before": """
store.close()
try: store.read_blocks(["k"])
except blockyard.StoreClosedError: pass
else: raise AssertionError
assert "asyncio" not in sys.modules
""",
    "at the end of the interpreter": """
import os
class Last:
    def __init__(self): self.store, self.os, self.error = store, os, blockyard.TransportError
    def __del__(self):
        try: self.store.read_blocks(["k"])
        except self.error as error: self.os.write(1, str(error).encode())
last = Last()
""",
    "in a child": """
import os
if (child := os.fork()) == 0:
    os._exit(0 if store.read_blocks(["k"]) == [b"abc"] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert store.read_blocks(["k"]) == [b"abc"]
store.close()
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_first_bulk_call(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + PROGRAMS[name]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if name == "at the end of the interpreter":
        assert "blockyard.transport.background can't be imported" in done.stdout
