"""Write-back where calls are cut off, the disk is full or fails, and others write all the time."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any, cast

import pytest

from blockyard import (
    ConfigError,
    DeadlineExceededError,
    LocalStorageError,
    PreconditionFailedError,
    open_async_store,
    open_store,
)
from blockyard.cache import folder as folder_module
from blockyard.cache import write_back
from blockyard.cache.stage import Stage
from blockyard.stores.base import ListRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.transport.blocking import run_to_end
from tests.cache.staging import Lost, Process, Service, files_in_stage
from tests.transport.runtimes import eventually

# Calls that are cut off.


def test_what_a_cancelled_write_has_staged_is_uploaded(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Stage.put

    def slow(stage: Stage, *given: Any) -> Any:
        info = put(stage, *given)
        time.sleep(0.2)
        return info

    async def write_one() -> None:
        async with open_async_store(f"file://{tmp_path}/blocks", **settings) as store:
            with monkeypatch.context() as patched:
                patched.setattr(Stage, "put", slow)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await store.write_block("k", b"x")
            assert await asyncio.to_thread(
                eventually, lambda: not files_in_stage(tmp_path / "cache"), 60
            )
            assert await store.read_block("k") == b"x"

    asyncio.run(write_one())


def test_what_an_interrupted_write_has_staged_is_uploaded(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Stage.put

    def interrupted(stage: Stage, *given: Any) -> Any:
        _ = put(stage, *given)
        raise KeyboardInterrupt

    with open_store(f"file://{tmp_path}/blocks", **settings) as store:
        with monkeypatch.context() as patched:
            patched.setattr(Stage, "put", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.write_block("k", b"x")
        assert eventually(lambda: not files_in_stage(tmp_path / "cache"), 60)


def test_a_close_that_is_interrupted_ends_the_uploads(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"file://{tmp_path}/blocks", **settings)
    uploads = cast("write_back.WriteBackStore", store._operations.store)._uploads

    def interrupted(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(uploads, "idle", interrupted)
    store.write_block("k", b"x")
    with pytest.raises(KeyboardInterrupt):
        store.close()
    assert eventually(lambda: not uploads._here.here().threads, 60)
    assert uploads._closed


# Others who write all the time.


def test_a_conditional_write_comes_after_what_was_staged_before_it(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    first = run_to_end(one.store.stat_block(one.ctx, "k")).etag
    one.write("k", b"2")
    service.before = lambda: other.write("k", b"more")
    with pytest.raises(PreconditionFailedError):
        one.write("k", b"3", if_match=first)
    assert service.sent == [("k", b"1"), ("k", b"2"), ("k", b"3")]
    assert one.read("k") == b"more"


def test_a_drain_uploads_what_was_staged_before_it(
    one: Process, other: Process, service: Service
) -> None:
    for key in "abc":
        one.write(key, b"x")
    count = iter(range(1000))
    service.before = lambda: other.write(f"new {next(count)}", b"y")
    assert one.drain() == []
    assert [each.key for each in one.pending] == ["new 0", "new 1", "new 2"]


def test_a_drain_ends_at_its_deadline(one: Process, service: Service) -> None:
    for number in range(50):
        one.write(f"k{number}", b"x")
    service.before = lambda: one.wait(1)
    left = one.drain(seconds=4.5)
    assert len(service.sent) == 5
    assert [each.error for each in left[1:]] == [None] * 45  # they were not tried


def test_a_batch_gets_its_locks_while_others_take_single_ones(
    one: Process, other: Process, service: Service
) -> None:
    """Of the two keys one or the other is always held: never are both of them free."""
    locks = other.store._sender._locks
    names = [other.stage.name(key) for key in "ab"]
    held = [locks.take([names[0]])]
    sleep = one.runtime.sleep

    async def swap(seconds: float) -> None:
        await sleep(seconds)
        if len(one.runtime.pauses) > 100:
            raise DeadlineExceededError("starved")
        now = held.pop()
        if now is None:
            held.append(locks.take([names[0]]))
            return
        wanted = [name for name in names if now.places != locks_of(name)]
        held.append(locks.take(wanted))
        locks.free(now)

    def locks_of(name: bytes) -> list[int]:
        probe = locks._opened([name])
        locks.free(probe)
        return probe.places

    one.runtime.sleep = swap
    run_to_end(one.store.delete_blocks(one.ctx, ["a", "b"]))
    assert service.sent == [("a", None), ("b", None)]


def test_a_drain_uploads_few_large_blocks_at_a_time(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most = 0, 0
    write = FilesystemStore.write

    async def slow(store: FilesystemStore, ctx: Any, request: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return await write(store, ctx, request)

    monkeypatch.setattr(FilesystemStore, "write", slow)
    monkeypatch.setattr(write_back.Uploads, "add", lambda *_: None)
    monkeypatch.setattr(write_back, "_IN_FLIGHT", 40_000)

    async def drain_all() -> None:
        async with open_async_store(f"file://{tmp_path}/blocks", **settings) as store:
            for number in range(16):
                await store.write_block(f"k{number}", bytes(10_000))
            assert await store.drain() == []

    asyncio.run(drain_all())
    assert most == 4


# A disk that is full, fails, or is not what it was.


def test_what_is_staged_is_uploaded_from_a_full_disk(
    one: Process, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.write("k", b"x")
    one.write("lost", b"x")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "pwrite", full)
    assert one.upload("k") is None
    service.outcomes = [Lost()]
    assert one.upload("lost") == 1.0
    assert one.upload("lost") is None
    assert one.staged == []


def test_what_asks_about_a_broken_stage_gets_a_typed_error(one: Process) -> None:
    stage = one.root / "stage"
    shutil.rmtree(stage)
    stage.touch()
    for call in (
        one.store.stats,
        one.store.close,
        lambda: one.pending,
        lambda: run_to_end(one.store.list(one.ctx, ListRequest(""))),
    ):
        with pytest.raises(LocalStorageError, match=r"the folder of the cache: .*Not a directory"):
            _ = call()


def test_what_goes_through_makes_a_removed_folder_again(one: Process, service: Service) -> None:
    one.write("k", b"1")
    assert one.drain() == []
    shutil.rmtree(one.root)
    one.delete("k")
    assert service.sent[-1] == ("k", None)
    assert (one.root / "stage").is_dir()


def test_what_is_too_damaged_to_tell_its_key_is_told_and_left(one: Process) -> None:
    one.write("k", b"1")
    with one.path("k").open("r+b") as file:
        _ = file.write(bytes(40))
    fresh = Process(one.root, Service())
    for found in (fresh.pending, fresh.drain()):
        (left,) = found
        assert left.key == ""
        assert f"damaged, so that its key is not known: stage/{one.path('k').name}" in str(
            left.error
        )
    assert run_to_end(fresh.store.list(fresh.ctx, ListRequest(""))).blocks == []


def test_a_cache_folder_that_is_made_is_synced_into_those_above_it(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = folder_module.syscalls.sync_folder_at

    def sync(path: str) -> None:
        synced.append(path)
        real(path)

    monkeypatch.setattr(folder_module.syscalls, "sync_folder_at", sync)
    _ = Process(tmp_path / "a" / "b" / "cache", service)
    assert {str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a/b"} <= set(synced)


def test_a_system_that_does_not_tell_its_boots_apart_is_refused(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_BOOT", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="boot_id"):
        _ = Process(tmp_path / "cache", service)


def test_a_time_namespace_is_refused(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes outside of it would take what is in doubt there for settled."""
    namespace = tmp_path / "namespace"
    namespace.symlink_to("time:[4026533333]")
    monkeypatch.setattr(folder_module, "_TIME_NAMESPACE", str(namespace))
    with pytest.raises(ConfigError, match="no time namespace"):
        _ = Process(tmp_path / "cache", service)


def test_the_error_of_an_upload_is_told_no_more_once_another_process_made_it(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    service.outcomes = [LocalStorageError("no")]
    assert one.upload("k") == 1.0
    assert one.pending[0].error == "no"
    assert other.upload("k") is None
    assert one.upload("k") is None
    one.write("k", b"2")
    assert one.pending[0].error is None


class AnotherService(Service):
    @property
    def identity(self) -> str:
        return "another store"


@pytest.mark.parametrize("seconds", [0, 100])
def test_what_another_store_left_in_doubt_is_not_uploaded_here(
    one: Process, service: Service, tmp_path: Path, seconds: int
) -> None:
    """Marks tell no store, and one that opens the folder looks at all of them."""
    service.outcomes = [Lost(late=True)]
    _ = one.write("k", b"x")
    assert one.upload("k") is not None
    elsewhere = AnotherService()
    other = Process(one.root, elsewhere)
    other.wait(seconds)
    waiting = other.store._uploads._here.here().waiting
    assert list(waiting) == [write_back._ALL]
    while waiting:
        name, _ = waiting.popitem(last=False)
        assert other.store._upload_later(name) is None
    assert (elsewhere.sent, other.staged, one.staged) == ([], [], ["k"])
    one.wait(100)
    assert one.upload("k") is None
    assert (one.read("k"), service.sent, one.staged) == (b"x", [("k", b"x")] * 2, [])
