"""`blockyard cache`: stat, verify and clear of a folder, also while it is in use."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockyard import open_store
from blockyard.cache import write_back
from blockyard.cache.entry import HEAD
from blockyard.cache.folder import Folder
from blockyard.cache.stage import Stage
from blockyard.cli.app import app
from blockyard.model import MIB
from blockyard.testing.samples import content
from tests.cache.disk_tier import pages_of, tier
from tests.cache.staging import Process, Service

BLOCK = content(200_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(command: str, root: Path, *, code: int = 0) -> dict[str, Any]:
    """What the command says as JSON; it says the numbers as text too."""
    done = CliRunner().invoke(app, ["cache", command, str(root), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_stat_counts_entries_and_bytes(root: Path) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))
        disk.fill(pages_of("j", BLOCK, 0, 10))
        said = run("stat", root)
        assert said["entries"] == 2
        assert 750_000 < said["allocated"] < 1_000_000
        text = CliRunner().invoke(app, ["cache", "stat", str(root)]).stdout
        assert "2 entries" in text
        assert disk.read("k") == BLOCK


@pytest.mark.parametrize("sums", [True, False])
def test_verify_removes_what_is_damaged_and_says_so(root: Path, sums: bool) -> None:
    with tier(root) as disk:
        for key in ("right", "damaged", "part"):
            end = 20_000 if key == "part" else None
            disk.fill(pages_of(key, BLOCK, 0, end, sums=sums))
        none = {"staged": 0, "staged_damaged": 0}
        right = {"right": 3, "damaged": 0, "size": 2 * 200_000 + 32_768}
        assert run("verify", root) == right | none
        with disk.path("damaged").open("r+b") as file:
            _ = file.seek(HEAD + 150_000)
            _ = file.write(b"damage")
        _ = disk.path("right").with_name("foreign").write_text("foreign")
        assert run("verify", root, code=1)["damaged"] == 2
        right = {"right": 2, "damaged": 0, "size": 200_000 + 32_768}
        assert run("verify", root) == right | none
        assert disk.read("damaged") is None
        assert disk.read("right") == BLOCK


def test_clear_empties_a_folder_in_use(root: Path) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))
        disk.fill(pages_of("j", BLOCK))
        assert disk.read("k") == BLOCK
        assert run("clear", root) == {"removed": 2}
        assert disk.read("k") is None
        assert run("stat", root)["entries"] == 0
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK


def test_what_is_not_uploaded_is_counted_verified_and_not_cleared(root: Path) -> None:
    one = Process(root, Service())
    for key in ("k", "damaged"):
        one.write(key, BLOCK)
    said = run("stat", root)
    assert (said["entries"], said["staged"], said["staged_size"]) == (0, 2, 2 * len(BLOCK))
    assert said["allocated"] > 2 * len(BLOCK)
    assert abs(said["oldest_staged"] - time.time()) < 60
    assert "2 blocks (390.6 KiB) not uploaded, since 20" in shown("stat", root)
    assert run("verify", root)["staged"] == 2
    with one.path("damaged").open("r+b") as file:
        _ = file.seek(HEAD + 150_000)
        _ = file.write(b"damage")
    told = run("verify", root, code=1)
    assert (told["damaged"], told["staged"], told["staged_damaged"]) == (0, 1, 1)
    assert "1 of these damaged, and kept" in shown("verify", root)
    assert run("clear", root) == {"removed": 0}
    assert one.read("k") == BLOCK
    assert sorted(one.staged) == ["damaged", "k"]


def shown(command: str, root: Path) -> str:
    return CliRunner().invoke(app, ["cache", command, str(root)]).stdout


def test_drain_uploads_what_a_process_left_and_says_what_it_can_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path
) -> None:
    monkeypatch.setattr(write_back, "CLOSING_SECONDS", 0.1)  # what was drained is not waited for
    blocks = tmp_path / "blocks"
    blocks.mkdir()
    config = tmp_path / "store.yaml"
    _ = config.write_text(
        f"block_store: {{type: file, file: {{path: {blocks}}}, cache: {{mode: write_back, "
        f"memory: 0, disk: {{path: {root}, size: 64MiB}}}}}}"
    )
    command = ["cache", "drain", "--timeout", "30", "--config", str(config)]
    for blocked in (True, False):
        with open_store(config) as store:
            identity = store._operations.store.identity
        stage = Stage(Folder(root), 32 * MIB, identity)
        for key in ("a", "b/c"):
            _ = stage.put(key, BLOCK, 1.8e9)
        if blocked:
            _ = (blocks / "b").write_text("in the way")
        done = CliRunner().invoke(app, command)
        assert done.exit_code == blocked, done.output
        if blocked:
            assert "left: b/c: 195.3 KiB: " in done.stdout
            assert "1 blocks left" in done.stdout
            told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
            assert [each["key"] for each in told] == ["b/c"]
            (blocks / "b").unlink()
    assert "0 blocks left" in done.stdout
    with open_store(f"file://{blocks}") as below:
        assert below.read_block("b/c") == BLOCK


def test_drain_of_a_store_without_write_back_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["cache", "drain", "--store", f"file://{tmp_path}"])
    assert done.exit_code == 2
    assert "expected a store with a cache whose mode is write_back" in done.output


@pytest.mark.parametrize("command", ["stat", "verify", "clear"])
def test_another_folder_is_refused_and_left_alone(tmp_path: Path, command: str) -> None:
    _ = (tmp_path / "thesis.txt").write_text("mine")
    done = CliRunner().invoke(app, ["cache", command, str(tmp_path)])
    assert done.exit_code == 2
    assert "expected a cache folder" in done.output
    assert os.listdir(tmp_path) == ["thesis.txt"]
