"""Contents beside late, lost and held requests, killed clients and passing hours.

The interleavings that the protocol was made for, each spelled out, and many more by chance, on
services that honour conditions, that ignore them on DELETE, and that ignore them all.
`BLOCKYARD_MORE_FAULTS=1` tries many more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from blockyard.content.manifest import MOST_REPLACED
from blockyard.errors import (
    BlockNotFoundError,
    ContentChangedError,
    ContentExistsError,
    OutcomeUnknownError,
)
from tests.content.held_store import CONTENT, Client, World

_OLD, _NEW, _NEWER = b"old old old", b"new and longer", b"newest of all of them"
_MANIFEST = f"{CONTENT}.blockyard"
_ALL = frozenset({"PUT", "DELETE"})
_NOT_ON_DELETE = frozenset({"PUT"})
_NONE: frozenset[str] = frozenset()
_MINUTE, _HOUR = 60.0, 3600.0
_SCHEDULES = 20_000 if os.environ.get("BLOCKYARD_MORE_FAULTS") else 200

conditional = pytest.mark.parametrize("honours", [_ALL, _NOT_ON_DELETE], ids=["all", "not-delete"])
anything = pytest.mark.parametrize(
    "honours", [_ALL, _NOT_ON_DELETE, _NONE], ids=["all", "not-delete", "none"]
)
ages = pytest.mark.parametrize("age", [_MINUTE, _HOUR], ids=["young", "old"])


def _with_content(honours: frozenset[str], age: float = _HOUR) -> World:
    world = World(honours)
    _ = world.store().write("first", _OLD).finish()
    world.pass_time(age)
    return world


def _read(world: World) -> bytes | None:
    try:
        return world.store().read("reader").finish()
    except BlockNotFoundError:
        return None


def _write(world: World, data: bytes) -> None:
    _ = world.store().write("writer", data).finish()


def _delete(world: World) -> None:
    world.store().delete("deleter").finish()


def _no_reply(client: Client, decision: str) -> Client:
    """Let there be no reply to the client's next change of the manifest, which may be "held"."""
    while client.at is not None and not (client.at.changes and client.at.key == _MANIFEST):
        client.step()
    client.step(decision)
    return client


def _ends(client: Client) -> None:
    """The client ends, told what is true; it may be that the outcome is unknown."""
    with suppress(OutcomeUnknownError, ContentExistsError, ContentChangedError):
        _ = client.finish()


@anything
def test_what_was_written_is_read(honours: frozenset[str]) -> None:
    world = _with_content(honours)
    assert _read(world) == _OLD
    _write(world, _NEW)
    assert _read(world) == _NEW
    _delete(world)
    assert _read(world) is None


@ages
@anything
def test_a_manifest_comes_late_after_a_rewrite(honours: frozenset[str], age: float) -> None:
    world = _with_content(honours, age)
    late = _no_reply(world.store().write("late", _NEW), "held")
    late.kill()
    _write(world, _NEWER)
    world.deliver()
    assert _read(world) == (_NEWER if honours else _NEW)


@ages
@anything
def test_a_manifest_comes_late_after_a_delete(honours: frozenset[str], age: float) -> None:
    world = _with_content(honours, age)
    late = _no_reply(world.store().write("late", _NEW), "held")
    late.kill()
    _delete(world)
    world.deliver()
    assert _read(world) == (None if honours else _NEW)


@ages
@anything
def test_a_manifest_comes_late_after_a_delete_and_a_write(
    honours: frozenset[str], age: float
) -> None:
    world = _with_content(honours, age)
    late = _no_reply(world.store().write("late", _NEW), "held")
    late.kill()
    _delete(world)
    _write(world, _NEWER)
    world.deliver()
    assert _read(world) == (_NEWER if honours else _NEW)


@anything
@pytest.mark.parametrize("delivered", ["before it goes on", "at the end"])
@pytest.mark.parametrize("beside", ["rewrite", "delete", "delete and write"])
def test_a_writer_goes_on_whose_manifest_comes_late(
    honours: frozenset[str], delivered: str, beside: str
) -> None:
    world = _with_content(honours)
    late = _no_reply(world.store().write("late", _NEW), "held")
    if "delete" in beside:
        _delete(world)
    if "write" in beside:
        _write(world, _NEWER)
    if delivered == "before it goes on":
        world.deliver()
    _ = late.finish()
    if delivered == "at the end":
        world.deliver()
    assert _read(world) == _NEW


@anything
@pytest.mark.parametrize("delete_after", [_MINUTE, 11 * _MINUTE], ids=["young", "old"])
def test_a_manifest_at_absence_comes_late_beside_a_delete(
    honours: frozenset[str], delete_after: float
) -> None:
    world = World(honours)
    writer = _no_reply(world.store().write("writer", _NEW), "held")
    _ = writer.finish()
    assert _read(world) == _NEW
    world.pass_time(delete_after)
    _delete(world)
    for late in tuple(world.late):
        world.deliver(late)
    if honours:
        assert _read(world) is None


@conditional
def test_a_new_content_that_comes_late_was_not_refused_before(honours: frozenset[str]) -> None:
    world = World(honours)
    late = _no_reply(world.store().write("late", _NEW, if_absent=True), "held")
    own = world.store()
    _ = own.write("other", _OLD, if_absent=True).finish()
    _ends(late)
    own.delete("other").finish()
    for each in tuple(world.late):
        world.deliver(each)


@anything
def test_a_writer_of_a_new_content_stops_before_it_tries_again(honours: frozenset[str]) -> None:
    world = World(honours)
    writer = _no_reply(world.store().write("writer", _NEW), "held").run("GET", _MANIFEST)
    writer.step()
    assert writer.at is not None
    assert writer.at.verb == "PUT"
    world.deliver()
    world.pass_time(12 * _MINUTE)
    _delete(world)
    _ends(writer)
    assert _read(world) == (None if honours else _NEW)


def test_a_delete_takes_no_blind_write_for_a_proof() -> None:
    world = World(_NONE)
    own, other = world.store(), world.store()
    for store in (own, other):
        _ = store.write("known", _OLD).finish()
    blind = own.write("blind", _NEWER).run("PUT", _MANIFEST)
    _ = other.write("other", _NEW).finish()
    delete = other.delete("delete").run("PUT", _MANIFEST)
    _ = blind.finish()
    delete.step("held")
    delete.finish()
    assert _read(world) is None


@conditional
def test_a_tombstone_is_kept_while_a_manifest_may_come_late(honours: frozenset[str]) -> None:
    world = World(honours)
    _ = _no_reply(world.store().write("writer", _NEW), "held").finish()
    _delete(world)
    _ = world.store().clean("clean").finish()
    _delete(world)
    world.deliver()
    assert _read(world) is None
    world.pass_time(11 * _MINUTE)
    _ = world.store().clean("clean").finish()
    assert (world.manifest() is None) == ("DELETE" in honours)


@anything
def test_a_write_that_many_others_followed_is_unknown(honours: frozenset[str]) -> None:
    world = _with_content(honours)
    writer = _no_reply(world.store().write("lost", _NEW), "lost")
    for _ in range(MOST_REPLACED + 1):
        _write(world, _NEWER)
    with pytest.raises(OutcomeUnknownError):
        _ = writer.finish()
    assert _read(world) == _NEWER


@ages
@anything
def test_a_delete_comes_late_after_a_rewrite(honours: frozenset[str], age: float) -> None:
    world = _with_content(honours, age)
    late = _no_reply(world.store().delete("late"), "held")
    late.kill()
    _write(world, _NEW)
    world.deliver()
    assert _read(world) == (_NEW if honours else None)


@ages
@anything
@pytest.mark.parametrize("then", ["", "replaced", "deleted", "deleted and written"])
def test_a_write_whose_reply_was_lost_took_effect(
    honours: frozenset[str], age: float, then: str
) -> None:
    world = _with_content(honours, age)
    writer = _no_reply(world.store().write("lost", _NEW), "lost")
    if "deleted" in then:
        _delete(world)
    if "replaced" in then or "written" in then:
        _write(world, _NEWER)
    _ = writer.finish()
    if honours:
        expected = {"": _NEW, "deleted": None}.get(then, _NEWER)
        assert _read(world) == expected


@anything
@pytest.mark.parametrize("then", ["replaced", "deleted", "deleted and written"])
def test_a_write_that_is_unknown_for_long_says_so(honours: frozenset[str], then: str) -> None:
    world = _with_content(honours)
    writer = _no_reply(world.store().write("lost", _NEW), "lost")
    world.pass_time(_HOUR)
    if "deleted" in then:
        _delete(world)
    if "replaced" in then or "written" in then:
        _write(world, _NEWER)
    _ends(writer)
    if honours:
        assert _read(world) == (None if then == "deleted" else _NEWER)


@ages
@anything
@pytest.mark.parametrize("then", ["", "written", "deleted", "written and deleted"])
def test_a_delete_whose_reply_was_lost_took_effect(
    honours: frozenset[str], age: float, then: str
) -> None:
    world = _with_content(honours, age)
    deleter = _no_reply(world.store().delete("lost"), "lost")
    if "written" in then:
        _write(world, _NEW)
    if "deleted" in then:
        _delete(world)
    deleter.finish()
    if honours:
        assert _read(world) == (_NEW if then == "written" else None)


@anything
@pytest.mark.parametrize("beside", ["", "rewrite", "delete", "two rewrites"])
def test_a_writer_stops_for_an_hour_before_its_manifest(
    honours: frozenset[str], beside: str
) -> None:
    world = _with_content(honours)
    stopped = world.store().write("stopped", _NEW).run("PUT", _MANIFEST)
    if beside == "delete":
        _delete(world)
    elif beside:
        _write(world, _NEWER)
    world.pass_time(_HOUR)
    if beside == "two rewrites":
        _write(world, _OLD)
    _ = stopped.finish()
    assert _read(world) == _NEW


@anything
@pytest.mark.parametrize("hours", [7, 13, 30])
@pytest.mark.parametrize(
    "before", ["its first block", "its last block", "its look", "its manifest"]
)
@pytest.mark.parametrize("age", [None, _HOUR], ids=["new", "rewrite"])
def test_clean_beside_a_writer_that_stops(
    honours: frozenset[str], hours: int, before: str, age: float | None
) -> None:
    world = World(honours) if age is None else _with_content(honours, age)
    stopped = world.store().write("stopped", _NEW)
    if before == "its last block":
        _ = stopped.run("PUT", "block-0003")
    elif before == "its look":
        _ = stopped.run("GET", _MANIFEST)
    elif before == "its manifest":
        _ = stopped.run("PUT", _MANIFEST)
    world.pass_time(hours * _HOUR)
    clean = world.store().clean("clean")
    while clean.at is not None and not clean.at.changes:
        clean.step()
    _ends(stopped)
    _ = clean.finish()
    _ = world.store().clean("clean").finish()
    assert _read(world) in {None if age is None else _OLD, _NEW}


@anything
def test_a_write_is_given_up_for_its_age_while_its_manifest_is_under_way(
    honours: frozenset[str],
) -> None:
    world = _with_content(honours)
    slow = world.store().write("slow", _NEW).run("GET", _MANIFEST)
    world.pass_time(12 * _HOUR - 2 * _MINUTE)
    _ = _no_reply(slow, "held")
    world.pass_time(3 * _MINUTE)
    _ends(slow)
    world.deliver()
    assert _read(world) == _NEW


@conditional
def test_clean_leaves_nothing_of_a_killed_writer(honours: frozenset[str]) -> None:
    world = _with_content(honours)
    before = world.blocks()
    world.store().write("killed", _NEW).run("PUT", _MANIFEST).kill()
    world.pass_time(25 * _HOUR)
    _ = world.store().clean("clean").finish()
    assert world.blocks() == before


@anything
def test_what_a_long_write_replaced_stays_for_its_readers(honours: frozenset[str]) -> None:
    world = _with_content(honours)
    long = world.store().write("long", _NEW).run("PUT", "block-0002")
    world.pass_time(6 * _HOUR)
    reader = world.store().read("reader").run("GET", "block-0001")
    _ = long.finish()
    _write(world, _NEWER)
    _ = world.store().clean("clean").finish()
    assert reader.finish() == _OLD


@conditional
@pytest.mark.parametrize("data", [b"", _NEW])
def test_what_was_deleted_elsewhere_is_not_there(honours: frozenset[str], data: bytes) -> None:
    world = World(honours)
    own = world.store(inline_limit=100)
    _ = own.write("own", _OLD).finish()
    _delete(world)
    _ = own.write("own", data, if_absent=True).finish()
    assert _read(world) == data


@anything
@pytest.mark.parametrize("age", [_HOUR, 48 * _HOUR])
def test_clean_leaves_what_was_just_replaced(honours: frozenset[str], age: float) -> None:
    world = _with_content(honours, age)
    reader = world.store().read("reader").run("GET", "block-0001")
    _write(world, _NEW)
    _ = world.store().clean("clean").finish()
    assert reader.finish() == _OLD
    world.pass_time(_HOUR)
    _ = world.store().clean("clean").finish()
    assert world.blocks() == world.named()


@anything
@pytest.mark.parametrize("apart", [0.0, _HOUR])
def test_a_copy_beside_rewrites_is_of_one_version(honours: frozenset[str], apart: float) -> None:
    world = _with_content(honours)
    copy = world.store().copy("copy", "copied").run("COPY", "block-0001")
    for data in (_NEW, _NEWER):
        world.pass_time(apart)
        _write(world, data)
    _ = copy.finish()
    assert world.whole("copied") == (_NEWER if apart else _OLD)


@anything
def test_a_reader_beside_rewrites_starts_over_only_when_what_it_reads_is_settled(
    honours: frozenset[str],
) -> None:
    world = _with_content(honours)
    reader = world.store().read("reader").run("GET", "block-0001")
    for data in (_NEW, _NEWER, _NEW):
        _write(world, data)
    assert reader.finish() == _OLD
    reader = world.store().read("reader").run("GET", "block-0001")
    for data in (_NEW, _NEWER):
        world.pass_time(_HOUR)
        _write(world, data)
    assert reader.finish() in {_NEW, _NEWER}


class _Chance:
    """Operations beside each other, in an order that a seed gives, with every kind of fault."""

    def __init__(self, seed: int, honours: frozenset[str]) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a schedule is no secret
        age = self.chance.choice([None, _MINUTE, _HOUR])
        self.world = World(honours) if age is None else _with_content(honours, age)
        self.stores = [self.world.store(), self.world.store(inline_limit=24)]
        self.clients: list[Client] = []
        self.begun = 0

    def run(self, operations: int) -> None:
        """Begin so many operations, and go on until all have ended."""
        while self.begun < operations or self.clients:
            self.clients = [client for client in self.clients if client.at is not None]
            what = self.chance.random()
            if self.begun < operations and (not self.clients or what < 0.04):
                self.clients.append(self.begin())
            elif self.world.late and what < 0.1:
                self.world.deliver(self.chance.choice(self.world.late))
            elif what < 0.12:
                seconds = [1.0, 61.0, 250.0, 301.0, 601.0, 1000.0, _HOUR, 13 * _HOUR, 25 * _HOUR]
                self.world.pass_time(self.chance.choice(seconds))
            elif self.clients:
                self.step(self.chance.choice(self.clients))

    def begin(self) -> Client:
        """Begin any operation."""
        self.begun += 1
        name, store = f"client-{self.begun}", self.chance.choice(self.stores)
        manifest = self.world.manifest()
        data = name.encode() * self.chance.randint(1, 3)
        if_match = None if manifest is None else manifest.id
        begin: list[Callable[[], Client]] = [
            *[lambda: store.write(name, data)] * 3,
            *[lambda: store.delete(name)] * 3,
            lambda: store.write(name, data, if_absent=True),
            lambda: store.write(name, data, if_match=if_match),
            lambda: store.clean(name),
            lambda: store.copy(name, f"copied-{self.begun}"),
            lambda: store.read(name),
        ]
        return self.chance.choice(begin)()

    def step(self, client: Client) -> None:
        """Go on with a client, most of the time to an answer."""
        what = self.chance.random()
        changes = client.at is not None and client.at.changes
        if what < 0.004:
            client.kill()
        elif changes and what < 0.12:
            client.step("lost" if what < 0.06 else "held")
        else:
            client.step()

    def end(self) -> None:
        """A day later nothing is left but what the manifest names."""
        self.world.pass_time(25 * _HOUR)
        for _ in range(2):  # blocks that were replaced, of a tombstone that is removed
            _ = self.world.store().clean("clean").finish()
        _ = _read(self.world)
        assert self.world.blocks() == self.world.named(), self.world.say("blocks are left")


@anything
@pytest.mark.parametrize("first", range(0, _SCHEDULES, 100))
def test_operations_in_any_order_with_any_faults(honours: frozenset[str], first: int) -> None:
    for seed in range(first, first + 100):
        chance = _Chance(seed, honours)
        chance.run(operations=8)
        chance.end()
