"""`blockyard cache`: stat, verify and clear of a folder, also while it is in use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockyard.cache.entry import HEAD
from blockyard.cli.app import app
from blockyard.testing.samples import content
from tests.cache.disk_tier import pages_of, tier

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
        assert run("verify", root) == {"right": 3, "damaged": 0, "size": 2 * 200_000 + 32_768}
        with disk.path("damaged").open("r+b") as file:
            _ = file.seek(HEAD + 150_000)
            _ = file.write(b"damage")
        _ = disk.path("right").with_name("foreign").write_text("foreign")
        assert run("verify", root, code=1)["damaged"] == 2
        assert run("verify", root) == {"right": 2, "damaged": 0, "size": 200_000 + 32_768}
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


@pytest.mark.parametrize("command", ["stat", "verify", "clear"])
def test_another_folder_is_refused_and_left_alone(tmp_path: Path, command: str) -> None:
    _ = (tmp_path / "thesis.txt").write_text("mine")
    done = CliRunner().invoke(app, ["cache", command, str(tmp_path)])
    assert done.exit_code == 2
    assert "expected a cache folder" in done.output
    assert os.listdir(tmp_path) == ["thesis.txt"]
