"""Keys and contents as files: what is asked of the store, what errors say, and who may share."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import urllib.request
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import spec
from fsspec.asyn import sync
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

import blockyard
from blockyard import pickling
from blockyard.config import PutConfig, S3Config
from blockyard.config.sections import Secret
from blockyard.content import files as content_files
from blockyard.fsspec import (
    BlockyardContentFileSystem,
    BlockyardFileSystem,
    changes,
    files,
    filesystem,
    info_cache,
    reading,
    stores,
    upload,
    writing,
)
from blockyard.fsspec.files import BlockFiles
from blockyard.stores.memory import MemoryStore
from servers.endpoint import Endpoint, boto3_client
from tests.hooked_store import HookedStore
from tests.interrupting import at_line
from tests.small_s3 import small_s3

DATA = random.Random(17).randbytes(100_000)  # noqa: S311


class Counted(HookedStore):
    """A store in memory that counts what it is asked, and answers with `error` where there is."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), self._note)
        self.asked: Counter[str] = Counter()
        self.error: Exception | None = None

    async def _note(self, operation: str, key: str) -> None:
        self.asked[operation] += 1
        if self.error is not None:
            raise self.error

    def taken(self) -> dict[str, int]:
        """What was asked since the last time."""
        asked, self.asked = dict(self.asked), Counter()
        return asked


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def fs(counted: Counted) -> Any:
    return BlockyardFileSystem(store=counted)


@pytest.fixture
def client(counted: Counted) -> Iterator[blockyard.BlockStore]:
    """Somebody else, who uses the same store."""
    with blockyard.open_store(counted) as client:
        yield client


# What is there.


@pytest.mark.thorough
def test_a_folder_of_100_000_keys_is_listed_by_one_request(
    fs: Any, counted: Counted, client: blockyard.BlockStore
) -> None:
    _ = client.write_blocks((f"big/{number % 10}/{number}", b"") for number in range(100_000))
    _ = counted.taken()
    assert fs.ls("big", detail=False) == [f"big/{folder}" for folder in range(10)]
    assert counted.taken() == {"list_page": 1}
    assert len(fs.ls("big")) == 10
    assert len(fs.find("big/3")) == 10_000
    assert counted.taken() == {"list_page": 1 + 10}


def test_what_is_asked_again_within_seconds_costs_nothing(fs: Any, counted: Counted) -> None:
    """As Parquet readers do: twice `isfile`, twice `open`, and `info`."""
    fs.pipe_file("a/b", DATA)
    _ = counted.taken()
    for _ in range(2):
        assert fs.isfile("a/b")
        with fs.open("a/b") as file:
            _ = file.seek(-8, os.SEEK_END)
            assert file.read(8) == DATA[-8:]
    assert fs.info("a/b")["size"] == len(DATA)
    asked = counted.taken()
    assert asked.pop("stat_block") == 1
    assert asked == {"read_block_with_info": 2}
    _ = fs.ls("a")
    assert fs.exists("a/b")
    assert fs.isdir("a")
    assert fs.isdir("a")
    assert counted.taken() == {"list_page": 2, "stat_block": 1}


def test_what_is_remembered_for_ever(
    client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs: Any = BlockyardFileSystem(store=client, listings_expiry_time=None)
    fs.pipe_file("a", b"1")
    assert fs.info("a")["size"] == 1
    _ = client.write_block("a", b"22")
    now = info_cache.monotonic()
    monkeypatch.setattr(info_cache, "monotonic", lambda: now + 1e9)
    assert fs.info("a")["size"] == 1
    fs.invalidate_cache()
    assert fs.info("a")["size"] == 2


@pytest.mark.parametrize("seconds", ["5", -1, float("nan"), True])
def test_a_time_that_is_none_is_refused_at_once(seconds: Any) -> None:
    with pytest.raises(blockyard.ConfigError, match="listings_expiry_time: expected seconds"):
        _ = BlockyardFileSystem(store="memory://", listings_expiry_time=seconds)


def test_what_is_remembered_is_forgotten(
    fs: Any, client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(info_cache, "monotonic", lambda: clock[0])
    _ = client.write_block("a/b", b"1")
    assert fs.info("a/b")["size"] == 1
    _ = client.write_block("a/b", b"22")
    assert fs.info("a/b")["size"] == 1, "for some seconds"
    clock[0] += remembered_seconds()
    assert fs.info("a/b")["size"] == 2
    for path in (None, "a/b", "a", "blockyard://a"):
        _ = client.write_block("a/b", bytes(3))
        fs.invalidate_cache(path)
        assert fs.info("a/b")["size"] == 3
        _ = client.write_block("a/b", bytes(2))
        fs.invalidate_cache(path)
        assert fs.info("a/b")["size"] == 2
    asks_always = BlockyardFileSystem(store=client, listings_expiry_time=0)
    never = BlockyardFileSystem(store=client, use_listings_cache=False)
    for size in (5, 6):
        _ = client.write_block("a/b", bytes(size))
        assert asks_always.info("a/b")["size"] == never.info("a/b")["size"] == size


def remembered_seconds() -> float:
    from blockyard.fsspec import base

    return base.REMEMBERED


def test_own_changes_are_seen_at_once(fs: Any) -> None:
    def sizes() -> list[int]:
        return [fs.info(name)["size"] for name in fs.find("a")]

    fs.pipe_file("a/b", b"1")
    assert fs.info("a/b")["size"] == 1
    fs.pipe_file("a/b", b"22")
    assert fs.info("a/b")["size"] == 2
    with fs.open("a/b", "wb") as file:
        _ = file.write(b"333")
    assert sizes() == [3]
    fs.cp_file("a/b", "a/c")
    fs.pipe_file("a/b", b"4444")
    fs.cp_file("a/b", "a/c")
    assert sizes() == [4, 4]
    fs.mv("a/b", "a/d")
    assert not fs.exists("a/b")
    assert sizes() == [4, 4]
    assert fs.isdir("a")
    fs.rm("a/c")
    fs.rm_file("a/d")
    assert not fs.exists("a")
    fs.pipe_file("a/b/c", b"1")
    assert fs.isdir("a")
    assert fs.isfile("a/b/c")
    fs.rm("a", recursive=True)
    assert not fs.exists("a/b/c")
    assert not fs.isdir("a/b")


@pytest.mark.parametrize("how", ["cat_file", "open", "get_file"])
def test_what_turns_out_to_be_gone_is_not_remembered(
    fs: Any, client: blockyard.BlockStore, tmp_path: Path, how: str
) -> None:
    reads: dict[str, Callable[[], object]] = {
        "cat_file": lambda: fs.cat_file("a"),
        "open": lambda: fs.open("a").read(),
        "get_file": lambda: fs.get_file("a", str(tmp_path / "a")),
    }
    fs.pipe_file("a", b"1")
    assert fs.exists("a")
    client.delete_block("a")
    with pytest.raises(FileNotFoundError):
        _ = reads[how]()
    assert not fs.exists("a")


def test_what_was_asked_before_a_write_is_not_remembered_after_it() -> None:
    known = info_cache.InfoCache(60)
    before = known.state
    known.forget("a/b")
    known.keep([{"name": "a/b", "size": 1}], before)
    assert known.get("a/b") is None
    known.keep([{"name": "a/b", "size": 2}], known.state)
    assert known.get("a/b") == {"name": "a/b", "size": 2}


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info_cache, "_MOST", 10)
    known = info_cache.InfoCache(60)
    known.keep([{"name": str(number)} for number in range(8)], known.state)
    known.keep([{"name": "0"}, *({"name": f"{number}"} for number in range(8, 15))], known.state)
    assert [name for name in map(str, range(15)) if known.get(name)] == [
        "0", *map(str, range(6, 15))
    ]  # fmt: skip


def test_one_path_more_is_no_look_at_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def counted(known: dict[str, Any], count: int) -> Iterator[str]:
        for name in islice(known, count):
            drawn.append(name)
            yield name

    monkeypatch.setattr(info_cache, "_MOST", 1000)
    monkeypatch.setattr(info_cache, "islice", counted)
    known = info_cache.InfoCache(60)
    for number in range(3000):
        known.keep([{"name": str(number)}], known.state)
    assert drawn == [str(number) for number in range(2000)]


def test_stores_of_very_many_buckets_are_not_all_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has connections of its own. What is in use meanwhile stays open."""
    monkeypatch.setattr(stores, "_MOST", 10)
    monkeypatch.setattr(pickling, "_KEPT", 10)
    opened: list[weakref.ref[Any]] = []

    def files(store: blockyard.AsyncBlockStore) -> BlockFiles:
        opened.append(weakref.ref(store))
        return BlockFiles(store)

    places = stores.Stores(None, {"anonymous": True, "region": "us-east-1"}, files)
    first = places.place("bucket-0/key")
    for number in range(1, 50):
        assert places.place(f"bucket-{number}/key").name == "key"
    _ = gc.collect()
    alive = [number for number, store in enumerate(opened) if store() is not None]
    assert alive == [0, *range(40, 50)]
    assert places.place("bucket-49/key").files is places.place("bucket-49/other").files
    assert first.files is not places.place("bucket-0/key").files


REFUSALS = [
    blockyard.AccessDeniedError("no", status=403),
    blockyard.TransportConnectionError("gone"),
    blockyard.BucketNotFoundError("none", status=404),
]


@pytest.mark.parametrize("error", REFUSALS)
def test_an_error_is_not_absence(fs: Any, counted: Counted, error: Exception) -> None:
    fs.pipe_file("a/b", b"1")
    counted.error = error
    calls: list[Any] = [
        fs.exists, fs.isfile, fs.isdir, fs.info, fs.ls, fs.find, fs.du, fs.cat_file, fs.open,
        fs.cat, fs.size, fs.created, fs.rm, fs.glob, lambda path: list(fs.walk(path)),
        lambda path: fs.glob(f"{path}*"), lambda path: fs.rm(path, recursive=True),
        lambda path: fs.open(path, "xb"), lambda path: fs.cp_file(path, "c"),
        lambda path: fs.pipe_file(path, b""), lambda path: fs.get_file(path, "/dev/null"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(type(error)):
            _ = call("a/b")
    results = fs.cat_ranges(["a/b"], [0], [1])
    assert [type(each) for each in results] == [type(error)]


def test_what_is_not_there(fs: Any) -> None:
    assert not fs.exists("a")
    assert not fs.isfile("a")
    assert not fs.isdir("a")
    assert fs.find("a") == fs.glob("a/*") == list(fs.glob("a"))
    assert fs.du("a") == 0
    for call in (fs.info, fs.ls, fs.cat_file, fs.open, fs.size, fs.modified):
        with pytest.raises(FileNotFoundError) as raised:
            _ = call("a")
        assert raised.value.filename == "a"
    for call in (fs.cp_file, fs.mv, fs.get_file):
        with pytest.raises(FileNotFoundError):
            call("a", "b")
    with pytest.raises(FileNotFoundError):
        fs.rm("a", recursive=True)
    fs.rm("a")
    assert [each[1:] for each in fs.walk("a")] == [([], [])]
    with pytest.raises(FileNotFoundError):
        _ = list(fs.walk("a", on_error="raise"))


def test_folders_files_and_markers(fs: Any, client: blockyard.BlockStore) -> None:
    for key in ("x/a", "x/a/b/c", "x/empty/", "x/", "x/ab", "x0"):
        _ = client.write_block(key, b"1")
    assert fs.ls("x", detail=False) == ["x/a", "x/ab", "x/empty"]
    assert [info["type"] for info in fs.ls("x")] == ["directory", "file", "file", "directory"]
    assert fs.ls("x/empty") == []
    assert fs.isdir("x/empty")
    assert fs.ls("x0", detail=False) == ["x0"]
    assert fs.find("x") == ["x/a", "x/a/b/c", "x/ab"]
    everything = ["x", "x/a", "x/a/b", "x/a/b/c", "x/ab", "x/empty"]
    assert fs.find("x", withdirs=True) == everything
    assert fs.find("x", maxdepth=1) == ["x/a", "x/ab"]
    assert fs.find("x", maxdepth=2, withdirs=True) == [
        each for each in everything if each != "x/a/b/c"
    ]
    assert fs.find("x/ab") == ["x/ab"]
    assert fs.find("") == ["x/a", "x/a/b/c", "x/ab", "x0"]
    assert fs.glob("x*") == ["x", "x0"]
    assert fs.glob("x/a*") == ["x/a", "x/ab"]
    assert fs.glob("x/**/c") == ["x/a/b/c"]
    assert fs.glob("x/?b") == ["x/ab"]
    assert fs.du("x") == 3
    assert fs.du("x", total=False) == {"x/a": 1, "x/a/b/c": 1, "x/ab": 1}
    assert fs.isfile("x/a")
    assert not fs.isdir("x/a"), "a file where there is one"
    assert fs.isdir("x/a/b")


def test_a_glob_asks_for_what_it_begins_with(fs: Any, counted: Counted) -> None:
    fs.pipe({f"a/{number:05}/x": b"" for number in range(3000)})
    fs.pipe("a/other", b"")
    _ = counted.taken()
    assert fs.glob("a/other*") == ["a/other"]
    assert fs.glob("a/0000*") == [f"a/{number:05}" for number in range(10)]
    assert counted.taken() == {"list_page": 2}


def test_times_and_versions_of_files(fs: Any) -> None:
    fs.pipe_file("a/b", b"1")
    first = fs.ukey("a/b")
    info = fs.info("a/b")
    assert fs.modified("a/b") == fs.created("a/b") == info["LastModified"]
    assert info["LastModified"].timestamp() == info["mtime"]
    assert fs.ukey("a/b") == first
    fs.pipe_file("a/b", b"2")
    assert fs.ukey("a/b") != first
    with pytest.raises(IsADirectoryError):
        _ = fs.modified("a")
    with pytest.raises(IsADirectoryError):
        _ = fs.open("a")


def test_folders_need_not_be_made(fs: Any, counted: Counted) -> None:
    fs.mkdir("a")
    fs.makedirs("a/b")
    fs.makedirs("a/b", exist_ok=True)
    fs.rmdir("a")
    fs.pipe_file("a/b/c", b"1")
    _ = counted.taken()
    fs.makedirs("a/b", exist_ok=True)
    assert counted.taken() == {}
    for path in ("a/b", "a/b/c"):
        with pytest.raises(FileExistsError):
            fs.makedirs(path)


# Reading.


@pytest.mark.parametrize("start", [None, 0, 10, 99_990, 100_000, 200_000, -1, -10, -200_000])
@pytest.mark.parametrize("end", [None, 0, 5, 20, 99_999, 100_000, 300_000, -1, -99_995])
@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
def test_a_part_of_a_file_is_a_slice(
    kind: Any, start: int | None, end: int | None, fs: Any, client: blockyard.BlockStore
) -> None:
    fs = kind(store=client)
    fs.pipe_file("a", DATA)
    assert fs.cat_file("a", start, end) == DATA[start:end]
    assert fs.cat_ranges(["a"], start, end) == [DATA[start:end]]


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
def test_a_part_of_an_empty_file(kind: Any, client: blockyard.BlockStore, tmp_path: Path) -> None:
    fs = kind(store=client)
    fs.touch("a")
    for start, end in ((None, None), (0, 5), (5, 9), (-5, None), (3, None)):
        assert fs.cat_file("a", start, end) == b""
    with fs.open("a") as file:
        assert file.read() == b""
    fs.get_file("a", str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b""


def test_all_files_of_a_folder_are_read(fs: Any, client: blockyard.BlockStore) -> None:
    for system in (fs, BlockyardContentFileSystem(store=client)):
        system.pipe({"a/b": b"1", "a/c/d": b"2", "a/c/e/f": b"", "b": b"3"})
        in_c = {"a/c/d": b"2", "a/c/e/f": b""}
        assert system.cat("a", recursive=True) == {"a/b": b"1", **in_c}
        assert system.cat(["a/c", "b"], recursive=True) == {**in_c, "b": b"3"}
        assert system.cat("a/*", recursive=True) == {"a/b": b"1", **in_c}
        assert system.cat("b", recursive=True) == b"3"
        with pytest.raises(FileNotFoundError):
            system.cat("none", recursive=True)


def test_all_files_of_a_folder_are_read_whatever_their_names(fs: Any) -> None:
    files = {"a": b"1", "a/b": b"2", "a/c[1]": b"3", "a/d*": b"4"}
    for name, data in files.items():
        fs.pipe_file(name, data)
    assert fs.cat("a", recursive=True) == files


def test_neighbours_are_read_together(fs: Any, counted: Counted) -> None:
    fs.pipe({"a": DATA, "b": DATA[::-1]})
    _ = counted.taken()
    paths = ["a", "b", "a", "a", "b", "a", "missing", "a", "a"]
    starts = [0, 10, 50_000, 100, 5, 99_990, 0, 100_001, -10]
    ends = [50, 20, 50_010, 200, 9, 200_000, 5, 100_009, None]
    found = fs.cat_ranges(paths, starts, ends)
    for index, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
        if path == "missing":
            assert isinstance(found[index], FileNotFoundError)
        else:
            assert found[index] == {"a": DATA, "b": DATA[::-1]}[path][start:end]
    assert counted.taken()["read_block_with_info"] == 6  # a twice, and its end; b; missing
    _ = fs.cat_ranges(["a", "a", "a"], [0, 100, 50_000], [50, 200, 50_010], max_gap=10)
    assert counted.taken() == {"read_block_with_info": 3}
    _ = fs.cat_ranges(["a", "a", "a"], [0, 100, 50_000], [50, 200, 50_010], max_gap=10**6)
    assert counted.taken() == {"read_block_with_info": 1}
    with pytest.raises(FileNotFoundError):
        _ = fs.cat_ranges(["a", "missing"], 0, 5, on_error="raise")
    with pytest.raises(ValueError, match="as many starts and ends as paths"):
        _ = fs.cat_ranges(["a"], [0, 1], [5, 6])
    with pytest.raises(TypeError, match="expected a list"):
        _ = fs.cat_ranges("a", 0, 1)


def test_a_large_file_is_read_in_pieces_of_one_version(
    fs: Any, counted: Counted, client: blockyard.BlockStore, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(files, "PIECE", 30_000)
    _ = client.write_block("a", DATA)
    _ = counted.taken()
    assert fs.cat_file("a", 5, 99_000) == DATA[5:99_000]
    assert counted.taken() == {"read_block_with_info": 4}
    assert fs.cat_file("a", 5) == DATA[5:]
    target = tmp_path / "a"
    done: list[int] = []
    callback = fsspec.Callback(hooks={"done": lambda size, value, **_: done.append(value)})
    _ = counted.taken()
    fs.get_file("a", str(target), callback=callback)
    assert target.read_bytes() == DATA
    assert counted.taken() == {"read_block_with_info": 4}
    assert callback.size == callback.value == max(done) == len(DATA)

    async def replace(operation: str, key: str) -> None:
        counted.asked[operation] += 1
        if counted.asked["read_block_with_info"] == 2:
            counted.hook = counted._note
            _ = client.write_block("a", other)

    other = DATA[::-1]
    for call in (lambda: fs.cat_file("a", 5), lambda: fs.get_file("a", str(target))):
        _ = counted.taken()
        counted.hook = replace
        with pytest.raises(blockyard.PreconditionFailedError):
            call()
        other = os.urandom(100_000)
    assert target.read_bytes() == DATA, "the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_open_file_is_one_version(fs: Any, client: blockyard.BlockStore) -> None:
    _ = client.write_block("a", DATA)
    with fs.open("a", block_size=100) as file:
        assert file.read(10) == DATA[:10]
        _ = client.write_block("a", DATA[::-1])
        _ = file.seek(50_000)
        with pytest.raises(blockyard.PreconditionFailedError):
            _ = file.read(10)
    with fs.open("a") as file:
        assert file.read() == DATA[::-1], "what was remembered is forgotten"


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
def test_an_open_file_in_a_pickle_is_that_version(kind: Any, tmp_path: Path) -> None:
    """As xarray sends them to workers."""
    fs = kind(store=f"file://{tmp_path}")
    fs.pipe_file("a", DATA)
    unread, file = fs.open("a"), fs.open("a")
    assert file.read(10) == DATA[:10]
    pickles = [pickle.dumps(file), pickle.dumps(pickle.loads(pickle.dumps(file)))]
    for each in pickles:
        assert pickle.loads(each).read() == DATA[10:]
    fs.pipe_file("a", bytes(2 * len(DATA)))
    for each in (*pickles, pickle.dumps(unread)):
        with pytest.raises((blockyard.PreconditionFailedError, blockyard.ContentReplacedError)):
            pickle.loads(each).read(1)
    with fs.open("b", "wb") as written, pytest.raises(TypeError, match="can't be pickled"):
        _ = pickle.dumps(written)


def test_block_sizes(fs: Any) -> None:
    for size in (1, 999, 0, None, "default"):
        with fs.open("a", "wb", block_size=size) as file:
            _ = file.write(DATA[:2000])
        with fs.open("a", block_size=size) as file:
            assert file.read() == DATA[:2000]
    for wrong in (-1, 1.5, "1MiB"):
        for mode in ("rb", "wb"):
            with pytest.raises((TypeError, ValueError), match="block_size: expected a whole"):
                fs.open("a", mode, block_size=wrong)


def test_files_are_files() -> None:
    client = blockyard.open_store("memory://")
    lines = b"".join(b"line %d\n" % number for number in range(5000))
    for system in (BlockyardFileSystem(store=client), BlockyardContentFileSystem(store=client)):
        with system.open("dir/lines.txt", "wb", block_size=1000) as file:
            for line in lines.splitlines(keepends=True):
                assert file.write(line) == len(line)
            assert file.tell() == len(lines)
        with system.open("dir/lines.txt", block_size=1000) as file:
            assert list(file) == lines.splitlines(keepends=True)
            _ = file.seek(10)
            copy = pickle.loads(pickle.dumps(file))
            assert copy.read(5) == lines[10:15]
            assert file.seek(-5, 2) == len(lines) - 5
            assert file.read() == lines[-5:]
        with system.open("dir/lines.txt", "r") as text:
            assert text.read() == lines.decode()
        with system.open("dir/text.gz", "wt", compression="gzip") as text:
            _ = text.write("compressed")
        with system.open("dir/text.gz", "rt", compression="gzip") as text:
            assert text.read() == "compressed"
        with pytest.raises(NotImplementedError, match="expected rb, wb or xb"):
            _ = system.open("dir/lines.txt", "ab")


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
@given(
    reads=st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 3000), st.booleans())),
    block_size=st.sampled_from([1, 100, 2000, 10**6]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_here_and_there_and_on(
    kind: Any,
    reads: list[tuple[int, int, bool]],
    block_size: int,
    client: blockyard.BlockStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_FIRST", 500)
    fs, data = kind(store=client), DATA[:50_000]
    fs.pipe_file("a", data)
    beside = io.BytesIO(data)
    with fs.open("a", block_size=block_size) as file:
        for position, size, goes_on in reads:
            if not goes_on:
                assert file.seek(position) == beside.seek(position)
            assert file.read(size) == beside.read(size)


def test_what_is_read_ahead(fs: Any, counted: Counted, client: blockyard.BlockStore) -> None:
    size = 30 * 2**20
    _ = client.write_block("a", bytes(size))
    _ = fs.info("a")
    _ = counted.taken()
    with fs.open("a") as file:
        while file.read(10_000):
            pass
    assert counted.taken()["read_block_with_info"] <= 12, "more and more, up to 4 MiB at a time"
    for position in range(2**21, size, 2**21):
        with fs.open("a") as file:
            _ = file.seek(position)
            assert len(file.read(2**20)) == 2**20
            assert file.cache._start == position
            assert len(file.cache._data) == 2**20, "nothing but what was asked for"
            _ = file.seek(5)
            assert len(file.read(7)) == 7
            assert len(file.cache._data) == reading._FIRST
    assert counted.taken() == {"read_block_with_info": 28}


def test_what_is_read_beside_a_file_that_is_there_already(fs: Any, tmp_path: Path) -> None:
    fs.pipe({"a/b": b"1", "a/c/d": b"2"})
    fs.get("a", str(tmp_path / "to"), recursive=True)
    assert (tmp_path / "to" / "c" / "d").read_bytes() == b"2"
    read, write = os.pipe()
    fs.get_file("a/b", f"/dev/fd/{write}")
    assert os.read(read, 10) == b"1"
    os.close(read)
    os.close(write)
    with pytest.raises(blockyard.LocalStorageError, match=r"get: .*No such file"):
        fs.get_file("a/b", str(tmp_path / "missing" / "b"))


@pytest.mark.parametrize("kind", ["blocks", "contents", "open_content"])
def test_a_read_that_is_interrupted_leaves_what_tell_says(
    client: blockyard.BlockStore, kind: str
) -> None:
    """A handler raises at any line: what is read afterwards is what lies at the file's place."""
    data = DATA[:9000]
    _ = client.write_block("a", data)
    _ = client.write_content("a-content", data, block_size=2000)
    opened: dict[str, Callable[[], Any]] = {
        "blocks": lambda: BlockyardFileSystem(store=client).open("a", block_size=1000),
        "contents": lambda: BlockyardContentFileSystem(store=client).open("a-content"),
        "open_content": lambda: client.open_content("a-content"),
    }
    modules = {reading.__file__, content_files.__file__, spec.__file__}

    def ring() -> None:
        raise KeyboardInterrupt

    interrupted, read, lines = 0, 0, [0]
    while lines[0] >= interrupted:
        interrupted += 1
        with (
            opened[kind]() as file,
            contextlib.suppress(KeyboardInterrupt),  # in `tell`
            at_line(interrupted, modules, ring) as lines,
        ):
            while (at := file.tell()) < len(data):
                with contextlib.suppress(KeyboardInterrupt):
                    piece = file.read(700)
                    assert piece == data[at : at + len(piece)] != b""
                    read += 1
    assert read > interrupted > 5


# Writing.


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
@pytest.mark.parametrize("size", [0, 10, 1000, 2500])
def test_a_file_appears_when_it_is_closed(
    kind: Any, size: int, client: blockyard.BlockStore
) -> None:
    fs = kind(store=client)
    file = fs.open("a", "wb", block_size=1000)
    _ = file.write(memoryview(DATA[:size]))
    file.flush()
    assert not fs.exists("a")
    file.close()
    file.close()
    assert fs.cat_file("a") == DATA[:size]
    assert fs.info("a")["size"] == size
    with pytest.raises(ValueError, match="closed"):
        _ = file.write(b"more")


@pytest.mark.parametrize(
    "encoding", ["utf-16", "UTF16", "utf-32", "utf-8-sig", "utf-16-le", "utf-8"]
)
@pytest.mark.parametrize("compression", [None, "gzip", "bz2", "xz", "zip"])
def test_a_text_begins_with_the_mark_of_its_encoding(
    fs: Any, encoding: str, compression: str | None
) -> None:
    """Without it UTF-16 can't be read."""
    text = ["hé\n", "zwei\n", "x" * 20_000]
    with fs.open("text", "w", encoding=encoding, compression=compression) as file:
        for part in text:
            _ = file.write(part)
    with fs.open("text", "r", encoding=encoding, compression=compression) as file:
        assert file.read() == "".join(text)
    with fs.open("text", "w", encoding=encoding) as file:
        file.writelines(text)
    for wrapped in (fs.open("pandas", "wb"), io.BufferedWriter(fs.open("pandas", "wb"))):
        with io.TextIOWrapper(wrapped, encoding=encoding) as file:  # as pandas does
            file.writelines(text)
        assert fs.cat("pandas") == fs.cat("text") == "".join(text).encode(encoding)
    with fsspec.core.OpenFile(fs, "text", "w", encoding=encoding) as file:
        file.writelines(text)
    assert fs.cat("pandas") == fs.cat("text")


def test_no_file_that_is_written_is_sought_in(fs: Any) -> None:
    """zipfile asks by `seek`, and goes back where it can."""
    for options in ({"mode": "wb"}, {"mode": "wb", "compression": "gzip"}, {"mode": "w"}):
        with fs.open("a", **options) as file:
            with pytest.raises(io.UnsupportedOperation):
                file.seek(0)
            _ = file.write("1" if options["mode"] == "w" else b"1")
            file.flush()
            assert not file.seekable()
            assert file.tell() == 1
            with pytest.raises(io.UnsupportedOperation):
                file.seek(0)
    with fs.open("zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", DATA)
        with archive.open("y", "w") as member:
            _ = member.write(DATA)
    with fs.open("zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("x") == archive.read("y") == DATA


@pytest.mark.parametrize("piece", [300_000, 1_500_000, 2_000_001, 10_000_000])
def test_what_is_written_may_change_afterwards(client: blockyard.BlockStore, piece: int) -> None:
    size = 200_000
    for kind in (BlockyardFileSystem, BlockyardContentFileSystem):
        fs, expected, buffer = kind(store=client), bytearray(), bytearray(size)
        chance = random.Random(17)  # noqa: S311
        with fs.open("a", "wb", block_size=piece) as file:
            for length in [*range(10), 70_000, 299_999, size, 3 * size, 3_100_000]:
                for given in (memoryview(buffer)[:length], chance.randbytes(length)):
                    buffer[:] = chance.randbytes(size)
                    expected += given
                    assert file.write(given) == len(given)
                    assert file.tell() == len(expected)
                    buffer[:] = bytes(size)
                whole = chance.randbytes(size)
                expected += whole[5:-5]
                _ = file.write(memoryview(whole)[5:-5])
        assert fs.cat_file("a") == expected


def test_a_write_that_is_interrupted_goes_on_where_tell_says(
    client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler raises at any line: all is stored, once, or the file is given up."""
    monkeypatch.setattr(upload, "_LARGE", 1000)
    data = DATA[:7000]
    fs, interrupted, stored = BlockyardFileSystem(store=client), 0, 0

    def ring() -> None:
        raise KeyboardInterrupt

    lines = [0]
    while lines[0] >= interrupted:
        interrupted += 1
        file = fs.open("a", "wb", block_size=3000)
        try:
            with at_line(interrupted, {writing.__file__, upload.__file__}, ring) as lines:
                while (at := file.tell()) < len(data):
                    with contextlib.suppress(KeyboardInterrupt):
                        _ = file.write(memoryview(data)[at : at + 700])
            file.close()
        except (ValueError, KeyboardInterrupt):  # it was given up; or in `tell`
            file.discard()
            assert not fs.exists("a")
        else:
            stored += 1
            assert fs.cat_file("a") == data
            fs.rm("a")
    assert stored > interrupted / 3 > 20


def test_a_program_that_writes_waits_for_the_upload_alone(
    counted: Counted, fs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, taken = threading.Event(), threading.Event()

    async def held(operation: str, key: str) -> None:
        taken.set()
        _ = await asyncio.get_running_loop().run_in_executor(None, free.wait)

    monkeypatch.setattr(BlockFiles, "write", _drawing_one(held))
    file = fs.open("a", "wb", block_size=1000)
    assert file.write(DATA[:1000]) == 1000
    assert taken.wait(30)
    assert file.write(DATA[:1000]) == 1000  # which waits to be drawn
    writing = threading.Thread(target=file.write, args=(DATA[:1000],), daemon=True)
    writing.start()
    writing.join(0.2)
    assert writing.is_alive()  # no more than that is held in memory
    free.set()
    writing.join(30)
    assert not writing.is_alive()
    file.close()


def _drawing_one(held: Callable[[str, str], Any]) -> Any:
    """A write that waits once it has drawn a piece."""

    async def write(_: Any, name: str, data: Any, *__: Any, **___: Any) -> None:
        async for piece in data:
            assert len(piece) == 1000
            await held("write", name)

    return write


@contextlib.contextmanager
def opened(fs: Any) -> Iterator[Any]:
    file = fs.open("a", "wb", block_size=1000)
    try:
        yield file
    finally:
        file.close()


def abandoned(fs: Any, how: str) -> None:
    """Write a file, and fail meanwhile."""
    if how == "with":
        with fs.open("a", "wb", block_size=1000) as file:
            _ = file.write(DATA[:2500])
            raise KeyError(how)
    if how == "text":
        with fs.open("a", "w", block_size=1000) as file:
            _ = file.write("text" * 1000)
            raise KeyError(how)
    if how == "compressed":
        with fs.open("a", "wb", block_size=1000, compression="gzip") as file:
            _ = file.write(DATA)
            raise KeyError(how)
    if how == "compressed text":
        with fs.open("a", "wt", block_size=1000, compression="bz2") as file:
            _ = file.write("text" * 1000)
            raise KeyError(how)
    if how in {"OpenFile wb", "OpenFile wt"}:
        with fsspec.core.OpenFile(fs, "a", how[-2:], compression="gzip") as file:
            _ = file.write("text" if how.endswith("t") else DATA[:2500])
            raise KeyError(how)
    if how == "closing":
        with contextlib.closing(fs.open("a", "wb", block_size=1000)) as file:
            _ = file.write(DATA[:2500])
            raise KeyError(how)
    if how == "contextmanager":
        with opened(fs) as file:
            _ = file.write(DATA[:2500])
            raise KeyError(how)
    if how == "transaction":
        with fs.transaction:
            with fs.open("a", "wb", block_size=1000) as file:
                _ = file.write(DATA[:2500])
            raise KeyError(how)


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
@pytest.mark.parametrize(
    "how",
    [
        "with", "text", "compressed", "compressed text", "OpenFile wb", "OpenFile wt", "closing",
        "contextmanager", "transaction",
    ],
)  # fmt: skip
def test_a_file_that_was_not_written_to_its_end_is_not_stored(
    kind: Any, how: str, client: blockyard.BlockStore
) -> None:
    fs = kind(store=client)
    for before in (None, b"before"):
        if before is not None:
            fs.pipe_file("a", before)
        with pytest.raises(KeyError, match=how):
            abandoned(fs, how)
        assert fs.exists("a") == (before is not None)
    assert fs.cat_file("a") == b"before"
    assert [key for key in client.list_by_prefix() if key.startswith("a/")] == []


def test_closing_a_file_is_to_store_it_whatever_error_is_handled(fs: Any) -> None:
    file = fs.open("a", "wb")
    _ = file.write(b"1")
    try:
        _ = {}["key"]
    except KeyError:
        file.close()
        with fs.open("b", "wb") as file, contextlib.suppress(KeyError):
            _ = file.write(b"2")
            _ = {}["key"]
    assert fs.cat(["a", "b"]) == {"a": b"1", "b": b"2"}


@contextlib.contextmanager
def reporting_in_except(write: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    except ZeroDivisionError:
        _ = write()


@contextlib.contextmanager
def reporting_in_finally(write: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        _ = write()


class Reporting:
    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        _ = self._write()


@contextlib.contextmanager
def reporting_in_callback(write: Callable[[], object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        _ = stack.callback(write)
        yield


def in_thread(write: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write).result(60)


REPORTING = [reporting_in_except, reporting_in_finally, Reporting, reporting_in_callback]


@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
@pytest.mark.parametrize("reporting", REPORTING)
def test_a_file_that_reports_an_error_is_stored(
    kind: Any, reporting: Any, client: blockyard.BlockStore
) -> None:
    """It was opened when the error was there: that has not ended its own `with` block."""
    fs = kind(store=client)

    def write() -> None:
        for mode, compression in (("wb", None), ("w", None), ("wb", "gzip"), ("w", "gzip")):
            for way in (fs.open, partial(fsspec.core.OpenFile, fs)):
                name = f"{mode} {compression} {len(fs.find(''))}"
                with way(name, mode, compression=compression) as file:
                    _ = file.write(b"report" if "b" in mode else "report")
        with contextlib.closing(fs.open("closing", "wb", block_size=1000)) as file:
            _ = file.write(DATA[:2500])
        fs.open("closed", "wb").close()
        handed_over = ThreadPoolExecutor(1).submit(fs.open, "of a thread", "wb").result(60)
        with contextlib.closing(handed_over):
            pass

    with contextlib.suppress(ZeroDivisionError), reporting(write):
        _ = 1 / 0
    with contextlib.suppress(ZeroDivisionError), reporting(partial(in_thread, write)):
        _ = 1 / 0
    assert len(fs.find("")) == 16 + 3
    assert fs.cat("closing") == DATA[:2500]


@pytest.mark.parametrize("reporting", REPORTING)
def test_a_report_that_is_not_written_to_its_end_is_not_stored(fs: Any, reporting: Any) -> None:
    """Whether by another error, or the same one again."""

    def write() -> None:
        for name, way in {"closing": contextlib.closing, "with": lambda file: file}.items():
            for error in (KeyError(name), sys.exception() or OSError()):
                with contextlib.suppress(type(error)), way(fs.open("a", "wb")) as file:
                    _ = file.write(b"1")
                    raise error
        for mode in ("wb", "w"):
            with contextlib.suppress(KeyError), fsspec.core.OpenFile(fs, "a", mode) as file:
                _ = file.write(b"1" if mode == "wb" else "1")
                raise KeyError

    with contextlib.suppress(ZeroDivisionError), reporting(write):
        _ = 1 / 0
    assert fs.find("") == []


def test_a_file_that_is_dropped_is_not_stored(fs: Any, client: blockyard.BlockStore) -> None:
    for system in (fs, BlockyardContentFileSystem(store=client)):
        for size in (10, 2500):
            file = system.open("a", "wb", block_size=1000)
            _ = file.write(DATA[:size])
            with pytest.warns(RuntimeWarning, match="a was not stored: its file was never closed"):
                del file
            assert not system.exists("a")
        for mode, compression in (("w", None), ("wb", "gzip"), ("w", "gzip")):
            file = system.open("a", mode, compression=compression)
            _ = file.write(b"1" if "b" in mode else "1")
            with pytest.warns(RuntimeWarning, match="a was not stored: its file was never closed"):
                del file
            assert not system.exists("a")


class Compressor:
    """As those of Python, it writes its end when it is dropped: where that raises, 3.13 says so."""

    raised: ClassVar[list[Exception]] = []

    def __init__(self, file: Any, mode: str) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        _ = self._file.write(DATA[:2500])

    def __del__(self) -> None:
        try:
            self.close()
        except Exception as error:  # noqa: BLE001 - what is raised here goes nowhere
            self.raised.append(error)


@pytest.mark.parametrize("how", ["given up", "closed", "failed", "dropped", "in a cycle"])
def test_a_compressor_that_is_dropped_sends_nothing(
    fs: Any, counted: Counted, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(filesystem.compressors, "noted", Compressor)
    Compressor.raised.clear()
    file = fs.open("a", "wb", block_size=1000, compression="noted")
    _ = file.write(DATA[:100])
    match how:
        case "given up":
            file.discard()
        case "closed":
            file.close()
        case "failed":
            counted.error = blockyard.AccessDeniedError("no", status=403)
            with pytest.raises(blockyard.AccessDeniedError):
                file.close()
            counted.error = None
        case "in a cycle":
            file.itself = file
        case _:
            pass
    if how in {"given up", "failed"}:
        with pytest.raises(ValueError, match="'a': the file "):
            _ = file.write(b"more")
    _ = counted.taken()
    with pytest.warns() if how in {"dropped", "in a cycle"} else contextlib.nullcontext():
        del file
        _ = gc.collect()
    assert Compressor.raised == []
    assert counted.taken() == {}
    assert fs.exists("a") == (how == "closed")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_file_that_can_not_be_opened_as_asked_leaves_nothing(
    fs: Any, compression: str | None
) -> None:
    with fs.transaction:
        with pytest.raises(LookupError, match="nonsense"):
            _ = fs.open("a", "w", encoding="nonsense", compression=compression)
        fs.pipe_file("b", b"1")
    _ = gc.collect()  # with no warning
    assert fs.find("") == ["b"]


def test_a_write_that_fails_is_told_at_the_next_one_or_at_the_end(
    fs: Any, counted: Counted, client: blockyard.BlockStore
) -> None:
    contents = BlockyardContentFileSystem(store=client)
    for system in (fs, contents):
        counted.error = None
        file = system.open("a", "wb", block_size=1000)
        _ = file.write(DATA[:2500])
        counted.error = blockyard.AccessDeniedError("no", status=403)
        with pytest.raises(blockyard.AccessDeniedError):
            file.close()
        assert file.closed
        file.close()
        counted.error = None
        assert not system.exists("a")
    file = contents.open("a", "wb", block_size=2**20)
    counted.error = blockyard.AccessDeniedError("no", status=403)
    with pytest.raises(blockyard.AccessDeniedError):
        _ = file.write(bytes(2**25))  # thirty-two pieces
    with pytest.raises(ValueError, match="given up"):
        _ = file.write(b"more")
    file.close()


def test_a_write_that_is_cancelled_is_not_taken_for_done(client: blockyard.BlockStore) -> None:
    for system in (BlockyardFileSystem, BlockyardContentFileSystem):
        fs = system(store=client)
        file = fs.open("a", "wb", block_size=1000)
        _ = file.write(DATA[:1500])
        fs.loop.call_soon_threadsafe(file._upload.task.cancel)
        with pytest.raises(RuntimeError, match="cancelled on its event loop"):
            file.close()
        assert not fs.exists("a")


def test_exclusive_writes(fs: Any, client: blockyard.BlockStore) -> None:
    for system in (fs, BlockyardContentFileSystem(store=client)):
        with system.open("a", "xb") as file:
            _ = file.write(b"first")
        with pytest.raises(FileExistsError):
            _ = system.open("a", "xb")
        first, second = (system.open("b", "xb", block_size=1000) for _ in range(2))
        for file in (first, second):
            _ = file.write(DATA[:1500])
        first.close()
        with pytest.raises(FileExistsError):
            second.close()
        with pytest.raises(FileExistsError):
            system.pipe_file("b", b"x", mode="create")
        with pytest.raises(ValueError, match="overwrite or create"):
            system.pipe_file("b", b"x", mode="append")
        assert system.cat_file("b") == DATA[:1500]
        system.rm(["a", "b"])


def test_transactions(fs: Any, client: blockyard.BlockStore) -> None:
    for system in (fs, BlockyardContentFileSystem(store=client)):
        with system.transaction:
            for size in (10, 2500):
                with system.open(f"t/{size}", "wb", block_size=1000) as file:
                    _ = file.write(DATA[:size])
            assert not system.exists("t")
        assert system.cat("t/*") == {"t/10": DATA[:10], "t/2500": DATA[:2500]}
        system.rm("t", recursive=True)
        with system.transaction:
            with pytest.raises(KeyError), system.open("t/a", "wb") as file:
                raise KeyError
            with system.open("t/b", "wb") as file:
                _ = file.write(b"1")
        assert system.find("t") == ["t/b"]


@pytest.mark.parametrize("options", [{"mode": "w"}, {"mode": "wb", "compression": "gzip"}])
def test_a_file_is_closed_before_its_transaction_ends(fs: Any, options: dict[str, Any]) -> None:
    """Else what the text or the compressor still keeps would be missing."""
    text: Any = "abc" if options["mode"] == "w" else b"abc"
    fs.start_transaction()
    with fs.open("t/closed", **options) as closed:
        _ = closed.write(text)
    file = fs.open("t/open", **options)
    _ = file.write(text)
    with pytest.raises(ValueError, match="'t/open': not stored: its file was not closed"):
        fs.end_transaction()
    with contextlib.suppress(ValueError):  # it was given up
        file.close()
    assert fs.find("t") == ["t/closed"]
    fs.pipe_file("t/after", b"1")
    assert fs.cat("t/after") == b"1"


def test_what_a_write_says_beside_the_bytes(fs: Any, client: blockyard.BlockStore) -> None:
    contents = BlockyardContentFileSystem(store=client)
    contents.pipe_file("a", b"1", content_type="text/plain", options=blockyard.PutOptions())
    with contents.open("b", "wb", metadata={"name": "value"}, chunk_blocks=4) as file:
        _ = file.write(b"1")
    assert client.stat_content("a").content_type == "text/plain"
    assert client.stat_content("b").metadata == {"name": "value"}


@pytest.mark.parametrize(
    ("kind", "given", "advice"),
    [
        (BlockyardContentFileSystem, "part_size", "one of: block_size, chunk_blocks, content_type"),
        (BlockyardContentFileSystem, "tags", r"did you mean options=PutOptions\(tags="),
        (BlockyardFileSystem, "content_type", r"did you mean options=PutOptions\(content_type="),
        (BlockyardFileSystem, "content_typ", "one of: concurrency, if_match, options, part_size"),
        (BlockyardFileSystem, "progress", "beside fsspec's own"),
    ],
)
def test_an_option_that_no_write_takes_is_refused_before_it_begins(
    kind: Any, given: str, advice: str, client: blockyard.BlockStore, tmp_path: Path
) -> None:
    fs = kind(store=client)
    (tmp_path / "a").touch()
    writes: dict[str, Callable[..., object]] = {
        "pipe_file": partial(fs.pipe_file, "a", b"1"),
        "put_file": partial(fs.put_file, str(tmp_path / "a"), "a"),
        "open": partial(fs.open, "a", "wb"),
    }
    for name, write in writes.items():
        expected = f"^{name} 'a': unexpected keyword argument '{given}': expected .*{advice}"
        with pytest.raises(TypeError, match=expected):
            _ = write(**{given: None})
    fs.touch("a")
    with pytest.raises(TypeError, match="unexpected keyword"):
        fs.pipe({"b": b"1"}, **{given: None})
    assert fs.find("") == ["a"]


def test_options_of_large_files_do_no_harm_to_small_ones(fs: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    given: dict[str, Any] = {"part_size": 2**23, "concurrency": 2}
    fs.pipe_file("pipe", DATA, **given)
    fs.put_file(str(tmp_path / "a"), "put", **given)
    for name, size in (("small", 10**6), ("large", 1000)):
        with fs.open(name, "wb", block_size=size, **given) as file:
            _ = file.write(DATA)
    assert fs.cat("*") == dict.fromkeys(["large", "pipe", "put", "small"], DATA)


def test_files_are_put_and_got(client: blockyard.BlockStore, tmp_path: Path) -> None:
    _ = (tmp_path / "a").write_bytes(DATA)
    for system in (
        BlockyardFileSystem(store=client),
        BlockyardContentFileSystem(store=client),
    ):
        callback = fsspec.Callback()
        system.put_file(str(tmp_path / "a"), "x/a", callback=callback)
        assert system.cat_file("x/a") == DATA
        assert callback.size == callback.value == len(DATA)
        with pytest.raises(FileExistsError):
            system.put_file(str(tmp_path / "a"), "x/a", mode="create")
        with pytest.raises(FileNotFoundError):
            system.put_file(str(tmp_path / "missing"), "x/b")
        system.get_file("x/a", str(tmp_path / "b"))
        assert (tmp_path / "b").read_bytes() == DATA
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
        (tmp_path / "b").unlink()


def test_a_pipe_that_nobody_reads_is_no_endless_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", DATA)
        fs = BlockyardFileSystem(store=store.with_options(deadline=0.1))
        with pytest.raises(blockyard.DeadlineExceededError):
            fs.get_file("a", str(tmp_path / "pipe"))


# Moving and deleting.


NO_NAME = ("logs//2024/x", "logs//y", "logs/2024/z", "logs/current", "/abs/x", "//twice", "rel")


@pytest.mark.parametrize("url", ["logs//", "blockyard://logs//", "/", "//", "blockyard:///"])
def test_a_folder_without_a_name_is_not_taken_for_the_one_it_lies_in(
    fs: Any, client: blockyard.BlockStore, url: str
) -> None:
    _ = client.write_blocks((key, b"1") for key in NO_NAME)
    for call in (
        lambda: fs.rm(url, recursive=True),
        lambda: fs.rm(["rel", url], recursive=True),
        lambda: fs.mv(url, "z", recursive=True),
    ):
        with pytest.raises(ValueError, match="a folder without a name"):
            call()
    assert client.list_by_prefix() == sorted(NO_NAME)


def test_listings_agree_on_keys_in_folders_without_a_name(
    fs: Any, client: blockyard.BlockStore
) -> None:
    _ = client.write_blocks((key, b"1") for key in NO_NAME)
    assert fs.ls("logs", detail=False) == ["logs//2024", "logs//y", "logs/2024", "logs/current"]
    assert fs.ls("", detail=False) == ["//twice", "/abs", "logs", "rel"]
    assert fs.find("") == sorted(NO_NAME)
    for folder in ("", "logs"):
        walked = [
            f"{root}/{name}" if root else name
            for root, _, names in fs.walk(folder)
            for name in names
        ]
        assert sorted(walked) == fs.find(folder)
        assert fs.find(folder, maxdepth=9) == fs.find(folder)
        folders = {name for name, info in fs.find(folder, detail=True, withdirs=True).items()
                   if info["type"] == "directory"}  # fmt: skip
        assert folders == {root for root, _, _ in fs.walk(folder) if root}
    for info in fs.ls("logs"):
        known = set(client.list_by_prefix())
        below = {key for key in known if f"{key}/".startswith(f"{info['name']}/")}
        fs.rm(info["name"], recursive=True)
        assert known - set(client.list_by_prefix()) == below != set()
    assert not fs.exists("logs")


def test_a_walk_is_led_and_goes_on_over_nothing(fs: Any, client: blockyard.BlockStore) -> None:
    _ = client.write_blocks((key, b"1") for key in ("a/b/c", "a/d/e", "a/f"))
    for _, folders, _ in (steps := fs.walk("a")):
        if "b" in folders:
            folders.remove("b")
    assert list(steps) == []
    assert list(fs.walk("a", topdown=False)) == [
        ("a/b", [], ["c"]),
        ("a/d", [], ["e"]),
        ("a", ["b", "d"], ["f"]),
    ]
    ((_, folders, names),) = fs.walk("a", maxdepth=1, detail=True)
    assert (folders["b"]["name"], names["f"]["name"]) == ("a/b", "a/f")
    assert list(fs.walk("a/f")) == [("a/f", [], [""])]
    assert list(fs.walk("nothing")) == [("nothing", [], [])]
    with pytest.raises(FileNotFoundError):
        _ = list(fs.walk("nothing", on_error="raise"))
    told: list[Exception] = []
    _ = list(fs.walk("nothing", on_error=told.append))
    assert isinstance(told[0], FileNotFoundError)
    with pytest.raises(ValueError, match="maxdepth"):
        _ = list(fs.walk("a", maxdepth=0))


def test_a_content_whose_id_is_a_folder_is_deleted_with_it(client: blockyard.BlockStore) -> None:
    fs: Any = BlockyardContentFileSystem(store=client)
    for listing in (lambda: None, lambda: fs.ls("doc"), lambda: fs.find("doc", maxdepth=2)):
        fs.pipe({"doc/a": b"1", "doc/a/b": b"2"})
        listing()
        assert fs.isfile("doc/a")
        fs.rm("doc/a", recursive=True)
        assert client.list_contents() == []


def test_a_key_of_the_greatest_length_is_a_file_like_others(client: blockyard.BlockStore) -> None:
    key = "k" * 1024
    fs: Any = BlockyardFileSystem(store=client, listings_expiry_time=0)
    fs.pipe_file(key, b"1")
    assert fs.ls(key, detail=False) == fs.find(key) == fs.glob(key) == [key]
    assert fs.find(key, maxdepth=1) == [key]
    assert fs.cat(key, recursive=True) == b"1"
    assert fs.du(key) == 1
    fs.cp(key, "z", recursive=True)
    fs.rm(key, recursive=True)
    assert fs.find("") == ["z"]


def test_a_folder_is_moved(fs: Any, counted: Counted) -> None:
    fs.pipe({"a/b": b"1", "a/c/d": b"2", "ab": b"3"})
    fs.mv("a", "z", recursive=True)
    assert fs.find("") == ["ab", "z/b", "z/c/d"]
    fs.mv("z/b", "z/b")
    fs.mv("blockyard://z/b", "z/b")
    fs.mv("z", "z/y", recursive=True)
    assert fs.find("") == ["ab", "z/y/b", "z/y/c/d"]
    fs.rename("z/y/b", "b")
    assert fs.cat("b") == b"1"
    _ = counted.taken()
    fs.mv("b", "c")
    assert counted.taken()["copy_block"] == 1


@pytest.mark.parametrize("move", ["mv", "rename"])
def test_a_folder_is_moved_with_what_marks_it(
    fs: Any, client: blockyard.BlockStore, move: str
) -> None:
    """Consoles and other tools keep an empty object for a folder."""
    for key in ("a/", "a/b", "a/c/", "a/c/d/", "a/e/f"):
        _ = client.write_block(key, key.encode())
    getattr(fs, move)("a", "z", recursive=True)
    moved = {key: client.read_block(key) for key in client.list_by_prefix()}
    assert moved == {f"z/{key}": f"a/{key}".encode() for key in ("", "b", "c/", "c/d/", "e/f")}
    assert not fs.exists("a")
    assert fs.isdir("z/c/d")
    fs.mv("z/c", "y")  # not all that is in it
    fs.cp("z/c", "x", recursive=True)
    assert client.list_by_prefix() == [*moved]


def test_a_folder_of_contents_is_moved(client: blockyard.BlockStore) -> None:
    fs: Any = BlockyardContentFileSystem(store=client)
    fs.pipe({"a/b": b"1", "a/c/d": b"2"})
    fs.mv("a", "z", recursive=True)
    assert fs.find("") == ["z/b", "z/c/d"]


def test_what_comes_while_a_folder_is_moved_stays(
    fs: Any, counted: Counted, client: blockyard.BlockStore
) -> None:
    fs.pipe({"a/b": b"1", "a/c": b"2"})

    async def meanwhile(operation: str, key: str) -> None:
        if operation == "copy_block":
            counted.hook = counted._note
            _ = client.write_block("a/new", b"3")

    counted.hook = meanwhile
    fs.mv("a", "z", recursive=True)
    assert client.list_by_prefix() == ["a/new", "z/b", "z/c"]


async def _gone(counted: Counted) -> None:
    """Somebody deletes `a`."""
    with blockyard.open_store(counted.inner) as client:
        client.delete_block("a")


class Unconditional(Counted):
    """A store that can't hold a delete to one version."""

    async def delete_block(self, ctx: Any, key: str, if_match: str | None = None) -> None:
        if if_match is not None:
            raise blockyard.UnsupportedError("deletes of any version alone")
        await super().delete_block(ctx, key)


@pytest.mark.parametrize("store", [Counted, Unconditional])
@pytest.mark.parametrize("system", [BlockyardFileSystem, BlockyardContentFileSystem])
@pytest.mark.parametrize("recursive", [False, True])
def test_a_version_that_comes_while_a_file_is_moved_stays(
    store: type[Counted], system: type[BlockyardFileSystem], recursive: bool
) -> None:
    counted = store()
    fs, other = system(store=counted), system(store=counted)
    other.pipe({"a/b": b"old", "a/c": b"1"})
    copied, replaced = fs._stores.place("a/b").files.copy, False

    async def meanwhile(name: str, to: str) -> None:
        nonlocal replaced
        await copied(name, to)
        if name == "a/b":
            await other._pipe_file("a/b", b"new")
            replaced = True

    fs._stores.place("a/b").files.copy = meanwhile
    with pytest.raises(blockyard.PreconditionFailedError) as raised:
        fs.mv("a" if recursive else "a/b", "z" if recursive else "z/b", recursive=recursive)
    assert replaced
    assert "mv: 'a/b' was copied, and replaced since" in raised.value.__notes__[0]
    assert (fs.cat_file("a/b"), fs.cat_file("z/b")) == (b"new", b"old")
    assert fs.exists("a/c") is not recursive


@pytest.mark.parametrize("store", [Counted, Unconditional])
def test_a_file_that_was_deleted_while_it_was_moved_is_moved(store: type[Counted]) -> None:
    counted = store()
    fs: Any = BlockyardFileSystem(store=counted)
    fs.pipe_file("a", b"1")

    async def meanwhile(operation: str, key: str) -> None:
        if operation == "delete_block":
            counted.hook = counted._note
            _ = await _gone(counted)

    counted.hook = meanwhile
    fs.mv("a", "z")
    assert fs.find("") == ["z"]


def test_a_delete_of_a_moved_file_without_a_reply(fs: Any, counted: Counted) -> None:
    """It was done, or it was not: the block says so."""
    fs.pipe({"a": b"1", "b": b"2"})

    async def lost(operation: str, key: str) -> None:
        if operation == "delete_block":
            if key == "a":
                _ = await _gone(counted)
            raise blockyard.TransportError("no reply")

    counted.hook = lost
    fs.mv("a", "z")
    with pytest.raises(blockyard.TransportError, match="no reply"):
        fs.mv("b", "y")
    assert fs.find("") == ["b", "y", "z"]


def test_a_move_that_fails_deletes_nothing(
    fs: Any, counted: Counted, client: blockyard.BlockStore
) -> None:
    fs.pipe({"a/b": b"1", "a/c": b"2"})

    async def failing(operation: str, key: str) -> None:
        if operation == "copy_block" and key == "z/c":
            raise blockyard.ServerError("broken", status=500)

    counted.hook = failing
    with pytest.raises(blockyard.ServerError):
        fs.mv("a", "z", recursive=True)
    assert {"a/b", "a/c"} <= set(client.list_by_prefix())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("x", "d/"),
        ("x", "d"),
        ("x", "new"),
        ("x", "new/"),
        ("x*", "d"),
        ("x*", "new"),
        ("*", "new/"),
        ("a", "d"),
        ("a/", "d"),
        ("a", "new"),
        ("a*", "d"),
        (["x"], "d/"),
        ("a/x", "d"),
    ],
)
def test_names_without_a_slash_are_copied_as_others_are(
    fs: Any, source: Any, target: str, tmp_path: Path
) -> None:
    """fsspec's own file system in memory has a slash in front of each path."""
    other = MemoryFileSystem(skip_instance_cache=True)
    other.store, other.pseudo_dirs = {}, [""]  # else those of all of its kind
    found: list[Any] = []
    for system, local in ((fs, tmp_path / "own"), (other, tmp_path / "other")):
        system.pipe({"x": b"1", "a/x": b"2", "d/e": b"3"})
        (local / "d").mkdir(parents=True)
        system.get(source, f"{local}/{target}", recursive=True)
        system.cp(source, target, recursive=True)
        got = sorted(str(each.relative_to(local)) for each in local.rglob("*") if each.is_file())
        found.append((got, {name.lstrip("/"): system.cat_file(name) for name in system.find("")}))
    assert found[0] == found[1]


@pytest.mark.parametrize("root", ["", "/", "blockyard://"])
def test_no_key_begins_with_a_slash_that_was_put_or_copied_to_where_all_are(
    fs: Any, tmp_path: Path, root: str
) -> None:
    (tmp_path / "s/t").mkdir(parents=True)
    for name in ("s/a", "s/t/b"):
        _ = (tmp_path / name).write_bytes(b"1")
    fs.put(f"{tmp_path}/s/a", root)
    fs.put([f"{tmp_path}/s/t/b"], root)
    fs.put(f"{tmp_path}/s", root, recursive=True)
    assert fs.find("") == ["a", "b", "s/a", "s/t/b"]
    fs.mv("s/t/b", root)
    fs.cp("s", root, recursive=True)
    fs.put(f"{tmp_path}/s/t/", root, recursive=True)
    fs.pipe_file("x/s/c", b"2")
    fs.cp("x/", root, recursive=True)
    fs.mv("x/s", root, recursive=True)
    assert fs.find("") == ["a", "b", "s/a", "s/c"]
    fs.pipe_file("/a", b"3")  # which is another key
    assert fs.cat_file("a") == b"1"


def test_a_name_without_a_slash_is_got_into_the_folder_of_a_path(fs: Any, tmp_path: Path) -> None:
    fs.pipe_file("x", b"1")
    fs.get("x", tmp_path)
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("how", ["mv", "cp"])
def test_copies_that_would_take_what_another_leaves_are_refused(fs: Any, how: str) -> None:
    """Else what is there in the end depends on the order, and a move deletes what it has made."""
    files = {"a/x": b"1", "a/b/x": b"2", "a/b/b/x": b"3", "c/x": b"4", "c/y": b"5"}
    fs.pipe(files)
    copy = getattr(fs, how)
    clashes: list[tuple[Any, Any]] = [
        ("a/", "a/b"),
        (["a/x", "c/y"], ["c/y", "a/x"]),
        (["a/x", "c/x"], "d/"),
        (["a/x", "c/x"], "c/"),
    ]
    for sources, target in clashes:
        with pytest.raises(ValueError, match="another file is copied from there, or to it"):
            copy(sources, target, recursive=True)
    assert {name: fs.cat_file(name) for name in fs.find("")} == files


def test_a_folder_is_moved_into_one_in_it_where_nothing_clashes(fs: Any) -> None:
    fs.pipe({"f/a/x": b"1", "f/a/b/y": b"2"})
    fs.mv("f/a/", "f/a/b", recursive=True)
    assert {name: fs.cat_file(name) for name in fs.find("")} == {
        "f/a/b/x": b"1",
        "f/a/b/b/y": b"2",
    }
    fs.mv(["f/a/b/x", "f/a/b/b/y"], "f/a/b/")  # the first one is there already
    assert fs.find("") == ["f/a/b/x", "f/a/b/y"]


def test_a_folder_is_deleted_and_nothing_beside_it(fs: Any, client: blockyard.BlockStore) -> None:
    for key in ("a/b", "a/c/d", "a/", "a", "a0/b", "a.blockyard", "b"):
        _ = client.write_block(key, b"1")
    fs.rm("a", recursive=True)
    assert client.list_by_prefix() == ["a.blockyard", "a0/b", "b"]
    fs.pipe({f"many/{number}": b"" for number in range(30)})
    fs.rm(fs.glob("many/1*"))
    assert len(fs.find("many")) == 30 - 11
    fs.rm("many", recursive=True, maxdepth=1)
    assert not fs.exists("many")


@pytest.mark.parametrize("what", ["a/**", ["a/b", "a"], ["a/b/c", "a/b/c", "a/b", "a/e"], "a*"])
def test_what_lies_below_something_that_is_deleted_is_not_missed(fs: Any, what: Any) -> None:
    fs.pipe({"a/b/c": b"1", "a/b/d": b"2", "a/e": b"3", "b": b"4"})
    fs.rm(what, recursive=True)
    assert fs.find("") == ["b"]


def test_contents_are_deleted_one_by_one(client: blockyard.BlockStore) -> None:
    fs = BlockyardContentFileSystem(store=client)
    fs.pipe({"a/b": DATA, "a/b/c": b"1", "ab": b"2"})
    assert fs.ls("a", detail=False) == ["a/b"]
    assert [(name, folders, names) for name, folders, names in fs.walk("a")] == [
        ("a", ["b"], ["b"]), ("a/b", [], ["c"])
    ]  # fmt: skip
    assert fs.find("a") == ["a/b", "a/b/c"]
    fs.rm("a", recursive=True)
    assert [each.content_id for each in client.list_contents()] == ["ab"]
    fs.cp_file("ab", "c/d")
    assert client.read_content("c/d") == b"2"
    _ = client.write_content("c/e", DATA)
    assert fs.cat("c/e") == DATA
    assert fs.du("c") == len(DATA) + 1
    assert fs.ls("c")[0]["size"] is None
    assert fs.info("c/e")["size"] == len(DATA)
    assert not fs.exists("c/e/chunk-0")


# Who may share it.


def test_open_stores_are_told_apart(tmp_path: Path) -> None:
    one, two = (blockyard.open_store("memory://") for _ in range(2))
    first, second = BlockyardFileSystem(store=one), BlockyardFileSystem(store=two)
    first.pipe_file("a", b"1")
    assert not second.exists("a")
    assert first != second
    assert first == BlockyardFileSystem(store=one)
    assert hash(first) == hash(BlockyardFileSystem(store=one))
    assert BlockyardFileSystem(store=one).cat("a") == b"1"
    by_url = [BlockyardFileSystem(store=tmp_path.as_uri()) for _ in range(2)]
    assert by_url[0] is by_url[1]
    two.close()
    with pytest.raises(blockyard.StoreClosedError):
        _ = second.exists("a")


def test_settings_do_not_apply_to_an_open_store() -> None:
    with (
        blockyard.open_store("memory://") as client,
        pytest.raises(blockyard.ConfigError, match="region: settings do not apply"),
    ):
        _ = BlockyardFileSystem(store=client, region="x")


def read_there(fs: Any, path: str) -> bytes:
    return fs.cat(path)


def test_file_systems_go_to_other_processes(tmp_path: Path) -> None:
    fs = BlockyardFileSystem(store=tmp_path.as_uri(), listings_expiry_time=1)
    fs.pipe_file("a", b"1")
    memory = BlockyardFileSystem(store="memory://")
    memory.pipe_file("a", b"2")
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert pickle.loads(pickle.dumps(memory)).cat("a") == b"2"
    with blockyard.open_store("memory://") as client:
        other = BlockyardFileSystem(store=client)
        other.pipe_file("a", b"3")
        assert pickle.loads(pickle.dumps(other)).cat("a") == b"3"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_there, fs, "a").result(60) == b"1"
        with pytest.raises(blockyard.UnsupportedError, match="memory of the process"):
            _ = pool.submit(read_there, memory, "a").result(60)


def test_a_pickled_store_that_is_closed_closes_no_file_system(tmp_path: Path) -> None:
    fs = BlockyardFileSystem(store=tmp_path.as_uri())
    fs.pipe_file("a", b"1")
    with blockyard.open_store(tmp_path.as_uri()) as store:
        told = pickle.dumps(store)
    with pickle.loads(told) as store:
        assert store._operations.store is fs._stores.given._operations.store
        assert store.read_block("a") == b"1"
    assert fs.cat("a") == b"1"
    with pickle.loads(told) as store:
        assert store._operations.store is fs._stores.given._operations.store


def test_no_secret_of_the_environment_is_in_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    fs = BlockyardFileSystem(region="eu-west-1")
    _ = fs._stores.place("bucket/a")
    assert b"hunter2" not in pickle.dumps(fs)
    assert "hunter2" not in repr(fs)
    assert "hunter2" not in fs.to_json()
    given = BlockyardFileSystem(access_key="AKIA", secret_key="hunter2hunter2", region="x")
    assert "hunter2" in given.to_json()
    assert "hunter2" not in given.to_json(include_password=False)
    assert given.to_dict(include_password=False)["region"] == "x"


KEY = base64.b64encode(bytes(range(32))).decode()
HELD: list[dict[str, Any]] = [
    {"access_key": "AKIA", "secret_key": "hunter2"},
    {"access_key": "AKIA", "secret_key": Secret("hunter2")},
    {"session_token": "hunter2"},
    {"customer_key": KEY},
    {"put": {"customer_key": KEY, "storage_class": "STANDARD_IA"}},
    {"put": PutConfig(customer_key=KEY)},
    {"proxy": "http://u:hunter2@proxy:1"},
    {"http": {"proxy": "http://u:hunter2@proxy:1", "max_idle": 7}},
    {"endpoint_url": "http://hunter2@host"},
    {"endpoint": "hunter2:@host"},
    {"password": "hunter2", "secret": "hunter2", "client_kwargs": {"key": "hunter2"}},
    {"store": "s3://my-data/x?access_key=AKIA&secret_key=hunter2&region=x"},
    {"store": "s3://my-data/x?region=x&proxy=http://u:hunter2@proxy:1"},
    {"store": "s3://my-data/x?proxy=http%3A%2F%2Fu%3Ahunter2%40proxy%3A1"},
    {"key": "AKIAhunter2", "secret": "hunter2", "token": "hunter2"},
]


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", [BlockyardFileSystem, BlockyardContentFileSystem])
def test_no_secret_is_written_that_is_to_be_left_out(kind: Any, held: dict[str, Any]) -> None:
    fs = kind(**held, max_attempts=3, listings_expiry_time=1)
    written = fs.to_json(include_password=False)
    assert "hunter2" not in written
    assert KEY not in written
    left = fs.to_dict(include_password=False)
    assert (left["max_attempts"], left["listings_expiry_time"]) == (3, 1)
    assert left.get("store", "").startswith("s3://my-data/x" if "store" in held else "")
    for text in (repr(fs), str(fs), fs.fsid, repr(fsspec.core.OpenFile(fs, "my-data/a"))):
        assert "hunter2" not in text
        assert KEY not in text


def test_all_else_is_written() -> None:
    options: dict[str, Any] = {
        "endpoint_url": "http://host:9000", "anon": True, "region": "x", "concurrency": 4,
        "put": {"storage_class": "STANDARD_IA"}, "http": {"max_idle": 7, "ca_bundle": ""},
        "timeouts": {"connect": 1.5}, "cache": {"memory": "1MiB", "revalidate": "never"},
        "batch_size": 7, "use_listings_cache": False,
    }  # fmt: skip
    for own in (options, {"store": "s3://my-data/x?region=x&endpoint=http://host:9000"}):
        fs = BlockyardFileSystem(**own, profile=None)
        written = fs.to_dict(include_password=False)
        assert own.items() <= written.items()
        assert written == fs.to_dict()
        assert fs.from_json(fs.to_json()).to_dict() == written


@pytest.mark.parametrize("held", HELD[:8])
def test_secrets_come_back_where_they_are_written(held: dict[str, Any]) -> None:
    fs = BlockyardFileSystem(**held)
    assert "hunter2" in fs.to_json() or KEY in fs.to_json()
    assert BlockyardFileSystem.from_json(fs.to_json()) == fs


def test_file_systems_of_other_secrets_are_others() -> None:
    """A secret's `repr` does not tell it from others, and by that fsspec finds equal ones."""

    def config(secret: str) -> blockyard.StoreConfig:
        return blockyard.StoreConfig(
            s3=S3Config(bucket="my-data", access_key="AKIA", secret_key=secret)
        )

    def put(number: int) -> PutConfig:
        return PutConfig(customer_key=base64.b64encode(bytes([number]) * 32).decode())

    makes: list[Callable[[int], dict[str, Any]]] = [
        lambda number: {"access_key": "AKIA", "secret_key": Secret(f"hunter{number}")},
        lambda number: {"http": {"proxy": Secret(f"http://u:hunter{number}@proxy:1")}},
        lambda number: {"put": put(number)},
        lambda number: {"store": config(f"hunter{number}")},
    ]
    for make in makes:
        one, two = BlockyardFileSystem(**make(1)), BlockyardFileSystem(**make(2))
        assert one is not two
        assert one != two
        assert one == BlockyardFileSystem(**make(1))
        assert pickle.loads(pickle.dumps(one)) == one


def test_a_file_system_that_another_process_could_not_have_is_not_written_as_json() -> None:
    for store in ("memory://", blockyard.StoreConfig(type="memory")):
        fs = BlockyardFileSystem(store=store)
        fs.pipe_file("a", b"1")
        assert pickle.loads(pickle.dumps(fs)).cat("a") == b"1"
        for write in (fs.to_json, fs.to_dict, partial(fs.to_json, include_password=False)):
            with pytest.raises(
                (blockyard.UnsupportedError, TypeError), match=r"memory of this process|StoreConfig"
            ):
                _ = write()
    with blockyard.open_store("memory://") as client:
        fs = BlockyardFileSystem(store=client)
        with pytest.raises(TypeError, match=r"store: expected a URL or a path, .* got BlockStore"):
            _ = fs.to_json()


def use_there(fs: Any, results: Any) -> None:
    with fs.open("dir/a") as file:
        read = file.read()
    fs.pipe_file(f"dir/{os.getpid()}", b"there")
    fs.invalidate_cache()
    results.put((read == DATA, fs.exists(f"dir/{os.getpid()}"), fs.cat("dir/a") == DATA))


def forked(work: Callable[[], object]) -> int:
    """The id of a child that does `work`. Coverage ends those of `multiprocessing` with 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _ = work()
        code = 0
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_after_the_parent_has_read() -> None:
    fork = multiprocessing.get_context("fork")
    with small_s3() as server:
        fs = fsspec.filesystem(
            "blockyard", store=server.store_url(), skip_instance_cache=True, deadline=60
        )
        fs.pipe_file("dir/a", DATA)
        for _ in range(3):
            results = fork.SimpleQueue()
            with fs.open("dir/a", block_size=100) as file:
                assert file.read(10) == DATA[:10]
                workers = [forked(partial(use_there, fs, results)) for _ in range(4)]
                assert fs.cat("dir/a") == DATA
                for worker in workers:
                    assert exit_code(worker) == 0
                    assert results.get() == (True, True, True)
                assert file.read() == DATA[10:]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_files_that_its_parent_writes(tmp_path: Path) -> None:
    fs = BlockyardContentFileSystem(store=tmp_path.as_uri())
    file = fs.open("a", "wb", block_size=1000)
    _ = file.write(DATA[:2500])

    def there() -> None:
        with pytest.raises(ValueError, match="another process"):
            _ = file.write(b"x")
        file.close()
        assert not fs.exists("a")

    assert exit_code(forked(there)) == 0
    _ = file.write(DATA[2500:5000])
    file.close()
    assert fs.cat("a") == DATA[:5000]


def test_threads_share_a_file_system(fs: Any) -> None:
    def use(number: int) -> None:
        for turn in range(20):
            path = f"a/{number}/{turn}"
            fs.pipe_file(path, b"1")
            assert fs.exists(path)
            fs.rm(path)
            assert not fs.exists(path)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fs.find("a") == []


def test_it_is_used_from_a_loop_of_ones_own(tmp_path: Path) -> None:
    import asyncio

    async def use() -> bytes:
        fs = BlockyardFileSystem(store=tmp_path.as_uri(), asynchronous=True)
        await fs._pipe_file("a/b", b"1")
        assert [each async for each in fs._walk("a")] == [("a", [], ["b"])]
        assert await fs._exists("a/b")
        return await fs._cat_file("a/b")

    assert asyncio.run(use()) == b"1"


# With others.


def test_buckets(
    moto_endpoint: Endpoint, bucket: str, cleared_bucket: str, key_prefix: str
) -> None:
    options = {
        "endpoint_url": moto_endpoint.url,
        "access_key": moto_endpoint.access_key,
        "secret_key": moto_endpoint.secret_key,
    }
    url = f"blockyard://{bucket}/{key_prefix}a?force_path_style=true"
    with fsspec.open(url, "wb", **options) as file:
        _ = file.write(DATA)
    s3 = boto3_client(moto_endpoint)
    assert s3.get_object(Bucket=bucket, Key=f"{key_prefix}a")["Body"].read() == DATA
    fs = fsspec.filesystem("blockyard", force_path_style=True, **options)
    there = f"{cleared_bucket}/{key_prefix}b"
    try:
        fs.cp(f"{bucket}/{key_prefix}a", there)
        assert fs.cat(there) == DATA
        fs.mv(there, f"blockyard://{bucket}/{key_prefix}c")
        assert fs.ls(f"{bucket}/{key_prefix}", detail=False) == [
            f"{bucket}/{key_prefix}a", f"{bucket}/{key_prefix}c"
        ]  # fmt: skip
        assert not fs.exists(there)
        assert fs.isdir(bucket)
    finally:
        fs.rm([there])
    with pytest.raises(blockyard.BucketNotFoundError):
        _ = fs.exists("no-such-bucket-anywhere/a")
    fs.rm(f"{bucket}/{key_prefix}", recursive=True)
    assert not fs.exists(f"{bucket}/{key_prefix}")
    s3.close()


ALL_OPTIONS = blockyard.PutOptions(
    content_type="text/css",
    cache_control="max-age=5",
    content_disposition="attachment",
    content_encoding="gzip",
    content_language="de",
    metadata={"name": "value", "empty": ""},
    tags={"one": "1", "two words": "a=b +c"},
)


def settings_of(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint.url,
        "access_key": endpoint.access_key,
        "secret_key": endpoint.secret_key,
        "force_path_style": True,
    }


@pytest.mark.parametrize("how", ["cp", "mv"])
@pytest.mark.parametrize("size", [0, 10, 9 * 2**20])
def test_what_is_copied_to_another_bucket_is_as_it_was(  # noqa: PLR0917 - fixtures
    moto_endpoint: Endpoint, bucket: str, cleared_bucket: str, key_prefix: str, how: str, size: int
) -> None:
    fs: Any = fsspec.filesystem("blockyard", **settings_of(moto_endpoint))
    source, target = f"{bucket}/{key_prefix}a", f"{cleared_bucket}/{key_prefix}a"
    fs.pipe_file(source, bytes(size), options=ALL_OPTIONS)
    s3: Any = boto3_client(moto_endpoint)
    try:
        getattr(fs, how)(source, target)
        assert fs.exists(source) == (how == "cp")
        assert fs.cat(target) == bytes(size)
        there = {"Bucket": cleared_bucket, "Key": f"{key_prefix}a"}
        found = s3.head_object(**there)
        headers = [found[f"Content{each}"] for each in ("Type", "Disposition", "Language")]
        assert headers == ["text/css", "attachment", "de"]
        assert found["ContentEncoding"].split(",")[0] == "gzip"
        assert found["CacheControl"] == "max-age=5"
        own = {name: text for name, text in found["Metadata"].items() if "blockyard" not in name}
        assert own == {"name": "value", "empty": ""}
        tags = {each["Key"]: each["Value"] for each in s3.get_object_tagging(**there)["TagSet"]}
        assert tags == ALL_OPTIONS.tags
    finally:
        fs.rm([target])
        s3.close()


def test_a_content_is_copied_to_another_bucket_as_it_was(
    moto_endpoint: Endpoint, bucket: str, cleared_bucket: str, key_prefix: str
) -> None:
    fs: Any = fsspec.filesystem("blockyard+content", **settings_of(moto_endpoint))
    source, target = f"{bucket}/{key_prefix}c", f"{cleared_bucket}/{key_prefix}c"
    modified = datetime(2026, 1, 2, tzinfo=UTC)
    given: dict[str, Any] = {"content_type": "text/css", "metadata": {"name": "value"}}
    fs.pipe_file(source, DATA, **given, modified=modified, block_size=20_000)
    try:
        fs.mv(source, target)
        assert fs.cat(target) == DATA
        there = fs._stores.place(target)
        info = asyncio.run_coroutine_threadsafe(
            there.files._store.stat_content(there.name), fs.loop
        ).result(60)
        assert (info.content_type, info.metadata) == ("text/css", {"name": "value"})
        assert info.modified == modified
    finally:
        fs.rm([target])


def test_what_is_replaced_while_it_is_copied_to_another_bucket_is_not_moved() -> None:
    """Else one version's bytes would have the other's metadata."""
    with blockyard.open_store("memory://") as source, blockyard.open_store("memory://") as target:
        for kind, write in (
            (BlockyardFileSystem, source.write_block),
            (BlockyardContentFileSystem, source.write_content),
        ):
            _ = write("a", b"old")
            _ = (fs := kind(store=source)).pipe_file("a", b"old")
            place, to = fs._stores.place("a"), kind(store=target)._stores.place("a")
            carried = place.files.carried

            async def replaced(
                name: str, carried: Any = carried, write: Any = write
            ) -> tuple[dict[str, Any], str]:
                found = await carried(name)
                _ = await asyncio.to_thread(write, "a", b"new")
                return found

            place.files.carried = replaced
            with pytest.raises((blockyard.PreconditionFailedError, blockyard.ContentReplacedError)):
                sync(fs.loop, changes._copy_across, place, to)
            assert source.list_by_prefix("a") != []
        assert target.list_by_prefix() == []


def test_pathlib(tmp_path: Path) -> None:
    path = UPath("blockyard://bucket/a/b.txt", store=tmp_path.as_uri())
    assert type(path).__name__ == "BlockyardPath"
    _ = path.write_text("text")
    assert path.read_text() == "text"
    assert path.stat().st_size == 4
    assert [str(each) for each in path.parent.iterdir()] == ["blockyard://bucket/a/b.txt"]
    assert [each.name for each in path.parent.parent.rglob("*.txt")] == ["b.txt"]
    assert path.is_file()
    assert path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    question = path.with_name("b?region=x")
    _ = path.rename(question)
    assert str(question) == "blockyard://bucket/a/b%3Fregion=x"
    assert UPath(str(question), **question.storage_options).read_text() == "text"
    assert str(path.relative_to(path.parent)) == "b.txt"
    assert pickle.loads(pickle.dumps(question)).exists()
    question.unlink()
    assert not path.parent.exists()
    content = UPath("bucket/a", protocol="blockyard+content", store=tmp_path.as_uri())
    _ = content.write_bytes(b"1")
    assert content.read_bytes() == b"1"


def test_chained_with_fsspecs_own(fs: Any, tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    with fsspec.open("blockyard://x/a.gz", "wt", compression="infer", store=url) as file:
        _ = file.write("text")
    with fsspec.open(
        "simplecache::blockyard://x/a.gz", "rt", compression="infer",
        blockyard={"store": url}, simplecache={"cache_storage": str(tmp_path / "cache")},
    ) as file:  # fmt: skip
        assert file.read() == "text"
    mapper = fsspec.get_mapper("blockyard://m", store=url)
    mapper["k"] = b"v"
    assert dict(mapper) == {"k": b"v"}


def test_nothing_of_fsspec_is_imported_with_the_package() -> None:
    code = (
        "import blockyard, sys; blockyard.open_store; print('fsspec' in sys.modules)\n"
        "import blockyard.fsspec as own, fsspec; print(own is not fsspec)\n"
        "print('upath' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\nTrue\nFalse\n"


@pytest.fixture(autouse=True)
def _no_kept_instances() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    BlockyardFileSystem.clear_instance_cache()
    BlockyardContentFileSystem.clear_instance_cache()


def test_a_signed_url_is_read_by_whoever_has_it(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    fs: Any = fsspec.filesystem(
        "blockyard",
        endpoint_url=moto_endpoint.url,
        force_path_style=True,
        access_key=moto_endpoint.access_key,
        secret_key=moto_endpoint.secret_key,
    )
    fs.pipe(f"{bucket}/{key_prefix}a b", DATA)
    url = fs.sign(f"blockyard://{bucket}/{key_prefix}a b", expiration=60)
    assert "X-Amz-Expires=60" in url
    with urllib.request.urlopen(url) as reply:  # noqa: S310 - of this machine
        assert reply.read() == DATA


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"request_payer": True},
            "needs headers beside the URL: x-amz-request-payer",
        ),
        ({}, "a content is several objects"),
    ],
)
def test_what_no_url_alone_gives_is_not_signed(options: dict[str, Any], match: str) -> None:
    kind = BlockyardFileSystem if options else BlockyardContentFileSystem
    fs = kind(endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b" * 9, **options)
    with pytest.raises(blockyard.UnsupportedError, match=match):
        fs.sign("bucket/a")


def test_a_store_without_urls_signs_nothing(fs: Any) -> None:
    with pytest.raises(blockyard.UnsupportedError):
        fs.sign("a")
