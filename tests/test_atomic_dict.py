from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from blockyard import atomic_dict


@pytest.fixture(params=[False, True], ids=["one call", "lock"], autouse=True)
def locked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the steps are made under the lock, which is needed where there is no GIL."""
    if atomic_dict.FREE_THREADED and not request.param:
        pytest.skip("without the GIL one call is not one step")
    monkeypatch.setattr(atomic_dict, "FREE_THREADED", request.param)
    return request.param


def test_each_changes_the_dictionary_and_says_so() -> None:
    old, new = object(), object()
    values: dict[str, object] = {}
    atomic_dict.put(values, "k", old)
    assert values == {"k": old}
    assert not atomic_dict.replace(values, "k", new, new)
    assert atomic_dict.replace(values, "k", old, new)
    assert values == {"k": new}
    assert not atomic_dict.remove(values, "k", old)
    assert atomic_dict.remove(values, "k", new)
    assert values == {}
    assert not atomic_dict.replace(values, "k", old, new)
    assert not atomic_dict.remove(values, "k", old)
    atomic_dict.put(values, "k", old)
    atomic_dict.pop(values, "k")
    atomic_dict.pop(values, "k")
    assert values == {}


def test_what_threads_replace_is_each_replaced_once() -> None:
    values: dict[str, tuple[int]] = {"k": (0,)}
    begin = threading.Barrier(4)

    def add() -> None:
        _ = begin.wait(10)
        for _ in range(2000):
            done = False
            while not done:
                old = values["k"]
                done = atomic_dict.replace(values, "k", old, (old[0] + 1,))

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(add) for _ in range(4)]:
            each.result()
    assert values == {"k": (8000,)}


def test_a_step_in_the_middle_of_another_is_made() -> None:
    """As that of a signal handler, here of a finalizer."""
    values: dict[str, object] = {}

    class Dropped:
        def __del__(self) -> None:
            atomic_dict.put(values, "other", 1)

    atomic_dict.put(values, "k", Dropped())
    atomic_dict.put(values, "k", 2)
    assert values == {"k": 2, "other": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_step_can_make_its_own(locked: bool) -> None:
    held, go_on = threading.Event(), threading.Event()

    class Slow:
        def __del__(self) -> None:
            held.set()
            _ = go_on.wait(10)

    values: dict[str, object] = {}

    def replace_a_slow_one() -> None:
        atomic_dict.put(values, "k", Slow())
        atomic_dict.put(values, "k", 1)

    other = threading.Thread(target=replace_a_slow_one)
    other.start()
    try:
        assert held.wait(10)
        child = os.fork()
        if child == 0:
            atomic_dict.put(values, "j", 2)
            os._exit(0 if values["j"] == 2 else 1)
        _, status = os.waitpid(child, 0)
    finally:
        go_on.set()
        other.join()
    assert os.waitstatus_to_exitcode(status) == 0
