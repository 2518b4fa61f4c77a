"""The fault campaign finds what it is there to find: each promise is broken here on purpose."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.testing.conformance import StoreConformance
from blockyard.testing.faults import Fault, FaultProxy, FlipBit, Script, SeenRequest, Status
from blockyard.transport.blocking import run_to_end
from campaign import actor as actor_module
from campaign import machine, report, workers
from campaign.actor import DEADLINE, MARGIN, Actor
from campaign.blocks import Content
from campaign.bucket import DictBucket
from campaign.expected import LOST, WRONG, BrokenPromiseError, Expected, is_absent, is_present
from campaign.faces import BlockingFace
from campaign.mix import Mix
from campaign.outages import run_outages
from campaign.run import Result, check_proxy
from campaign.tally import LEAKED, OVERRUN, UNTYPED, Tally
from campaign.weather import Weather, forecast
from servers.process import ServerError, require_programs

ONE, TWO = Content(1, 40_000), Content(2, 40_000)
Defect = Callable[[str, Any], Any]
"""What becomes of the result of a method."""


class DefectiveFace(BlockingFace):
    """An honest store in memory, whose results `defect` spoils."""

    def __init__(self, defect: Defect = lambda method, result: result) -> None:
        self.store = blockyard.open_store("memory://")
        super().__init__(self.store)
        self.defect = defect

    async def call(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        return self.defect(method, await super().call(deadline, method, *args, **options))


def new_actor(face: DefectiveFace, patience: float = 100.0) -> Actor:
    return Actor(face, "space", Tally(), patience)


def spoils(method: str, change: Callable[[Any], Any]) -> Defect:
    return lambda called, result: change(result) if called == method else result


def with_wrong_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("method", "perform"),
    [
        ("read_block", lambda actor: actor.read("space/k")),
        ("read_block_range", lambda actor: actor.read_range("space/k", 5, 9)),
    ],
)
def test_a_wrong_byte_is_found(method: str, perform: Callable[[Actor], Any]) -> None:
    actor = new_actor(DefectiveFace(spoils(method, with_wrong_byte)))
    run_to_end(actor.write("space/k", ONE))
    run_to_end(perform(actor))
    assert actor.tally.broken == {WRONG: 1}


@pytest.mark.parametrize(
    ("method", "perform"),
    [
        ("read_blocks", lambda actor: actor.read_many(["space/k"])),
        ("read_block_ranges", lambda actor: actor.read_ranges([("space/k", 5, 9)])),
    ],
)
def test_a_wrong_byte_among_many_reads_is_found(
    method: str, perform: Callable[[Actor], Any]
) -> None:
    face = DefectiveFace(spoils(method, lambda parts: [with_wrong_byte(part) for part in parts]))
    actor = new_actor(face)
    run_to_end(actor.write("space/k", ONE))
    run_to_end(perform(actor))
    assert actor.tally.broken == {WRONG: 1}


def test_a_buffer_that_is_not_filled_is_found() -> None:
    actor = new_actor(DefectiveFace(spoils("read_block_into", lambda size: size - 1)))
    run_to_end(actor.write("space/k", ONE))
    run_to_end(actor.read_into("space/k"))
    assert actor.tally.broken == {WRONG: 1}


@pytest.mark.parametrize(
    "look",
    [
        lambda actor: actor.read("space/k"),
        lambda actor: actor.stat("space/k"),
        lambda actor: actor.exists("space/k"),
        lambda actor: actor.list("space/"),
        lambda actor: actor.copy("space/k", "space/copy"),
        lambda actor: actor.delete_below("space"),
    ],
)
def test_a_lost_block_is_found(look: Callable[[Actor], Any]) -> None:
    face = DefectiveFace()
    actor = new_actor(face)
    run_to_end(actor.write("space/k", ONE))
    face.store.delete_block("space/k")
    run_to_end(look(actor))
    assert actor.tally.broken == {LOST: 1}


def test_a_block_that_nobody_wrote_is_found_in_a_listing() -> None:
    face = DefectiveFace()
    actor = new_actor(face)
    _ = face.store.write_block("space/k", b"x")
    run_to_end(actor.list("space/"))
    assert actor.tally.broken == {WRONG: 1}


def test_a_key_that_a_delete_leaves_out_is_found() -> None:
    drop = spoils("delete_blocks", lambda result: blockyard.DeleteResult(result.deleted[1:]))
    actor = new_actor(DefectiveFace(drop))
    run_to_end(actor.write_many([("space/k", ONE), ("space/l", TWO)]))
    run_to_end(actor.delete_many(["space/k", "space/l"]))
    assert actor.tally.broken[WRONG] == 1


def test_a_block_replaced_in_spite_of_if_absent_is_found() -> None:
    face = DefectiveFace()
    actor = new_actor(face)
    run_to_end(actor.write("space/k", ONE))
    face.store.delete_block("space/k")  # so that the write succeeds, which it may not
    run_to_end(actor.write("space/k", TWO, if_absent=True))
    assert actor.tally.broken == {LOST: 1}


def test_an_untyped_error_is_found() -> None:
    def fail(result: Any) -> Any:
        raise KeyError(result.key)

    actor = new_actor(DefectiveFace(spoils("write_block", fail)))
    run_to_end(actor.write("space/k", ONE))
    assert actor.tally.broken == {UNTYPED: 1}
    run_to_end(actor.read("space/k"))  # it may have taken effect, and has
    assert actor.tally.broken == {UNTYPED: 1}


def test_a_deadline_overrun_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, DEADLINE + MARGIN + 1])
    monkeypatch.setattr(actor_module.time, "monotonic", lambda: next(clock))
    actor = new_actor(DefectiveFace())
    run_to_end(actor.stat("space/k"))
    assert actor.tally.broken == {OVERRUN: 1}
    assert actor.tally.overrun == MARGIN + 1


def test_a_leaked_descriptor_is_found(tmp_path: Path) -> None:
    before = workers.open_descriptors()
    tally = Tally()
    with (tmp_path / "left open").open("wb"):
        workers.check_descriptors(before, tally, "here")
    assert tally.broken == {LEAKED: 1}
    assert "left open" in tally.details[0]
    workers.check_descriptors(before, tally, "here")
    assert tally.broken == {LEAKED: 1}


def test_a_leaked_connection_is_found() -> None:
    tally = Tally()
    with DictBucket() as bucket, FaultProxy(bucket.url, Script([])) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)):
            check_proxy(proxy, tally, within=0)
        assert tally.broken == {LEAKED: 1}
        check_proxy(proxy, tally)
    assert tally.broken == {LEAKED: 1}


def test_a_block_that_is_gone_at_the_end_is_found() -> None:
    with DictBucket() as bucket:
        direct = {
            "bucket": "campaign",
            "endpoint": bucket.url,
            "access_key": "a",
            "secret_key": "b",
        }
        with blockyard.open_store(workers.store_config(direct)) as store:
            actor = Actor(BlockingFace(store), "space", Tally(), 100.0)
            run_to_end(actor.write_many([("space/k", ONE), ("space/l", TWO)]))
        tally = Tally()
        workers.read_back([actor], direct, tally)
        assert (tally.read_back, tally.broken) == (2, {})
        del bucket.objects["space/k"]
        workers.read_back([actor], direct, tally)
        assert tally.broken[LOST] == 2  # by its read and by the listing


def test_unknown_outcomes_add_up_until_an_answer_tells() -> None:
    expected = Expected()
    expected.may_have_become("k", [ONE])
    expected.may_have_become("k", [TWO])
    assert expected.values("k") == {None, ONE, TWO}
    expected.answered("k", is_present, "there")
    assert expected.values("k") == {ONE, TWO}
    expected.became("k", [None])
    assert expected.values("k") == {None}


def test_an_answer_that_nothing_allows_is_refused() -> None:
    expected = Expected()
    with pytest.raises(BrokenPromiseError, match="wrong reads"):
        expected.answered("k", is_present, "there")
    expected.became("k", [ONE])
    with pytest.raises(BrokenPromiseError, match="blocks lost"):
        expected.answered("k", is_absent, "not there")


def test_no_answer_narrows_a_settled_key() -> None:
    expected = Expected()
    expected.may_have_become("k", [ONE])
    expected.settle("k")
    expected.answered("k", is_absent, "not there")  # and yet the write may come
    assert expected.values("k") == {None, ONE}
    expected.became("k", [TWO])
    assert expected.values("k") == {None, ONE, TWO}


def test_a_key_whose_write_may_still_be_under_way_is_not_written_again() -> None:
    actor = new_actor(DefectiveFace(), patience=0.0)
    mix = Mix(actor, "seed")
    for _ in range(50):
        run_to_end(mix.step())
    assert actor.settled
    assert not actor.tally.broken
    assert all("~" in key for key in mix.keys if key.partition("~")[0] in actor.settled)


def test_the_mix_breaks_nothing_in_an_honest_store() -> None:
    actor = new_actor(DefectiveFace())
    mix = Mix(actor, "seed")
    for _ in range(400):
        run_to_end(mix.step())
    assert not actor.tally.broken, actor.tally.details
    assert not actor.tally.failures
    assert len(actor.tally.operations) == 14  # every kind; two are `write_block`


def test_the_mix_is_repeated_by_its_seed() -> None:
    actors = [new_actor(DefectiveFace()) for _ in range(2)]
    for actor in actors:
        mix = Mix(actor, "seed")
        for _ in range(100):
            run_to_end(mix.step())
    first, second = actors
    assert first.tally.operations == second.tally.operations
    values = [{key: a.expected.values(key) for key in a.expected.known} for a in actors]
    assert values[0] == values[1]


def test_the_machine_breaks_nothing_in_an_honest_store_and_finds_a_defect() -> None:
    ended: list[Actor] = []

    def explore(face: DefectiveFace, operations: int) -> None:
        def actor(name: str) -> Actor:
            return Actor(face, name, Tally(), 100.0)

        machine.explore(actor, ended.append, seed=1, operations=operations)

    explore(DefectiveFace(), 500)
    assert ended
    # what Hypothesis draws depends on the modules that are loaded, not on the seed alone:
    # enough steps that some of them ask for the size of a block that is there
    with pytest.raises(AssertionError, match="wrong reads"):
        explore(
            DefectiveFace(spoils("stat_block", lambda info: blockyard.BlockInfo("k", -1, ""))), 4000
        )


def request(number: int, target: str) -> SeenRequest:
    return SeenRequest(number, 1, "GET", target, {}, 0)


def test_the_weather_is_the_same_in_whatever_order_requests_come() -> None:
    rates = forecast(patience=1.0, uploads_verified=True)
    asked = [request(number, f"/bucket/{number % 50}") for number in range(500)]
    shuffled = sorted(asked, key=lambda seen: seen.number % 50)
    drawn: list[dict[str, list[Fault | None]]] = []
    for requests in (asked, shuffled):
        weather = Weather(7, rates)
        faults: dict[str, list[Fault | None]] = {}
        for seen in requests:
            faults.setdefault(seen.target, []).append(weather(seen))
        drawn.append(faults)
    assert drawn[0] == drawn[1]
    met = sum(fault is not None for faults in drawn[0].values() for fault in faults)
    assert 120 < met < 240  # a third of 500, and some


def test_no_flipped_bit_strikes_a_read_that_is_made_again() -> None:
    weather = Weather(7, {FlipBit(): 1.0})
    faults = [weather(request(number, "/bucket/k")) for number in range(10)]
    assert [index for index, fault in enumerate(faults) if fault] == [0, 9]


def test_the_report_names_what_is_broken() -> None:
    tally = Tally()
    tally.breaks(LOST, "space/k")
    tally.operations["read_block"] = 1
    weather = Weather(1, {Status(503): 1.0})
    _ = weather(request(1, "/bucket/k"))
    by_kind, faults = tally.operations.copy(), tally.operations.copy()
    said = report.text(Result("memory", 1, 2.0, tally, by_kind, weather.requests, faults))
    assert "     1 acknowledged blocks lost" in said
    assert "acknowledged blocks lost: space/k" in said


def test_contents_of_different_numbers_differ_all_along() -> None:
    source = random.Random(1)  # noqa: S311 - to be repeatable
    first, second = (Content(source.getrandbits(64), 4096).data for _ in range(2))
    assert len(first) == 4096
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 100


def test_the_bucket_outlives_a_client_that_breaks_off() -> None:
    with DictBucket() as bucket:
        with socket.create_connection(("127.0.0.1", bucket.port)) as broken:
            broken.sendall(b"PUT /campaign/k HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        assert bucket.wait_until_drained()
        with socket.create_connection(("127.0.0.1", bucket.port)) as sound:
            sound.sendall(b"HEAD /campaign HTTP/1.1\r\n\r\n")
            assert sound.recv(12) == b"HTTP/1.1 200"
    assert not bucket.objects


class TestTheBucketInMemory(StoreConformance):
    """The campaign's own server is an honest one."""

    @pytest.fixture
    def source(self) -> Iterator[blockyard.StoreConfig]:
        with DictBucket() as bucket:
            keys = {"access_key": "a", "secret_key": "b"}
            yield workers.store_config({"bucket": "campaign", "endpoint": bucket.url, **keys})


@pytest.mark.servers
def test_ceph_is_ridden_out_while_its_osd_and_then_its_gateway_are_killed() -> None:
    try:
        require_programs("ceph-osd", "radosgw")
    except ServerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    result = run_outages(seed=1, seconds=20.0)
    assert not result.tally.broken, result.tally.details
    assert [event.split()[0] for event in result.events] == ["osd", "radosgw"]
    done = result.tally.operations.total()
    assert done > 100
    assert result.tally.failures.total() < done / 100, report.text(result)
