"""Work on a prefix by an executor's threads: the results of the single call, and how it ends."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

import blockyard
from blockyard import (
    AccessDeniedError,
    BlockStore,
    DeadlineExceededError,
    DeleteResult,
    ExecutorError,
    InvalidKeyError,
    StoreClosedError,
    VerifyReport,
)
from blockyard.content.manifest import Manifest, encode
from blockyard.context import Context
from blockyard.distributed import CopyReport, copy_by_prefix, delete_by_prefix, verify_by_prefix
from blockyard.distributed.key_ranges import KeyRange
from blockyard.distributed.tasks import Copy, Delete, Task, Verify, run
from blockyard.model import CopyResult, Page
from blockyard.stores.base import ListRequest
from blockyard.stores.memory import MemoryStore
from servers.endpoint import Endpoint, boto3_client

SMALL = {"tasks": 4, "keys_per_task": 7}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture(params=["memory", "moto"])
def store(request: pytest.FixtureRequest, bucket: str, key_prefix: str) -> Iterator[BlockStore]:
    settings: dict[str, Any] = {"source": "memory://"}
    if request.param == "moto":
        endpoint: Endpoint = request.getfixturevalue("moto_endpoint")
        settings = endpoint.s3_settings(bucket, key_prefix)
    with blockyard.open_store(**settings) as store:
        yield store


@pytest.fixture
def filled(store: BlockStore) -> BlockStore:
    keys = [f"share1/{folder}/{number}" for folder in "abc" for number in range(25)]
    keys += ["share1", "share10/a", "share1-b", "share2", "elsewhere"]
    _ = store.write_blocks((key, key.encode()) for key in keys)
    _ = store.write_content("share1/film", bytes(300_000), block_size=100_000)
    _ = store.write_content("share1/small", b"inline")
    _ = store.write_content("share1", b"a content, and a folder")
    return store


# The results are those of the single call.


@pytest.mark.parametrize("prefix", ["", "share1", "share1/b", "nothing"])
def test_verifying(filled: BlockStore, threads: Executor, prefix: str) -> None:
    seen: list[int] = []
    expected = filled.verify_by_prefix(prefix)
    report = verify_by_prefix(
        filled, prefix, threads, **SMALL, progress=lambda report: seen.append(report.size)
    )
    assert report == expected
    assert seen == sorted(seen)
    assert seen[-1:] == ([expected.size] if expected.size else [])


def test_damage_is_found(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str, threads: Executor
) -> None:
    with blockyard.open_store(**moto_endpoint.s3_settings(bucket, key_prefix)) as store:
        _ = store.write_blocks((f"a/{number:02}", b"right") for number in range(30))
        boto = boto3_client(moto_endpoint)
        for number in (3, 17):
            where = {"Bucket": bucket, "Key": f"{key_prefix}a/{number:02}"}
            kept = boto.head_object(**where)["Metadata"]
            boto.put_object(**where, Body=b"wrong", Metadata=kept)
        expected = store.verify_by_prefix("a/")
        report = verify_by_prefix(store, "a/", threads, **SMALL)
    assert list(report.damaged) == list(expected.damaged) == ["a/03", "a/17"]
    assert str(report.damaged["a/03"]) == str(expected.damaged["a/03"])
    assert (report.verified, report.size) == ({"page checksums": 28}, 28 * 5)


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("prefix", ["share1", "share1/b/", "nothing", "share1/film"])
def test_deleting(filled: BlockStore, threads: Executor, prefix: str, literal: bool) -> None:
    before = filled.list_by_prefix()
    planned = filled.delete_by_prefix(prefix, literal=literal, dry_run=True)
    dry = delete_by_prefix(filled, prefix, threads, literal=literal, dry_run=True, **SMALL)
    assert dry == DeleteResult(sorted(planned.deleted), {})
    assert filled.list_by_prefix() == before
    result = delete_by_prefix(filled, prefix, threads, literal=literal, **SMALL)
    assert result == dry
    assert filled.list_by_prefix() == [key for key in before if key not in planned.deleted]


def test_everything_is_deleted_only_when_that_is_said(
    filled: BlockStore, threads: Executor
) -> None:
    with pytest.raises(InvalidKeyError, match="literal=True"):
        _ = delete_by_prefix(filled, "", threads)
    keys = filled.list_by_prefix()
    assert delete_by_prefix(filled, "", threads, literal=True, **SMALL).deleted == keys
    assert filled.list_by_prefix() == []


def test_manifests_are_deleted_before_any_block(threads: Executor) -> None:
    class Watched(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.deletes: list[str] = []

        async def delete_blocks(self, ctx: Context, keys: Any) -> DeleteResult:
            self.deletes += keys
            return await super().delete_blocks(ctx, keys)

    watched = Watched()
    with blockyard.open_store(watched) as store:
        for number in range(20):
            _ = store.write_content(f"share/{number:02}", bytes(70_000))
            _ = store.write_content(f"share/{number:02}", bytes(70_000), block_size=30_000)
        _ = delete_by_prefix(store, "share", threads, **SMALL)
        assert store.list_by_prefix() == []
    are_manifests = [key.endswith(".blockyard") for key in watched.deletes]
    assert sum(are_manifests) == 20
    assert are_manifests == sorted(are_manifests, reverse=True)


def test_copying_a_folder(filled: BlockStore, threads: Executor) -> None:
    before = filled.list_by_prefix()
    report = copy_by_prefix(filled, "share1", "new/share", threads, **SMALL)
    assert report == CopyReport(76, 3, {})
    copied = filled.list_by_prefix("new/")
    assert sorted(set(before) | set(copied)) == filled.list_by_prefix()
    assert filled.read_block("new/share") == b"share1"
    for key in before:
        if key.startswith("share1/") and key.count("/") == 2:
            assert filled.read_block(key.replace("share1/", "new/share/")) == key.encode()
    assert filled.read_content("new/share/film") == bytes(300_000)
    assert filled.read_content("new/share/small") == b"inline"
    assert filled.read_content("new/share") == b"a content, and a folder"
    assert not filled.block_exists("new/share0/a")
    versions = [filled.stat_content(f"{where}/film").version for where in ("share1", "new/share")]
    assert versions[0] != versions[1]
    assert copy_by_prefix(filled, "share1/", "new/share/", threads, **SMALL).blocks == 75
    again = {key for key in filled.list_by_prefix("new/") if "Z-" not in key}
    assert again == {key for key in copied if "Z-" not in key}


def test_copying_all_keys_that_begin_so(filled: BlockStore, threads: Executor) -> None:
    report = copy_by_prefix(filled, "share1", "copy-", threads, literal=True, **SMALL)
    assert (report.blocks, report.contents) == (78, 3)
    assert filled.read_block("copy-0/a") == b"share10/a"
    assert filled.read_content("copy-/film") == bytes(300_000)


def test_a_copy_that_is_too_long_fails_alone(threads: Executor) -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_blocks((f"a/{number}", b"1") for number in range(25))
        report = copy_by_prefix(store, "a", "t" * 1022, threads, **SMALL)
    assert report.blocks == 10
    assert list(report.failed) == [f"a/{number}" for number in range(10, 25)]
    assert {type(error) for error in report.failed.values()} == {InvalidKeyError}


@pytest.mark.parametrize(
    ("source", "target", "literal"),
    [
        ("a", "a", False),
        ("a", "a/b", False),
        ("a/b/", "a", False),
        ("", "b", False),
        ("b", "", False),
        ("a", "ab", True),
        ("ab", "a", True),
        ("", "b", True),
    ],
)
def test_a_copy_does_not_meet_itself(
    threads: Executor, source: str, target: str, literal: bool
) -> None:
    with (
        blockyard.open_store("memory://") as store,
        pytest.raises(InvalidKeyError, match=r"^copy_by_prefix: target_prefix '"),
    ):
        _ = copy_by_prefix(store, source, target, threads, literal=literal)


def test_names_that_only_look_alike_are_copied(threads: Executor) -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a/x", b"1")
        assert copy_by_prefix(store, "a", "ab", threads).blocks == 1
        assert store.list_by_prefix() == ["a/x", "ab/x"]


@pytest.mark.parametrize("concurrency", [1, 16])
def test_no_more_copies_at_a_time_than_the_store_allows(concurrency: int) -> None:
    class Counted(MemoryStore):
        now = most = 0

        async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
            self.now += 1
            self.most = max(self.most, self.now)
            await ctx.sleep(0.001)
            self.now -= 1
            return await super().copy_block(ctx, source_key, target_key)

    counted = Counted()
    with blockyard.open_store(counted) as store:
        for number in range(20):
            _ = store.write_content(f"a/{number}", bytes(200_000), block_size=10_000)
        _ = store.write_blocks((f"a/block-{number}", b"1") for number in range(50))
        view = store.with_options(concurrency=concurrency)
        assert copy_by_prefix(view, "a", "b", Recording()) == CopyReport(50, 20, {})
    assert concurrency / 2 <= counted.most <= concurrency


def test_leftovers_and_tombstones_of_contents_are_not_copied(threads: Executor) -> None:
    with blockyard.open_store("memory://") as store:
        generation = "20260101T000000Z-0123456789abcdef"
        block = f"a/one/{generation}/chunk-000000/block-0000"
        _ = store.write_block(block, b"of a write that was killed")
        tombstone = encode(Manifest(generation, deleted=True), "nonce")
        _ = store.write_block("a/two.blockyard", tombstone)
        assert copy_by_prefix(store, "a", "b", threads) == CopyReport(0, 0, {})


def test_what_is_named_as_a_manifest_and_is_none_is_not_passed_over(threads: Executor) -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a/notes.blockyard", b"somebody else's")
        _ = store.write_block("a/other", b"1")
        report = copy_by_prefix(store, "a", "b", threads)
    assert (report.blocks, report.contents) == (1, 0)
    assert list(report.failed) == ["a/notes.blockyard"]


# Tasks.


@pytest.mark.parametrize(
    "work", [Verify(), Copy("share1", "other"), Delete(None, False), Delete(True, True)]
)
def test_a_task_may_be_run_twice(filled: BlockStore, work: Any) -> None:
    task = Task("job-1", work, KeyRange("share1/"), 20)
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own
    first = run(filled, task)
    after = filled.list_by_prefix()
    second = run(filled, task)
    if isinstance(work, Delete) and not work.dry_run:
        assert len(first.result.deleted) == 20
        assert run(filled, task).result.deleted != first.result.deleted
        return
    assert (second.keys, second.stopped_after) == (first.keys, first.stopped_after)
    assert second.result == first.result
    without = [key for key in after if "Z-" not in key]
    assert [key for key in filled.list_by_prefix() if "Z-" not in key] == without


def test_a_task_stops_after_its_keys() -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_blocks((f"{number:02}", b"1") for number in range(50))
        task = Task("job-1", Verify(), KeyRange("", "09", "34"), 20)
        outcome = run(store, task)
        assert (outcome.keys, outcome.stopped_after) == (20, "29")
        rest = run(store, Task("job-2", Verify(), KeyRange("", "29", "34"), 20))
        assert (rest.keys, rest.stopped_after) == (5, None)
        exact = run(store, Task("job-3", Verify(), KeyRange("", "29", ""), 20))
        assert (exact.keys, exact.stopped_after) == (20, None)


class Recording(Executor):
    """Runs tasks at once, but for those that fail."""

    def __init__(self, fail: Callable[[int], BaseException | None] = lambda _: None) -> None:
        self.tasks: list[Task[Any]] = []
        self.fail = fail

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(args[1])
        future: Future[Any] = Future()
        error = self.fail(len(self.tasks))
        if error is None:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(error)
        return future


def test_every_task_has_an_id_of_its_own() -> None:
    executor = Recording()
    with blockyard.open_store("memory://") as store:
        _ = store.write_blocks((f"{number:03}", b"1") for number in range(100))
        for _ in range(2):
            _ = verify_by_prefix(store, "", executor, **SMALL)
    ids = [task.id for task in executor.tasks]
    assert len(ids) == len(set(ids)) > 20


def test_no_more_tasks_than_asked_for_are_with_the_executor() -> None:
    there = most = 0
    lock = threading.Lock()

    class Counting(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            nonlocal there, most
            with lock:
                there += 1
                most = max(most, there)
            future = super().submit(fn, *args, **kwargs)
            future.add_done_callback(left)
            return future

    def left(_: object) -> None:
        nonlocal there
        with lock:
            there -= 1

    with blockyard.open_store("memory://") as store, Counting(16) as executor:
        _ = store.write_blocks((f"{number:04}", b"1") for number in range(3000))
        assert verify_by_prefix(store, "", executor, tasks=5, keys_per_task=50).size == 3000
        assert len(delete_by_prefix(store, "0", executor, literal=True, tasks=1).deleted) == 1000
    assert 2 <= most <= 5


# How it ends early.


class Refusing(MemoryStore):
    """Fails listings of the keys after one."""

    def __init__(self, error: Exception, after: str) -> None:
        super().__init__()
        self.error, self.after = error, after

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        if request.page_size > 1 and request.start_after >= self.after:
            raise self.error
        return await super().list(ctx, request)


def test_an_error_in_one_range_ends_the_call(threads: Executor) -> None:
    denied = AccessDeniedError("list_by_prefix: denied", status=403, code="AccessDenied")
    with blockyard.open_store(Refusing(denied, "050")) as store:
        _ = store.write_blocks((f"{number:03}", b"1") for number in range(100))
        reports: list[VerifyReport] = []
        with pytest.raises(AccessDeniedError) as failed:
            _ = verify_by_prefix(store, "", threads, **SMALL, progress=reports.append)
    assert failed.value is denied
    [note] = denied.__notes__
    assert note.startswith("in task ")
    assert "(keys after '0" in note
    assert "tasks with" in note


class Held(Executor):
    """Begins no task, but the first few of them."""

    def __init__(self, begun: int = 0, then: type[BaseException] | None = None) -> None:
        self.begun, self.then = begun, then
        self.futures: list[Future[Any]] = []
        self.stores: list[BlockStore] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.then is not None and len(self.futures) == 2:
            raise self.then
        self.stores.append(args[0])
        self.futures.append(Future())
        if len(self.futures) <= self.begun:
            self.futures[-1].set_result(fn(*args, **kwargs))
        return self.futures[-1]


@pytest.fixture
def hundred() -> Iterator[BlockStore]:
    with blockyard.open_store("memory://") as store:
        _ = store.write_blocks((f"{number:03}", b"1") for number in range(100))
        yield store


def test_what_progress_raises_cancels_what_has_not_begun(hundred: BlockStore) -> None:
    def progress(_: VerifyReport) -> None:
        raise ZeroDivisionError

    executor = Held(begun=1)
    with pytest.raises(ZeroDivisionError):
        _ = verify_by_prefix(hundred, "", executor, **SMALL, progress=progress)
    assert [future.cancelled() for future in executor.futures] == [False, True, True, True]


def test_an_interrupt_cancels_too(hundred: BlockStore) -> None:
    executor = Held(then=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        _ = verify_by_prefix(hundred, "", executor, **SMALL)
    assert [future.cancelled() for future in executor.futures] == [True, True]


def test_an_interrupt_while_it_waits_cancels(hundred: BlockStore) -> None:
    executor = Held()
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        _ = verify_by_prefix(hundred, "", executor, **SMALL)
    interrupt.join()
    assert [future.cancelled() for future in executor.futures] == [True] * 4


def test_the_deadline_is_that_of_the_whole_call(hundred: BlockStore) -> None:
    executor = Held()
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError) as late:
        _ = verify_by_prefix(hundred.with_options(deadline=0.3), "", executor, **SMALL)
    assert 0.3 <= time.monotonic() - begun < 30
    assert str(late.value) == (
        "verify_by_prefix '': the deadline of 0.3 s has passed; "
        "0 tasks with 0 keys were done before, 4 others were with the executor"
    )
    assert all(future.cancelled() for future in executor.futures)
    limits = [store._deadline for store in executor.stores]
    assert all(limit is not None and 0 < limit < 0.3 for limit in limits)


def test_a_task_that_is_late_ends_the_call(threads: Executor) -> None:
    class Slow(MemoryStore):
        async def verify_block(self, ctx: Context, key: str) -> str | None:
            raise DeadlineExceededError(f"verify_block {key!r}: the deadline has passed")

    with blockyard.open_store(Slow()) as store:
        _ = store.write_block("a", b"1")
        with pytest.raises(DeadlineExceededError, match="verify_block 'a'"):
            _ = verify_by_prefix(store, "", threads)


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_an_executor_that_loses_a_task_is_named(kind: type[BaseException]) -> None:
    """As an error, and not by what ended the worker: that would end this program as well."""
    lost = kind("a worker is gone")
    executor = Recording(lambda number: lost if number == 3 else None)
    with blockyard.open_store("memory://") as store:
        _ = store.write_blocks((f"{number:03}", b"1") for number in range(100))
        with pytest.raises(ExecutorError) as failed:
            _ = verify_by_prefix(store, "", executor, **SMALL)
    assert failed.value.__cause__ is lost
    assert str(failed.value).startswith("verify_by_prefix '': the executor did not bring task ")
    assert f"to its end: {kind.__name__}: a worker is gone; " in str(failed.value)


def test_an_executor_that_was_shut_down_is_named() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", b"1")
        with pytest.raises(ExecutorError, match="RuntimeError: cannot schedule new futures"):
            _ = delete_by_prefix(store, "a", executor)


def test_a_closed_store(threads: Executor) -> None:
    store = blockyard.open_store("memory://")
    store.close()
    for tasks in (1, 4):
        with pytest.raises(StoreClosedError):
            _ = verify_by_prefix(store, "", threads, tasks=tasks)


def test_failures_of_a_delete_are_raised_as_by_the_single_call(threads: Executor) -> None:
    class Stubborn(MemoryStore):
        async def delete_blocks(self, ctx: Context, keys: Any) -> DeleteResult:
            kept = {key: AccessDeniedError("kept", status=403) for key in keys if "7" in key}
            done = await super().delete_blocks(ctx, [key for key in keys if key not in kept])
            return DeleteResult(done.deleted, kept)

    with blockyard.open_store(Stubborn()) as store:
        _ = store.write_blocks((f"a/{number:02}", b"1") for number in range(30))
        with pytest.raises(blockyard.PartialDeleteError, match="3 of 30 keys") as partial:
            _ = delete_by_prefix(store, "a", threads, **SMALL)
        assert list(partial.value.result.failed) == ["a/07", "a/17", "a/27"]
        again = delete_by_prefix(store, "a", threads, raise_on_failure=False, **SMALL)
        assert (again.deleted, len(again.failed)) == ([], 3)


# Arguments.

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"store": "memory://"}, TypeError, "store: expected a BlockStore"),
    ({"executor": object()}, TypeError, "executor: expected an Executor of concurrent.futures"),
    ({"prefix": None}, TypeError, "prefix: expected str"),
    ({"prefix": "a\n"}, InvalidKeyError, "prefix"),
    ({"tasks": 0}, ValueError, "tasks: expected 1 to 10000"),
    ({"tasks": True}, TypeError, "tasks: expected a whole number"),
    ({"keys_per_task": 0}, ValueError, "keys_per_task: expected 1 to 1000000"),
    ({"keys_per_task": 1.5}, TypeError, "keys_per_task: expected a whole number"),
    ({"progress": 3}, TypeError, "progress: expected a function"),
]


@pytest.mark.parametrize("call", [verify_by_prefix, delete_by_prefix])
@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    call: Callable[..., Any], wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    executor = Recording()
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", b"1")
        given = {"store": store, "prefix": "a", "executor": executor, **wrong}
        with pytest.raises(kind, match=f"{call.__name__}: {message}"):
            _ = call(**given)
        assert store.block_exists("a")
    assert executor.tasks == []


@pytest.mark.parametrize("name", ["literal", "dry_run", "raise_on_failure"])
def test_flags_are_true_or_false(name: str, threads: Executor) -> None:
    wrong: dict[str, Any] = {name: "no"}
    with (
        blockyard.open_store("memory://") as store,
        pytest.raises(TypeError, match=f"{name}: expected True or False"),
    ):
        _ = delete_by_prefix(store, "a", threads, **wrong)
