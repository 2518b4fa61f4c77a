"""The benchmark harness in tiny form: that it counts, checks, compares and reports rightly."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

import blockyard
from bench import data, driving, report, tables, wire
from bench.driving import Sample, WrongLengthError
from bench.ecosystem import comparing as ecosystem
from bench.ecosystem import sink, uploads
from bench.ecosystem.chunks import ON_MOTO, WORKS, Reader, work_names
from bench.ecosystem.uploads import Upload
from bench.fleet import Fleet, WorkerError, where
from bench.losses import loss_lines
from bench.measuring import Effort, measure
from bench.path import comparing
from bench.path.works import CONDITIONS, works_over
from bench.peers.blockyard import settings
from bench.report import Saved
from bench.run import FULL
from bench.samples import Samples, cpu_per_operation, rate, samples_as_json, samples_from_json
from bench.site import Site
from bench.targets import TARGETS, Outcome, Target, cpu_outcomes, outcomes
from bench.workloads import (
    CHUNKS,
    KIB,
    LIMIT,
    LISTED,
    MIB,
    Workload,
    all_workloads,
    is_ours,
    split_contender,
)
from servers import moto

ITEMS = [("a",), ("b",), ("c",)]
WORKLOADS = {workload.name: workload for workload in all_workloads()}


class TestDriving:
    def test_one_call_at_least_is_made_and_each_is_counted(self) -> None:
        made: list[str] = []
        sample = driving.drive_plain(made.append, ITEMS, 0, None)
        assert (sample.operations, made) == (1, ["a"])
        sample = driving.drive_plain(made.append, ITEMS, 0.01, None)
        assert sample.operations == len(made) - 1
        assert sample.seconds >= 0.01

    def test_threads_share_the_items(self) -> None:
        made: list[str] = []
        sample = driving.drive_threads(made.append, ITEMS, 0.01, None, 4)
        assert sample.operations == len(made) >= 4

    def test_tasks_share_the_items(self) -> None:
        made: list[str] = []

        async def call(item: str) -> None:
            made.append(item)
            await asyncio.sleep(0)

        sample = asyncio.run(driving.drive_asyncio(call, ITEMS, 0.01, None, 4))
        assert sample.operations == len(made) >= 4

    def test_calls_of_many_take_whole_batches(self) -> None:
        batches: list[list[str]] = []
        sample = driving.drive_many(batches.append, ["a", "b", "c"], 0, None, 5)
        assert batches == [["a", "b", "c", "a", "b"]]
        assert sample.operations == 5

    def test_every_mode_holds_reads_to_their_length(self) -> None:
        async def later(_: str) -> bytes:
            return b"short"

        with pytest.raises(WrongLengthError):
            driving.drive_plain(lambda _: b"short", ITEMS, 0, 6)
        with pytest.raises(WrongLengthError):
            driving.drive_threads(lambda _: b"short", ITEMS, 0, 6, 2)
        with pytest.raises(BaseExceptionGroup, match="TaskGroup"):
            asyncio.run(driving.drive_asyncio(later, ITEMS, 0, 6, 2))
        with pytest.raises(WrongLengthError):
            driving.drive_many(lambda _: [b"short"] * 3, ["a"], 0, 6, 3)
        with pytest.raises(WrongLengthError, match="2 results, expected 3"):
            driving.drive_many(lambda _: [b"longer"] * 2, ["a"], 0, 6, 3)

    def test_an_error_in_a_thread_is_raised(self) -> None:
        def fail(_: str) -> None:
            raise LookupError("gone")

        with pytest.raises(LookupError, match="gone"):
            driving.drive_threads(fail, ITEMS, 0, None, 2)


class TestWorkloads:
    def test_names_tell_them_apart(self) -> None:
        assert len(WORKLOADS) == len(all_workloads())

    def test_every_target_is_measured_by_the_contenders_it_names(self) -> None:
        for target in TARGETS:
            taking_part = WORKLOADS[target.workload].contenders
            assert {*target.ours, *target.against} <= {*taking_part}
            assert WORKLOADS[target.workload].headline

    def test_contenders_are_told_apart(self) -> None:
        assert split_contender("boto3/defaults threads") == ("boto3", "threads", "defaults")
        assert split_contender("obstore") == ("obstore", "plain", "default")
        with pytest.raises(ValueError, match="no mode 'greenlets'"):
            split_contender("obstore greenlets")
        assert is_ours("blockyard asyncio")
        assert not is_ours("blockyard/unverified")

    def test_content_can_be_made_again_from_the_key(self) -> None:
        keys = data.read_keys(1024)
        contents = {data.content(1024, key) for key in keys}
        assert {len(content) for content in contents} == {1024}
        assert 1 < len(contents) < len(keys)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet() as running:
        yield running


class TestAgainstThePageServer:
    """Its answers suit blockyard and boto3 alike. (boto3 takes too long to list it all here.)"""

    @pytest.mark.parametrize(
        ("name", "contender"),
        [
            (f"list {LISTED:,} keys", "blockyard"),
            ("delete 10,000 keys", "blockyard"),
            ("delete 10,000 keys", "boto3"),
            ("copy, one at a time", "blockyard"),
            ("copy, one at a time", "boto3"),
        ],
    )
    def test_each_work_is_done_and_verified(self, fleet: Fleet, name: str, contender: str) -> None:
        sample = fleet.sample(WORKLOADS[name], contender, 0.01)
        assert sample.operations >= 1
        assert sample.cpu > 0

    def test_a_failure_is_kept_and_the_others_go_on(self, fleet: Fleet) -> None:
        copy = replace(WORKLOADS["copy, one at a time"], contenders=("blockyard many", "boto3"))
        measured = measure(fleet, [copy], lambda _: Effort(2, 0.01))
        assert list(measured.failures) == [f"{copy.name}: blockyard many"]
        assert "has no attribute 'copy'" in measured.failures[f"{copy.name}: blockyard many"]
        assert [len(taken) for taken in measured.samples[copy.name].values()] == [0, 2]

    def test_an_unknown_client(self, fleet: Fleet) -> None:
        with pytest.raises(WorkerError, match="nobody ended"):
            fleet.sample(WORKLOADS["copy, one at a time"], "nobody", 0.01)


@pytest.mark.servers
class TestAgainstNginx:
    @pytest.mark.parametrize(
        ("name", "contenders"),
        [
            ("read 1 MiB, 8 in flight", ("blockyard many", "blockyard asyncio", "boto3 threads")),
            ("16 KiB ranges, one at a time, TLS", ("blockyard", "blockyard asyncio", "boto3")),
            ("write 4 MiB, one at a time, unsigned", ("blockyard", "boto3")),
            ("write 4 MiB, one at a time", ("blockyard", "boto3", "boto3/defaults")),
        ],
    )
    def test_each_mode_works_and_is_verified(
        self, fleet: Fleet, name: str, contenders: tuple[str, ...]
    ) -> None:
        for contender in contenders:
            assert fleet.sample(WORKLOADS[name], contender, 0.01).operations >= 1

    def test_blocks_come_with_the_checksums_that_blockyard_stores(self) -> None:
        import blockyard
        from bench.peers.blockyard import settings
        from bench.site import Site
        from blockyard.errors import IntegrityError

        with (
            wire.serve() as endpoint,
            blockyard.open_store(**settings(Site(endpoint.url, data.KEPT))) as store,
        ):
            key, other = data.read_keys(4 * MIB)[3:5]
            assert store.read_block(key) == data.content(4 * MIB, key)
            # Other bytes at the same place: what is read is held to the stored checksums.
            _ = store.write_block(other, bytes(4 * MIB))
            with pytest.raises(IntegrityError):
                _ = store.read_block_range(other, 16384, 16384)


def made_up(faster: float = 10.0) -> Samples:
    """A run in which blockyard is `faster` times as fast as all others, at half their CPU."""
    samples: Samples = {}
    for number, workload in enumerate(all_workloads()):
        base = 100.0 + number
        samples[workload.name] = {
            name: [
                Sample(
                    round(base * (faster if name.startswith("blockyard") else 1) * 100), 100.0, cpu
                )
                for cpu in ((50.0, 60.0, 40.0) if name.startswith("blockyard") else (900.0,) * 3)
            ]
            for name in workload.contenders
        }
    return samples


def made_up_results(samples: Samples) -> dict[str, Any]:
    store = [
        {"work": "write", "size": 1024, "bytes_per_second": 5e6},
        {"work": "read", "size": 4 * MIB, "bytes_per_second": 5e9},
    ]
    return {
        "date": "2026-01-02 03:04 UTC",
        "commit": "abc",
        "others": 0.01,
        "minutes": 12.0,
        "machine": dict.fromkeys(
            ("processor", "cores", "memory", "system", "kernel", "python", "nginx", "wrk"), "2"
        ),
        "versions": {"blockyard": "1"},
        "samples": samples_as_json(samples),
        "failures": {},
        "startup": {"nothing": [0.02, 0.02], "blockyard": [0.2, 0.2], "boto3": [0.4, 0.4]},
        "memory": {
            "bytes": 10 * 1024 * MIB,
            "allowed": 192 * MIB,
            "blockyard many": {"before": 30 * MIB, "peak": 180 * MIB},
        },
        "processes": [
            {
                "workload": "read 4 MiB, 8 in flight",
                "contender": "blockyard many",
                "processes": 1,
                "rate": 400.0,
                "client_cores": 1.0,
                "server_cores": 0.5,
                "machine_cores": 1.5,
                "limit": "CPU",
            }
        ],
        "stores": {"memory": store, "file": store, "S3: LocalStack": store, "S3: Ceph": store},
    }


def made_up_path() -> dict[str, Any]:
    """A run over a path in which every client needs 20 ms for anything, and we need half."""
    samples: Samples = {
        comparing.work_name(condition, work): {
            name: [Sample(1, 0.01 if is_ours(name) else 0.02, 0.001)] * 2
            for name in work.contenders
        }
        for condition in CONDITIONS
        for work in works_over(condition)
    }
    machine = {"cores": "2", "processor": "some", "kernel": "6", "python": "3"}
    said = {"date": "2026-01-02", "commit": "abc", "rounds": 2, "minutes": 1, "others": 0}
    return {
        **said,
        "machine": machine,
        "congestion": "cubic",
        "samples": samples_as_json(samples),
        "failures": {},
    }


def made_up_within() -> dict[str, Any]:
    """A run under Zarr and fsspec: we read in half the time, and write in twice theirs."""
    samples: Samples = {
        name: {
            who: [Sample(1, *((0.01, 0.001) if who.startswith("b") else (0.02, 0.002)))] * 2
            for who in WORKS[kind]
        }
        for name, (kind, _) in work_names().items()
    }
    ours, theirs = Upload(2, 4, 300 * MIB), Upload(1, 2, 100 * MIB)
    taken = {who: [ours if who == uploads.OURS else theirs] for who in uploads.CONTENDERS}
    said = made_up_path() | {"versions": {"zarr": "3"}, "upload_bytes": 2**30, "upload_rounds": 1}
    return said | {
        "samples": samples_as_json(samples),
        "uploads": ecosystem.uploads_as_json(taken),
    }


@pytest.mark.thorough
class TestWithin:
    """Under Zarr and fsspec, in tiny form."""

    @pytest.mark.skipif(shutil.which("nginx") is None, reason="not installed: nginx")
    def test_chunks_are_read_and_compared(self) -> None:
        with wire.serve() as endpoint, ExitStack() as stack:
            there = where(endpoint, "blockyard")
            reader = Reader("blockyard", Site(there["url"], there["bucket"]))
            stack.callback(reader.close)
            for kind, size in work_names().values():
                for who in WORKS[kind] if kind != ON_MOTO else ():
                    if is_ours(who.removesuffix(" sync")):
                        command = {"kind": kind, "size": size, "contender": who, "seconds": 0.01}
                        assert reader.run(command).operations > 0

    def test_chunks_on_moto(self) -> None:
        with moto.serve() as endpoint, ExitStack() as stack:
            ecosystem.fill(endpoint)
            there = where(endpoint, "blockyard")
            reader = Reader("blockyard", Site(there["url"], there["bucket"]))
            stack.callback(reader.close)
            (who,) = (each for each in WORKS[ON_MOTO] if is_ours(each))
            for size in CHUNKS:
                command = {"kind": ON_MOTO, "size": size, "contender": who, "seconds": 0.01}
                assert reader.run(command).operations > 0

    def test_an_array_of_other_bytes_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if shutil.which("nginx") is None:
            pytest.skip("not installed: nginx")
        with wire.serve() as endpoint, ExitStack() as stack:
            there = where(endpoint, "blockyard")
            reader = Reader("blockyard", Site(there["url"], there["bucket"]))
            stack.callback(reader.close)
            monkeypatch.setattr(data, "chunk", bytes)
            command = {"kind": "Zarr array", "size": 16 * KIB, "contender": "blockyard"}
            with pytest.raises(WrongLengthError):
                _ = reader.run({**command, "seconds": 0.01})

    def test_a_file_is_uploaded_and_measured(self) -> None:
        with sink.serve() as endpoint:
            size = 40 * MIB + 5
            taken = uploads.upload(uploads.OURS, endpoint.url, size)
            store = blockyard.open_store(**settings(Site(endpoint.url, uploads.BUCKET)))
            with store:
                assert store.stat_block(uploads.KEY).size == size
        assert taken.seconds > 0 < taken.cpu
        assert taken.peak > 20 * MIB


class TestFigures:
    def test_medians(self) -> None:
        taken = [Sample(10, 1.0, 0.1), Sample(90, 1.0, 2.7), Sample(20, 1.0, 0.2)]
        assert rate(taken) == 20
        assert cpu_per_operation(taken) == 0.01

    def test_samples_survive_the_file(self) -> None:
        samples = made_up()
        assert samples_from_json(json.loads(json.dumps(samples_as_json(samples)))) == samples

    def test_promises_kept(self) -> None:
        found = outcomes(made_up(faster=40.0))
        assert all(isinstance(each, Outcome) and each.held for each in found)
        assert [each.ratio for each in found if isinstance(each, Outcome)] == pytest.approx(
            [40.0] * len(TARGETS)
        )
        assert all(each.held for each in cpu_outcomes(made_up(faster=40.0)))

    def test_a_promise_not_kept_fails(self) -> None:
        rows = tables.ratio_rows(made_up(faster=2.0))
        verdicts = {(row[0], row[1], row[2]): row[-1] for row in rows[1:]}
        assert verdicts["16 KiB ranges, one at a time", "one call", "obstore"] == "pass"
        assert verdicts["16 KiB ranges, one at a time", "one call", "boto3"] == "FAIL"
        assert verdicts["16 KiB ranges, 32 in flight", "asyncio", LIMIT] == "pass"

    def test_the_fastest_mode_stands_for_each_side(self) -> None:
        samples = made_up(faster=3.0)
        taken = samples["read 4 MiB, 8 in flight"]
        taken["obstore threads"] = [
            Sample(4 * each.operations, 100.0, 9.0) for each in taken["obstore threads"]
        ]
        (outcome,) = [
            each
            for each in outcomes(samples)
            if isinstance(each, Outcome)
            and each.target.workload == "read 4 MiB, 8 in flight"
            and "obstore threads" in each.target.against
        ]
        assert outcome.against == "obstore threads"
        assert outcome.ratio == pytest.approx(0.75)
        assert not outcome.held

    def test_work_that_was_not_measured_is_no_pass(self) -> None:
        found = outcomes({"copy, one at a time": {"blockyard": [Sample(1, 1.0, 1.0)]}})
        assert found == list(TARGETS)
        assert all(isinstance(each, Target) for each in found)
        assert {row[3] for row in tables.ratio_rows({})[1:]} == {"-"}

    def test_losses_are_told_with_their_notes(self) -> None:
        results = made_up_results(made_up(faster=0.5))
        notes = {"copy, one at a time": {"text": "A second\nrequest."}}
        lines = loss_lines(results, made_up(faster=0.5), notes)
        (copy,) = [line for line in lines if "copy" in line]
        assert copy.endswith("does 2.00 times as much. A second request.")
        (first,) = [line for line in lines if "16 KiB ranges, one at a time**" in line]
        assert "0.50x obstore (blockyard), promised 2x" in first

    def test_nothing_lost_is_said_too(self) -> None:
        results = made_up_results(made_up(faster=40.0))
        assert loss_lines(results, made_up(faster=40.0), {}) == ["In none of the rows of this run."]


class TestReport:
    def test_the_page_is_whole(self) -> None:
        page = report.page(
            Saved(made_up_results(made_up()), "bench/results/some.json"),
            Saved(made_up_path(), "other.json"),
            Saved(made_up_within(), "third.json"),
        )
        assert "$" not in page
        for workload in all_workloads():
            if "ranges" in workload.name or workload.operation in {"list", "delete", "copy"}:
                assert f"### {workload.name}\n" in page
        assert page.count("16 KiB ranges, one at a time, TLS\n") == 1
        assert "| read 4 MiB | 36,813 | 5,000 |" in page
        assert "| Zarr store, 16 KiB | obstore asyncio | 50 | 2,000 | 0.50x | 0.6x | pass |" in page
        assert "| Zarr store, 16 KiB | s3fs asyncio | 50 | 2,000 | 0.50x | 0.25x | FAIL |" in page
        assert "| obstore put | 1,074 | 2.0 | 100 | 0.50x (0.50-0.50) | 0.9x | FAIL |" in page
        assert "| blockyard open | 537 | 4.0 | 300 |  | 200 MiB at most | FAIL |" in page
        assert "| copy a block | 10.0 ms | 10.0 ms | 20.0 ms | 20.0 ms | 2.00x | 2.00x |" in page

    def test_columns_line_up(self) -> None:
        rows = [["client", "rate"], ["a", "1,000"], ["longer", "5"]]
        assert tables.as_text(rows) == "  client   rate\n  a       1,000\n  longer      5"
        assert tables.as_markdown(rows).splitlines()[1] == "| --- | ---: |"

    def test_a_full_run_has_a_grid(self) -> None:
        assert FULL.grid is not None
        assert FULL.effort(WORKLOADS["read 1 MiB, 32 in flight"]) == FULL.grid
        assert FULL.effort(WORKLOADS["read 8 MiB, 32 in flight"]) == FULL.headline
        assert FULL.effort(WORKLOADS["read 4 MiB, one at a time"]) == FULL.headline
        assert FULL.effort(WORKLOADS["delete 10,000 keys"]) == FULL.services


def test_a_workload_is_told_to_a_worker_whole() -> None:
    work = WORKLOADS["16 KiB ranges, one at a time, TLS"]
    told = json.loads(json.dumps(work.as_json()))
    assert Workload(**{**told, "contenders": tuple(told["contenders"])}) == work
