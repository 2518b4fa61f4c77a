"""The disk tier: pages kept in a folder, verified, and never older than a change of their key."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from blockyard.cache import entry
from blockyard.cache.disk import _most_kept
from blockyard.cache.folder import Folder
from blockyard.cache.tier import MUST_WAIT, Pages
from blockyard.model import KIB, MIB
from blockyard.stores.base import ReadRequest
from blockyard.testing.samples import content
from tests.cache.disk_tier import Tier, pages_of, tier

BLOCK = content(200_000)
PAGE = 16 * KIB
OTHER = content(200_001)[1:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def disk(root: Path) -> Iterator[Tier]:
    with tier(root) as opened:
        yield opened


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 16 * KIB + 1, 200_000, 5 * MIB + 3])
def test_a_block_is_read_as_it_was_put_in(disk: Tier, size: int, sums: bool) -> None:
    block = content(size)
    assert disk.read("k") is None
    disk.fill(pages_of("k", block, sums=sums))
    assert disk.read("k") == block
    assert disk.stats["hits"] == 1
    disk.forget_open()
    assert disk.read("k") == block
    if size > 20_000:
        assert disk.read("k", 20_000, 7) == block[20_000:20_007]


def test_a_small_read_waits_for_nothing_in_the_page_cache(disk: Tier) -> None:
    disk.fill(pages_of("k", BLOCK))
    for _ in range(2):
        found = disk.cache.get(ReadRequest("k", 50_000, 100), wait=False)
        assert isinstance(found, Pages)
        assert found.data == BLOCK[48 * KIB : 64 * KIB]
        assert found.first == 48 * KIB


def test_a_read_that_would_wait_says_so(disk: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.fill(pages_of("k", BLOCK))
    preadv = os.preadv

    def cold(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError
        return preadv(file, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", cold)
    request = ReadRequest("k", 0, 100)
    assert disk.cache.get(request, wait=False) is MUST_WAIT
    assert disk.read("k") == BLOCK


def test_a_system_without_such_reads_is_read_all_the_same(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container whose filter of system calls does not know preadv2(2)."""
    disk.fill(pages_of("k", BLOCK))
    preadv = os.preadv

    def filtered(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", filtered)
    found = disk.cache.get(ReadRequest("k", 0, 100), wait=False)
    assert isinstance(found, Pages)
    assert found.data[:100] == BLOCK[:100]


def test_a_large_read_is_left_to_a_thread(disk: Tier) -> None:
    block = content(MIB)
    disk.fill(pages_of("k", block))
    assert disk.cache.get(ReadRequest("k"), wait=False) is MUST_WAIT


def test_what_is_kept_says_which_version_it_is(disk: Tier) -> None:
    pages = pages_of("k", BLOCK, etag="v1", at=5.0)
    disk.fill(pages)
    found = disk.cache.get(ReadRequest("k"), wait=True)
    assert found == pages


@pytest.mark.parametrize("sums", [True, False])
def test_pages_are_added_to_those_of_the_same_version(disk: Tier, sums: bool) -> None:
    disk.fill(pages_of("k", BLOCK, 0, 10, sums=sums))
    disk.fill(pages_of("k", BLOCK, 100_000, 140_000, sums=sums))
    assert disk.read("k", 5, 100) == BLOCK[5:105]
    assert disk.read("k", 100_001, 30_000) == BLOCK[100_001:130_001]
    assert disk.read("k", 0, 40_000) is None
    found = disk.cache.get(ReadRequest("k", 0, 40_000), wait=True)
    assert isinstance(found, Pages)
    assert (found.data, found.info.etag) == (b"", "etag")
    disk.fill(pages_of("k", BLOCK, sums=sums))
    assert disk.read("k") == BLOCK
    assert disk.stats["damaged"] == 0


def test_a_range_past_the_end_tells_the_version_alone(disk: Tier) -> None:
    disk.fill(pages_of("k", BLOCK))
    found = disk.cache.get(ReadRequest("k", len(BLOCK), 1), wait=True)
    assert isinstance(found, Pages)
    assert found.data == b""


def test_another_version_replaces_the_one_that_was_seen_before(disk: Tier) -> None:
    disk.fill(pages_of("k", BLOCK, at=1.0))
    disk.fill(pages_of("k", OTHER, etag="v2", at=2.0))
    assert disk.read("k") == OTHER
    disk.fill(pages_of("k", BLOCK, at=1.5))
    assert disk.read("k") == OTHER


def test_other_bytes_under_the_same_etag_replace_it(disk: Tier) -> None:
    disk.fill(pages_of("k", BLOCK, 0, 10, at=1.0))
    disk.fill(pages_of("k", OTHER, 100_000, at=2.0))
    assert disk.read("k", 0, 10) is None
    assert disk.read("k", 100_000) == OTHER[100_000:]


def test_two_stores_share_a_folder(root: Path) -> None:
    with tier(root, identity="one") as one, tier(root, identity="two") as two:
        one.fill(pages_of("k", BLOCK))
        assert two.read("k") is None
        two.fill(pages_of("k", OTHER))
        assert one.read("k") == BLOCK
        two.cache.change(["k"])
        assert one.read("k") == BLOCK


def test_a_folder_is_warm_when_it_is_opened_again(root: Path) -> None:
    with tier(root) as before:
        before.fill(pages_of("k", BLOCK))
    with tier(root) as after:
        assert after.read("k") == BLOCK


def test_what_a_previous_boot_checked_is_not_fresh(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tier(root) as before:
        before.fill(pages_of("k", BLOCK, at=5.0))
    monkeypatch.setattr("blockyard.cache.folder._boot_id", lambda: b"nextboot")
    with tier(root) as after:
        found = after.cache.get(ReadRequest("k"), wait=True)
        assert isinstance(found, Pages)
        assert found.data == BLOCK
        assert found.checked_at == -float("inf")
        after.cache.revalidated(after.runtime, found.info, 9.0)
        after.settle()
        after.forget_open()
        found = after.cache.get(ReadRequest("k"), wait=True)
        assert isinstance(found, Pages)
        assert found.checked_at == 9.0


def test_what_was_checked_in_another_time_namespace_is_not_fresh(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be hours ahead: what was checked there would stay fresh for as long."""
    namespace = root.parent / "namespace"
    namespace.symlink_to("time:[4026533333]")
    with tier(root) as within, monkeypatch.context() as patch:
        patch.setattr("blockyard.cache.folder._TIME_NAMESPACE", str(namespace))
        with tier(root) as there:
            there.fill(pages_of("k", BLOCK, at=1e9))
        within.fill(pages_of("l", BLOCK, at=5.0))
        with tier(root) as there:
            for tier_, key in ((within, "k"), (there, "l"), (there, "k")):
                found = tier_.cache.get(ReadRequest(key), wait=True)
                assert isinstance(found, Pages)
                assert found.data == BLOCK
                assert found.checked_at == -float("inf")


def test_a_revalidated_entry_is_fresh_for_all(root: Path) -> None:
    with tier(root) as one, tier(root) as two:
        one.fill(pages_of("k", BLOCK, at=1.0))
        assert two.read("k") == BLOCK
        for info in (pages_of("k", BLOCK, etag="another").info, pages_of("k", BLOCK).info):
            one.cache.revalidated(one.runtime, info, 7.0 if info.etag == "etag" else 8.0)
        one.settle()
        two.forget_open()
        for each in (one, two):
            found = each.cache.get(ReadRequest("k"), wait=True)
            assert isinstance(found, Pages)
            assert found.checked_at == 7.0


# Changes


def test_a_changed_key_has_another_epoch_and_no_entry(root: Path) -> None:
    with tier(root) as one, tier(root) as two:
        one.fill(pages_of("k", BLOCK))
        assert two.read("k") == BLOCK
        before = two.cache.epoch("k")
        one.cache.change(["k"])
        assert two.cache.epoch("k") != before
        assert two.read("k") is None
        assert one.read("k") is None


def test_a_fill_from_before_a_change_is_not_put_in(root: Path) -> None:
    with tier(root) as one, tier(root) as two:
        before = one.cache.epoch("k")
        two.cache.change(["k"])
        one.fill(pages_of("k", BLOCK), before)
        assert one.read("k") is None
        assert one.stats["filled"] == 0


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_change_during_a_fill_leaves_no_old_entry(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The change comes after the fill's first look at the epoch: before its rename, or after."""
    with tier(root) as one, tier(root) as two:
        rename = os.rename

        def interrupted(source: str, target: str) -> None:
            monkeypatch.setattr(os, "rename", rename)
            if call == "rename":
                two.cache.change(["k"])
                rename(source, target)
                assert two.read("k") is None
            else:
                rename(source, target)
                two.cache._folder.change(two.cache._name("k"))
                assert two.read("k") is None
                assert two.path("k").exists()

        monkeypatch.setattr(os, "rename", interrupted)
        one.fill(pages_of("k", BLOCK))
        assert one.read("k") is None
        assert not one.path("k").exists()


def test_an_entry_whose_writer_was_killed_before_it_settled_outlives_no_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tier(root) as disk:
        monkeypatch.setattr(entry, "SETTLED", b"")
        disk.fill(pages_of("k", BLOCK))
        monkeypatch.undo()
        assert disk.read("k") == BLOCK
        disk.cache._folder.change(disk.cache._name("k"))
        assert disk.read("k") is None
        disk.fill(pages_of("k", OTHER, etag="v2"))
        assert disk.read("k") == OTHER


# Damage


def flip(path: Path, place: int, bits: int = 1) -> None:
    with path.open("r+b") as file:
        _ = file.seek(place)
        byte = file.read(1)[0]
        _ = file.seek(place)
        _ = file.write(bytes([byte ^ bits]))


@pytest.mark.parametrize("sums", [True, False])
def test_no_flipped_byte_of_a_head_makes_a_wrong_read(disk: Tier, sums: bool) -> None:
    block = content(40_000)
    pages = pages_of("k", block, 0, 20_000, sums=sums)
    disk.fill(pages)
    head = disk.path("k").read_bytes()
    served = 0
    for place in range(entry.HEAD):
        disk.forget_open()
        if not disk.path("k").exists():
            disk.fill(pages)
        with disk.path("k").open("r+b") as file:
            _ = file.write(head)
        flip(disk.path("k"), place, 0xFF)
        found = disk.read("k", 0, 20_000)
        assert found is None or found == block[:20_000], place
        assert disk.read("k", 33_000, 10) is None, place
        served += found is not None
    assert 0 < served < entry.HEAD


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("opened", [True, False])
def test_each_damaged_page_is_a_miss_and_the_entry_goes(
    disk: Tier, sums: bool, opened: bool
) -> None:
    page = 16 * KIB
    for number in range(-(-len(BLOCK) // page)):
        disk.fill(pages_of("k", BLOCK, sums=sums))
        if opened:
            assert disk.read("k") == BLOCK
        else:
            disk.forget_open()
        flip(disk.path("k"), entry.HEAD + number * page)
        neighbour = 0 if number else page
        assert disk.read("k", neighbour, 5) == BLOCK[neighbour : neighbour + 5]
        assert disk.read("k", number * page + 5, 5) is None
        assert not disk.path("k").exists()
        assert disk.stats["damaged"] == number + 1
    disk.fill(pages_of("k", BLOCK, sums=sums))
    assert disk.read("k") == BLOCK


@pytest.mark.parametrize("sums", [True, False])
def test_a_whole_block_is_held_to_its_checksum_each_time(disk: Tier, sums: bool) -> None:
    disk.fill(pages_of("k", BLOCK, sums=sums))
    for _ in range(3):
        assert disk.read("k") == BLOCK
    known = disk.path("k").stat()
    flip(disk.path("k"), entry.HEAD + 100_000)
    os.utime(disk.path("k"), ns=(known.st_atime_ns, known.st_mtime_ns))  # a disk tells nobody
    assert disk.read("k") is None
    assert disk.stats["damaged"] == 1


def test_a_block_without_checksums_is_whole_again_after_it_was_replaced(disk: Tier) -> None:
    for at, block in enumerate([BLOCK, OTHER, BLOCK]):
        disk.fill(pages_of("k", block, etag=str(at), sums=False, at=at))
        for _ in range(2):
            assert disk.read("k") == block


def cut_to(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


def replace_by_zeros(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    path.touch()
    os.truncate(path, size)


def fill_with_zeros(path: Path, begin: int, end: int) -> None:
    """Leave its head as it is, and tell nobody: as a disk that lost what was written."""
    known = path.stat()
    with path.open("r+b") as file:
        _ = file.seek(entry.HEAD + begin)
        _ = file.write(bytes(end - begin))
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("page", [0, 3, len(BLOCK) // PAGE, None])
def test_a_page_of_zeros_is_not_taken_for_the_block(
    disk: Tier, page: int | None, sums: bool, opened: bool
) -> None:
    """None: all of them. The head is right, so that only the page's own checksum tells."""
    disk.fill(pages_of("k", BLOCK, sums=sums))
    if not opened:
        disk.forget_open()
    else:
        assert disk.read("k") == BLOCK
    first = page or 0
    begin, end = PAGE * first, len(BLOCK) if page is None else min(PAGE * (first + 1), len(BLOCK))
    fill_with_zeros(disk.path("k"), begin, end)
    assert disk.read("k") is None
    assert disk.stats["damaged"] == 1
    disk.fill(pages_of("k", BLOCK, sums=sums))
    assert disk.read("k") == BLOCK


def replace_by_link(path: Path) -> None:
    copy = path.with_suffix(".copy")
    _ = copy.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(copy)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        cut_to(0),
        cut_to(100),
        cut_to(entry.HEAD),
        cut_to(entry.HEAD + 100_000),
        replace_by_zeros,
        replace_by_link,
        replace_by_folder,
        replace_by_pipe,
        Path.unlink,
    ],
)
def test_what_became_of_an_entry_is_a_miss(
    disk: Tier, damage: Callable[[Path], None], opened: bool
) -> None:
    disk.fill(pages_of("k", BLOCK))
    if not opened:
        disk.forget_open()
    else:
        assert disk.read("k") == BLOCK
    damage(disk.path("k"))
    assert disk.read("k") is None
    disk.fill(pages_of("k", BLOCK))
    if damage is not replace_by_folder:
        assert disk.read("k") == BLOCK
    disk.fill(pages_of("another", BLOCK))
    assert disk.read("another") == BLOCK


def test_an_entry_of_another_key_is_not_served(disk: Tier) -> None:
    disk.fill(pages_of("k", BLOCK))
    target = disk.path("j")
    target.parent.mkdir(exist_ok=True)
    disk.path("k").rename(target)
    assert disk.read("j") is None


def test_a_kept_descriptor_of_a_removed_entry_is_not_read(root: Path) -> None:
    with tier(root) as one, tier(root) as two:
        one.fill(pages_of("k", BLOCK, at=1.0))
        assert two.read("k") == BLOCK
        one.fill(pages_of("k", OTHER, etag="v2", at=2.0))
        assert two.read("k") == OTHER


def test_an_open_entry_that_someone_moved_is_not_served_after_a_change(root: Path) -> None:
    with tier(root) as one, tier(root) as two:
        one.fill(pages_of("k", BLOCK))
        assert two.read("k") == BLOCK
        _ = one.path("k").rename(root / "moved")
        one.cache.change(["k"])
        assert two.read("k") is None


def test_so_many_descriptors_are_kept_and_no_more(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockyard.cache.disk._in_use", WeakSet([disk.cache]))
    monkeypatch.setattr(disk.cache, "_most_kept", 3)
    monkeypatch.setattr("blockyard.cache.disk._HITS_WAITING", 1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        disk.fill(pages_of(f"k{number}", b"x" * number))
    for _ in range(2):
        for number in range(10):
            assert disk.read(f"k{number}") == b"x" * number
    assert len(os.listdir("/proc/self/fd")) == before + 3


@pytest.mark.parametrize(
    ("limit", "kept"), [(resource.RLIM_INFINITY, 224), (1 << 20, 224), (256, 32), (4, 1)]
)
def test_the_limit_of_descriptors_is_kept_to(limit: int, kept: int) -> None:
    assert _most_kept(limit) == kept


# The queue


def test_fills_that_too_much_waits_before_are_dropped(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockyard.cache.work_queue.LIMIT", 3 * len(BLOCK))
    with disk.cache._budget.locked():
        taken = [
            disk.cache.fill(disk.runtime, pages_of(f"k{n}", BLOCK), disk.cache.epoch(f"k{n}"))
            for n in range(5)
        ]
    disk.settle()
    assert taken == [True, True, True, False, False]
    assert [disk.read(f"k{n}") is not None for n in range(5)] == taken
    assert disk.stats["dropped"] == 2
    disk.fill(pages_of("k4", BLOCK))
    assert disk.read("k4") == BLOCK


def test_many_fills_at_once_start_one_thread(disk: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[Callable[[], None]]()

    def start(call: Callable[[], None]) -> Future[None]:
        started.append(call)
        return Future()

    def fill(key: str) -> bool:
        return disk.cache.fill(disk.runtime, pages_of(key, BLOCK), disk.cache.epoch(key))

    monkeypatch.setattr(disk.runtime, "start", start)
    for number in range(20):
        assert fill(f"k{number}")
    assert len(started) == 1
    started.pop()()
    assert all(disk.read(f"k{number}") == BLOCK for number in range(20))
    assert fill("late")
    assert len(started) == 1
    started.pop()()
    monkeypatch.undo()
    disk.cache._queue._here.here().threads.clear()


def test_close_waits_for_what_was_accepted(root: Path) -> None:
    with tier(root) as disk:
        for number in range(20):
            key = f"k{number}"
            assert disk.cache.fill(disk.runtime, pages_of(key, BLOCK), disk.cache.epoch(key))
    assert not disk.cache.fill(disk.runtime, pages_of("late", BLOCK), 0)
    assert disk.cache.get(ReadRequest("k1"), wait=True) is None
    with tier(root) as disk:
        assert all(disk.read(f"k{number}") == BLOCK for number in range(20))


@pytest.mark.alone
def test_a_forked_child_reads_and_fills_and_leaves_its_parents_work(root: Path) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))
        with disk.cache._budget.locked():
            _ = disk.cache.fill(disk.runtime, pages_of("late", BLOCK), disk.cache.epoch("late"))
            child = os.fork()
            if not child:
                right = disk.cache._queue.wait() and disk.read("k") == BLOCK
                os._exit(0 if right else 1)
            assert os.waitpid(child, 0)[1] == 0
        disk.settle()
        child = os.fork()
        if not child:
            disk.fill(pages_of("child", OTHER))
            os._exit(0 if disk.read("child") == OTHER else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert disk.read("child") == OTHER
        assert disk.read("late") == BLOCK


def test_files_and_folders_are_the_owners_alone(disk: Tier, root: Path) -> None:
    disk.fill(pages_of("k", BLOCK))
    for folder, _, files in os.walk(root):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600


def test_an_epoch_that_can_not_be_read_is_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tier(root) as disk:
        assert disk.cache.epoch("k") is not None
        disk.cache._folder = Folder(root / "not there")
        assert disk.cache.epoch("k") is None
        assert not disk.cache.is_shared()
