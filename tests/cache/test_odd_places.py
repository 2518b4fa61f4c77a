"""Odd blocks and keys, on odd file systems, with few descriptors: by both clients, in each mode."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockyard import BlockStore, StoreConfig
from blockyard.config.loading import load_config
from blockyard.model import MIB
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.samples import content
from blockyard_faults.disks import small_disk
from tests.cache.staging import Process, Service

MODES = ["write_through", "write_back"]
BLOCKS = {
    "k" * 1024: b"its key has as many bytes as one may have",
    "é" * 512: b"its key has too",
    "none": b"",
    "zeros": bytes(70_000),
    "page": content(16_384),
    "large": content(5 * MIB + 3),
}


def settings(mode: str, folder: Path) -> dict[str, Any]:
    disk = {"path": str(folder), "size": "64MiB"}
    return {"mode": mode, "memory": 0, "revalidate": "never", "disk": disk}


def check(store: BlockStore, *, staged: bool) -> None:
    """Write and read them, before and after they were uploaded: from the stage, and as hits."""
    for key, block in BLOCKS.items():
        _ = store.write_block(key, block)
    for _ in range(2):
        for key, block in BLOCKS.items():
            assert store.read_block(key) == block
            if block:
                assert store.read_block_range(key, 7, 20) == block[7:27]
    assert store.drain() == []
    for _ in range(10_000):  # fills are made by a thread, which may be late
        for key, block in BLOCKS.items():
            assert store.read_block(key) == block
        counts = store.stats().cache
        assert counts is not None
        if counts.disk_hits >= len(BLOCKS):
            break
    else:
        pytest.fail(f"the folder is not read from: {counts}")
    assert counts.damaged == 0
    assert staged or counts.dropped == 0  # what was read while it was uploaded is
    assert counts.staged == (0 if staged else None)


def config(mode: str, folder: Path, data: Path) -> StoreConfig:
    return load_config(data.as_uri(), {"cache": settings(mode, folder)}, {})


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mode", MODES)
def test_odd_blocks_and_keys(client: ClientName, mode: str, tmp_path: Path) -> None:
    with open_client(client, config(mode, tmp_path / "cache", tmp_path / "data")) as opened:
        check(opened.store, staged=mode == "write_back")


@contextmanager
def mounted(kind: str, folder: Path) -> Generator[Path]:
    """A folder on a file system of that kind."""
    with small_disk(folder, 0 if kind == "tmpfs without a limit" else 256 * MIB) as there:
        if not there:
            pytest.skip("mounting a file system takes root")
        if kind != "overlayfs":
            yield folder
            return
        for name in ("lower", "upper", "work", "merged"):
            (folder / name).mkdir()
        libc, merged = ctypes.CDLL(None, use_errno=True), folder / "merged"
        layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        if libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, layers.encode()) != 0:
            pytest.skip("this system has no overlayfs")
        try:
            yield merged
        finally:
            _ = libc.umount2(os.fsencode(merged), 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["tmpfs", "tmpfs without a limit", "overlayfs"])
def test_odd_file_systems(kind: str, mode: str, tmp_path: Path) -> None:
    with (
        mounted(kind, tmp_path / "mounted") as folder,
        open_client("blocking", config(mode, folder / "cache", tmp_path / "data")) as opened,
    ):
        check(opened.store, staged=mode == "write_back")


FEW = """
import contextlib, os, resource, sys, threading
import blockyard

mode, root, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
disk = {"path": f"{root}/cache", "size": "64MiB"}
cache = {"mode": mode, "memory": 0, "revalidate": "never", "disk": disk}
with blockyard.open_store(f"file://{root}/data", cache=cache) as store:
    written, wrong = {}, []

    def use(thread):
        for number in range(10):
            key, block = f"{thread}/{number}", bytes([thread]) * (5000 + number)
            try:
                store.write_block(key, block)
                written[key] = block
                for _ in range(3):
                    if store.read_block(key) != block:
                        wrong.append(key)
            except blockyard.LocalStorageError:  # of the origin's files, or of what is staged
                continue

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for each in threads: each.start()
    for each in threads: each.join()
    assert not wrong, wrong
    while store.drain(): pass
    for _ in range(3):
        for key, block in written.items():
            assert store.read_block(key) == block
    entries = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            entries.append(os.readlink(f"/proc/self/fd/{each}"))
    entries = [each for each in entries if "/cache/blocks/" in each]
    assert len(entries) <= limit // 4, entries
    print(len(written), "written")
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [24, 40])
def test_few_descriptors(mode: str, limit: int, tmp_path: Path) -> None:
    """Calls are refused that have none, and all is well once there are some."""
    done = subprocess.run(
        [sys.executable, "-c", FEW, mode, str(tmp_path), str(limit)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout.split()[0]) > 0


@pytest.mark.parametrize("step", [0.0, -3600.0, 1e-9])
def test_a_clock_that_stands_still_or_is_set_back(
    one: Process,
    other: Process,
    service: Service,
    step: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version that is staged while another is uploaded stays, however alike their files are."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    clock = [1e9]

    def wall_time() -> float:
        clock[0] += step
        return clock[0]

    for process in (one, other):
        process.runtime.wall_time = wall_time  # type: ignore[method-assign]
    for number in range(8):
        one.write("k", b"%5d" % number)
        versions = iter([b"%5d" % (number + 100), b"%5d" % (number + 200)])
        service.before = lambda versions=versions: [other.write("k", each) for each in versions]
        assert one.upload("k") is None
        service.before = lambda: None
        assert one.read("k") == other.read("k") == b"%5d" % (number + 200)
        counts = one.store.stats().cache
        assert counts is not None
        assert (counts.staged, counts.oldest_staged >= 0) == (1, True)
        assert one.drain() == []
        assert service.sent[-1] == ("k", b"%5d" % (number + 200))
