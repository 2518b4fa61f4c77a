"""Write-back, explored: no interleaving loses what was acknowledged, and each rule is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.cache.stage_model import (
    Rules,
    drain,
    evict,
    read,
    read_twice,
    staged_write,
    through,
    uploader,
)
from tests.cache.stage_world import SETTLE, World
from tests.content.explorer import Found, Process, Scenario, explore

pytestmark = pytest.mark.thorough

_LIMIT = 1_500_000
_Operation = Callable[[Rules], Process]


@dataclass(frozen=True)
class _Case:
    """Operations beside each other on one block; at the end the stage is drained."""

    operations: Mapping[str, _Operation]
    instants: tuple[int, ...] = (0, 1, 2)
    faults: int = 1
    kills: int = 0
    power_cuts: int = 0
    staged: bool = False
    """Whether a version "s" was staged and acknowledged before."""
    rules: Rules = field(default_factory=Rules)

    def explored(self) -> Found:
        """What the explorer finds."""
        world = World()
        if self.staged:
            world = World(stage="s", synced="s", past=("old", "s"), acknowledged=frozenset("s"))
        operations = {**self.operations, "drain": drain}
        world = world._replace(
            at_work=frozenset(name for name in operations if name[0] in {"w", "x"})
        )
        processes = {
            name: lambda operation=operation: operation(self.rules)
            for name, operation in operations.items()
        }
        scenario = Scenario(
            world,
            processes,
            self.instants,
            self.faults,
            self.kills,
            late=SETTLE,
            power_cuts=self.power_cuts,
            after_power_cut=frozenset({"drain"}),
        )
        return explore(scenario, _LIMIT)


def _write(version: str) -> _Operation:
    return lambda rules: staged_write(rules, version)


def _through(version: str, *, conditional: bool = False, tries: int = 2) -> _Operation:
    return lambda rules: through(rules, version, conditional=conditional, tries=tries)


_CASES: dict[str, _Case] = {
    "two writers, two uploaders": _Case(
        {"w1": _write("a"), "w2": _write("b"), "u1": uploader, "u2": uploader}, (0, 1)
    ),
    "a writer beside uploads that are killed": _Case(
        {"w1": _write("a"), "u1": uploader, "u2": uploader}, kills=1, staged=True
    ),
    "a writer and a delete": _Case(
        {"w1": _write("a"), "x1": _through("x1"), "u1": uploader}, staged=True
    ),
    "a writer and a delete that are killed": _Case(
        {"w1": _write("a"), "x1": _through("x1")}, kills=1
    ),
    "a writer and a delete that gives up": _Case(
        {"w1": _write("a"), "x1": _through("x1", tries=1), "u1": uploader}
    ),
    "two deletes": _Case({"x1": _through("x1"), "x2": _through("x2"), "u1": uploader}, staged=True),
    "a conditional write beside a writer": _Case(
        {"w1": _write("a"), "x1": _through("c", conditional=True), "u1": uploader}, staged=True
    ),
    "a reader beside a writer": _Case(
        {"w1": _write("a"), "u1": uploader, "reader": read_twice, "evict": evict}
    ),
    "a reader beside a delete that is killed": _Case(
        {"x1": _through("x1"), "reader": read, "again": read_twice}, (0,), kills=1
    ),
    "a reader beside a delete and a writer": _Case(
        {"w1": _write("a"), "x1": _through("x1"), "reader": read_twice}, faults=0
    ),
    "a writer, and the power fails": _Case(
        {"w1": _write("a"), "u1": uploader}, power_cuts=1, staged=True
    ),
    "two writers, and the power fails": _Case(
        {"w1": _write("a"), "w2": _write("b"), "u1": uploader}, power_cuts=1, faults=0
    ),
    "a delete, and the power fails": _Case(
        {"x1": _through("x1"), "w1": _write("a"), "u1": uploader}, power_cuts=1, faults=0
    ),
    "a write goes through, and the power fails": _Case(
        {"x1": _through("c", conditional=True), "u1": uploader}, power_cuts=1, staged=True
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_no_interleaving_breaks_write_back(name: str) -> None:
    found = _CASES[name].explored()
    assert found.broken is None, str(found)


_RULES: dict[str, tuple[str, str]] = {
    "sync_before_acknowledging": ("a writer, and the power fails", "undone by a power cut"),
    "one_upload": ("two writers, two uploaders", "is back"),
    "doubt_waits": ("two writers, two uploaders", "is back"),
    "doubt_is_marked": ("a writer beside uploads that are killed", "is back"),
    "unknown_leaves_mark": ("two writers, two uploaders", "is back"),
    "killed_is_in_doubt": ("a writer beside uploads that are killed", "is back"),
    "boot_is_in_doubt": ("a writer, and the power fails", "is back"),
    "remove_own_only": ("two writers, two uploaders", "is back"),
    "sync_after_removing": ("a write goes through, and the power fails", "power cut"),
    "stage_first": ("a reader beside a writer", "replaced before"),
    "epoch_before": ("a reader beside a delete and a writer", "replaced before"),
    "fill_by_epoch": ("a reader beside a writer", "replaced before"),
    "no_fill_in_doubt": ("a reader beside a delete that is killed", "replaced before"),
    "doubt_after_epoch": ("a reader beside a delete that is killed", "replaced before"),
    "upload_before_condition": ("a conditional write beside a writer", "never took effect"),
    "drop_superseded": ("a writer and a delete", "never took effect"),
}


@pytest.mark.parametrize("rule", _RULES)
def test_each_rule_is_needed(rule: str) -> None:
    name, broken = _RULES[rule]
    case = replace(_CASES[name], rules=Rules(**{rule: False}))
    found = case.explored()
    assert broken in (found.broken or ""), str(found)


def test_every_rule_has_a_test_that_takes_it_away() -> None:
    switches: dict[str, Any] = vars(Rules())
    assert switches.keys() == _RULES.keys()
