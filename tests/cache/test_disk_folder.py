"""The cache's folder: whose it is, what is refused, and how little opening it costs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard.cache import folder as folder_module
from blockyard.cache.disk import DiskCache
from blockyard.cache.folder import Folder
from blockyard.errors import ConfigError
from blockyard.model import MIB
from tests.cache.disk_tier import IDENTITY, SIZE, pages_of, tier


def opened(root: Path) -> DiskCache:
    return DiskCache(root, SIZE, IDENTITY)


def test_a_folder_is_made_with_all_that_leads_to_it(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    opened(root).close()
    assert (root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172")
    assert (root / "epochs").stat().st_blocks * 512 >= 512 * 1024


def test_an_empty_folder_becomes_the_owners_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    opened(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    opened(tmp_path).close()


def test_what_another_process_is_just_making_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "new").mkdir()
    opened(tmp_path).close()
    assert (tmp_path / "format").exists()


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    _ = (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"cache\.disk\.path.*'thesis\.txt'"):
        _ = opened(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    _ = (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is no folder"):
        _ = opened(tmp_path / "file")


def test_another_format_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    _ = (tmp_path / "format").write_bytes(b"blockyard-cache 2\n")
    with pytest.raises(ConfigError, match="blockyard-cache 2"):
        _ = opened(tmp_path)


@pytest.mark.parametrize("left", [os.mknod, os.mkfifo], ids=["an empty file", "a pipe"])
def test_a_format_that_says_nothing_is_written_again(
    tmp_path: Path, left: Callable[[Path], None]
) -> None:
    """As a power cut may leave it: what is staged there is not to be given up for that."""
    opened(tmp_path).close()
    written = (tmp_path / "format").read_bytes()
    (tmp_path / "format").unlink()
    left(tmp_path / "format")
    opened(tmp_path).close()
    assert (tmp_path / "format").read_bytes() == written


def test_an_empty_format_makes_no_cache_of_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "format").touch()
    _ = (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is no cache"):
        _ = opened(tmp_path)


def test_the_format_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        assert not (tmp_path / "format").exists()
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    opened(tmp_path).close()
    assert (tmp_path / "format").stat().st_ino in synced


def test_a_cache_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="0700"):
        _ = opened(tmp_path)


@pytest.mark.parametrize(("umask", "above"), [(0o000, 0o755), (0o022, 0o755), (0o077, 0o700)])
def test_nobody_else_may_put_a_folder_in_its_place(tmp_path: Path, umask: int, above: int) -> None:
    """Nor in that of a folder above it which is made for it, whatever the umask."""
    before = os.umask(umask)
    try:
        opened(tmp_path / "a" / "b" / "cache").close()
    finally:
        _ = os.umask(before)
    for name, mode in (("a", above), ("a/b", above), ("a/b/cache", 0o700)):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        _ = opened(tmp_path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw shared:1 - {kind} host:/x rw\n"
    _ = mounts.write_text("22 1 0:21 / /sys rw - sysfs sysfs rw\n" + line)
    monkeypatch.setattr(folder_module, "_MOUNTS", str(mounts))
    with pytest.raises(ConfigError, match=rf"network file system \({kind}\)"):
        _ = opened(tmp_path / "cache")


def test_a_budget_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache\.disk\.size"):
        _ = DiskCache(tmp_path, MIB, IDENTITY)


def test_a_folder_that_is_removed_while_it_is_used_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with tier(root) as disk, tier(root) as other:
        disk.fill(pages_of("k", b"before"))
        shutil.rmtree(root)
        assert disk.read("k") is None
        disk.fill(pages_of("k", b"between"))  # of an epoch that nobody changes any more
        assert disk.read("k") is None
        disk.fill(pages_of("k", b"after"))
        assert disk.read("k") == b"after"
        other.cache.change(["k"])
        assert other.read("k") is None
        disk.cache.change(["k"])
        assert disk.cache.epoch("k") == other.cache.epoch("k")


_OPENING = """
import resource, sys, time
from pathlib import Path
from blockyard.cache.disk import DiskCache
from blockyard.stores.base import ReadRequest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
cache = DiskCache(Path(sys.argv[1]), 1 << 30, "s3://bucket")
found = cache.get(ReadRequest("k"), wait=True)
took = time.perf_counter() - began
assert found.data == b"block", found
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
cache.close()
"""


def test_opening_reads_no_folder_of_entries(tmp_path: Path) -> None:
    """Many entries, an open and a hit: without a scan it takes as long as with none."""
    with tier(tmp_path / "cache") as disk:
        disk.fill(pages_of("k", b"block"))
        shard = Path(disk.cache._folder.shard(0))
        shard.mkdir(exist_ok=True)
        for number in range(20_000):
            os.close(os.open(shard / f"{number:032x}", os.O_CREAT | os.O_WRONLY, 0o600))
    out = subprocess.run(
        [sys.executable, "-c", _OPENING, str(tmp_path / "cache")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert float(out[0]) < 2
    assert int(out[1]) < 5 * 1024  # KiB


def test_epochs_that_are_let_go_while_they_are_written_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes the folder, or makes it again: its next file may get that number."""
    folder, another = Folder(tmp_path), tmp_path / "another"
    folder.prepare()
    write = folder_module.syscalls.write_all_at

    def let_go_first(file: int, data: bytes, offset: int) -> None:
        folder.close()
        with another.open("wb"):
            write(file, data, offset)

    monkeypatch.setattr(folder_module.syscalls, "write_all_at", let_go_first)
    folder.change_all()
    assert another.stat().st_size == 0


def test_epochs_that_were_cut_are_noticed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cache")
    folder.prepare()
    folder.change(b"\xff" * 16)
    assert folder.epoch(b"\xff" * 16) != 0
    os.truncate(tmp_path / "cache" / "epochs", 0)
    assert folder.epoch(b"\xff" * 16) == 0
    folder.change(b"\xff" * 16)
    assert folder.epoch(b"\xff" * 16) != 0
