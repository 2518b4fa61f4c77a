"""The protocol of contents, explored: no interleaving breaks it, and each of its rules is needed.

`BLOCKYARD_MORE_FAULTS=1` allows one more fault in each scenario, with many times the states.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.content.contents_model import Intent, Rules, clean, copy, delete, read, rot, write
from tests.content.contents_world import ABSENT, Block, Manifest, Service, World
from tests.content.explorer import Found, Process, Scenario, explore

pytestmark = pytest.mark.thorough

_MORE_FAULTS = int(os.environ.get("BLOCKYARD_MORE_FAULTS", "0"))
_LIMIT = 30_000_000 if _MORE_FAULTS else 150_000

_Operation = Callable[[Rules], Process]


@dataclass(frozen=True)
class _Case:
    """Operations beside each other on one content, `age` minutes old; with None there is none."""

    operations: Mapping[str, _Operation]
    age: int | None = None
    instants: tuple[int, ...] = (0,)
    faults: int = 1
    kills: int = 0
    repeats: bool = False
    blocks: int = 1
    rules: Rules = field(default_factory=Rules)

    def explored(self, more: int = 0) -> Found:
        """What the explorer finds, with so many more faults."""
        world = World(self.rules.service)
        if self.age is not None:
            world = world._replace(
                register=Manifest("A", blocks=self.blocks),
                modified=-self.age,
                blocks=frozenset(Block("A", n, -self.age, "A") for n in range(self.blocks)),
                past=(("A", True),),
            )
        processes = {
            name: lambda operation=operation: operation(self.rules)
            for name, operation in self.operations.items()
        }
        faults = self.faults + more
        scenario = Scenario(
            world, processes, self.instants, faults, self.kills, repeats=self.repeats
        )
        return explore(scenario, _LIMIT)


def _write(id_: str, wanted: str | None = None, blocks: int = 1) -> _Operation:
    return lambda rules: write(rules, Intent(id_, wanted, blocks))


def _delete(id_: str) -> _Operation:
    return lambda rules: delete(rules, id_)


def _write_and_delete(id_: str, delete_id: str) -> _Operation:
    """One store object does both."""

    def both(rules: Rules) -> Process:
        created = yield from write(rules, Intent(id_, ABSENT, blocks=0))
        yield from delete(rules, delete_id, id_ if created else None)

    return both


def _copy(name: str) -> _Operation:
    return lambda rules: copy(rules, name)


def _read(restarts: int = 8) -> _Operation:
    return lambda rules: read(rules, restarts)


_OLD, _YOUNG = 60, 0
_MINUTES = (0, 4, 8, 12, 16)
_HALF_HOURS = (0, 14, 34, 68)
_DAYS = (0, 12, 721, 1441, 1455)

_WITHIN_A_MOMENT: dict[str, _Case] = {
    "two writers": _Case({"b": _write("B"), "c": _write("C")}, _OLD, faults=2),
    "three writers": _Case({"b": _write("B"), "c": _write("C"), "e": _write("E")}, _OLD),
    "two writers of a new content": _Case(
        {"b": _write("B", ABSENT), "c": _write("C", ABSENT)}, faults=2
    ),
    "two writers in place of one version": _Case(
        {"b": _write("B", "A"), "c": _write("C", "A")}, _OLD, faults=2
    ),
    "a reader beside two writers": _Case(
        {"b": _write("B", blocks=2), "c": _write("C"), "reader": _read(0)}, _OLD
    ),
    "two writers and damage": _Case(
        {"b": _write("B"), "c": _write("C"), "rot": rot}, _OLD, faults=2
    ),
    "a writer, a delete and damage": _Case(
        {"b": _write("B"), "d": _delete("d"), "rot": rot}, _YOUNG, faults=2
    ),
    "a copy beside a writer and a delete": _Case(
        {"b": _write("B", blocks=2), "d": _delete("d"), "copy": _copy("copy")}, _OLD, blocks=2
    ),
    "a reader beside a writer and a delete": _Case(
        {"b": _write("B"), "d": _delete("d"), "reader": _read()}, _OLD
    ),
}
_AS_TIME_PASSES: dict[str, _Case] = {
    "writers killed": _Case({"b": _write("B"), "c": _write("C")}, _OLD, (0, 12), kills=1),
    "new content, two writers": _Case(
        {"b": _write("B", ABSENT), "c": _write("C", ABSENT, 0)}, None, (0, 4, 8)
    ),
    "new content, deleted": _Case(
        {"b": _write("B", ABSENT), "d": _delete("d")}, None, _MINUTES, repeats=True
    ),
    "new content, deleted twice": _Case(
        {"b": _write("B", ABSENT, 0), "d": _delete("d"), "e": _delete("e")}, None, (0, 4, 12)
    ),
    "rewritten and deleted": _Case(
        {"b": _write("B"), "d": _delete("d")}, _YOUNG, (0, 4, 12), repeats=True
    ),
    "rewritten and deleted, old": _Case(
        {"b": _write("B"), "d": _delete("d")}, _OLD, (0, 4, 12), repeats=True
    ),
    "created and deleted by one store beside a writer": _Case(
        {"b": _write_and_delete("B", "d"), "c": _write("C", ABSENT, 0)}, None, (0, 4, 8)
    ),
    "two writers and a delete": _Case(
        {"b": _write("B", blocks=0), "c": _write("C", blocks=0), "d": _delete("d")}, None, (0, 12)
    ),
    "tombstone cleaned": _Case(
        {"b": _write("B", ABSENT, 0), "d": _delete("d"), "clean": clean}, None, (0, 4, 12)
    ),
    "clean beside a writer": _Case(
        {"b": _write("B", blocks=2), "clean": clean}, _OLD, _DAYS, faults=2
    ),
    "clean beside a writer of a new content": _Case(
        {"b": _write("B", ABSENT), "clean": clean}, None, _DAYS, faults=2
    ),
    "damaged and deleted": _Case(
        {"b": _write("B", ABSENT, 0), "d": _delete("d"), "rot": rot}, None, (0, 4, 12)
    ),
    "clean beside damage": _Case(
        {"b": _write("B"), "rot": rot, "clean": clean}, 2000, (0, 721, 1455)
    ),
    "a reader as generations settle": _Case(
        {"b": _write("B"), "c": _write("C"), "reader": _read()}, _OLD, (0, 12)
    ),
}
_CASES = _WITHIN_A_MOMENT | _AS_TIME_PASSES
_UNCONDITIONAL: dict[str, _Case] = {
    "two writers": _Case({"b": _write("B"), "c": _write("C")}, _OLD, _HALF_HOURS),
    "rewritten and deleted": _Case({"b": _write("B"), "d": _delete("d")}, _YOUNG, _HALF_HOURS),
    "two writers and a delete": _Case(
        {"b": _write("B"), "c": _write("C"), "d": _delete("d")}, _YOUNG, (0, 34)
    ),
    "a reader beside two writers": _Case(
        {"b": _write("B"), "c": _write("C"), "reader": _read()}, _OLD, (0, 14, 34)
    ),
    "clean beside a writer": _Case({"b": _write("B"), "clean": clean}, _OLD, _DAYS, faults=2),
}


def _with(case: _Case, service: str, **without: Any) -> _Case:
    return replace(case, rules=replace(case.rules, service=service, **without))


@pytest.mark.parametrize("name", _CASES)
def test_no_interleaving_breaks_the_protocol(name: str) -> None:
    found = _CASES[name].explored(_MORE_FAULTS)
    assert found.broken is None, str(found)


@pytest.mark.parametrize("name", _CASES)
def test_no_interleaving_breaks_it_where_deletes_ignore_conditions(name: str) -> None:
    found = _with(_CASES[name], Service.NOT_ON_DELETE).explored(_MORE_FAULTS)
    assert found.broken is None, str(found)


@pytest.mark.parametrize("name", _UNCONDITIONAL)
def test_contents_are_whole_where_conditions_are_ignored(name: str) -> None:
    found = _with(_UNCONDITIONAL[name], Service.NONE).explored(_MORE_FAULTS)
    assert found.broken is None, str(found)


_TWICE = "takes effect a second time"
_TOLD_LOST = "its caller was told that it did not"
_GONE = "names blocks of"
_FALSE = "is told"

_RULES: dict[str, tuple[_Case, str]] = {
    "conditional_put": (_CASES["two writers"], _TWICE),
    "look_before_verdict": (_CASES["two writers of a new content"], _FALSE),
    "look_into_history": (_CASES["two writers"], _TWICE),
    "full_history_is_unknown": (
        replace(_CASES["three writers"], rules=Rules(history_limit=1)),
        _TWICE,
    ),
    "old_attempt_is_unknown": (_CASES["new content, deleted"], _TWICE),
    "tombstone_before_retry": (_CASES["new content, deleted"], _TWICE),
    "wait_before_lost": (_CASES["created and deleted by one store beside a writer"], _TOLD_LOST),
    "tombstone_when_young": (_CASES["new content, deleted"], _TWICE),
    "first_answer_only": (
        _Case({"b": _write_and_delete("B", "d")}, repeats=True),
        _TWICE,
    ),
    "tombstone_settles": (_CASES["tombstone cleaned"], _TWICE),
    "conditional_delete": (_CASES["rewritten and deleted, old"], _TWICE),
    "keep_unknown_blocks": (_Case({"b": _write("B")}, _OLD, faults=3), _GONE),
    "replaced_settles": (_CASES["a reader beside two writers"], "starved"),
    "check_stall": (_CASES["clean beside a writer"], _GONE),
    "stall_since_begin": (_CASES["clean beside a writer"], _GONE),
    "sign_check": (_CASES["clean beside a writer"], _GONE),
    "list_before_look": (_CASES["clean beside a writer"], _GONE),
    "orphan_ages": (_CASES["clean beside a writer"], _GONE),
    "copy_starts_over": (_CASES["a copy beside a writer and a delete"], _FALSE),
    "damage_is_unknown": (_CASES["two writers and damage"], _TWICE),
    "damage_fills_history": (_CASES["two writers and damage"], _TWICE),
    "damage_keeps_orphans": (_CASES["clean beside damage"], _GONE),
    "reread": (_CASES["a reader beside a writer and a delete"], _FALSE),
}
_RULES_WITHOUT_CONDITIONS: dict[str, tuple[_Case, str]] = {
    "conditions_refused": (_Case({"b": _write("B", ABSENT), "c": _write("C")}), "did not name"),
    "leave_unsettled": (_UNCONDITIONAL["rewritten and deleted"], _GONE),
    "settles_longer": (_UNCONDITIONAL["rewritten and deleted"], _GONE),
    "blind_writes_name_nothing": (_UNCONDITIONAL["two writers and a delete"], _FALSE),
}


@pytest.mark.parametrize("rule", _RULES)
def test_each_rule_is_needed(rule: str) -> None:
    case, broken = _RULES[rule]
    found = _with(case, Service.ALL, **{rule: False}).explored()
    assert broken in (found.broken or ""), str(found)


@pytest.mark.parametrize("rule", _RULES_WITHOUT_CONDITIONS)
def test_each_rule_for_services_without_conditions_is_needed(rule: str) -> None:
    case, broken = _RULES_WITHOUT_CONDITIONS[rule]
    found = _with(case, Service.NONE, **{rule: False}).explored()
    assert broken in (found.broken or ""), str(found)


def test_every_rule_has_a_test_that_takes_it_away() -> None:
    switches = {name for name, value in vars(Rules()).items() if value is True}
    assert switches == _RULES.keys() | _RULES_WITHOUT_CONDITIONS.keys()
