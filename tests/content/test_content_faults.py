"""Contents when something breaks, at every place where it can: the old one or the new one, whole.

Each test runs an operation once for every store call that it makes, and breaks that call.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import pytest

from blockyard import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    ContentChangedError,
    ContentExistsError,
    ContentInfo,
    ContentReplacedError,
    DeadlineExceededError,
    IntegrityError,
    OutcomeUnknownError,
    PreconditionFailedError,
    TransportConnectionError,
    UnsupportedError,
)
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.content.cleaning import ContentCleaner
from blockyard.content.files import AsyncContentFile, Cursor
from blockyard.content.reading import ContentReader
from blockyard.content.write_options import WriteOptions
from blockyard.content.writing import ContentWriter
from blockyard.context import Context
from blockyard.model import BlockInfo
from blockyard.operations import Operations
from blockyard.stores.base import Block, ListRequest, ReadRequest, Store, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from blockyard.user_code import deliver
from tests.hooked_store import HookedStore

Result = TypeVar("Result")

BLOCK = 4
OLD = b"old content, of six blocks"
SHORT_OLD = b"old"
NEW = b"new content: with a few more than twenty blocks in two chunks, so that both move"
SHORT_NEW = b"new"


class Crash(BaseException):
    """The process dies here: nothing after it reaches the store."""


class Contents:
    """The content operations over one store."""

    def __init__(self, store: Store, concurrency: int = 4, inline_limit: int = 0) -> None:
        operations = Operations(store)
        self.reader = ContentReader(operations, BLOCK)
        self.writer = ContentWriter(operations, BLOCK, inline_limit)
        self.cleaner = ContentCleaner(operations)
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        self.ctx = Context(runtime, None, concurrency)

    async def write(self, content_id: str, data: bytes, **options: Any) -> ContentInfo:
        return await self.writer.write_content(
            self.ctx, content_id, data, None, WriteOptions(**options)
        )

    async def copy(self, source: str, target: str) -> None:
        await self.writer.copy_content(self.ctx, source, target, None)

    async def delete(self, content_id: str) -> None:
        await self.writer.delete_content(self.ctx, content_id)

    async def read(self, content_id: str) -> bytes:
        return await self.reader.read_content(self.ctx, content_id, 0, None)

    async def read_stream(self, content_id: str) -> bytes:
        file = io.BytesIO()
        await self.reader.read_content_into(
            self.ctx, content_id, file, offset=0, length=None, progress=None
        )
        return file.getvalue()

    async def read_open_file(self, content_id: str) -> bytes:
        layout = await self.reader.layout(self.ctx, content_id, "open_content")
        file = AsyncContentFile(Cursor(self.reader, layout), lambda: self.ctx)
        return await file.read(7) + await file.read()

    async def clean(self) -> None:
        """Remove all that is left of what is not there any more, of whatever age."""
        await self.cleaner.clean_contents(self.ctx, "", dry_run=False, no_writers=True)

    async def keys(self) -> list[str]:
        page = await self.reader._operations.store.list(self.ctx, ListRequest("", None, 1000))
        return [block.key for block in page.blocks]

    async def nothing_is_left(self) -> bool:
        """Whether, once it is cleaned, there are the blocks of what can be read and no others."""
        await self.clean()
        keys = set(await self.keys())
        for content_id in {key.removesuffix(".blockyard") for key in keys if ".blockyard" in key}:
            layout = await self.reader.layout(self.ctx, content_id, "stat_content")
            count = layout.info.blocks
            keys -= {f"{content_id}.blockyard", *(layout.key(index) for index in range(count))}
        return not keys


class Trace:
    """A hook that counts the calls and does something at one of them."""

    def __init__(self, at: int, act: Callable[[], Awaitable[None]], *, ever_after: bool) -> None:
        self.calls: list[tuple[str, str]] = []
        self._at = at
        self._act = act
        self._ever_after = ever_after

    async def __call__(self, operation: str, key: str) -> None:
        self.calls.append((operation, key))
        place = len(self.calls) - 1
        if place == self._at or (self._ever_after and place > self._at):
            await self._act()

    @property
    def acted(self) -> bool:
        return len(self.calls) > self._at


class StoreOfEqualETags(MemoryStore):
    """Equal bytes have equal ETags, as on S3."""

    def _block(self, ctx: Context, *block: Any) -> Any:
        self._writes = count()
        return super()._block(ctx, *block)


async def prepared(
    contents: dict[str, bytes], kind: type[MemoryStore] = MemoryStore
) -> MemoryStore:
    store = kind()
    for content_id, data in contents.items():
        _ = await Contents(store).write(content_id, data)
    return store


async def crash() -> None:
    raise Crash


async def fail() -> None:
    raise DeadlineExceededError("late")


async def interrupted(
    call: Callable[[Contents], Awaitable[object]],
    store: Store,
    place: int,
    concurrency: int,
    how: str,
    *,
    inline_limit: int = 0,
) -> bool:
    """Run the call; at one place cancel it, or let a store call fail. Says whether it got there."""
    task = asyncio.current_task()
    assert task

    async def cancel() -> None:
        task.cancel()
        await asyncio.sleep(0)

    trace = Trace(place, cancel if how == "cancelled" else fail, ever_after=False)
    raised: str | None = None
    try:
        _ = await call(Contents(HookedStore(store, trace), concurrency, inline_limit))
    except asyncio.CancelledError:
        task.uncancel()
        raised = "cancelled"
    except DeadlineExceededError:
        raised = "failed"
    assert raised == (how if trace.acted else None)
    return trace.acted


async def state(store: Store, content_id: str) -> bytes | type[BlockStoreError]:
    try:
        return await Contents(store).read(content_id)
    except BlockNotFoundError as error:
        return type(error)


async def version_of(store: Store, content_id: str) -> str:
    contents = Contents(store)
    return (await contents.reader.stat_content(contents.ctx, content_id)).version


def at_every_call(run: Callable[[int], Coroutine[Any, Any, bool]], least: int = 2) -> None:
    """`run(place)` for 0, 1, 2 ... until it returns that the place was never reached."""

    async def run_all() -> int:
        place = 0
        while await run(place):
            place += 1
        return place

    assert asyncio.run(run_all()) >= least


INLINE = pytest.mark.parametrize("inline_limit", [0, 1000], ids=["blocks", "inline"])


@INLINE
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("new", [NEW, SHORT_NEW, OLD])
@pytest.mark.parametrize("old", [None, OLD, SHORT_OLD, NEW])
def test_a_kill_while_writing_leaves_the_old_content_or_the_new(
    old: bytes | None, new: bytes, concurrency: int, inline_limit: int
) -> None:
    async def run(place: int) -> bool:
        store = await prepared({} if old is None else {"movie": old})
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            _ = await Contents(HookedStore(store, trace), concurrency, inline_limit).write(
                "movie", new
            )
        assert await state(store, "movie") in (new, BlockNotFoundError if old is None else old)
        _ = await Contents(store).write("movie", b"written again")
        assert await state(store, "movie") == b"written again"
        assert await Contents(store).nothing_is_left()
        return trace.acted

    at_every_call(run, least=1)


@INLINE
@pytest.mark.parametrize("how", ["cancelled", "failed"])
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("new", [NEW, SHORT_NEW, OLD])
@pytest.mark.parametrize("old", [None, OLD, SHORT_OLD, NEW])
def test_an_interrupted_write_leaves_the_old_content_or_the_new(
    old: bytes | None, new: bytes, concurrency: int, how: str, inline_limit: int
) -> None:
    async def run(place: int) -> bool:
        store = await prepared({} if old is None else {"movie": old})
        before = await Contents(store).keys()
        acted = await interrupted(
            lambda contents: contents.write("movie", new),
            store,
            place,
            concurrency,
            how,
            inline_limit=inline_limit,
        )
        found = await state(store, "movie")
        assert found == (new if not acted else BlockNotFoundError if old is None else old)
        if acted and how == "failed":
            assert await Contents(store).keys() == before
        assert await Contents(store).nothing_is_left()
        return acted

    at_every_call(run, least=1)


@pytest.mark.parametrize("target", [None, OLD, SHORT_OLD])
def test_a_kill_while_copying_leaves_the_old_content_or_the_copy(target: bytes | None) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW} | ({} if target is None else {"target": target}))
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            await Contents(HookedStore(store, trace)).copy("source", "target")
        assert await state(store, "source") == NEW
        found = await state(store, "target")
        assert found in (NEW, BlockNotFoundError if target is None else target)
        await Contents(store).copy("source", "target")
        assert await state(store, "target") == NEW
        assert await Contents(store).nothing_is_left()
        return trace.acted

    at_every_call(run)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
@pytest.mark.parametrize("target", [None, OLD])
def test_an_interrupted_copy_leaves_what_was_there(how: str, target: bytes | None) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW} | ({} if target is None else {"target": target}))
        acted = await interrupted(
            lambda contents: contents.copy("source", "target"), store, place, 4, how
        )
        found = await state(store, "target")
        assert found == (NEW if not acted else BlockNotFoundError if target is None else target)
        assert await Contents(store).nothing_is_left()
        return acted

    at_every_call(run)


@pytest.mark.parametrize("old", [OLD, SHORT_OLD])
@pytest.mark.parametrize("source", [NEW, SHORT_NEW])
@pytest.mark.parametrize("change", ["deleted", "rewritten", "rewritten and settled"])
def test_a_copy_whose_source_goes_meanwhile_is_of_one_version_or_none(
    old: bytes, source: bytes, change: str
) -> None:
    rewritten = source[::-1]

    async def run(place: int) -> bool:
        store = await prepared({"source": source, "target": old}, StoreOfEqualETags)

        async def act() -> None:
            if change == "deleted":
                await Contents(store).delete("source")
                return
            old_version = await version_of(store, "source")
            _ = await Contents(store).write("source", rewritten)
            if change == "rewritten and settled":
                contents = Contents(store)
                register = contents.writer._register
                await register.delete_generation(contents.ctx, "source", old_version)

        trace = Trace(place, act, ever_after=False)
        try:
            await Contents(HookedStore(store, trace)).copy("source", "target")
        except BlockNotFoundError:
            assert change == "deleted"
            assert await state(store, "target") == old
        else:
            assert await state(store, "target") in (source, rewritten)
        return trace.acted

    at_every_call(run)


class WithoutCopies(HookedStore):
    """A service that has no CopyObject."""

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        raise BlockStoreError("copy_block: not implemented (501 NotImplemented)")


@pytest.mark.parametrize("new", [NEW, SHORT_NEW])
def test_a_service_without_copies_loses_nothing(new: bytes) -> None:
    async def main() -> None:
        store = await prepared({"source": new, "target": OLD})
        before = await Contents(store).keys()
        contents = Contents(WithoutCopies(store))
        for _ in range(2):
            with pytest.raises(BlockStoreError, match="not implemented") as refused:
                await contents.copy("source", "target")
            assert not hasattr(refused.value, "__notes__")
            assert await state(store, "target") == OLD
            assert await Contents(store).keys() == before
        _ = await contents.write("target", new)  # for which nothing is copied
        assert await state(store, "target") == new

    asyncio.run(main())


@pytest.mark.parametrize("source", ["bytes", "stream"])
@pytest.mark.parametrize("old", [None, OLD])
def test_a_write_never_waits_for_all_that_is_in_flight(source: str, old: bytes | None) -> None:
    """Once a block is stored the next is sent: at 30 ms such a wait leaves the link idle."""
    held: list[asyncio.Event] = []

    class Holding(HookedStore):
        async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
            if not request.key.endswith(".blockyard"):  # at the end, when all else is there
                held.append(asyncio.Event())
                _ = await held[-1].wait()
            return await super().write(ctx, request)

    async def main() -> None:
        contents = Contents(Holding(await prepared({} if old is None else {"movie": old})))
        given = NEW if source == "bytes" else io.BytesIO(NEW)
        writer, ctx = contents.writer, contents.ctx
        writing = asyncio.create_task(
            writer.write_content(ctx, "movie", given, None, WriteOptions())
        )
        async with asyncio.timeout(20):
            for left in range(-(-len(NEW) // BLOCK), 0, -1):
                while len(held) < min(left, ctx.concurrency):  # noqa: ASYNC110 - of several tasks
                    await asyncio.sleep(0.001)
                held.pop(0).set()
            _ = await writing
        assert await state(contents.reader._operations.store, "movie") == NEW

    asyncio.run(main())


@pytest.mark.parametrize("inline_limit", [0, 1000], ids=["blocks", "inline"])
@pytest.mark.parametrize("how", ["killed", "cancelled", "failed"])
def test_a_delete_that_is_cut_off_leaves_the_content_or_none(how: str, inline_limit: int) -> None:
    async def run(place: int) -> bool:
        store = MemoryStore()
        _ = await Contents(store, inline_limit=inline_limit).write("movie", NEW)
        if how == "killed":
            trace = Trace(place, crash, ever_after=True)
            with suppress(Crash):
                await Contents(HookedStore(store, trace)).delete("movie")
            acted = trace.acted
        else:
            acted = await interrupted(
                lambda contents: contents.delete("movie"), store, place, 4, how
            )
        assert await state(store, "movie") in (NEW, BlockNotFoundError)
        await Contents(store).delete("movie")
        assert await state(store, "movie") is BlockNotFoundError
        await Contents(store).clean()
        assert await Contents(store).keys() == []
        return acted

    at_every_call(run)


def test_a_delete_by_the_writer_of_a_new_content_leaves_nothing() -> None:
    async def main() -> None:
        contents = Contents(MemoryStore())
        _ = await contents.write("movie", NEW)
        await contents.delete("movie")
        assert await contents.keys() == []

    asyncio.run(main())


def test_a_source_that_fails_leaves_the_old_content() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield NEW
        raise OSError("the network went away")

    async def main() -> None:
        for old in (None, OLD):
            store = await prepared({} if old is None else {"movie": old})
            contents = Contents(store)
            before = await contents.keys()
            with pytest.raises(OSError, match="went away"):
                await deliver(
                    contents.writer.write_content(
                        contents.ctx, "movie", broken(), None, WriteOptions()
                    )
                )
            assert await contents.keys() == before

    asyncio.run(main())


class DetachedStore(HookedStore):
    """A service that goes on with what it was asked for when the sender is gone."""

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        await self.hook("write_block", request.key)
        return await self._detached(self.inner.write(ctx, request))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        await self.hook("copy_block", target_key)
        return await self._detached(self.inner.copy_block(ctx, source_key, target_key))

    async def _detached(self, change: Coroutine[Any, Any, BlockInfo]) -> BlockInfo:
        async def late() -> BlockInfo:
            await asyncio.sleep(0.001)
            return await change

        return await asyncio.shield(asyncio.create_task(late()))


@pytest.mark.parametrize("call", ["write", "copy"])
def test_what_the_service_does_late_is_undone_too(call: str) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW})
        task = asyncio.current_task()
        assert task

        async def cancel() -> None:
            task.cancel()

        trace = Trace(place, cancel, ever_after=False)
        contents = Contents(DetachedStore(store, trace))
        with suppress(asyncio.CancelledError):
            await (
                contents.write("target", NEW)
                if call == "write"
                else contents.copy("source", "target")
            )
        task.uncancel()
        await asyncio.sleep(0.003)  # what is still to come comes
        if await state(store, "target") is BlockNotFoundError:
            assert [key for key in await Contents(store).keys() if key.startswith("target")] == []
        else:
            assert await state(store, "target") == NEW
        return trace.acted

    at_every_call(run)


class Unanswered(HookedStore):
    """A service that carries out the first change of a manifest when its sender has given up.

    `when` is when: at once, when the change is looked for, or never.
    """

    def __init__(self, inner: Store, when: str) -> None:
        super().__init__(inner)
        self._when = when
        self._lost = False
        self.late: Coroutine[Any, Any, Any] | None = None

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return await self._unanswered(ctx, request.key, super().write(ctx, request))

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self._unanswered(ctx, key, super().delete_block(ctx, key, if_match))

    async def _unanswered(
        self, ctx: Context, key: str, change: Coroutine[Any, Any, Result]
    ) -> Result:
        if self._lost or not key.endswith(".blockyard"):
            return await change
        self._lost = True
        if self._when == "at once":
            _ = await change
        elif self._when == "late":
            self.late = change
        else:
            change.close()
        ctx.unknown_attempts += 1
        raise TransportConnectionError("reset")


@pytest.mark.parametrize("when", ["at once", "never", "late"])
@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("call", ["write", "copy", "delete"])
def test_a_reply_that_is_lost_is_made_good(call: str, old: bytes | None, when: str) -> None:
    """What comes late, after all, changes nothing any more."""

    async def main() -> None:
        inner = await prepared({"source": NEW} | ({} if old is None else {"movie": old}))
        store = Unanswered(inner, when)
        contents = Contents(store)
        if call == "write":
            _ = await contents.write("movie", NEW)
        elif call == "copy":
            await contents.copy("source", "movie")
        else:
            await contents.delete("movie")
        after = BlockNotFoundError if call == "delete" else NEW
        assert await state(inner, "movie") == after
        if store.late is not None:
            with suppress(PreconditionFailedError, BlockExistsError, BlockNotFoundError):
                await store.late
        assert await state(inner, "movie") == after

    asyncio.run(main())


def test_a_write_whose_outcome_stays_unknown_says_so_and_leaves_its_blocks() -> None:
    class Mute(HookedStore):
        async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
            if request.key.endswith(".blockyard"):
                ctx.unknown_attempts += 1
                raise TransportConnectionError("reset")
            return await super().write(ctx, request)

    async def main() -> None:
        inner = await prepared({"movie": OLD})
        contents = Contents(Mute(inner))
        contents.ctx = replace(contents.ctx, deadline=contents.ctx.runtime.now() + 0.5)
        with pytest.raises(OutcomeUnknownError, match="'movie'") as raised:
            _ = await contents.write("movie", NEW)
        assert "are left" in raised.value.__notes__[0]
        assert raised.value.unknown_attempts >= 1
        assert await state(inner, "movie") == OLD
        assert len(await contents.keys()) > len(NEW) // BLOCK
        assert await Contents(inner).nothing_is_left()

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents.write("movie", NEW),
        lambda contents: contents.copy("source", "movie"),
        lambda contents: contents.delete("movie"),
    ],
    ids=["write", "copy", "delete"],
)
def test_whatever_ends_a_change_says_how_many_attempts_may_come_about(
    change: Callable[[Contents], Awaitable[object]],
) -> None:
    class Mute(HookedStore):
        """Loses the reply of the first change of the manifest, and may not be read after it."""

        lost = False

        async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
            if not request.key.endswith(".blockyard"):
                return await super().write(ctx, request)
            self.lost = True
            ctx.unknown_attempts += 1
            raise TransportConnectionError("reset")

        async def read(self, ctx: Context, request: ReadRequest) -> Block:
            if self.lost:
                raise AccessDeniedError("no", status=403)
            return await super().read(ctx, request)

    async def main() -> None:
        contents = Contents(Mute(await prepared({"movie": OLD, "source": NEW})))
        with pytest.raises(AccessDeniedError) as raised:
            _ = await change(contents)
        assert raised.value.unknown_attempts == 1

    asyncio.run(main())


def test_a_manifest_that_was_refused_leaves_nothing() -> None:
    """What the service itself refuses is not stored later."""

    async def refuse(operation: str, key: str) -> None:
        if operation == "write_block" and key.endswith(".blockyard"):
            raise AccessDeniedError("no", status=403)

    async def main() -> None:
        contents = Contents(HookedStore(MemoryStore(), refuse))
        with pytest.raises(AccessDeniedError):
            _ = await contents.write("movie", NEW)
        assert await contents.keys() == []

    asyncio.run(main())


def test_what_could_not_be_tidied_is_said_in_a_note() -> None:
    async def main() -> None:
        store = HookedStore(MemoryStore())

        async def fail_from_block_3_on(operation: str, key: str) -> None:
            if key.endswith("block-0003") or operation.startswith("delete"):
                raise DeadlineExceededError(f"no reply: {operation} {key}")

        store.hook = fail_from_block_3_on
        with pytest.raises(DeadlineExceededError) as raised:
            _ = await Contents(store, 1).write("movie", NEW)
        assert "no reply: write_block" in str(raised.value)
        assert any("may be left: `clean` removes them" in note for note in raised.value.__notes__)

    asyncio.run(main())


class TestConditions:
    """Two writers, and what each of them is told."""

    def test_if_absent_and_if_match(self) -> None:
        async def main() -> None:
            contents = Contents(MemoryStore())
            first = await contents.write("movie", OLD, if_absent=True)
            with pytest.raises(ContentExistsError, match="'movie'"):
                _ = await contents.write("movie", NEW, if_absent=True)
            second = await contents.write("movie", NEW, if_match=first.version)
            with pytest.raises(ContentChangedError, match=second.version):
                _ = await contents.write("movie", OLD, if_match=first.version)
            assert await contents.read("movie") == NEW
            await contents.delete("movie")
            with pytest.raises(ContentChangedError, match="not there"):
                _ = await contents.write("movie", OLD, if_match=second.version)
            _ = await contents.write("movie", SHORT_NEW, if_absent=True)
            assert await contents.read("movie") == SHORT_NEW

        asyncio.run(main())

    @pytest.mark.parametrize("absent", [True, False])
    def test_of_two_that_race_one_wins_at_every_place(self, absent: bool) -> None:
        async def run(place: int) -> bool:
            store = await prepared({} if absent else {"movie": OLD})
            version = "" if absent else (await version_of(store, "movie"))
            condition = {"if_absent": True} if absent else {"if_match": version}

            async def other() -> None:
                _ = await Contents(store).write("movie", SHORT_NEW, **condition)

            trace = Trace(place, other, ever_after=False)
            try:
                _ = await Contents(HookedStore(store, trace)).write("movie", NEW, **condition)
            except (ContentExistsError, ContentChangedError):
                assert await state(store, "movie") == SHORT_NEW
            else:
                assert not trace.acted
            assert await Contents(store).nothing_is_left()
            return trace.acted

        at_every_call(run)

    def test_writers_without_conditions_come_in_some_order(self) -> None:
        async def run(place: int) -> bool:
            store = await prepared({"movie": OLD})

            async def other() -> None:
                _ = await Contents(store).write("movie", SHORT_NEW)

            trace = Trace(place, other, ever_after=False)
            _ = await Contents(HookedStore(store, trace)).write("movie", NEW)
            assert await state(store, "movie") == NEW
            return trace.acted

        at_every_call(run)

    def test_a_service_that_ignores_conditions(self) -> None:
        class Ignoring(HookedStore):
            async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
                if request.conditional:
                    raise UnsupportedError("the service ignores conditions")
                return await super().write(ctx, request)

            async def delete_block(
                self, ctx: Context, key: str, if_match: str | None = None
            ) -> None:
                if if_match is not None:
                    raise UnsupportedError("the service ignores conditions")
                await super().delete_block(ctx, key)

        async def main() -> None:
            contents = Contents(Ignoring(MemoryStore()))
            for data in (OLD, NEW, SHORT_NEW):
                _ = await contents.write("movie", data)
                assert await contents.read("movie") == data
            with pytest.raises(UnsupportedError, match="not written"):
                _ = await contents.write("movie", OLD, if_absent=True)
            with pytest.raises(UnsupportedError, match="not written"):
                _ = await contents.write("movie", OLD, if_match="x")
            assert await contents.read("movie") == SHORT_NEW
            await contents.delete("movie")
            assert await state(contents.reader._operations.store, "movie") is BlockNotFoundError
            assert await contents.nothing_is_left()

        asyncio.run(main())

    def test_a_write_by_which_it_is_learnt_that_conditions_are_ignored(self) -> None:
        class FoundOut(HookedStore):
            async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
                info = await super().write(ctx, WriteRequest(request.key, request.data))
                if request.conditional:
                    raise UnsupportedError("stored, perhaps in place of another")
                return info

        async def main() -> None:
            contents = Contents(FoundOut(MemoryStore()))
            with pytest.raises(UnsupportedError, match="written, perhaps in place of another"):
                _ = await contents.write("movie", NEW, if_absent=True)
            assert await contents.read("movie") == NEW
            assert await contents.nothing_is_left()

        asyncio.run(main())

    def test_what_was_stored_without_its_condition_keeps_its_blocks(self) -> None:
        """The write is cut off before it has seen what became of its manifest."""

        class FoundOut(HookedStore):
            cut_off = False

            async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
                info = await super().write(ctx, WriteRequest(request.key, request.data))
                if request.conditional:
                    self.cut_off = True
                    raise UnsupportedError("stored, perhaps in place of another")
                return info

            async def read(self, ctx: Context, request: ReadRequest) -> Block:
                if self.cut_off:
                    self.cut_off = False
                    raise asyncio.CancelledError
                return await super().read(ctx, request)

        async def main() -> None:
            contents = Contents(FoundOut(MemoryStore()))
            with pytest.raises(asyncio.CancelledError):
                _ = await contents.write("movie", NEW)
            assert await contents.read("movie") == NEW

        asyncio.run(main())


READS: dict[str, Callable[[Contents], Awaitable[bytes]]] = {
    "bytes": lambda contents: contents.read("movie"),
    "stream": lambda contents: contents.read_stream("movie"),
    "open file": lambda contents: contents.read_open_file("movie"),
}


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("new", [NEW, SHORT_NEW, None])
def test_a_reader_beside_a_writer_gets_the_old_content_or_the_new(
    kind: str, new: bytes | None
) -> None:
    """The writer has come to every place of its work, at every place of the reader's."""
    outcomes: set[bytes | type[BaseException]] = set()

    async def change(store: Store) -> None:
        contents = Contents(store, 1)
        _ = await (contents.delete("movie") if new is None else contents.write("movie", new))

    def writer_stops_at(writes: int) -> Callable[[int], Coroutine[Any, Any, bool]]:
        async def run(place: int) -> bool:
            store = await prepared({"movie": OLD})

            async def change_some() -> None:
                trace = Trace(writes, crash, ever_after=True)
                with suppress(Crash):
                    await change(HookedStore(store, trace))

            trace = Trace(place, change_some, ever_after=False)
            try:
                found = await READS[kind](Contents(HookedStore(store, trace)))
                assert found in (OLD, new)
                outcomes.add(found)
            except (ContentReplacedError, BlockNotFoundError) as error:
                assert new is None, "a rewrite is no error to a reader"
                outcomes.add(type(error))
            return trace.acted

        return run

    async def calls_of_writer() -> int:
        trace = Trace(10**6, crash, ever_after=True)
        await change(HookedStore(await prepared({"movie": OLD}), trace))
        return len(trace.calls)

    for writes in range(asyncio.run(calls_of_writer()) + 1):
        at_every_call(writer_stops_at(writes))
    assert outcomes >= {OLD, BlockNotFoundError if new is None else new}


def test_a_block_that_is_gone_or_damaged_is_an_error_that_names_it() -> None:
    async def main() -> None:
        store = await prepared({"movie": NEW})
        contents = Contents(store)
        key = (await contents.reader.layout(contents.ctx, "movie", "stat_content")).key(3)
        block = await store.read(contents.ctx, ReadRequest(key))
        for damaged in (b"abcd", b"abc", None):
            if damaged is None:
                await store.delete_block(contents.ctx, key)
            else:
                _ = await store.write(contents.ctx, WriteRequest(key, damaged))
            for read in READS.values():
                with pytest.raises(IntegrityError, match=key) as raised:
                    _ = await read(contents)
                assert not isinstance(raised.value, ContentReplacedError)
        _ = await store.write(contents.ctx, WriteRequest(key, block.data))
        assert await contents.read("movie") == NEW

    asyncio.run(main())


def test_a_copy_of_what_is_replaced_meanwhile_is_not_left_as_a_mixture() -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": OLD})

        async def rewrite() -> None:
            await Contents(store).write("source", NEW)

        trace = Trace(place, rewrite, ever_after=False)
        await Contents(HookedStore(store, trace)).copy("source", "target")
        assert await state(store, "target") in (OLD, NEW)
        return trace.acted

    at_every_call(run)


async def put_plain(store: Store, content_id: str, data: bytes) -> None:
    """Store a content as other systems do, block by block."""
    ctx = Contents(store).ctx
    for index, start in enumerate(range(0, len(data), BLOCK)):
        key = f"{content_id}/chunk-{index // 16}/block-{index % 16}"
        _ = await store.write(ctx, WriteRequest(key, data[start : start + BLOCK]))


def test_a_copy_of_plain_blocks_that_are_replaced_meanwhile_is_not_a_mixture() -> None:
    other = OLD.upper()

    async def run(place: int) -> bool:
        store = MemoryStore()
        await put_plain(store, "source", OLD)
        trace = Trace(place, lambda: put_plain(store, "source", other), ever_after=False)
        contents = Contents(HookedStore(store, trace), concurrency=1)
        await contents.copy("source", "target")
        assert await state(store, "target") in (OLD, other)
        return trace.acted

    at_every_call(run)
