"""The keys of the memory store in order: right, whatever is written meanwhile, at little cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from blockyard.context import Context
from blockyard.stores import ordered_keys
from blockyard.stores.base import ListRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.ordered_keys import OrderedKeys
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import PretendRuntime, PretendS3

CTX = Context(PretendRuntime(PretendS3()))


class Counted(str):
    """Counts how often two are compared."""

    __slots__ = ()
    __hash__ = str.__hash__
    compared = 0

    def __lt__(self, other: str) -> bool:
        Counted.compared += 1
        return str.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


class Keys(dict[str, None]):
    """A dictionary, and `meanwhile` in the middle of looking at all of its keys."""

    meanwhile: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[str]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            _ = meanwhile()
        return super().__iter__()


def test_a_list_after_each_write_sorts_only_what_is_new() -> None:
    store = MemoryStore()

    def write(number: int) -> None:
        key = Counted(f"folder-{number * 7919 % 10_007:05}/block")
        _ = run_to_end(store.write(CTX, WriteRequest(key, b"")))

    def listed(prefix: str) -> int:
        return len(run_to_end(store.list(CTX, ListRequest(prefix))).blocks)

    for number in range(4000):
        write(number)
    assert listed("folder-00001") == 0
    Counted.compared = 0
    for number in range(4000, 4200):
        write(number)
        _ = listed("folder-0000")
    assert Counted.compared < 200 * 200


def test_writes_that_nobody_lists_leave_a_bounded_log() -> None:
    keys = dict.fromkeys("abc")
    ordered = OrderedKeys(keys)
    for _ in range(20_000):
        ordered.note("b")
    assert len(ordered._state[""].added) < 1100
    assert ordered.all() == ["a", "b", "c"]


@pytest.mark.parametrize("few", [0, 64])
@pytest.mark.parametrize("spare", [0, 5, 1000])
def test_they_are_right_after_any_changes(
    few: int, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_keys, "_FEW", few)
    monkeypatch.setattr(ordered_keys, "_SPARE", spare)
    keys: dict[str, None] = {}
    ordered = OrderedKeys(keys)
    for step in range(3000):
        key = f"{step * step * 31 % 97:02}"
        if step % 5 < 3:
            keys[key] = None
            ordered.note(key)
        else:
            _ = keys.pop(key, None)
        if step % 3 == 0 or step % 100 > 80:
            found = ordered.all()
            assert [key for key in found if key in keys] == sorted(keys)
            assert found == sorted(set(found))


def test_what_is_written_while_they_are_sorted_is_there_afterwards() -> None:
    """By another thread, or a signal handler, which may list them as well."""
    keys = Keys.fromkeys("bdf")
    ordered = OrderedKeys(keys)
    for key in keys:
        ordered.note(key)

    def write(key: str) -> None:
        keys[key] = None
        ordered.note(key)

    def write_and_list() -> None:
        write("a")
        assert [*ordered.all()] == ["a", "b", "d", "f"]
        write("e")

    for _ in range(2000):  # so that they are sorted anew
        ordered.note("b")
    keys.meanwhile = write_and_list
    assert set(ordered.all()) >= {"a", "b", "d", "e", "f"}
    write("c")
    assert ordered.all() == list("abcdef")
    assert ordered.all() is ordered.all()
