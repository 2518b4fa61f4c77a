"""Changes by fsspec, Zarr, obspec and executors when one request fails, each that they make.

What is stored then is the old or the new, no source is gone before its target is there, and a
success is one. Where many are changed the error says what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from obspec import exceptions as obspec_errors
from zarr.core.buffer import default_buffer_prototype

import blockyard
from blockyard import (
    AccessDeniedError,
    BlockStoreError,
    PartialDeleteError,
)
from blockyard.distributed import copy_by_prefix, delete_by_prefix
from blockyard.fsspec import BlockyardContentFileSystem, BlockyardFileSystem
from blockyard.obspec import ObspecStore
from blockyard.stores.memory import MemoryStore
from blockyard.zarr import BlockyardStore
from blockyard_faults import Fault, FaultProxy, LoseReply, SeenRequest, Status
from blockyard_faults.campaign.bucket import DictBucket
from tests.hooked_store import HookedStore

OLD, NEW = b"old" * 300, b"new" * 400
LARGE = b"large" * 1_200_000
KEYS: dict[str, Any] = {"force_path_style": True, "access_key": "some", "secret_key": "thing"}
KINDS = (BlockyardFileSystem, BlockyardContentFileSystem)

Blocks = dict[str, bytes]


# One request fails, each in turn.


def by_fsspec(call: Callable[[Any], object]) -> Callable[[str], object]:
    return lambda url: call(BlockyardFileSystem(endpoint_url=url, skip_instance_cache=True, **KEYS))


def by_obspec(call: Callable[[ObspecStore], object]) -> Callable[[str], object]:
    def run(url: str) -> None:
        store = ObspecStore("s3://bucket/", endpoint=url, **KEYS)
        try:
            _ = call(store)
        finally:
            store.close()

    return run


def by_zarr(url: str) -> None:
    store = BlockyardStore("s3://bucket/", endpoint=url, **KEYS)
    try:
        store.set_sync("a", default_buffer_prototype().buffer.from_bytes(NEW))
    finally:
        store.close()


def by_threads(call: Callable[[Any, Any], Any]) -> Callable[[str], object]:
    def run(url: str) -> None:
        with (
            blockyard.open_store("s3://bucket/", endpoint=url, **KEYS) as store,
            ThreadPoolExecutor(2) as executor,
        ):
            failed = call(store, executor).failed
            for error in failed.values():
                raise error

    return run


def _write(fs: Any) -> None:
    with fs.open("bucket/a", "wb", block_size=5 * 2**20) as file:
        _ = file.write(LARGE)


def _write_two(fs: Any) -> None:
    with fs.transaction:
        for name in "ab":
            with fs.open(f"bucket/{name}", "wb") as file:
                _ = file.write(NEW)


AB = {"a": OLD, "b": NEW}
IN_FOLDER = {"d/a": OLD, "d/b": NEW}
MOVED = {"e/a": OLD, "e/b": NEW}
OPERATIONS: dict[str, tuple[Blocks, Callable[[str], object], Blocks]] = {
    "pipe": (AB, by_fsspec(lambda fs: fs.pipe({"bucket/a": NEW})), AB | {"a": NEW}),
    "open": (AB, by_fsspec(_write), AB | {"a": LARGE}),
    "transaction": ({"a": OLD}, by_fsspec(_write_two), {"a": NEW, "b": NEW}),
    "cp": (AB, by_fsspec(lambda fs: fs.cp("bucket/a", "bucket/b")), {"a": OLD, "b": OLD}),
    "mv": (AB, by_fsspec(lambda fs: fs.mv("bucket/a", "bucket/b")), {"b": OLD}),
    "mv folder": (
        IN_FOLDER, by_fsspec(lambda fs: fs.mv("bucket/d", "bucket/e", recursive=True)), MOVED,
    ),
    "rm": (IN_FOLDER, by_fsspec(lambda fs: fs.rm("bucket/d", recursive=True)), {}),
    "obspec put": (AB, by_obspec(lambda store: store.put("a", NEW)), AB | {"a": NEW}),
    "obspec create": ({}, by_obspec(lambda s: s.put("a", NEW, mode="create")), {"a": NEW}),
    "obspec rename": (AB, by_obspec(lambda store: store.rename("a", "b")), {"b": OLD}),
    "obspec delete": (AB, by_obspec(lambda store: store.delete(["a", "b"])), {}),
    "zarr set": (AB, by_zarr, AB | {"a": NEW}),
    "copy_by_prefix": (
        IN_FOLDER, by_threads(lambda store, by: copy_by_prefix(store, "d", "e", by)),
        IN_FOLDER | MOVED,
    ),
    "delete_by_prefix": (
        IN_FOLDER, by_threads(lambda store, by: delete_by_prefix(store, "d", by)), {},
    ),
}  # fmt: skip
SOURCES = {"mv": {"a": "b"}, "mv folder": {"d/a": "e/a", "d/b": "e/b"}, "obspec rename": {"a": "b"}}
FAULTS: dict[str, Fault] = {
    "refused": Status(403, "AccessDenied"),
    "lost": LoseReply(),
    "not found": Status(404, ""),
}


def _is_believed(request: SeenRequest) -> bool:
    """Whether an empty 404 is, as that of a bucket that is there: all but a write's."""
    return request.method != "PUT" or "x-amz-copy-source" in request.headers


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_request_fails(name: str, fault: str) -> None:
    before, operation, after = OPERATIONS[name]
    broken = requests = 0
    while requests >= broken:  # else that one was not made
        broken += 1
        believed = False

        def plan(request: SeenRequest, nth: int = broken) -> Fault | None:
            nonlocal believed
            if request.number != nth:
                return None
            believed = fault == "not found" and _is_believed(request)
            return FAULTS[fault]

        with DictBucket() as bucket:
            with blockyard.open_store("s3://bucket/", endpoint=bucket.url, **KEYS) as store:
                for key, data in before.items():
                    _ = store.write_block(key, data)
            succeeded = False
            with FaultProxy(bucket.url, plan) as proxy:
                with suppress(BlockStoreError, OSError, obspec_errors.BaseError):
                    _ = operation(proxy.url)
                    succeeded = True
                requests = len(proxy.requests)
            found = {key: each.data for key, each in bucket.objects.items()}
        for key in before | after | found:
            assert found.get(key) in {before.get(key), after.get(key)}
        for source, target in SOURCES.get(name, {}).items():
            assert before[source] in {found.get(source), found.get(target)}
        if succeeded and not believed:
            assert found == after
    assert broken > 1


# What is left.


class Refusing(HookedStore):
    """A store in memory that refuses operations: those that delete keys of `refused`, say."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), self._refuse)
        self.operation = "delete"
        self.refused: tuple[str, ...] = ()

    async def _refuse(self, operation: str, key: str) -> None:
        if operation.startswith(self.operation) and key.startswith(self.refused or "-"):
            raise AccessDeniedError(f"{operation} {key!r}: refused", status=403)


def _notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_contents_that_are_deleted_after_one_was_not() -> None:
    store = Refusing()
    fs: Any = BlockyardContentFileSystem(store=store)
    fs.pipe({"a": OLD, "b": OLD, "c": OLD})
    store.operation, store.refused = "", ("a.",)
    with pytest.raises(PartialDeleteError, match="1 of 2 keys") as raised:
        fs.rm(["a", "b"])
    assert (raised.value.result.deleted, [*raised.value.result.failed]) == (["b"], ["a"])
    store.refused = ()
    assert fs.find("") == ["a", "c"]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_are_deleted_after_one_was_not(kind: Any) -> None:
    store = Refusing()
    fs = kind(store=store)
    fs.pipe({"d/a": OLD, "e/b": OLD, "f/c": OLD})
    store.operation = "" if kind is BlockyardContentFileSystem else "delete"
    store.refused = ("d/a", "e/b")
    with pytest.raises(BlockStoreError) as raised:
        fs.rm(["d", "e", "f"], recursive=True)
    assert "d/a" in str(raised.value)
    assert "and 'e': " in _notes(raised.value)
    store.refused = ()
    assert fs.find("") == ["d/a", "e/b"]


def test_copies_and_moves_say_what_else_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Refusing()
    fs: Any = BlockyardFileSystem(store=store)
    fs.pipe({"d/a": OLD, "d/b": OLD, "d/c": OLD})
    store.operation, store.refused = "copy", ("e/a", "e/c")
    with pytest.raises(AccessDeniedError, match="e/a") as raised:
        fs.cp("d", "e", recursive=True)
    assert "and 'd/c': copy_block 'e/c': refused" in _notes(raised.value)
    store.refused = ("e/",)
    with pytest.raises(AccessDeniedError, match="e/d/a") as raised:
        fs.mv("d", "e", recursive=True)
    assert "mv: nothing was deleted" in _notes(raised.value)
    store.operation, store.refused = "delete", ("d/a", "d/b", "d/c")
    monkeypatch.setattr("blockyard.fsspec.changes._NOTED", 1)
    with pytest.raises(AccessDeniedError, match="d/a") as raised:
        fs.mv("d", "f", recursive=True)
    assert _notes(raised.value).splitlines() == [
        "mv: all files were copied",
        "and 'd/b': delete_block 'd/b': refused",
        "and 1 others",
    ]


def test_a_file_that_is_copied_twice_fails_by_either_copy() -> None:
    store = Refusing()
    fs: Any = BlockyardFileSystem(store=store)
    fs.pipe_file("a", OLD)
    store.operation = "copy"
    for refused in ("b", "c"):
        store.refused = (refused,)
        with pytest.raises(AccessDeniedError, match=f"'{refused}'"):
            fs.cp(["a", "a"], ["b", "c"])


def test_files_of_one_bucket_are_deleted_after_those_of_another_were_not() -> None:
    def plan(request: SeenRequest) -> Fault | None:
        refused = request.method == "DELETE" and request.target.startswith("/one/")
        return Status(403, "AccessDenied") if refused else None

    with DictBucket() as bucket, FaultProxy(bucket.url, plan) as proxy:
        fs: Any = BlockyardFileSystem(endpoint_url=proxy.url, skip_instance_cache=True, **KEYS)
        fs.pipe({"one/a": OLD, "two/b": OLD})
        with pytest.raises(AccessDeniedError):
            fs.rm(["one/a", "two/b"])
        assert [*bucket.objects] == ["a"]


# An empty 404 to what writes.


def test_an_empty_404_to_a_write_is_no_missing_file() -> None:
    def plan(request: SeenRequest) -> Fault | None:
        return None if request.method in {"GET", "HEAD"} else Status(404, "")

    with DictBucket() as bucket, FaultProxy(bucket.url, plan) as proxy:
        fs: Any = BlockyardFileSystem(endpoint_url=proxy.url, skip_instance_cache=True, **KEYS)
        with pytest.raises(blockyard.S3Error, match="404"):
            fs.pipe_file("bucket/a", NEW)
        with (
            pytest.raises(blockyard.S3Error, match="404"),
            fs.open("bucket/a", "wb", block_size=10) as file,
        ):
            _ = file.write(NEW)


# One version of a file.


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_counted_from_the_end_of_a_file_that_was_replaced(kind: Any) -> None:
    """Not from the end that it had, which is remembered for some seconds."""
    store = MemoryStore()
    fs, other = kind(store=store), kind(store=store)
    fs.pipe_file("a", OLD)
    assert fs.info("a")["size"] == len(OLD)
    other.pipe_file("a", NEW[:600])
    with pytest.raises((blockyard.PreconditionFailedError, blockyard.ContentReplacedError)):
        fs.cat_file("a", 0, -5)
    assert fs.cat_file("a", 0, -5) == NEW[:595]


def test_the_last_bytes_of_a_content_that_is_replaced_meanwhile() -> None:
    """Are those of the one or the other."""
    store = Refusing()
    fs: Any = BlockyardContentFileSystem(store=store)
    fs.pipe_file("a", OLD)
    asked = 0

    async def replace(operation: str, key: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            with blockyard.open_store(store.inner) as other:
                _ = other.write_content("a", NEW)

    store.hook = replace
    with suppress(blockyard.ContentReplacedError):
        assert fs.cat_file("a", -7) in {OLD[-7:], NEW[-7:]}


@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_of_what_is_no_file(kind: Any) -> None:
    fs = kind(store=MemoryStore())
    fs.pipe_file("a/b", OLD)
    assert fs.cat_file("a/b", 5, 5) == b""
    for path in ("a", "none"):
        for start, end in ((5, 5), (0, -5), (-9, -5)):
            with pytest.raises(FileNotFoundError):
                fs.cat_file(path, start, end)


def test_a_touch_leaves_what_comes_meanwhile() -> None:
    fs: Any = BlockyardFileSystem(store=MemoryStore())
    fs.touch("a", truncate=False)
    assert fs.cat_file("a") == b""
    fs.pipe_file("a", OLD)
    with pytest.raises(NotImplementedError):
        fs.touch("a", truncate=False)

    def came(path: str) -> bool:
        fs.pipe_file(path, NEW)
        return False

    fs.exists = came  # just before another one writes it
    with pytest.raises(NotImplementedError):
        fs.touch("b", truncate=False)
    assert fs.cat_file("b") == NEW
    fs.touch("b")
    assert fs.cat_file("b") == b""
