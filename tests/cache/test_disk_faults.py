"""A disk that fails is a tier that holds nothing: no error reaches a reader."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockyard.cache import disk as disk_module
from blockyard.model import MIB
from blockyard.stores.base import ReadRequest
from blockyard.testing.samples import content
from blockyard_faults.cache_folder import allocated
from blockyard_faults.disks import small_disk
from tests.cache.disk_tier import SIZE, Tier, later, pages_of, tier

BLOCK = content(200_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["open", "pwrite", "rename", "ftruncate", "statvfs"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_disk_that_can_not_be_written_is_passed_by_and_tried_again(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("before", BLOCK))
        disk.forget_open()
        with monkeypatch.context() as broken:
            broken.setattr(os, call, failing(number))
            for each in range(5):
                disk.fill(pages_of(f"k{each}", BLOCK))
            if call == "open":
                assert disk.read("before") is None
            else:
                assert disk.read("before") == BLOCK
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert os.strerror(number) in warnings[0].getMessage()
        assert str(root) in warnings[0].getMessage()
        assert disk.stats["dropped"] == 5
        assert disk.read("before") == BLOCK
        assert os.listdir(root / "new") == []
        assert not disk.cache.fill(disk.runtime, pages_of("soon", BLOCK), 0)
        later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
        disk.fill(pages_of("after", BLOCK))
        assert disk.read("after") == BLOCK


def test_a_warning_comes_once_a_minute(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with tier(root) as disk:
        monkeypatch.setattr(os, "ftruncate", failing(errno.ENOSPC))
        for _ in range(12):
            disk.fill(pages_of("k", BLOCK))
            later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
        assert len(caplog.records) == 2


@pytest.mark.parametrize("call", ["pread", "fstat"])
def test_a_disk_that_can_not_be_read_has_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK
        with monkeypatch.context() as broken:
            broken.setattr(os, call, failing(errno.EIO))
            assert disk.read("k") is None
        assert disk.read("k") == BLOCK
        disk.fill(pages_of("j", BLOCK))
        assert len(caplog.records) == 1


@pytest.mark.parametrize("call", ["unlink", "pwrite", "fstat"])
def test_what_could_not_be_removed_when_its_key_changed_is_not_served(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))
        disk.fill(pages_of("j", BLOCK))
        with monkeypatch.context() as broken:
            broken.setattr(os, call, failing(errno.EROFS))
            disk.cache.change(["k"])
        assert disk.read("k") is None
        assert disk.read("j") == BLOCK
        disk.fill(pages_of("another", BLOCK))  # writable again: it is made good first
        assert not disk.path("k").exists()
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK


def test_a_folder_that_can_not_be_made_is_made_later(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Path, "mkdir", failing(errno.EROFS))
        disk = Tier(root)
        assert disk.read("k") is None
        disk.fill(pages_of("k", BLOCK))
        disk.cache.change(["k"])
    assert len(caplog.records) == 1
    later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
    disk.fill(pages_of("j", BLOCK))  # and it makes good that `k` was changed
    disk.fill(pages_of("k", BLOCK))
    assert disk.read("k") == BLOCK
    disk.cache.close()


def test_few_descriptors_are_no_error(root: Path) -> None:
    with tier(root) as disk:
        for number in range(30):
            disk.fill(pages_of(f"k{number}", BLOCK))
        files = list[int]()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        try:
            while True:
                files.append(os.dup(0))
        except OSError:
            pass
        try:
            for _ in range(2):
                for number in range(30):
                    found = disk.cache.get(ReadRequest(f"k{number}"), wait=True)
                    assert found is None or found.data == BLOCK
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for file in files:
                os.close(file)
        assert disk.read("k1") == BLOCK


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    with small_disk(tmp_path / "small", 24 * MIB) as mounted:
        if not mounted:
            pytest.skip("mounting a small file system takes root")
        yield tmp_path / "small"


def test_a_full_disk_is_no_error_and_is_used_again(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("blockyard.cache.budget._FREE_BYTES", 0)  # so that it does become full
    with tier(small / "cache", SIZE) as disk:
        others = small / "others"
        disk.fill(pages_of("k0", BLOCK))
        with others.open("wb", buffering=0) as file:
            while file.write(bytes(MIB)) == MIB:
                pass
        for number in range(10):
            disk.fill(pages_of(f"k{number}", content(2 * MIB)))
            later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
            disk.cache.change([f"k{number - 2}"])
        assert len(caplog.records) >= 1
        others.unlink()
        later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK


def test_a_small_disk_is_not_filled_up(small: Path) -> None:
    with tier(small / "cache", SIZE) as disk:
        for number in range(200):
            disk.fill(pages_of(f"k{number}", BLOCK))
        assert disk.stats["dropped"] == 0
        assert allocated(small / "cache") <= 24 * MIB * 0.95 + 1
        assert disk.read("k199") == BLOCK


@pytest.mark.thorough
def test_processes_that_are_killed_leave_no_wrong_read() -> None:
    """A few seconds of what `make faults` does for minutes."""
    done = subprocess.run(
        [sys.executable, "-m", "blockyard_faults.cache_folder", "--seconds", "12"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
