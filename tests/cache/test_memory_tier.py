"""The tier in memory: its books, whatever interrupts them, and what is found in it."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from weakref import ref

import pytest

from blockyard.cache import memory, policy
from blockyard.cache.memory import MemoryTier
from blockyard.cache.tier import Pages
from blockyard.model import KIB, BlockInfo, PageSums
from blockyard.stores.base import ReadRequest
from tests.interrupting import at_line

PAGE = 16 * KIB
EPOCH = "the epoch"
_FILES = {memory.__file__, policy.__file__}


def block(key: str, size: int = 1000, *, etag: str = "e", at: float = 0.0) -> Pages:
    data = (key.encode() * (size // len(key) + 1))[:size]
    return Pages(BlockInfo(key, size, etag), 0, data, at)


def in_order(tier: MemoryTier) -> None:
    """The books say what the dictionary holds, once the next change has been made."""
    tier.fill(block("first"), EPOCH)
    tier.fill(block("last"), EPOCH)
    books = tier._books.here()  # pyright: ignore[reportPrivateUsage]
    assert not books.queue
    assert not books.turn
    entries = tier.entries
    assert books.policy.used == sum(entry.charged for entry in entries.values()) <= tier.budget
    assert len(books.policy) == len(entries)
    assert "last" in entries


class _Rang(BaseException):
    """Raised by a signal handler."""


def work(tier: MemoryTier) -> None:
    """Fills that make entries leave, grow and be replaced, and drops."""
    for number in range(6):
        tier.fill(block(f"k{number}"), EPOCH)
        for entry in tier.entries.values():
            entry.hits = number % 2
    tier.drop("k4")
    tier.fill(block("k5", etag="new", at=1.0), EPOCH)
    size = 3 * PAGE
    for first in (0, PAGE):
        tier.fill(Pages(BlockInfo("paged", size, "e"), first, bytes(PAGE), 0.0), EPOCH)


def every_line(call: Callable[[MemoryTier], object]) -> int:
    """Do the work once for each line of the tier's code that it runs, with the call in there."""
    number = 0
    while True:
        number += 1
        tier = MemoryTier(38 * KIB)
        with (
            suppress(_Rang),
            at_line(number, _FILES, lambda tier=tier: call(tier)) as seen,
        ):
            work(tier)
        in_order(tier)
        if seen[0] < number:
            return number


def test_a_signal_handler_may_raise_at_any_line() -> None:
    def ring(_: MemoryTier) -> None:
        raise _Rang

    assert every_line(ring) > 200


def test_a_signal_handler_may_fill_and_drop_at_any_line() -> None:
    def nested(tier: MemoryTier) -> None:
        tier.fill(block("nested"), EPOCH)
        tier.drop("k3")

    assert every_line(nested) > 200


def test_a_forked_child_goes_on_with_what_was_there() -> None:
    """Though another thread of its parent's was in the middle of a change."""
    tier = MemoryTier(64 * KIB)
    tier.fill(block("k"), EPOCH)
    tier._books.here().turn[""] = ref(turn := memory._Turn())  # pyright: ignore[reportPrivateUsage]

    child = os.fork()
    if child == 0:  # nothing of pytest's is to run here
        status = 1
        try:
            in_order(tier)
            found = tier.find(ReadRequest("k"), EPOCH)
            status = 0 if found is not None and found.data == b"k" * 1000 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del turn
    in_order(tier)


def test_threads_that_fill_and_drop() -> None:
    tier = MemoryTier(64 * KIB)
    together = threading.Barrier(8)

    def change(number: int) -> None:
        _ = together.wait()
        for step in range(500):
            key = f"k{(step * 7 + number) % 150}"
            if step % 5 == number % 5:
                tier.drop(key)
            else:
                tier.fill(block(key), EPOCH)
            found = tier.find(ReadRequest(key), EPOCH)
            assert found is None or found.data in {b"", block(key).data}

    with ThreadPoolExecutor(8) as threads:
        for call in [threads.submit(change, number) for number in range(8)]:
            call.result()
    in_order(tier)


def test_nobody_waits_for_the_one_who_makes_the_changes() -> None:
    tier = MemoryTier(64 * KIB)
    books = tier._books.here()  # pyright: ignore[reportPrivateUsage]
    elsewhere = memory._Turn()  # pyright: ignore[reportPrivateUsage]
    books.turn[""] = ref(elsewhere)
    for number in range(1500):
        tier.fill(block(f"k{number}"), EPOCH)
    assert tier.entries == {}
    assert tier.dropped == 500

    del elsewhere  # its call was cut off
    in_order(tier)


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 1), (0, PAGE), (5, PAGE + 5), (PAGE - 1, PAGE + 1), (PAGE, 2 * PAGE + 7)]
)
def test_pages_are_put_together(begin: int, end: int) -> None:
    data = os.urandom(2 * PAGE + 7)
    info = BlockInfo("k", len(data), "e")
    tier = MemoryTier(1 << 20)
    request = ReadRequest("k", begin, end - begin)
    for first in (2 * PAGE, 0, PAGE):
        found = tier.find(request, EPOCH)
        held = set() if found is None else set(tier.entries["k"].pages)
        complete = set(range(begin // PAGE, -(-end // PAGE))) <= held
        assert (found is not None and found.data == data[begin:end]) is complete
        tier.fill(Pages(info, first, data[first : first + PAGE], 0.0), EPOCH)
    found = tier.find(request, EPOCH)
    assert found is not None
    assert (found.first, found.data) == (begin, data[begin:end])


def test_what_takes_memory_is_counted() -> None:
    """By what the process takes for entries: of small blocks it is most of that."""
    for count, size in ((2000, 10), (300, 4000)):
        tier = MemoryTier(1 << 30)
        tracemalloc.start()
        for number in range(count):
            etag, modified = f"{number:032x}", datetime.fromtimestamp(number, UTC)
            info = BlockInfo(f"some/folder/key{number:06}", size, etag, modified)
            sums = PageSums(PAGE, number.to_bytes(4, "big"))
            tier.fill(Pages(info, 0, bytes(size), 0.0, sums), EPOCH)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.75 * taken <= tier.used <= 1.5 * taken


def test_the_bytes_of_what_is_dropped_are_let_go() -> None:
    tier = MemoryTier(1 << 20)
    tier.fill(block("k"), EPOCH)
    entry = tier.entries["k"]
    tier.drop("k")

    assert tier.entries == {}
    assert tier.used == 0
    assert entry.whole is None
    assert not entry.pages


def test_many_ranges_are_found_of_what_is_fresh_and_of_its_keys_epoch() -> None:
    tier = MemoryTier(10_000)
    for key, at in (("a", 5.0), ("b", 5.0), ("old", 4.0)):
        tier.fill(block(key, 10, at=at), EPOCH)
    epochs = {"b": "another"}
    wanted = [("a", 2, 3), ("b", 2, 3), ("old", 2, 3), ("none", 2, 3), ("a", 8, None), ("a", 10, 0)]

    found = tier.ranges(wanted, lambda key: epochs.get(key, EPOCH), since=4.0)

    assert found == [b"aaa", None, None, None, b"aa", None]
    assert [tier.entries[key].hits for key in ("a", "b", "old")] == [1, 0, 0]
