"""`blockyard bench`: what it measures, that it keeps to its budget, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import blockyard
from blockyard.cli import bench as command
from blockyard.cli import benchmark
from blockyard.cli.app import app
from blockyard.cli.benchmark import CELLS, SIZES, WORKS, Budget, Cell, Measured, measure
from blockyard.cli.output import human
from blockyard.errors import BlockStoreError, ServerError
from blockyard.model import BLOCK_SIZE, KIB, MIB, Block, BlockInfo, DeleteResult
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from servers.endpoint import Endpoint


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def figures(*arguments: object) -> list[dict[str, Any]]:
    result = run("--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def check(rows: list[dict[str, Any]]) -> None:
    """As many cells as the time sufficed for, in their order."""
    cells = [Cell(row["work"], row["size"]) for row in rows]
    assert cells == list(CELLS[: len(cells)])
    assert cells
    for row in rows:
        assert row["operations"] > 0
        rate = row["operations"] * row["size"] / row["seconds"]
        assert row["bytes_per_second"] == pytest.approx(rate)
        assert (row["latency"] is None) == row["work"].startswith("parallel")


class TestStores:
    def test_memory(self) -> None:
        check(figures("--store", "memory://", "--seconds", 0.5))

    def test_a_folder_is_left_empty(self, tmp_path: Path) -> None:
        check(figures("--store", tmp_path.as_uri(), "--seconds", 0.5))
        with blockyard.open_store(tmp_path.as_uri()) as store:
            assert store.list_by_prefix() == []

    def test_s3_is_left_as_it_was(
        self,
        moto_endpoint: Endpoint,
        bucket: str,
        key_prefix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_endpoint.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_endpoint.secret_key)
        url = moto_endpoint.store_url(bucket, key_prefix)
        with blockyard.open_store(url) as store:
            _ = store.write_block("mine", b"kept")
            check(figures("--store", url, "--seconds", 1))
            assert store.list_by_prefix() == ["mine"]


class TestOutput:
    def test_a_table_of_sizes_and_kinds_of_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def all_measured(*_: object) -> list[Measured]:
            latency = {"write": 0.0015, "read": 0.0000021}
            return [Measured(cell, 5, 2.0, latency.get(cell.work)) for cell in CELLS]

        monkeypatch.setattr(command, "measure", all_measured)
        result = run("--store", "memory://")
        assert result.exit_code == 0
        heading, *lines = [line for line in result.stdout.splitlines() if line.strip()]
        assert [work for work in WORKS if work in heading] == list(WORKS)
        rows = [line.split() for line in lines if "MB/s" in line]
        assert [row[:2] for row in rows] == [human(size).split() for size in SIZES]
        assert [row.count("MB/s") for row in rows] == [5, 5, 5, 4]
        assert "1.50 ms" in result.stdout
        assert "2.1 us" in result.stdout
        assert "2 op/s" in result.stdout

    def test_it_follows_the_work_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "watched", lambda: True)
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich: as on a terminal
        result = run("--store", "memory://", "--seconds", 0.3, "--json")
        check(json.loads(result.stdout))
        assert "MB/s" in result.stderr

    @pytest.mark.parametrize("size", ["", "0", "many", "-1", "1.5GiB", "3 KB"])
    def test_a_size_that_is_none(self, size: str) -> None:
        result = run("--store", "memory://", f"--bytes={size}")
        assert result.exit_code == 2
        assert "expected a size such as" in result.stderr


class TestBudget:
    def test_bytes(self) -> None:
        rows = figures("--store", "memory://", "--seconds", 60, "--bytes", "30 MiB")
        assert rows[0]["work"] == "write"
        moved = sum(row["operations"] * row["size"] for row in rows)
        assert moved <= 30 * MIB + len(rows) * BLOCK_SIZE

    def test_a_spent_budget_measures_nothing_more(self) -> None:
        with blockyard.open_store("memory://") as store:
            spent = Budget(time.monotonic() + 60, 1)
            found = list(measure(store, "some", spent))
            assert [each.cell for each in found] == [Cell("write", KIB)]
            over = Budget(time.monotonic() - 1, 1024 * MIB)
            assert list(measure(store, "some", over)) == []

    def test_all_is_measured_when_there_is_time(self) -> None:
        with blockyard.open_store("memory://") as store:
            found = list(measure(store, "some", Budget(time.monotonic() + 600, 100 * MIB)))
        assert [each.cell for each in found] == list(CELLS)

    def test_what_is_stored_at_a_time_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: list[int] = []
        delete = BlockStore.delete_by_prefix

        def counting(self: BlockStore, prefix: str) -> DeleteResult:
            kept.append(len(self.list_by_prefix(prefix)))
            return delete(self, prefix)

        monkeypatch.setattr(BlockStore, "delete_by_prefix", counting)
        _ = figures("--store", "memory://", "--seconds", 0.5)
        assert 1 <= kept[0] <= 32 * len(SIZES)
        assert kept[1:] == [0]


class TestFailures:
    def test_a_short_read_ends_it_and_all_is_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def short(*_: object) -> Block:
            return Block(b"short", 5, lambda: BlockInfo("k", 5, "e"))

        monkeypatch.setattr(FilesystemStore, "read", short)
        # so that a disk that is slow just now does not spend on writes what the read is to have
        monkeypatch.setattr(benchmark, "CELLS", (Cell("write", KIB), Cell("read", KIB)))
        result = run("--store", tmp_path.as_uri(), "--seconds", 100, "--bytes", "64 KiB")
        assert result.exit_code == 1
        assert "a read gave 5 bytes of 1024" in result.stderr
        with blockyard.open_store(tmp_path.as_uri()) as store:
            assert store.list_by_prefix() == []

    def test_an_unusable_store_is_named_before_anything_is_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(*_: object) -> None:
            raise ServerError("not today", status=500)

        async def unexpected(*_: object, **__: object) -> BlockInfo:
            raise AssertionError("written to")

        monkeypatch.setattr(MemoryStore, "health_check", refuse)
        monkeypatch.setattr(MemoryStore, "write", unexpected)
        result = run("--store", "memory://")
        assert (result.exit_code, result.stderr) == (5, "blockyard: not today\n")

    def test_blocks_that_can_not_be_deleted_are_told_of(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def keep(_: BlockStore, prefix: str) -> DeleteResult:
            result = DeleteResult([], {f"{prefix}/1024/block-0": BlockStoreError("it stays")})
            result.raise_for_failures()
            return result

        monkeypatch.setattr(BlockStore, "delete_by_prefix", keep)
        result = run("--store", "memory://", "--seconds", 0.2)
        assert result.exit_code == 1
        assert "it stays" in result.stderr

    def test_an_interrupt_leaves_nothing_behind(self, tmp_path: Path) -> None:
        store_folder = tmp_path / "store"
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from blockyard.cli import main; main()", "bench"),
                *("--store", store_folder.as_uri(), "--seconds", "60"),
            ],
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        with blockyard.open_store(store_folder.as_uri()) as store:
            while len(store.list_by_prefix()) < 3:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            assert (process.returncode, said) == (130, "blockyard: interrupted\n")
            assert store.list_by_prefix() == []
