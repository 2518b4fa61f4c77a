"""What tests of leaks rest on: threads of earlier tests that end meanwhile are no news."""

from __future__ import annotations

import threading

from tests.transport.runtimes import NewThreads


def test_new_threads_are_those_that_began_since_then() -> None:
    end_older, end_newer = threading.Event(), threading.Event()
    older = threading.Thread(target=end_older.wait)
    older.start()
    threads = NewThreads()
    newer = threading.Thread(target=end_newer.wait, name="newer")
    newer.start()
    end_older.set()
    older.join()
    assert threads.alive() == threads.alive("newer") == [newer]
    assert threads.alive("older") == []
    end_newer.set()
    newer.join()
    assert threads.alive() == []
