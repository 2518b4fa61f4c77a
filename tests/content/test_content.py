"""Contents of small blocks, through both clients: what goes in comes out, by every way."""

from __future__ import annotations

import array
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blockyard import (
    BLOCK_SIZE,
    BlockNotFoundError,
    ContentChangedError,
    ContentExistsError,
    ContentReplacedError,
    IntegrityError,
    InvalidKeyError,
    InvalidRangeError,
    LocalStorageError,
    StoreClosedError,
)
from blockyard.crc32c import crc32c
from blockyard.model import KIB
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from tests.hooked_store import HookedStore, nothing, shrink_blocks

BLOCK = 32
CHUNK = 16 * BLOCK
SIZES = [0, 1, BLOCK, BLOCK + 1, CHUNK, 3 * CHUNK + 5]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - the same every time


@pytest.fixture
def hooked() -> HookedStore:
    return HookedStore(MemoryStore())


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest, hooked: HookedStore) -> Iterator[BlockStore]:
    with open_client(request.param, hooked) as client:
        shrink_blocks(client.store, BLOCK)
        yield client.store


def _reused_buffer(data: bytes) -> Iterator[memoryview]:
    """What a careful reader of files does: every part comes in the same memory."""
    buffer = bytearray(7)
    for start in range(0, len(data), 7):
        part = data[start : start + 7]
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]


SOURCES: dict[str, Callable[[bytes, Path], object]] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "items of several bytes": lambda data, _: memoryview(data).cast("B"),
    "path": lambda data, path: (path.write_bytes(data), path)[1],
    "path as str": lambda data, path: (path.write_bytes(data), str(path))[1],
    "file": lambda data, _: io.BytesIO(data),
    "list": lambda data, _: [data[:5], b"", data[5:100], data[100:]],
    "one buffer used again": lambda data, _: _reused_buffer(data),
}


class TestWriting:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("kind", SOURCES)
    def test_what_went_in_comes_out(
        self, store: BlockStore, tmp_path: Path, kind: str, size: int
    ) -> None:
        data = content(size)
        info = store.write_content("a/movie", SOURCES[kind](data, tmp_path / "source"))
        assert (info.content_id, info.size) == ("a/movie", size)
        assert info.blocks == len(store.list_by_prefix()) - 1 == -(-size // BLOCK)
        stat = store.stat_content("a/movie")
        assert (stat.size, stat.version, stat.crc32c) == (size, info.version, crc32c(data))
        assert store.read_content("a/movie") == data

    def test_the_keys_of_blocks_are_in_the_order_of_the_content(self, store: BlockStore) -> None:
        data = content(2 * CHUNK + 1)
        version = store.write_content("a b/%41+ü", data).version
        keys = [
            f"a b/%41+ü/{version}/chunk-{index // 16:06}/block-{index % 16:04}"
            for index in range(33)
        ]
        assert store.list_by_prefix("a b/%41+ü/") == keys
        assert b"".join(store.read_block(key) for key in keys) == data
        assert store.list_by_prefix()[0] == "a b/%41+ü.blockyard"

    @pytest.mark.parametrize("size", [0, 1, 64 * KIB])
    def test_what_is_small_is_kept_in_the_manifest(self, hooked: HookedStore, size: int) -> None:
        data = content(size)
        calls: list[str] = []

        async def note(operation: str, key: str) -> None:
            calls.append(operation)

        with open_client("blocking", hooked) as client:
            assert client.store.write_content("small", data).blocks == 0
            assert client.store.list_by_prefix() == ["small.blockyard"]
            hooked.hook = note
            assert client.store.read_content("small") == data
            assert calls == ["read_content"]
            assert client.store.write_content("small", content(64 * KIB + 1)).blocks == 1

    def test_what_the_writer_says_of_it_is_told(self, store: BlockStore) -> None:
        modified = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
        said = {"content_type": "text/plain", "metadata": {"owner": "ä€", "": "x"}}
        store.write_content("notes", content(100), modified=modified, **said)
        info = store.stat_content("notes")
        assert (info.content_type, info.metadata) == ("text/plain", said["metadata"])
        assert info.modified == modified
        copied = store.copy_content("notes", "copy")
        assert copied.metadata == store.stat_content("copy").metadata == said["metadata"]
        assert store.write_content("notes", b"x").metadata == {}

    def test_a_writer_chooses_the_size_of_blocks(self, store: BlockStore) -> None:
        info = store.write_content("movie", content(1000), block_size=70)
        assert (info.blocks, info.block_size) == (15, 70)
        assert store.read_content("movie", 69, 72) == content(1000)[69:141]
        assert store.copy_content("movie", "copy").block_size == 70

    @pytest.mark.parametrize(
        ("option", "value", "error"),
        [
            ("block_size", 0, ValueError),
            ("block_size", 2**40, ValueError),
            ("metadata", {"a": 1}, TypeError),
            ("metadata", {"a": "x" * 9000}, ValueError),
            ("metadata", [("a", "b")], TypeError),
            ("modified", datetime(2026, 1, 1), ValueError),  # noqa: DTZ001
            ("modified", 5.0, TypeError),
            ("content_type", b"text", TypeError),
        ],
    )
    def test_what_can_not_be_said_of_it_is_refused(
        self, store: BlockStore, option: str, value: object, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=option):
            store.write_content("movie", b"data", **{option: value})
        assert store.list_by_prefix() == []

    def test_items_wider_than_a_byte_are_stored_as_their_bytes(self, store: BlockStore) -> None:
        numbers = array.array("d", range(100))
        assert store.write_content("numbers", numbers).size == 800
        assert store.read_content("numbers") == numbers.tobytes()

    def test_a_file_is_read_from_its_position_on(self, store: BlockStore) -> None:
        file = io.BytesIO(content(100))
        file.seek(40)
        store.write_content("rest", file)
        assert store.read_content("rest") == content(100)[40:]

    def test_a_pipe_at_a_path_is_read_to_its_end(self, store: BlockStore, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(content(1000),))
        writer.start()
        assert store.write_content("piped", pipe).size == 1000
        writer.join()
        assert store.read_content("piped") == content(1000)

    @pytest.mark.parametrize("old", SIZES)
    @pytest.mark.parametrize("new", SIZES)
    def test_a_rewrite_leaves_nothing_of_the_old(
        self, store: BlockStore, old: int, new: int
    ) -> None:
        store.write_content("again", content(old, seed=1))
        store.write_content("again/nested", b"of its own")
        store.write_content("again", content(new, seed=2))
        assert store.read_content("again") == content(new, seed=2)
        assert store.read_content("again/nested") == b"of its own"
        store.clean_contents(dry_run=False, no_writers=True)
        assert len(store.list_by_prefix()) == -(-new // BLOCK) + 3
        assert store.read_content("again") == content(new, seed=2)
        assert store.read_content("again/nested") == b"of its own"

    def test_progress_counts_up_to_the_size(self, store: BlockStore, tmp_path: Path) -> None:
        written: list[int] = []
        store.write_content("movie", content(1000), progress=written.append)
        read: list[int] = []
        store.read_content_into("movie", tmp_path / "copy", progress=read.append)
        copied: list[int] = []
        store.copy_content("movie", "copy", progress=copied.append)
        for steps in (written, read, copied):
            assert steps == sorted(steps)
            assert len(steps) == -(-1000 // BLOCK)
            assert steps[-1] == 1000

    @pytest.mark.parametrize(
        "source", [3, None, ["text"], [b"x", None], io.StringIO("text"), memoryview(b"abcd")[::2]]
    )
    def test_what_is_no_source_is_a_type_error_and_leaves_nothing(
        self, store: BlockStore, source: object
    ) -> None:
        with pytest.raises(TypeError):
            store.write_content("movie", source)
        assert store.list_by_prefix() == []

    def test_a_file_that_is_not_there(self, store: BlockStore, tmp_path: Path) -> None:
        with pytest.raises(LocalStorageError, match="missing': No such file"):
            store.write_content("movie", tmp_path / "missing")
        assert store.list_by_prefix() == []

    def test_a_file_cut_short_meanwhile(
        self, store: BlockStore, hooked: HookedStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "shrinking"
        path.write_bytes(content(10 * CHUNK))

        async def cut(operation: str, key: str) -> None:
            if operation == "write_block":
                os.truncate(path, 10)

        hooked.hook = cut
        with pytest.raises(LocalStorageError, match="changed while it was read"):
            store.write_content("movie", path)
        assert store.list_by_prefix() == []


class TestReading:
    def test_a_content_that_is_not_there(self, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie/chunk-0", b"another one's")
        store.write_content("gone", content(100))
        store.delete_content("gone")
        for call in (
            lambda: store.read_content("movie"),
            lambda: store.read_content_into("movie", tmp_path / "out"),
            lambda: list(store.iter_content("movie")),
            lambda: store.open_content("movie"),
            lambda: store.stat_content("movie"),
            lambda: store.copy_content("movie", "copy"),
        ):
            with pytest.raises(BlockNotFoundError, match="'movie': there is no such content"):
                call()
        assert list(tmp_path.glob("*out*")) == []

    @pytest.mark.parametrize("concurrency", [1, 7, 32])
    @pytest.mark.parametrize("size", SIZES)
    def test_every_way_out(
        self, store: BlockStore, tmp_path: Path, size: int, concurrency: int
    ) -> None:
        data = content(size)
        store.write_content("movie", data)
        narrow = store.with_options(concurrency=concurrency)
        shrink_blocks(narrow, BLOCK)
        assert narrow.read_content("movie") == data
        assert b"".join(narrow.iter_content("movie")) == data
        file = io.BytesIO()
        assert narrow.read_content_into("movie", file) == size
        assert file.getvalue() == data
        assert narrow.read_content_into("movie", tmp_path / "file") == size
        assert (tmp_path / "file").read_bytes() == data

    def test_ranges_touch_only_their_blocks(self, store: BlockStore, hooked: HookedStore) -> None:
        data = content(2 * CHUNK + 5)
        store.write_content("movie", data)
        requests: list[str] = []

        async def note(operation: str, key: str) -> None:
            assert operation == "read_content"
            requests.append(key)

        hooked.hook = note
        cases: list[tuple[int, int | None, list[int]]] = [
            (0, 0, []),
            (3, 4, [0]),
            (BLOCK, BLOCK, [1]),
            (BLOCK - 1, BLOCK + 2, [0, 1, 2]),
            (CHUNK - 1, 2, [15, 16]),
            (2 * CHUNK, None, [32]),
            (2 * CHUNK + 4, 1000, [32]),
        ]
        for offset, length, blocks in cases:
            requests.clear()
            stop = None if length is None else offset + length
            assert store.read_content("movie", offset, length) == data[offset:stop]
            assert requests[0] == "movie.blockyard"
            places = [f"chunk-{index // 16:06}/block-{index % 16:04}" for index in blocks]
            assert (
                sorted(key[-len(places[0]) :] for key in requests[1:]) == places
                if places
                else (len(requests) == 1)
            )

    @pytest.mark.parametrize(
        ("size", "offset", "length"),
        [(10, 10, None), (10, 11, 1), (0, 1, None), (10, -1, 2), (10, 0, -1), (10, 2**63, None)],
    )
    def test_ranges_outside(
        self, store: BlockStore, size: int, offset: int, length: int | None
    ) -> None:
        store.write_content("movie", content(size))
        with pytest.raises(InvalidRangeError, match="'movie'"):
            store.read_content("movie", offset, length)
        with pytest.raises(InvalidRangeError, match="'movie'"):
            store.read_content_into("movie", io.BytesIO(), offset=offset, length=length)

    def test_a_target_that_takes_little_at_a_time(self, store: BlockStore) -> None:
        class Slow(io.RawIOBase):
            taken = b""

            def write(self, data: memoryview) -> int:
                self.taken += bytes(data[:5])
                return min(5, len(data))

        store.write_content("movie", content(200))
        target = Slow()
        store.read_content_into("movie", target)
        assert target.taken == content(200)


class TestFiles:
    def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_a_link(
        self, store: BlockStore, tmp_path: Path
    ) -> None:
        store.write_content("movie", content(100))
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "file").write_bytes(b"a longer file than what comes" * 100)
        (folder / "file").chmod(0o640)
        (folder / "link").symlink_to("file")
        store.read_content_into("movie", folder / "link")
        assert (folder / "file").read_bytes() == content(100)
        assert (folder / "file").stat().st_mode & 0o777 == 0o640
        assert sorted(os.listdir(folder)) == ["file", "link"]
        assert (folder / "link").is_symlink()

    def test_a_new_file_has_the_usual_permissions(self, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie", b"x")
        store.read_content_into("movie", tmp_path / "new")
        (tmp_path / "usual").touch()
        assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_a_read_that_fails_leaves_the_old_file(
        self, store: BlockStore, hooked: HookedStore, tmp_path: Path
    ) -> None:
        store.write_content("movie", content(1000))
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "file").write_bytes(b"old")

        async def refuse(operation: str, key: str) -> None:
            if key.endswith("block-0007"):
                raise IntegrityError("damaged")

        hooked.hook = refuse
        with pytest.raises(IntegrityError, match="damaged"):
            store.read_content_into("movie", folder / "file")
        assert (folder / "file").read_bytes() == b"old"
        assert os.listdir(folder) == ["file"]

    def test_a_pipe_is_written_to_not_replaced(self, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie", content(1000))
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        assert store.read_content_into("movie", pipe) == 1000
        reader.join()
        assert got == [content(1000)]
        assert pipe.is_fifo()

    @pytest.mark.parametrize(
        ("target", "why"), [("missing/file", "No such file"), ("", "is a folder, not a file")]
    )
    def test_a_place_where_no_file_can_be(
        self, store: BlockStore, tmp_path: Path, target: str, why: str
    ) -> None:
        store.write_content("movie", b"x")
        with pytest.raises(LocalStorageError, match=why):
            store.read_content_into("movie", tmp_path / target)


class TestPlainLayout:
    """Blocks that other systems wrote, `CONTENT/chunk-C/block-B`, with no manifest."""

    def write(self, store: BlockStore, data: bytes, name: str = "movie") -> None:
        for index in range(max(1, -(-len(data) // BLOCK))):
            block = data[index * BLOCK : (index + 1) * BLOCK]
            store.write_block(f"{name}/chunk-{index // 16}/block-{index % 16}", block)

    @pytest.mark.parametrize("size", SIZES)
    def test_it_is_read_by_every_way(self, store: BlockStore, tmp_path: Path, size: int) -> None:
        data = content(size)
        self.write(store, data)
        info = store.stat_content("movie")
        assert (info.size, info.version, info.crc32c) == (size, "", None)
        assert store.content_exists("movie")
        assert [entry.content_id for entry in store.list_contents()] == ["movie"]
        assert store.read_content("movie") == data
        assert b"".join(store.iter_content("movie")) == data
        assert store.read_content_into("movie", tmp_path / "out") == size
        assert (tmp_path / "out").read_bytes() == data
        store.copy_content("movie", "copy")
        assert store.read_content("copy") == data
        store.delete_content("movie")
        assert not store.content_exists("movie")
        assert store.list_by_prefix("movie/") == []

    def test_a_write_hides_it_and_a_delete_takes_both(self, store: BlockStore) -> None:
        self.write(store, content(100))
        store.write_content("movie", b"newer")
        assert store.read_content("movie") == b"newer"
        store.delete_content("movie")
        assert not store.content_exists("movie")
        store.clean_contents(dry_run=False, no_writers=True)
        assert store.list_by_prefix() == []

    def test_it_is_there_for_if_absent_and_has_no_version(self, store: BlockStore) -> None:
        self.write(store, content(100))
        with pytest.raises(ContentExistsError, match="plain layout"):
            store.write_content("movie", b"newer", if_absent=True)
        with pytest.raises(ContentChangedError):
            store.write_content("movie", b"newer", if_match="x")
        assert store.read_content("movie") == content(100)

    def test_one_that_is_written_again_meanwhile_is_never_a_mixture(
        self, store: BlockStore, hooked: HookedStore
    ) -> None:
        self.write(store, content(100, seed=1))

        async def rewrite(operation: str, key: str) -> None:
            if key.endswith("block-3"):
                hooked.hook = nothing
                self.write(plain, content(100, seed=2))

        with open_client("blocking", hooked.inner) as client:
            plain = client.store
            hooked.hook = rewrite
            with pytest.raises(ContentReplacedError, match="'movie'"):
                store.read_content_into("movie", io.BytesIO())
            assert store.read_content("movie") == content(100, seed=2)

    def test_adopted_it_has_a_manifest_and_stays_where_it_is(
        self, hooked: HookedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = content(2 * BLOCK_SIZE + 5)
        with open_client("blocking", hooked) as client:
            store = client.store
            for index in range(3):
                block = data[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
                store.write_block(f"movie/chunk-0/block-{index}", block)
            before = store.list_by_prefix()
            adopted = store.adopt_content("movie")
            assert store.stat_content("movie").version == adopted.version != ""
            assert store.list_by_prefix() == ["movie.blockyard", *before]
            assert store.adopt_content("movie").version == adopted.version
            assert store.read_content("movie") == data
            store.write_block("movie/chunk-0/block-1", bytes(BLOCK_SIZE))
            with pytest.raises(IntegrityError, match="movie/chunk-0/block-1"):
                store.read_content("movie")
            store.write_content("movie", b"newer", if_match=adopted.version)
            store.delete_content("movie")
            store.clean_contents(dry_run=False, no_writers=True)
            assert store.list_by_prefix() == []

    def test_what_can_not_be_adopted(self, store: BlockStore) -> None:
        with pytest.raises(BlockNotFoundError, match="'movie'"):
            store.adopt_content("movie")
        store.write_block("movie/chunk-0/block-1", b"x")
        with pytest.raises(IntegrityError, match="unfinished"):
            store.adopt_content("movie")

    @pytest.mark.parametrize("missing", [1, 2, 16, 20, 31])
    def test_a_hole_is_named(self, store: BlockStore, tmp_path: Path, missing: int) -> None:
        self.write(store, content(2 * CHUNK + 1))
        key = f"movie/chunk-{missing // 16}/block-{missing % 16}"
        store.delete_block(key)
        for call in (
            lambda: store.stat_content("movie"),
            lambda: store.read_content("movie", 0, 1),
            lambda: store.read_content_into("movie", tmp_path / "out"),
            lambda: store.open_content("movie"),
            lambda: store.copy_content("movie", "copy"),
        ):
            with pytest.raises(IntegrityError, match=f"there is a hole: '{key}' is missing"):
                call()
        assert store.list_by_prefix("copy") == []

    @pytest.mark.parametrize(("index", "size"), [(0, 5), (3, 0), (3, BLOCK + 1), (4, BLOCK + 1)])
    def test_a_block_of_the_wrong_size_is_named(
        self, store: BlockStore, index: int, size: int
    ) -> None:
        self.write(store, content(4 * BLOCK + 1))
        key = f"movie/chunk-0/block-{index}"
        store.write_block(key, bytes(size))
        with pytest.raises(IntegrityError, match=f"'{key}' has {size} bytes where {BLOCK}"):
            store.stat_content("movie")

    def test_without_block_0_it_is_unfinished_and_can_be_deleted(self, store: BlockStore) -> None:
        self.write(store, content(1000))
        store.delete_block("movie/chunk-0/block-0")
        with pytest.raises(IntegrityError, match="unfinished: 'movie/chunk-0/block-0'"):
            store.read_content("movie")
        assert not store.content_exists("movie")
        store.delete_content("movie")
        assert store.list_by_prefix() == []

    def test_keys_that_only_look_like_blocks_are_not_of_the_content(
        self, store: BlockStore
    ) -> None:
        others = [
            "movie/chunk-00/block-0",
            "movie/chunk-0/block-01",
            "movie/chunk-0/block-16",
            "movie/chunk-0/block-1/x",
            "movie/chunk-1/block-\u0661",
            "movie/chunk-x/block-0",
            "movie/20260101T000000Z-0123456789abcdef/notes",
            "movie/20260101T000000Z-0123456789abcde/chunk-000000/block-0000",
            "moviechunk-0/block-0",
            "movie",
        ]
        for key in others:
            store.write_block(key, b"other")
        self.write(store, content(40))
        assert store.stat_content("movie").size == 40
        store.write_content("movie", content(50))
        store.write_content("movie", content(60))
        store.delete_content("movie")
        store.clean_contents(dry_run=False, no_writers=True)
        assert sorted(store.list_by_prefix()) == sorted(others)


class TestListed:
    """What `list_contents` tells of what is there."""

    def test_what_is_no_content_is_left_out(self, store: BlockStore) -> None:
        for key in (
            "chunk-0/block-0",
            "/chunk-0/block-0",
            "a/chunk-00/block-0",
            "a/chunk-0/block-16",
            "a/chunk-0/block-0/x",
            "b/chunk-0/block-1",
            "d" * 961 + "/chunk-0/block-0",
            "e/chunk-0",
            "f.blockyard",
            ".blockyard",
            "g/20260101T000000Z-0123456789abcdef/chunk-000000/block-0000",
        ):
            store.write_block(key, b"other")
        store.write_content("gone", content(100))
        store.delete_content("gone")
        assert store.list_contents() == []
        store.write_content("movie", b"whole")
        assert [entry.content_id for entry in store.list_contents()] == ["movie"]

    def test_contents_below_contents_are_told_apart(self, store: BlockStore) -> None:
        names = ["a", "a/b", "a/b/c", "a/chunk"]
        for size, name in enumerate(names):
            store.write_content(name, content(40 * size))
        assert [entry.content_id for entry in store.list_contents()] == names
        assert [entry.content_id for entry in store.list_contents("a/b")] == names[1:3]

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7])
    def test_over_pages_in_the_order_of_ids(
        self, store: BlockStore, page_size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ["a", "a!", "a/b", "b", "\U0001f600"]
        for size, name in enumerate(names):
            store.write_content(name, content(size * BLOCK))
        monkeypatch.setattr("blockyard.prefixes.PAGE_SIZE", page_size)
        listed = store.list_contents()
        assert [entry.content_id for entry in listed] == names
        assert [store.stat_content(name).size for name in names] == [
            size * BLOCK for size in range(5)
        ]
        assert store.list_contents("a/") == listed[2:3]

    def test_a_folder_is_one_request_and_one_for_each_content_with_blocks(
        self, store: BlockStore, hooked: HookedStore
    ) -> None:
        for number in range(30):
            store.write_content(f"folder/{number:02}", content(CHUNK))
            store.write_content(f"folder/empty-{number:02}", b"")
        listings: list[str] = []

        async def note(operation: str, key: str) -> None:
            listings.append(key)

        hooked.hook = note
        assert len(store.list_contents("folder/")) == 60
        assert sorted(listings) == ["folder/", *(f"folder/{number:02}/" for number in range(30))]


class TestCleaning:
    def test_only_what_is_old_enough_is_removed(
        self, store: BlockStore, hooked: HookedStore
    ) -> None:
        store.write_content("movie", content(100, seed=1))
        store.write_content("movie", content(100, seed=2))
        store.write_block("gone/20260101T000000Z-0123456789abcdef/chunk-000000/block-0000", b"x")
        store.write_content("deleted", content(100))
        store.delete_content("deleted")
        report = store.clean_contents(dry_run=False)
        assert report.removed == []
        assert {each.what for each in report.kept} >= {"orphan", "replaced"}
        before = store.list_by_prefix()
        promised = store.clean_contents(no_writers=True)
        assert store.list_by_prefix() == before
        done = store.clean_contents(dry_run=False, no_writers=True)
        assert done.removed == promised.removed
        assert done.kept == []
        assert done.size == 100 + 1
        assert len(store.list_by_prefix()) == 5
        assert store.read_content("movie") == content(100, seed=2)

    @pytest.mark.parametrize(("hours", "gone"), [(23, 0), (25, 1)])
    def test_age_is_by_the_clock_of_the_service(
        self,
        store: BlockStore,
        hooked: HookedStore,
        monkeypatch: pytest.MonkeyPatch,
        hours: int,
        gone: int,
    ) -> None:
        store.write_block("gone/20260101T000000Z-0123456789abcdef/chunk-000000/block-0000", b"x")
        theirs = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(hooked, "date", lambda ctx: theirs)
        assert len(store.clean_contents(dry_run=False).removed) == gone

    def test_age_is_no_matter_where_nobody_writes(
        self, store: BlockStore, hooked: HookedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write_block("gone/20260101T000000Z-0123456789abcdef/chunk-000000/block-0000", b"x")
        theirs = datetime.now(UTC) - timedelta(seconds=1)
        monkeypatch.setattr(hooked, "date", lambda ctx: theirs)
        assert len(store.clean_contents(dry_run=False, no_writers=True).removed) == 1

    def test_probes_of_killed_processes(self, store: BlockStore) -> None:
        store.write_block(".blockyard-probe-0123", b"probe")
        assert [each.what for each in store.clean_contents(dry_run=False).kept] == ["probe"]
        store.clean_contents(no_writers=True)
        assert store.list_by_prefix() == [".blockyard-probe-0123"]
        done = store.clean_contents(dry_run=False, no_writers=True)
        assert [(each.content_id, each.size) for each in done.removed] == [
            (".blockyard-probe-0123", 5)
        ]
        assert store.list_by_prefix() == []

    def test_only_below_the_prefix(self, store: BlockStore) -> None:
        for name in ("a/x", "b/x"):
            store.write_content(name, content(100, seed=1))
            store.write_content(name, content(100, seed=2))
        report = store.clean_contents("a/", dry_run=False, no_writers=True)
        assert [each.content_id for each in report.removed] == ["a/x"]
        assert len(store.list_by_prefix("b/")) == 9


class TestDeletingByPrefix:
    def test_a_content_goes_with_its_manifest(self, store: BlockStore) -> None:
        for name in ("share1", "share1/below", "share10"):
            store.write_content(name, content(100))
        result = store.delete_by_prefix("share1")
        assert "share1.blockyard" in result.deleted
        assert [entry.content_id for entry in store.list_contents()] == ["share10"]
        assert store.read_content("share10") == content(100)

    def test_manifests_go_first(self, store: BlockStore, hooked: HookedStore) -> None:
        for name in ("a/x", "a/y"):
            store.write_content(name, content(100))
        deleted: list[str] = []

        async def note(operation: str, key: str) -> None:
            if operation == "delete_blocks":
                deleted.append(key)

        hooked.hook = note
        assert len(store.delete_by_prefix("a").deleted) == len(deleted) == 2 * (1 + 4)
        assert deleted[:2] == ["a/x.blockyard", "a/y.blockyard"]


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["", "a/", "a\nb", "a" * 961, "ä" * 481, "a.blockyard", "a.blockyard/b", ".blockyard"],
    )
    def test_what_is_no_content_id(self, store: BlockStore, name: str) -> None:
        for call in (
            lambda: store.write_content(name, b""),
            lambda: store.read_content(name),
            lambda: store.stat_content(name),
            lambda: store.content_exists(name),
            lambda: store.copy_content("movie", name),
            lambda: store.delete_content(name),
        ):
            with pytest.raises(InvalidKeyError):
                call()
        assert store.list_by_prefix() == []

    def test_the_longest_one_can_be_rewritten(self, store: BlockStore) -> None:
        name = "a/" * 440 + "b" * 80
        store.write_content(name, content(5000, seed=1))
        store.write_content(name, content(5000, seed=2))
        assert store.read_content(name) == content(5000, seed=2)

    def test_copying_onto_itself_changes_nothing(
        self, store: BlockStore, hooked: HookedStore
    ) -> None:
        store.write_content("movie", content(100))
        before = list(store.iter_blocks())
        assert store.copy_content("movie", "movie").size == 100
        assert list(store.iter_blocks()) == before


def test_a_closed_store_says_so() -> None:
    with open_client("blocking", MemoryStore()) as client:
        client.store.write_content("movie", content(10))
        file = client.store.open_content("movie")
        client.store.close()
        with pytest.raises(StoreClosedError):
            file.read()
        with pytest.raises(StoreClosedError):
            client.store.read_content("movie")


@pytest.mark.parametrize("name", CLIENTS)
def test_contents_in_files(name: str, tmp_path: Path) -> None:
    with open_client(name, FilesystemStore(tmp_path / "blocks")) as client:
        shrink_blocks(client.store, BLOCK)
        for size in (CHUNK + 1, 0, 40):
            data = content(size)
            client.store.write_content("movie", data)
            client.store.copy_content("movie", "copy")
            assert client.store.read_content("copy") == data
            assert client.store.read_content_into("movie", tmp_path / "out") == size
            assert (tmp_path / "out").read_bytes() == data
        client.store.delete_content("movie")
        assert [entry.content_id for entry in client.store.list_contents()] == ["copy"]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("size", [BLOCK_SIZE - 1, BLOCK_SIZE + 1, 16 * BLOCK_SIZE + 1])
def test_blocks_of_the_real_size(name: str, size: int) -> None:
    with open_client(name, MemoryStore()) as client:
        data = content(size)
        client.store.write_content("movie", data)
        sizes = [block.size for block in client.store.iter_blocks("movie/")]
        assert sum(sizes) == size
        assert sizes[:-1] == [4 * 1024 * 1024] * (-(-size // BLOCK_SIZE) - 1)
        assert client.store.read_content("movie") == data
