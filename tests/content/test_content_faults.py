"""Contents when something breaks, at every place where it can: whole, or an error, or gone.

Each test runs an operation once for every store call that it makes, and breaks that call.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from blockyard import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
)
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.content.files import AsyncContentFile, Cursor
from blockyard.content.reading import ContentReader
from blockyard.content.writing import BEGUN, ContentWriter
from blockyard.context import Context
from blockyard.model import BlockInfo, DeleteResult, Page
from blockyard.operations import Operations
from blockyard.stores.base import ListRequest, ReadRequest, Store, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from blockyard.user_code import deliver
from tests.hooked_store import HookedStore

BLOCK = 4
OLD = b"old content, of six blocks"
SHORT_OLD = b"old"
NEW = b"new content: with a few more than twenty blocks in two chunks, so that both move"
SHORT_NEW = b"new"


class Crash(BaseException):
    """The process dies here: nothing after it reaches the store."""


class Contents:
    """The content operations over one store."""

    def __init__(self, store: Store, concurrency: int = 4) -> None:
        operations = Operations(store)
        self.reader = ContentReader(operations, BLOCK)
        self.writer = ContentWriter(operations, BLOCK)
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        self.ctx = Context(runtime, None, concurrency)

    async def write(self, content_id: str, data: bytes) -> None:
        await self.writer.write_content(self.ctx, content_id, data, None)

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

    async def keys(self) -> list[str]:
        page = await self.reader._operations.store.list(self.ctx, ListRequest("", None, 1000))
        return [block.key for block in page.blocks]


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

    def _block(self, ctx: Context, key: str, data: bytes) -> Any:
        self._writes = count()
        return super()._block(ctx, key, data)


async def prepared(
    contents: dict[str, bytes], kind: type[MemoryStore] = MemoryStore
) -> MemoryStore:
    store = kind()
    for content_id, data in contents.items():
        await Contents(store).write(content_id, data)
    return store


async def crash() -> None:
    raise Crash


async def fail() -> None:
    raise DeadlineExceededError("late")


async def interrupted(
    call: Callable[[Contents], Awaitable[None]],
    store: Store,
    place: int,
    concurrency: int,
    how: str,
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
        await call(Contents(HookedStore(store, trace), concurrency))
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
    except (BlockNotFoundError, IntegrityError) as error:
        return type(error)


def at_every_call(run: Callable[[int], Coroutine[Any, Any, bool]]) -> None:
    """`run(place)` for 0, 1, 2 ... until it returns that the place was never reached."""

    async def run_all() -> int:
        place = 0
        while await run(place):
            place += 1
        return place

    assert asyncio.run(run_all()) > 1


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("new", [NEW, SHORT_NEW, OLD])
@pytest.mark.parametrize("old", [None, OLD, SHORT_OLD, NEW])
def test_a_crash_while_writing(old: bytes | None, new: bytes, concurrency: int) -> None:
    async def run(place: int) -> bool:
        store = await prepared({} if old is None else {"movie": old})
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            await Contents(HookedStore(store, trace), concurrency).write("movie", new)
        found = await state(store, "movie")
        in_place = [call for call in trace.calls[:place] if call[1].startswith("movie/chunk-0/")]
        if old is None:
            assert found in (new, BlockNotFoundError, IntegrityError)
        elif in_place:
            assert found in (old, new, IntegrityError)
        else:
            assert found == old
        await Contents(store).write("movie", b"written again")
        assert await state(store, "movie") == b"written again"
        assert len(await Contents(store).keys()) == 4
        return trace.acted

    at_every_call(run)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("new", [NEW, SHORT_NEW, OLD])
@pytest.mark.parametrize("old", [None, OLD, SHORT_OLD, NEW])
def test_an_interrupted_write_leaves_the_old_content_or_the_new_and_nothing_else(
    old: bytes | None, new: bytes, concurrency: int, how: str
) -> None:
    async def run(place: int) -> bool:
        store = await prepared({} if old is None else {"movie": old})
        acted = await interrupted(
            lambda contents: contents.write("movie", new), store, place, concurrency, how
        )
        found = await state(store, "movie")
        assert found in (new, BlockNotFoundError if old is None else old)
        left_staged = any("/chunk-new-" in key for key in await Contents(store).keys())
        # only when it hits the removal of the staged blocks, which is the last thing
        assert not left_staged or found == new
        if found is BlockNotFoundError:
            assert await Contents(store).keys() == []
        return acted

    at_every_call(run)


def test_what_a_killed_rewrite_left_unfinished_can_be_brought_back() -> None:
    async def run(place: int) -> bool:
        store = await prepared({"movie": OLD})
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            await Contents(HookedStore(store, trace)).write("movie", NEW)
        if await state(store, "movie") is IntegrityError:
            staged = next(key for key in await Contents(store).keys() if "/chunk-new-" in key)
            await Contents(store).copy(staged.partition("/chunk-0/")[0], "movie")
            assert await state(store, "movie") == NEW
            assert not any("/chunk-new-" in key for key in await Contents(store).keys())
        return trace.acted

    at_every_call(run)


@pytest.mark.parametrize("target", [None, OLD, SHORT_OLD])
def test_a_crash_while_copying(target: bytes | None) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW} | ({} if target is None else {"target": target}))
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            await Contents(HookedStore(store, trace)).copy("source", "target")
        assert await state(store, "source") == NEW
        found = await state(store, "target")
        assert found in (target, NEW, BlockNotFoundError, IntegrityError)
        await Contents(store).copy("source", "target")
        assert await state(store, "target") == NEW
        return trace.acted

    at_every_call(run)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_an_interrupted_copy_to_a_new_name_leaves_nothing(how: str) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW})
        acted = await interrupted(
            lambda contents: contents.copy("source", "target"), store, place, 4, how
        )
        assert await state(store, "target") == (BlockNotFoundError if acted else NEW)
        return acted

    at_every_call(run)


@pytest.mark.parametrize("old", [OLD, SHORT_OLD])
@pytest.mark.parametrize("source", [NEW, SHORT_NEW])
@pytest.mark.parametrize("change", ["deleted", "rewritten", "rewritten behind block 0", "cut"])
def test_a_copy_whose_source_goes_meanwhile_leaves_the_old_content(
    old: bytes, source: bytes, change: str
) -> None:
    kept = source[:BLOCK] if change == "rewritten behind block 0" else b""
    rewritten = kept + source[len(kept) :][::-1]

    async def run(place: int) -> bool:
        store = await prepared({"source": source, "target": old}, StoreOfEqualETags)

        async def act() -> None:
            if change == "deleted":
                await Contents(store).delete("source")
            elif change.startswith("rewritten"):
                await Contents(store).write("source", rewritten)
            else:
                await Contents(store).writer._operations.delete_block(
                    Contents(store).ctx, f"source/chunk-0/block-{1 if len(source) > BLOCK else 0}"
                )

        trace = Trace(place, act, ever_after=False)
        try:
            await Contents(HookedStore(store, trace)).copy("source", "target")
        except (BlockNotFoundError, IntegrityError):
            assert await state(store, "target") == old
        else:
            assert await state(store, "target") in (source, rewritten)
        assert not any("/chunk-new-" in key for key in await Contents(store).keys())
        return trace.acted

    at_every_call(run)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_an_interrupted_copy_onto_a_content_leaves_that_or_the_copy(how: str) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW, "target": OLD})
        acted = await interrupted(
            lambda contents: contents.copy("source", "target"), store, place, 4, how
        )
        assert await state(store, "target") in (OLD, NEW)
        return acted

    at_every_call(run)


class WithoutCopies(HookedStore):
    """A service that has no CopyObject."""

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        raise BlockStoreError("copy_block: not implemented (501 NotImplemented)")


@pytest.mark.parametrize("new", [NEW, SHORT_NEW])
@pytest.mark.parametrize("call", ["write", "copy"])
def test_a_service_without_copies_loses_nothing(call: str, new: bytes) -> None:
    async def main() -> None:
        store = await prepared({"source": new, "target": OLD})
        before = await Contents(store).keys()
        contents = Contents(WithoutCopies(store))
        change = {
            "write": lambda: contents.write("target", new),
            "copy": lambda: contents.copy("source", "target"),
        }[call]
        for _ in range(2):
            with pytest.raises(BlockStoreError, match="not implemented") as refused:
                await change()
            assert not hasattr(refused.value, "__notes__")
            assert await state(store, "target") == OLD
            assert await Contents(store).keys() == before

    asyncio.run(main())


def test_copying_is_proved_once() -> None:
    async def main() -> None:
        store = await prepared({"movie": OLD})
        trace = Trace(-1, crash, ever_after=False)
        contents = Contents(HookedStore(store, trace))
        copies: list[int] = []
        for new in (NEW, OLD):
            before = len(trace.calls)
            contents.writer = ContentWriter(contents.reader._operations, BLOCK)  # as a view has
            await contents.write("movie", new)
            copies.append(sum(call == "copy_block" for call, _ in trace.calls[before:]))
            assert await state(store, "movie") == new
        assert copies == [-(-len(NEW) // BLOCK) + 1, -(-len(OLD) // BLOCK)]

    asyncio.run(main())


USERS = "movie/chunk-new-0123456789abcdef"


@pytest.mark.parametrize("change", ["write", "copy", "delete", "one block"])
def test_a_content_that_a_user_named_as_a_rewrite_is_kept(change: str) -> None:
    async def main() -> None:
        store = await prepared({"movie": OLD, "source": NEW, USERS: b"the user's own"})
        contents = Contents(store)
        await (
            contents.write("movie", NEW if change == "write" else SHORT_NEW)
            if change in ("write", "one block")
            else contents.copy("source", "movie")
            if change == "copy"
            else contents.delete("movie")
        )
        assert await state(store, USERS) == b"the user's own"

    asyncio.run(main())


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a kill while it is put in place: contents in one step",
)
@pytest.mark.parametrize("call", ["write", "copy"])
def test_a_kill_leaves_the_old_content_or_the_new(call: str) -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": NEW, "movie": OLD})
        trace = Trace(place, crash, ever_after=True)
        contents = Contents(HookedStore(store, trace))
        with suppress(Crash):
            await (
                contents.write("movie", NEW)
                if call == "write"
                else contents.copy("source", "movie")
            )
        assert await state(store, "movie") in (OLD, NEW)
        return trace.acted

    at_every_call(run)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a whole rewrite while block 0 is copied: contents in one step",
)
def test_a_kill_never_leaves_a_copy_of_two_versions() -> None:
    other = NEW[::-1]

    async def run(place: int) -> bool:
        store = await prepared({"source": NEW})

        async def act() -> None:
            if len(trace.calls) == place + 1:
                await Contents(store).write("source", other)
            elif trace.calls[-1][0] == "list_page":  # all is copied, and is to be checked
                raise Crash

        trace = Trace(place, act, ever_after=True)
        with suppress(Crash, BlockNotFoundError, IntegrityError):
            await Contents(HookedStore(store, trace)).copy("source", "target")
        found = await state(store, "target")
        assert found in (NEW, other, BlockNotFoundError, IntegrityError)
        return trace.acted

    at_every_call(run)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="block 0 goes last and alone, streams go in batches: contents in one step",
)
@pytest.mark.parametrize("source", ["bytes", "stream"])
@pytest.mark.parametrize("old", [None, OLD])
def test_a_write_never_waits_for_all_that_is_in_flight(source: str, old: bytes | None) -> None:
    """At a round trip of 30 ms each such wait leaves the link idle."""
    in_flight = 0
    waits = 0

    class Counting(HookedStore):
        async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
            nonlocal in_flight, waits
            in_flight += 1
            await ctx.runtime.sleep(0.01)
            in_flight -= 1
            waits += in_flight == 0
            return await super().write(ctx, request)

    async def main() -> None:
        contents = Contents(Counting(await prepared({} if old is None else {"movie": old})))
        given = NEW if source == "bytes" else io.BytesIO(NEW)
        await contents.writer.write_content(contents.ctx, "movie", given, None)
        assert await state(contents.reader._operations.store, "movie") == NEW

    asyncio.run(main())
    assert waits == 1  # at the end


def test_a_crash_while_deleting() -> None:
    async def run(place: int) -> bool:
        store = await prepared({"movie": NEW})
        trace = Trace(place, crash, ever_after=True)
        with suppress(Crash):
            await Contents(HookedStore(store, trace)).delete("movie")
        assert await state(store, "movie") in (NEW, IntegrityError, BlockNotFoundError)
        await Contents(store).delete("movie")
        assert await Contents(store).keys() == []
        return trace.acted

    at_every_call(run)


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
                await deliver(contents.writer.write_content(contents.ctx, "movie", broken(), None))
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


class LateFirstBlock(HookedStore):
    """A service that carries out a request for a block 0 when its sender has given up."""

    def __init__(self, inner: Store, how: str) -> None:
        super().__init__(inner)
        self.late: list[Coroutine[Any, Any, BlockInfo]] = []
        self._how = how

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return await self._carry_out(ctx, request.key, super().write(ctx, request))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        change = super().copy_block(ctx, source_key, target_key)
        return await self._carry_out(ctx, target_key, change)

    async def _carry_out(
        self, ctx: Context, key: str, change: Coroutine[Any, Any, BlockInfo]
    ) -> BlockInfo:
        if not key.endswith("chunk-0/block-0"):
            return await change
        self.late.append(change)
        if self._how == "cut off":
            raise asyncio.CancelledError
        ctx.unknown_attempts += 1
        raise DeadlineExceededError("late")


@pytest.mark.parametrize("how", ["at the deadline", "cut off"])
@pytest.mark.parametrize("call", ["write", "copy"])
def test_a_first_block_that_is_stored_late_never_makes_a_shorter_content(
    call: str, how: str
) -> None:
    """Block 0 says that a content is there: alone, it would be read as one of a single block."""

    async def main() -> None:
        store = await prepared({"source": NEW})
        contents = Contents(late := LateFirstBlock(store, how))
        with pytest.raises((DeadlineExceededError, asyncio.CancelledError)) as raised:
            await (
                contents.write("target", NEW)
                if call == "write"
                else contents.copy("source", "target")
            )
        assert any("'target' may be left unfinished" in note for note in raised.value.__notes__)
        assert await state(store, "target") is IntegrityError
        (change,) = late.late
        _ = await change
        assert await state(store, "target") == NEW

    asyncio.run(main())


def test_a_first_block_that_was_refused_leaves_nothing() -> None:
    """What the service itself refuses is not stored later."""

    async def refuse(operation: str, key: str) -> None:
        if operation == "write_block" and key.endswith("chunk-0/block-0"):
            raise AccessDeniedError("no", status=403)

    async def main() -> None:
        contents = Contents(HookedStore(MemoryStore(), refuse))
        with pytest.raises(AccessDeniedError):
            await contents.write("movie", NEW)
        assert await contents.keys() == []

    asyncio.run(main())


class Undeleted(HookedStore):
    """A service whose first delete of a block 0 ends in `error`, after `unknown` attempts."""

    def __init__(self, inner: Store, error: BlockStoreError, unknown: int) -> None:
        super().__init__(inner)
        self._errors = [error]
        self._unknown = unknown
        self.deadlines: list[float | None] = []
        """Of what came after that."""

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        if self._errors and "chunk-new-" not in key:
            ctx.unknown_attempts += self._unknown
            raise self._errors.pop()
        await super().delete_block(ctx, key, if_match)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        if not self._errors:
            self.deadlines.append(ctx.deadline)
        return await super().list(ctx, request)


@pytest.mark.parametrize(
    ("error", "unknown", "left"),
    [
        (DeadlineExceededError("late"), 0, OLD),
        (AccessDeniedError("no", status=403), 0, OLD),
        (DeadlineExceededError("late"), 1, NEW),
        (LocalStorageError("the folder could not be synced"), 0, NEW),
    ],
    ids=["not sent", "refused", "given up", "a folder"],
)
@pytest.mark.parametrize("call", ["write", "copy"])
def test_a_replacement_has_begun_when_the_old_content_may_be_gone(
    call: str, error: BlockStoreError, unknown: int, left: bytes
) -> None:
    """Only then does it go on to its end, past the deadline: else the old content stays."""

    async def main() -> None:
        inner = await prepared({"movie": OLD, "source": NEW})
        contents = Contents(store := Undeleted(inner, error, unknown))
        due = contents.ctx.runtime.now() + 5
        ctx = replace(contents.ctx, deadline=due)
        with pytest.raises(type(error)) as raised:
            _ = await (
                contents.writer.write_content(ctx, "movie", NEW, None)
                if call == "write"
                else contents.writer.copy_content(ctx, "source", "movie", None)
            )
        assert await state(store, "movie") == left
        assert any("chunk-new-" in key for key in await contents.keys()) == (unknown > 0)
        replaced = "'movie' was replaced all the same" in getattr(raised.value, "__notes__", ())
        assert replaced == (left == NEW)
        soon = all(deadline and deadline < due + 1 for deadline in store.deadlines[:1])
        assert soon == (left == OLD)

    asyncio.run(main())


def test_a_copy_of_one_block_onto_another_is_not_waited_for_past_the_deadline() -> None:
    """The store replaces a single block at once: the old content can be read all the time."""

    async def fail(operation: str, key: str) -> None:
        if operation == "copy_block" and "chunk-new-" not in key:
            raise DeadlineExceededError("late")

    async def main() -> None:
        store = await prepared({"movie": SHORT_OLD, "source": SHORT_NEW})
        contents = Contents(HookedStore(store, fail))
        with pytest.raises(DeadlineExceededError) as raised:
            await contents.copy("source", "movie")
        assert not hasattr(raised.value, "__notes__")
        assert await state(store, "movie") == SHORT_OLD
        assert not any("chunk-new-" in key for key in await contents.keys())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("unanswered", "note"),
    [
        (3, "'movie' was replaced all the same"),
        (4, f"and 'movie' may be left unfinished, as {BEGUN}: late"),
    ],
)
def test_a_replacement_that_has_begun_is_tried_again_when_a_request_is_never_answered(
    unanswered: int, note: str
) -> None:
    """And a note says how it ended."""
    copies = 0

    async def fail(operation: str, key: str) -> None:
        nonlocal copies
        if operation == "copy_block" and key == "movie/chunk-0/block-0":
            copies += 1
            if copies <= unanswered:
                raise DeadlineExceededError("late")

    async def main() -> None:
        store = await prepared({"movie": OLD})
        with pytest.raises(DeadlineExceededError) as raised:
            await Contents(HookedStore(store, fail)).write("movie", NEW)
        assert raised.value.__notes__ == [note]
        assert await state(store, "movie") == (NEW if unanswered == 3 else IntegrityError)

    asyncio.run(main())


def test_a_mixture_is_removed_though_its_first_block_was_tried_twice() -> None:
    """Where the source of a copy changes as its last block is copied."""

    class Twice(LikeS3):
        async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
            if target_key.endswith("chunk-0/block-0"):
                ctx.unknown_attempts += 1
                await Contents(self.inner).write("source", OLD)
            return await super().copy_block(ctx, source_key, target_key)

    async def main() -> None:
        store = await prepared({"source": NEW})
        with pytest.raises(IntegrityError):
            await Contents(Twice(store)).copy("source", "target")
        assert await state(store, "target") is BlockNotFoundError

    asyncio.run(main())


def test_what_could_not_be_tidied_is_said_in_a_note() -> None:
    async def main() -> None:
        store = HookedStore(MemoryStore())

        async def fail_from_block_3_on(operation: str, key: str) -> None:
            if key.endswith("block-3") or operation.startswith("delete"):
                raise DeadlineExceededError(f"no reply: {operation} {key}")

        store.hook = fail_from_block_3_on
        with pytest.raises(DeadlineExceededError) as raised:
            await Contents(store, 1).write("movie", NEW)
        assert "no reply: write_block" in str(raised.value)
        assert any("'movie' may be left unfinished" in note for note in raised.value.__notes__)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("failing", "within"),
    [(("write_block", ""), (0, 1)), (("copy_block", "movie/chunk-0/"), (3, 31))],
    ids=["taken back soon", "a replacement under way is finished"],
)
def test_tidying_up_has_time_of_its_own_when_the_deadline_has_passed(
    failing: tuple[str, str], within: tuple[int, int]
) -> None:
    deadlines: list[float | None] = []

    class Noting(HookedStore):
        async def list(self, ctx: Context, request: ListRequest) -> Page:
            deadlines.append(ctx.deadline)
            return await super().list(ctx, request)

        async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
            deadlines.append(ctx.deadline)
            return await super().copy_block(ctx, source_key, target_key)

    async def main() -> None:
        contents = Contents(store := Noting(MemoryStore()))
        await contents.write("movie", OLD)
        deadlines.clear()
        store.hook = fail
        ctx = replace(contents.ctx, deadline=contents.ctx.runtime.now() + 5)
        with pytest.raises(DeadlineExceededError):
            await contents.writer.write_content(ctx, "movie", NEW, None)
        first = ctx.deadline
        assert first is not None
        tidying = [deadline for deadline in deadlines if deadline != first]
        assert tidying
        least, most = within
        assert all(deadline and first + least < deadline < first + most for deadline in tidying)

    async def fail(operation: str, key: str) -> None:
        if operation == failing[0] and key.startswith(failing[1]):
            raise DeadlineExceededError("late")

    asyncio.run(main())


def test_a_deadline_that_passes_while_staged_blocks_are_removed_is_told_as_one() -> None:
    class Late(HookedStore):
        """As a folder: each key has its own outcome."""

        async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
            if not any("chunk-new-" in key for key in keys) or ctx.tidying:
                return await super().delete_blocks(ctx, keys)
            return DeleteResult([], {key: DeadlineExceededError("late") for key in keys})

    async def main() -> None:
        contents = Contents(store := Late(MemoryStore()))
        await contents.write("movie", OLD)
        with pytest.raises(DeadlineExceededError, match="late") as raised:
            await contents.write("movie", NEW)
        assert raised.value.__notes__ == ["'movie' was replaced all the same"]
        assert await state(store, "movie") == NEW
        assert not any("chunk-new-" in key for key in await contents.keys())

    asyncio.run(main())


READS: dict[str, Callable[[Contents], Awaitable[bytes]]] = {
    "bytes": lambda contents: contents.read("movie"),
    "stream": lambda contents: contents.read_stream("movie"),
    "open file": lambda contents: contents.read_open_file("movie"),
}


class LikeS3(HookedStore):
    """Listings as S3's: the ETag is that of the bytes, and time tells nothing apart."""

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        page = await super().list(ctx, request)
        blocks = [
            block._replace(
                etag=hashlib.sha256(
                    (await self.inner.read(ctx, ReadRequest(block.key))).data
                ).hexdigest(),
                last_modified=None,
            )
            for block in page.blocks
        ]
        return Page(blocks, page.next_token)


@pytest.mark.parametrize("page_size", [1000, 2])
@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"same begin, old", b"same begin, and end"),
        (b"old content", b"NEW"),
        (b"old content", None),
    ],
)
def test_a_reader_never_mixes_an_old_content_with_a_new(
    kind: str, old: bytes, new: bytes | None, page_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has come to every place of its work, at every place of the reader's."""
    monkeypatch.setattr("blockyard.operations.PAGE_SIZE", page_size)
    hooked = LikeS3 if page_size == 1000 else HookedStore
    outcomes: set[bytes | type[BaseException]] = set()

    async def change(store: Store) -> None:
        contents = Contents(store, 1)
        await (contents.delete("movie") if new is None else contents.write("movie", new))

    def writer_stops_at(writes: int) -> Callable[[int], Coroutine[Any, Any, bool]]:
        async def run(place: int) -> bool:
            store = await prepared({"movie": old})

            async def change_some() -> None:
                trace = Trace(writes, crash, ever_after=True)
                with suppress(Crash):
                    await change(HookedStore(store, trace))

            trace = Trace(place, change_some, ever_after=False)
            try:
                found = await READS[kind](Contents(hooked(store, trace)))
                assert found in (old, new)
                outcomes.add(found)
            except (IntegrityError, BlockNotFoundError) as error:
                outcomes.add(type(error))
            return trace.acted

        return run

    async def calls_of_writer() -> int:
        trace = Trace(10**6, crash, ever_after=True)
        await change(HookedStore(await prepared({"movie": old}), trace))
        return len(trace.calls)

    for writes in range(asyncio.run(calls_of_writer()) + 1):
        at_every_call(writer_stops_at(writes))
    assert outcomes >= {old, IntegrityError}


def test_a_copy_of_what_is_replaced_meanwhile_is_not_left_as_a_mixture() -> None:
    async def run(place: int) -> bool:
        store = await prepared({"source": OLD})

        async def rewrite() -> None:
            await Contents(store).write("source", NEW)

        trace = Trace(place, rewrite, ever_after=False)
        with suppress(IntegrityError, BlockNotFoundError):
            await Contents(HookedStore(store, trace)).copy("source", "target")
        assert await state(store, "target") in (OLD, NEW, BlockNotFoundError)
        return trace.acted

    at_every_call(run)
