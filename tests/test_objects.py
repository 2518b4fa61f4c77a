"""`write_object`: its parts are bounded, side by side, and given up whatever ends the call."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.content.streams import Cut, SourceBlock, Stream
from blockyard.context import Context
from blockyard.errors import (
    BlockNotFoundError,
    BlockTooLargeError,
    DeadlineExceededError,
    ServerError,
    StoreClosedError,
)
from blockyard.model import MIN_PART_SIZE, BlockInfo, Part, Upload
from blockyard.stores.base import Data, OpenUpload, UploadRequest, WriteRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.samples import content

PART = MIN_PART_SIZE
DATA = content(3 * PART + 5)
KEY = "file"

Hook = Callable[[str, int], Awaitable[None]]


async def nothing(operation: str, number: int) -> None:
    """Lets every step pass."""


class Watched(WrapperStore):
    """Awaits `hook(step, part)` before each step of an upload, and counts them."""

    def __init__(self, hook: Hook = nothing) -> None:
        super().__init__(MemoryStore())
        self.hook = hook
        self.steps: list[str] = []
        self.under_way = self.most = 0

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        self.steps.append("write")
        return await super().write(ctx, request)

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        self.steps.append("start")
        await self.hook("start", 0)
        return await super().start_upload(ctx, request)

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        self.steps.append(f"part {number}")
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.hook("part", number)
            return await super().upload_part(ctx, upload, number, offset, data)
        finally:
            self.under_way -= 1

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        self.steps.append("complete")
        await self.hook("complete", 0)
        return await super().complete_upload(ctx, upload, parts)

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        self.steps.append("abort")
        await self.hook("abort", 0)
        await super().abort_upload(ctx, upload)

    @property
    def left(self) -> int:
        """How many uploads are under way."""
        memory: Any = self.inner
        return len(memory._uploads)


def pieces(data: bytes = DATA, size: int = 1_000_003) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def failing(at: str, error: BaseException) -> Hook:
    async def hook(step: str, number: int) -> None:
        if at in {step, f"{step} {number}"}:
            raise error

    return hook


@pytest.mark.parametrize("client", CLIENTS)
def test_bytes_that_fill_a_part_are_not_copied(client: ClientName) -> None:
    sent: list[Any] = []

    class Kept(Watched):
        async def upload_part(
            self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
        ) -> Part:
            sent.append(data)
            return await super().upload_part(ctx, upload, number, offset, data)

    two, one, mutable = content(2 * PART), content(PART), bytearray(content(PART))
    given = [two, one, mutable, b"end"]
    with open_client(client, Kept()) as opened:
        _ = opened.store.write_object(KEY, iter(given), part_size=PART, concurrency=1)
        whole = opened.store.read_block(KEY)
    assert whole == b"".join(given)
    assert [getattr(data, "obj", None) for data in sent[:3]] == [two, two, one]
    assert sent[0].obj is two
    assert sent[2].obj is one
    assert sent[3] is not mutable
    assert isinstance(sent[3], bytearray)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("concurrency", [1, 2, 3, None])
def test_parts_go_side_by_side(client: ClientName, concurrency: int | None) -> None:
    expected = concurrency or 4

    async def until_all_are_under_way(step: str, number: int) -> None:
        for _ in range(500):
            if step != "part" or store.most >= expected:
                return
            await asyncio.sleep(0.01)

    store = Watched(until_all_are_under_way)
    with open_client(client, store) as opened:
        for source in (pieces(), DATA):
            store.steps.clear()
            store.most = 0
            info = opened.store.write_object(KEY, source, part_size=PART, concurrency=concurrency)
            assert opened.store.read_block(KEY) == DATA
            assert info.size == len(DATA)
            assert sorted(store.steps) == [
                "complete",
                *(f"part {n}" for n in (1, 2, 3, 4)),
                "start",
            ]
            assert store.most == expected
    assert store.left == 0


@pytest.mark.parametrize("source", [b"", b"small", content(PART)])
def test_what_fits_in_a_part_is_one_write(source: bytes) -> None:
    store = Watched()
    with open_client("blocking", store) as opened:
        for given in (source, iter([source])):
            assert opened.store.write_object(KEY, given, part_size=PART).size == len(source)
            assert opened.store.read_block(KEY) == source
    assert store.steps == ["write"] * 2


def test_sources_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _ = path.write_bytes(DATA)
    with open_client("blocking", MemoryStore()) as opened:
        for source in (path, str(path), memoryview(DATA), bytearray(DATA)):
            _ = opened.store.write_object(KEY, source, part_size=PART)
            assert opened.store.read_block(KEY) == DATA
        with path.open("rb") as file:
            _ = file.seek(7)
            _ = opened.store.write_object(KEY, file, part_size=PART)
        assert opened.store.read_block(KEY) == DATA[7:]


def test_an_async_source_is_drawn_while_parts_are_sent() -> None:
    store = Watched()
    seen: list[int] = []

    async def slowly() -> AsyncIterator[bytes]:
        for piece in pieces(size=PART // 2):
            seen.append(len(store.steps))
            yield piece
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with blockyard.open_async_store(store) as opened:
            _ = await opened.write_object(KEY, slowly(), part_size=PART)
            assert await opened.read_block(KEY) == DATA

    asyncio.run(main())
    assert seen[-1] >= 3  # the upload was begun, and its first parts sent, long before the end


# Whatever ends the call.


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("at", ["start", "part 1", "part 2", "part 4", "complete"])
def test_a_step_that_fails(client: ClientName, at: str) -> None:
    store = Watched(failing(at, ServerError("it failed", status=500)))
    with open_client(client, store) as opened:
        _ = opened.store.write_block(KEY, b"before")
        for source in (DATA, pieces()):
            with pytest.raises(ServerError, match="it failed") as raised:
                _ = opened.store.write_object(KEY, source, part_size=PART)
            assert not hasattr(raised.value, "__notes__")
        assert opened.store.read_block(KEY) == b"before"
    assert store.left == 0
    assert store.steps.count("abort") == (0 if at == "start" else 2)


class Own(BaseException):
    """Raised by the caller's code."""


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("error", [Own(), KeyboardInterrupt(), ValueError("mine")])
@pytest.mark.parametrize("where", ["source", "progress"])
def test_what_the_callers_own_code_raises(
    client: ClientName, error: BaseException, where: str
) -> None:
    store = Watched()

    def source() -> Iterator[bytes]:
        yield DATA
        if where == "source":
            raise error

    def progress(done: int) -> None:
        if where == "progress" and done >= PART:
            raise error

    if client == "asyncio" and not isinstance(error, Exception):
        pytest.skip("asyncio ends its loop at such an error")
    with open_client(client, store) as opened:
        with pytest.raises(type(error)) as raised:
            _ = opened.store.write_object(KEY, source(), part_size=PART, progress=progress)
        assert raised.value is error
        assert not opened.store.block_exists(KEY)
    assert store.left == 0
    assert store.steps.count("abort") == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_deadline_that_passes(client: ClientName) -> None:
    async def slow(step: str, number: int) -> None:
        if step == "part":
            raise DeadlineExceededError("too late")

    store = Watched(slow)
    with open_client(client, store) as opened:
        hasty = opened.store.with_options(deadline=0.2)
        with pytest.raises(DeadlineExceededError):
            _ = hasty.write_object(KEY, DATA, part_size=PART)
    assert store.left == 0


def test_a_cancelled_upload_is_given_up() -> None:
    begun = asyncio.Event()

    async def hang(step: str, number: int) -> None:
        if step == "part" and number == 2:
            begun.set()
            await asyncio.sleep(60)

    store = Watched(hang)

    async def main() -> None:
        async with blockyard.open_async_store(store) as opened:
            task = asyncio.create_task(opened.write_object(KEY, DATA, part_size=PART))
            _ = await begun.wait()
            _ = task.cancel()
            with pytest.raises(asyncio.CancelledError):
                _ = await task
            assert store.left == 0
            assert not await opened.block_exists(KEY)

    asyncio.run(main())
    assert store.steps[-1] == "abort"


def test_a_cancellation_at_the_end_waits_for_it() -> None:
    """What is put in place all the same is not given up, and a note says so."""
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def held(step: str, number: int) -> None:
        if step == "complete":
            begun.set()
            _ = await goes_on.wait()

    store = Watched(held)

    async def main() -> None:
        async with blockyard.open_async_store(store) as opened:
            task = asyncio.create_task(opened.write_object(KEY, DATA, part_size=PART))
            _ = await begun.wait()
            for _ in range(2):
                _ = task.cancel()
                await asyncio.sleep(0.01)
            goes_on.set()
            with pytest.raises(asyncio.CancelledError) as raised:
                _ = await task
            assert await opened.read_block(KEY) == DATA
            assert raised.value.__notes__ == ["but the object 'file' was put in place before"]

    asyncio.run(main())
    assert "abort" not in store.steps


@pytest.mark.parametrize("client", CLIENTS)
def test_parts_that_can_not_be_given_up_are_told_of(client: ClientName) -> None:
    async def hook(step: str, number: int) -> None:
        if step in {"complete", "abort"}:
            raise ServerError(f"{step} failed", status=500)

    store = Watched(hook)
    with open_client(client, store) as opened:
        with pytest.raises(ServerError, match="complete failed") as raised:
            _ = opened.store.write_object(KEY, DATA, part_size=PART)
        assert raised.value.__notes__ == [
            "and parts of 'file' may be left: `clean` removes them: abort failed"
        ]
        report = opened.store.clean_contents()
        assert [(each.content_id, each.what) for each in report.kept] == [(KEY, "upload")]


def test_a_store_that_is_closed_meanwhile() -> None:
    begun = threading.Event()

    async def hang(step: str, number: int) -> None:
        if step == "part":
            begun.set()
            await asyncio.sleep(60)

    store = Watched(hang)
    opened = blockyard.open_store(store)
    raised: list[BaseException] = []

    def write() -> None:
        try:
            _ = opened.write_object(KEY, DATA, part_size=PART)
        except BaseException as error:  # noqa: BLE001 - looked at below
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(10)
    opened.close()
    thread.join(10)
    assert [type(error) for error in raised] == [StoreClosedError]
    assert store.left == 0


# Leftovers.


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("hours", "gone"), [(23, False), (25, True)])
def test_uploads_that_were_left_are_cleaned_up(
    client: ClientName, hours: int, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(step: str, number: int) -> None:
        if step in {"complete", "abort"}:
            raise ServerError("it failed", status=500)

    store = Watched(broken)
    with open_client(client, store) as opened:
        for key in ("a/one", "b/two"):
            with pytest.raises(ServerError):
                _ = opened.store.write_object(key, DATA, part_size=PART)
        store.hook = nothing
        theirs = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(store, "date", lambda ctx: theirs)  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]

        planned = opened.store.clean_contents("a/")
        assert store.left == 2
        done = opened.store.clean_contents("a/", dry_run=False)

        assert (planned.removed, planned.kept) == (done.removed, done.kept)
        found = done.removed if gone else done.kept
        assert [(each.content_id, each.what, each.blocks) for each in found] == [
            ("a/one", "upload", 0)
        ]
        assert store.left == (1 if gone else 2)
        assert len(opened.store.clean_contents(no_writers=True).removed) == store.left


# Sizes.


def cut_of(size: int, most: int | None, at_once: int = 4, largest: int = 1 << 40) -> Cut:
    return Cut("write_object", size, at_once, most, largest)


@pytest.mark.parametrize("total", [0, 1, 100, 101, 10_000, 12_345, 10**9])
def test_a_known_size_fits_in_as_many_parts_as_there_may_be(total: int) -> None:
    cut = cut_of(10, 10)
    fitting = cut.fitting(total)
    assert fitting.size * 10 >= total
    assert fitting.size == max(10, -(-total // 10))
    assert fitting.at_once * fitting.size <= max(40, fitting.size)
    assert cut_of(10, None).fitting(total).size == 10


def blocks_of(length: int, cut: Cut) -> list[SourceBlock]:
    """The blocks of a source of that length."""
    data = memoryview(content(length))
    given = 0
    found: list[SourceBlock] = []
    at_once: list[int] = []

    async def draw(size: int) -> bytearray:
        nonlocal given
        block = bytearray(data[given : given + size])
        given += len(block)
        return block

    async def write(block: SourceBlock) -> None:
        found.append(block)

    class OneByOne:
        async def gather(self, operation: Any, items: Any, concurrency: int) -> None:
            at_once.append(concurrency)
            async for item in items:
                await operation(item)

    context: Any = Context(OneByOne())  # pyright: ignore[reportArgumentType]
    asyncio.run(Stream(draw, cut).pass_on(context, write))
    assert b"".join(bytes(block.data) for block in found) == data
    assert [block.number for block in found] == list(range(len(found)))
    ends = [0, *(block.offset + len(block.data) for block in found)]
    assert [block.offset for block in found] == ends[:-1]
    assert at_once == sorted(at_once, reverse=True)
    return found


def test_a_stream_that_has_failed_gives_nothing_more() -> None:
    """Else what was drawn of a part, or the parts behind it, would be taken for the whole."""
    fails_at = 0

    async def draw(size: int) -> bytearray:
        nonlocal fails_at
        fails_at -= 1
        if fails_at == -1:
            raise Own
        return bytearray(size)

    async def refused() -> None:
        raise Own

    async def begun() -> None: ...

    async def drawn(several: Callable[[], Any], failing_draw: int) -> list[SourceBlock]:
        nonlocal fails_at
        fails_at = failing_draw
        stream = Stream(draw, cut_of(10, None), several)  # pyright: ignore[reportArgumentType]
        found: list[SourceBlock] = []

        async def draw_all() -> None:
            async for block in stream:
                found.append(block)  # noqa: PERF401 - kept when it fails

        with pytest.raises(Own):
            await draw_all()
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                _ = await anext(stream)
        return found

    assert asyncio.run(drawn(refused, 99)) == []
    assert asyncio.run(drawn(begun, 0)) == []
    assert asyncio.run(drawn(begun, 1)) == []
    assert [block.number for block in asyncio.run(drawn(begun, 3))] == [0, 1, 2]


def test_parts_of_a_source_of_unknown_length_grow_in_its_second_half() -> None:
    cut = cut_of(10, 20)
    sizes = [len(block.data) for block in blocks_of(1500, cut)]
    assert sizes == [10] * 10 + [20] * 2 + [40] * 2 + [80] * 2 + [160] * 2 + [320] * 2 + [160]
    assert max(len(block.data) for block in blocks_of(1500, cut_of(10, 20, largest=50))) == 50
    assert [len(block.data) for block in blocks_of(100, cut)] == [10] * 10
    assert {len(block.data) for block in blocks_of(999, cut_of(10, None))} == {10, 9}


@pytest.mark.parametrize("client", CLIENTS)
def test_more_parts_than_there_may_be(client: ClientName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard.objects.MAX_PARTS", 4)
    monkeypatch.setattr("blockyard.objects.MAX_BLOCK_SIZE", PART)
    store = Watched()
    with open_client(client, store) as opened:
        with pytest.raises(BlockTooLargeError, match=r"write_object 'file': .*part_size"):
            _ = opened.store.write_object(KEY, (bytes(PART) for _ in range(6)), part_size=PART)
        with pytest.raises(BlockNotFoundError):
            _ = opened.store.stat_block(KEY)
    assert store.left == 0


class Hollow(WrapperStore):
    """Forgets what it is given."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.taken = 0

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        await ctx.runtime.sleep(0.001)
        self.taken += len(data)
        return Part(number, len(data), 0, "")

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        return BlockInfo(upload.request.key, sum(part.size for part in parts), "etag")


@pytest.mark.parametrize("kind", ["iterator", "path", "file"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_memory_is_bounded(kind: str, concurrency: int, tmp_path: Path) -> None:
    size = 40 * PART
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        _ = file.truncate(size)
    store = Hollow()
    sources: dict[str, Any] = {
        "iterator": (bytes(100_000) for _ in range(size // 100_000)),
        "path": path,
        "file": path.open("rb"),
    }
    with blockyard.open_store(store) as opened, sources["file"]:
        tracemalloc.start()
        info = opened.write_object(KEY, sources[kind], part_size=PART, concurrency=concurrency)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert store.taken == info.size >= size - 100_000
    piece = PART if kind == "file" else 0  # what its `read` returns is copied into the part
    assert peak < (max(2, concurrency) + 1) * PART + piece + 1_000_000


# The stores of this machine.


def test_a_killed_upload_in_a_folder_is_purged_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uploads() -> list[str]:
        return [each.name for each in (tmp_path / ".blockyard").glob("upload-*")]

    with blockyard.open_store(FilesystemStore(tmp_path)) as opened:
        store = FilesystemStore(tmp_path)
        monkeypatch.setattr(FilesystemStore, "abort_upload", _kept)
        with pytest.raises(RuntimeError):
            _ = opened.write_object(KEY, broken_off(), part_size=PART)
        assert len(uploads()) == 1
        left = tmp_path / ".blockyard" / uploads()[0]
        for hours, kept in ((23, 1), (25, 0)):
            at = time.time() - hours * 3600
            import os

            os.utime(left, (at, at))
            with blockyard.open_store(store) as other:
                _ = other.write_block("any", b"")
            store = FilesystemStore(tmp_path)
            assert len(uploads()) == kept
        assert opened.list_by_prefix() == ["any"]


async def _kept(*_: object) -> None:
    """As if the process was killed before."""


def broken_off() -> Iterator[bytes]:
    yield DATA
    raise RuntimeError


def test_an_upload_that_was_given_up_meanwhile(tmp_path: Path) -> None:
    for inner in (MemoryStore(), FilesystemStore(tmp_path)):

        async def main(inner: Any = inner) -> None:
            async with blockyard.open_async_store(inner) as opened:
                ctx = _context(opened)
                upload = await inner.start_upload(ctx, UploadRequest(KEY))
                part = await inner.upload_part(ctx, upload, 1, 0, b"part")
                for _ in range(2):
                    await inner.abort_upload(ctx, upload.upload)
                with pytest.raises(
                    blockyard.LocalStorageError, match=r"write_object 'file': .*gone"
                ):
                    _ = await inner.upload_part(ctx, upload, 2, 4, b"part")
                with pytest.raises(
                    blockyard.LocalStorageError, match=r"write_object 'file': .*gone"
                ):
                    _ = await inner.complete_upload(ctx, upload, [part])

        asyncio.run(main())


def _context(opened: AsyncBlockStore) -> Context:
    return opened._context()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("client", CLIENTS)
def test_one_of_several_that_upload_where_nothing_is_wins(
    client: ClientName, tmp_path: Path
) -> None:
    def write(store: BlockStore, seed: int) -> BlockInfo:
        data = content(PART + 1, seed=seed)
        return store.write_object(KEY, data, part_size=PART, if_absent=True)

    for source in (MemoryStore(), FilesystemStore(tmp_path)):
        with open_client(client, source) as opened:
            outcomes = opened.at_once(write, range(3))
            winners = [one for one in outcomes if isinstance(one, BlockInfo)]
            losers = [one for one in outcomes if isinstance(one, blockyard.BlockExistsError)]
            assert (len(winners), len(losers)) == (1, 2)
            seed = outcomes.index(winners[0])
            assert opened.store.read_block(KEY) == content(PART + 1, seed=seed)
    assert list((tmp_path / ".blockyard").glob("upload-*")) == []
