"""Write-back: what is acknowledged is safe and seen, and the store ends with the last of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from blockyard import (
    AccessDeniedError,
    AsyncBlockStore,
    BlockNotFoundError,
    ConfigError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    PreconditionFailedError,
    PutOptions,
    StageFullError,
    TransportError,
    open_async_store,
    open_store,
)
from blockyard.cache import write_back
from blockyard.cache.entry import HEAD
from blockyard.model import MIB
from blockyard.stores.base import ListRequest, PresignRequest
from blockyard.testing.samples import content
from blockyard.transport.blocking import run_to_end
from tests.cache.staging import Lost, Process, Service, files_in_stage

SETTLE = 60.0
REFUSED = AccessDeniedError("no", status=403)


def stored(service: Service, key: str) -> bytes | None:
    with open_store(service.inner) as below:
        return below.read_block(key) if below.block_exists(key) else None


def test_what_is_written_is_read_by_all_before_the_store_has_it(
    one: Process, other: Process, service: Service
) -> None:
    data = content(200_000)
    info = one.write("k", data)
    assert (info.key, info.size, info.etag) == ("k", 200_000, "")
    for process in (one, other):
        assert process.read("k") == data
        assert process.read("k", offset=20_000, length=40_000) == data[20_000:60_000]
        assert process.read("k", suffix=7) == data[-7:]
        assert process.staged == ["k"]
    assert service.sent == []
    assert other.upload("k") is None
    assert stored(service, "k") == data
    assert one.staged == other.staged == []
    assert one.read("k") == data


def test_what_was_in_the_cache_is_not_read_any_more(one: Process, service: Service) -> None:
    one.write("k", b"old")
    one.write("other", b"kept")
    assert one.drain() == []
    for key, data in (("k", b"old"), ("other", b"kept")):
        assert one.read(key) == one.read(key) == data
    ranges = [("k", 0, 1), ("other", 0, 2), ("other", 2, 2)]
    assert one.store.ranges_at_once(one.ctx, ranges) == [b"o", b"ke", b"pt"]
    one.write("k", b"new")
    assert one.read("k") == b"new"
    assert one.store.read_at_once(one.ctx, write_back.ReadRequest("k")) is None
    assert one.store.ranges_at_once(one.ctx, ranges) == [None, b"ke", b"pt"]
    assert one.drain() == []
    assert one.read("k") == b"new"


def test_the_last_of_several_versions_is_uploaded(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    other.write("k", b"2")
    one.write("k", b"3")
    assert one.upload("k") is None
    assert service.sent == [("k", b"3")]
    assert other.upload("k") is None
    assert service.sent == [("k", b"3")]


def test_a_version_that_is_written_while_another_is_uploaded_stays(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    writes = iter([b"2"])
    service.before = lambda: [other.write("k", data) for data in writes]
    assert one.upload("k") is None
    assert one.staged == ["k"]
    assert one.read("k") == b"2"
    assert one.upload("k") is None
    assert (stored(service, "k"), one.staged) == (b"2", [])


def test_one_process_at_a_time_uploads_a_key(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    busy: list[float | None] = []
    service.before = lambda: busy.append(other.upload("k"))
    assert one.upload("k") is None
    assert busy == [pytest.approx(0.2)]
    assert service.sent == [("k", b"1")]


def test_another_version_waits_until_what_is_late_has_settled(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    service.outcomes = [Lost(late=True)]
    assert one.upload("k") == 1.0
    one.write("k", b"2")
    other.wait(20)
    assert other.upload("k") == pytest.approx(SETTLE - 20)
    run_to_end(service.late.pop()())  # which comes now
    other.wait(SETTLE - 20)
    assert other.upload("k") is None
    assert stored(service, "k") == b"2"


def test_the_same_version_is_sent_again_at_once_and_stays_in_doubt(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    service.outcomes = [Lost(late=True)]
    assert one.upload("k") == 1.0
    assert one.upload("k") is None
    one.write("k", b"2")
    assert one.upload("k") == pytest.approx(SETTLE)
    assert service.sent == [("k", b"1")] * 2
    assert other.read("k") == b"2"


def test_a_delete_waits_for_what_is_late_and_takes_what_is_staged_along(
    one: Process, service: Service
) -> None:
    one.write("k", b"1")
    service.outcomes = [Lost(late=True)]
    assert one.upload("k") == 1.0
    one.write("k", b"2")
    one.delete("k")
    assert sum(one.runtime.pauses) == pytest.approx(SETTLE)
    assert one.staged == []
    assert service.sent[-1] == ("k", None)
    with pytest.raises(BlockNotFoundError):
        _ = one.read("k")


def test_a_delete_that_fails_leaves_what_is_staged(one: Process, service: Service) -> None:
    one.write("k", b"1")
    for outcome in (REFUSED, Lost()):
        service.outcomes = [outcome]
        with pytest.raises((AccessDeniedError, TransportError)):
            one.delete("k")
        assert one.read("k") == b"1"
    assert one.staged == ["k"]
    one.wait(SETTLE)
    assert one.drain() == []
    assert stored(service, "k") == b"1"


def test_many_are_deleted_and_those_that_could_not_be_stay_staged(
    one: Process, service: Service
) -> None:
    for key in "abc":
        one.write(key, key.encode())
    plain = service.inner.delete_blocks

    async def some(ctx: Any, keys: Any) -> Any:
        result = await plain(ctx, [key for key in keys if key != "b"])
        return write_back.DeleteResult(result.deleted, {"b": REFUSED})

    service.inner.delete_blocks = some
    result = run_to_end(one.store.delete_blocks(one.ctx, ["a", "b", "c"]))
    assert list(result.failed) == ["b"]
    assert one.staged == ["b"]
    assert run_to_end(one.store.delete_blocks(one.ctx, [])).deleted == []


def test_a_version_that_is_staged_beside_a_delete_is_the_newer_one(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    writes = iter([b"2"])
    service.before = lambda: [other.write("k", data) for data in writes]
    one.delete("k")
    assert one.read("k") == b"2"
    assert one.drain() == []
    assert stored(service, "k") == b"2"


@pytest.mark.parametrize("how", ["if_match", "if_absent", "options", "large", "through"])
def test_what_goes_through_is_in_the_store_when_it_returns(
    one: Process, service: Service, how: str
) -> None:
    one.write("k", b"1")
    data, given = b"2", dict[str, Any]()
    key = "k"
    if how == "if_match":
        given["if_match"] = run_to_end(one.store.stat_block(one.ctx, "k")).etag
    elif how == "if_absent":
        given["if_absent"], key = True, "new"
    elif how == "options":
        given["options"] = PutOptions(content_type="text/plain")
    elif how == "through":
        given["through"] = True
    else:
        data = bytes(one.stage.largest + 1)
    info = one.write(key, data, **given)
    assert info.etag
    assert stored(service, key) == data
    assert one.staged == (["k"] if how == "if_absent" else [])
    assert one.read(key) == data


def test_a_condition_is_of_what_was_acknowledged_last(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    first = run_to_end(other.store.stat_block(other.ctx, "k")).etag
    one.write("k", b"2")
    with pytest.raises(PreconditionFailedError):
        other.write("k", b"3", if_match=first)
    assert service.sent == [("k", b"1"), ("k", b"2"), ("k", b"3")]
    one.write("k", b"4")
    with pytest.raises(PreconditionFailedError):
        _ = other.read("k", if_match=first)
    assert stored(service, "k") == b"4"


def test_a_copy_is_of_what_was_acknowledged_last(one: Process, service: Service) -> None:
    one.write("from", b"1")
    one.write("to", b"2")
    run_to_end(one.store.copy_block(one.ctx, "from", "to"))
    assert one.read("to") == stored(service, "to") == b"1"
    assert one.staged == []


def test_a_listing_has_what_was_acknowledged_and_uploads_no_more(
    one: Process, other: Process
) -> None:
    for key in ("a/1", "a/2", "b/1"):
        one.write(key, b"x")
    page = run_to_end(other.store.list(other.ctx, ListRequest("a/")))
    assert [block.key for block in page.blocks] == ["a/1", "a/2"]
    assert one.staged == ["b/1"]
    keys, _ = run_to_end(other.store.list_keys(other.ctx, ListRequest("")))
    assert keys == ["a/1", "a/2", "b/1"]
    assert one.staged == []


def test_what_asks_the_store_has_it_uploaded_first(one: Process) -> None:
    for call in (
        lambda: one.store.stat_block(one.ctx, "k"),
        lambda: one.store.verify_block(one.ctx, "k"),
        lambda: one.store.read(one.ctx, write_back.ReadRequest("k", with_info=True)),
        lambda: one.store.presign(one.ctx, PresignRequest("k", "GET", 60)),
    ):
        one.write("k", b"1")
        with suppress(write_back.BlockStoreError):  # there are no URLs of memory
            _ = run_to_end(cast("Any", call()))
        assert one.staged == []


def test_nothing_is_kept_of_what_is_in_doubt(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    assert one.drain() == []
    service.outcomes = [Lost(late=True)]
    with pytest.raises(TransportError):
        one.delete("k")
    assert other.read("k") == b"1"
    run_to_end(service.late.pop()())
    with pytest.raises(BlockNotFoundError):
        _ = other.read("k")
    other.wait(SETTLE)
    with pytest.raises(BlockNotFoundError):
        _ = other.read("k")


def test_after_a_boot_everything_is_in_doubt_for_a_while(one: Process, service: Service) -> None:
    one.runtime.clock = 10.0
    one.write("k", b"1")
    assert one.upload("k") == pytest.approx(SETTLE - 10)
    one.runtime.clock = SETTLE
    assert one.upload("k") is None
    assert stored(service, "k") == b"1"


def test_a_version_whose_process_was_killed_in_its_upload_is_in_doubt(
    one: Process, other: Process, service: Service
) -> None:
    one.write("k", b"1")
    staged = one.stage.find(one.stage.name("k"))
    assert staged is not None
    one.store._sender._marks.begin(one.stage.name("k"), staged.version)  # and then it was killed
    one.write("k", b"2")
    other.wait(1000)
    assert other.upload("k") == pytest.approx(SETTLE)
    other.wait(SETTLE)
    assert other.upload("k") is None
    assert stored(service, "k") == b"2"


def test_a_refusal_is_kept_told_and_tried_again(
    one: Process, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.always = REFUSED
    for key in "ab":
        one.write(key, b"x")
    pauses = [one.upload("a") for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert one.upload("b") == 1
    told = {each.key: each.error for each in one.pending}
    assert told == {"a": "no", "b": "no"}
    assert one.pending[0].size == 1
    assert abs((one.pending[0].staged_at - datetime.now(UTC)).total_seconds()) < 60
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1
    service.always = None
    assert one.drain() == []
    assert one.pending == []


def test_drain_returns_what_is_left(one: Process, service: Service) -> None:
    for key in "abc":
        one.write(key, b"x")
    service.outcomes = [None, REFUSED]
    (left,) = one.drain()
    assert left.error == "no"
    service.outcomes = [Lost(late=True)]
    assert [each.key for each in one.drain()] == [left.key]
    one.write(left.key, b"y")
    assert [each.key for each in one.drain(seconds=5)] == [left.key]  # it has to wait for longer
    assert one.drain() == []


def test_a_full_stage_holds_up_writers_until_something_is_uploaded(
    tmp_path: Path, service: Service
) -> None:
    one = Process(tmp_path / "cache", service, size=MIB)
    for number in range(4):
        one.write(f"k{number}", bytes(200_000))
    ctx = one.ctx
    ctx.deadline = one.runtime.clock + 5
    with pytest.raises(StageFullError, match=r"'k4': the stage is full: 8.* wait.*deadline"):
        _ = run_to_end(one.store.write(ctx, write_back.WriteRequest("k4", bytes(250_000))))
    began = one.runtime.clock
    with pytest.raises(StageFullError, match="for a minute"):
        one.write("k4", bytes(250_000))
    assert one.runtime.clock - began == pytest.approx(60, abs=1)

    sleep = one.runtime.sleep

    async def upload_meanwhile(seconds: float) -> None:
        await sleep(seconds)
        if len(one.runtime.pauses) % 100 == 0:
            _ = one.upload("k0")

    one.runtime.sleep = upload_meanwhile
    one.write("k4", bytes(250_000))
    assert one.staged == ["k1", "k2", "k3", "k4"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_full_stage(
    one: Process, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StageFullError, match="the disk is full: 0 of"):
        one.write("k", b"x")
    monkeypatch.undo()
    assert files_in_stage(one.root) == []


@pytest.mark.parametrize("call", ["open", "writev", "fsync", "rename"])
def test_a_disk_that_fails_is_told_and_nothing_is_acknowledged(
    one: Process, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    one.write("k", b"old")

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(LocalStorageError, match=r"write_block 'k': .*Input/output error"):
        one.write("k", b"new")
    if call == "open":
        with pytest.raises(LocalStorageError, match="read_block 'k'"):
            _ = one.read("k")
    monkeypatch.undo()
    assert one.read("k") == b"old"
    assert len(files_in_stage(one.root)) == 1


def test_what_is_damaged_is_neither_read_nor_uploaded(one: Process, service: Service) -> None:
    data = content(100_000)
    one.write("k", data)
    with one.path("k").open("r+b") as file:
        _ = file.seek(HEAD + 50_000)
        _ = file.write(b"damage")
    assert one.read("k", offset=0, length=100) == data[:100]
    with pytest.raises(IntegrityError, match="read_block 'k'"):
        _ = one.read("k")
    assert one.upload("k") == 1.0
    assert "damaged" in (one.pending[0].error or "")
    assert service.sent == []
    one.path("k").write_bytes(b"")
    with pytest.raises(IntegrityError):
        _ = one.read("k")
    one.delete("k")
    one.write("k", b"new")
    assert one.read("k") == b"new"


def test_the_folder_may_be_removed_under_way(one: Process) -> None:
    one.write("k", b"1")
    for path in sorted(one.root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    one.root.rmdir()
    with pytest.raises(BlockNotFoundError):
        _ = one.read("k")
    assert one.pending == []
    one.write("k", b"2")
    assert one.read("k") == b"2"
    assert one.drain() == []


# With threads, clients and processes.


def test_writes_are_uploaded_in_the_background_and_closing_waits(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    url = f"file://{tmp_path}/blocks"
    with open_store(url, **settings) as store:
        for number in range(100):
            store.write_block(f"k{number}", content(number))
        counts = store.stats().cache
        assert counts is not None
        assert counts.staged is not None
        assert 0 <= counts.staged <= 100
        assert counts.oldest_staged < 60
    with open_store(url) as below:
        assert len(below.list_by_prefix("")) == 100
        assert below.read_block("k99") == content(99)
    assert files_in_stage(tmp_path / "cache") == []
    assert os.listdir(tmp_path / "cache" / "doubt") == []


def test_writers_who_come_together_share_the_syncs_of_the_folder(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[object] = []
    real = write_back.Stage.sync

    def sync(stage: write_back.Stage) -> None:
        syncs.append(None)
        threading.Event().wait(0.05)
        real(stage)

    monkeypatch.setattr(write_back.Stage, "sync", sync)
    monkeypatch.setattr(write_back.Uploads, "add", lambda *_: None)

    async def write_many() -> None:
        async with open_async_store(f"file://{tmp_path}/blocks", **settings) as store:
            _ = await asyncio.gather(*(store.write_block(f"k{n}", b"x") for n in range(64)))
            assert len(syncs) < 32
            assert len(await store.pending()) == 64
            assert await store.drain() == []

    asyncio.run(write_many())


def test_all_who_share_a_sync_share_its_error(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def sync(stage: write_back.Stage) -> None:
        tried.append(None)
        while len(tried) == 1 and len(stage.files()) < 4:  # the others come meanwhile
            threading.Event().wait(0.01)
        threading.Event().wait(0.2)
        if len(tried) == 2:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(write_back.Stage, "sync", sync)

    async def write_some() -> None:
        async with open_async_store(f"file://{tmp_path}/blocks", **settings) as store:
            with monkeypatch.context() as patched:
                patched.setattr(write_back.Uploads, "add", lambda *_: None)
                first = asyncio.create_task(_outcome(store, "first"))
                while not tried:  # noqa: ASYNC110 - another thread says so
                    await asyncio.sleep(0.01)
                others = [asyncio.create_task(_outcome(store, f"k{n}")) for n in range(3)]
                assert await first is None
                outcomes = [await other for other in others]
                assert [type(each) for each in outcomes] == [LocalStorageError] * 3
                assert {each.unknown_attempts for each in outcomes if each} == {1}
                assert len(tried) == 2
            assert await store.drain() == []

    asyncio.run(write_some())


async def _outcome(store: AsyncBlockStore, key: str) -> LocalStorageError | None:
    try:
        await store.write_block(key, b"x")
    except LocalStorageError as error:
        return error
    return None


def test_another_process_uploads_what_one_left(tmp_path: Path, settings: dict[str, Any]) -> None:
    url = f"file://{tmp_path}/blocks"
    child = os.fork()
    if not child:
        try:
            store = open_store(url, **settings)
            store._operations.store._uploads.close()  # pyright: ignore
            for number in range(20):
                store.write_block(f"k{number}", b"left")
        finally:
            os._exit(0)
    _ = os.waitpid(child, 0)
    with open_store(url) as below:
        assert below.list_by_prefix("") == []
    with open_store(url, **settings) as store:
        assert store.read_block("k7") == b"left"
    with open_store(url) as below:
        assert len(below.list_by_prefix("")) == 20


def test_a_forked_child_uploads_nothing_of_its_parents(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/blocks"
    with open_store(url, **settings) as store:
        with monkeypatch.context() as patched:
            patched.setattr(write_back.Uploads, "_wake", lambda *_: None)
            store.write_block("parents", b"x")
        child = os.fork()
        if not child:
            try:
                layer = cast("write_back.WriteBackStore", store._operations.store)
                layer._scan_at = 0  # by then the parent would look at all that is staged
                store.write_block("childs", b"x")
                store.close()
            finally:
                os._exit(0)
        _ = os.waitpid(child, 0)
        with open_store(url) as below:
            assert below.list_by_prefix("") == ["childs"]
        assert store.drain(60) == []
    with open_store(url) as below:
        assert below.list_by_prefix("") == ["childs", "parents"]


def test_contents_are_never_staged(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[str] = []
    put = write_back.Stage.put

    def noted(stage: write_back.Stage, key: str, data: bytes, now: float) -> Any:
        staged.append(key)
        return put(stage, key, data, now)

    monkeypatch.setattr(write_back.Stage, "put", noted)
    with open_store(f"file://{tmp_path}/blocks", **settings) as store:
        for size in (10, 300_000):
            data = content(size)
            store.write_content("c", data, block_size=65_536)
            assert store.read_content("c") == data
            store.copy_content("c", "d")
        store.delete_content("c")
        assert staged == []
        store.write_block("k", b"x")
        assert staged == ["k"]


def test_a_call_that_interrupts_one_of_its_thread_does_not_wait_for_it(one: Process) -> None:
    one.write("k", b"1")
    held = one.store._sender._locks.take([one.stage.name("k")])
    assert held is not None
    with pytest.raises(LocalStorageError, match="this call has interrupted"):
        one.delete("k")
    assert one.write("k", b"2").size == 1
    one.store._sender._locks.free(held)
    one.delete("k")


def test_a_deadline_ends_the_wait_for_a_key(one: Process, other: Process, service: Service) -> None:
    one.write("k", b"1")
    errors: list[BaseException] = []

    def delete() -> None:
        ctx = other.ctx
        ctx.deadline = other.runtime.clock + 2
        try:
            run_to_end(other.store.delete_block(ctx, "k"))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    def beside() -> None:
        thread = threading.Thread(target=delete)
        thread.start()
        thread.join()

    service.before = beside
    assert one.upload("k") is None
    assert [type(error) for error in errors] == [DeadlineExceededError]


def test_write_back_by_url_is_refused_without_a_disk(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no disk to write to"):
        _ = open_store(f"file://{tmp_path}/b", cache={"mode": "write_back"})
    for disk, expected in (
        ({"size": "8MiB"}, "8MiB of size or more"),
        ({"size": "32MiB", "stage": "30MiB"}, "8MiB of size or more"),
    ):
        given: dict[str, Any] = {"path": str(tmp_path / "c"), **disk}
        with pytest.raises(ConfigError, match=expected):
            _ = open_store(f"file://{tmp_path}/b", cache={"mode": "write_back", "disk": given})
    given = {"path": str(tmp_path / "c"), "size": "32MiB", "stage": "2MiB"}
    with pytest.raises(ConfigError, match="unless the mode is write_back"):
        _ = open_store(f"file://{tmp_path}/b", cache={"disk": given})


TOO_MUCH: dict[str, tuple[dict[str, Any], str, bytes, str]] = {
    "a key": ({}, "k" * 1024, b"x", "write_block 'k.*with key_prefix the key has 1035 bytes"),
    "metadata": (
        {"metadata": {"a": "x" * 600}},
        "k",
        bytes(4 * MIB),
        r"write_block 'k': the setting put\.metadata: .*the limit is 2048",
    ),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_the_store_will_never_take_is_not_acknowledged(
    settings: dict[str, Any], case: str
) -> None:
    """Nobody would be told later, and it would take room in the stage for ever."""
    given, key, data, message = TOO_MUCH[case]
    url = "s3://bucket/key-prefix?endpoint=http://127.0.0.1:9&access_key=a&secret_key=b"
    with open_store(url, **settings, **given) as store:
        with pytest.raises(ValueError, match=message):
            store.write_block(key, data)
        assert store.pending() == []
