"""The caller's own code keeps its thread, its task and its context through a call, to its end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from blockyard import DeadlineExceededError, TransportError
from blockyard.aio import AsyncBlockStore
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.operations import Operations
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 1024
PIECES = [bytes([number]) * BLOCK for number in range(20)]
WRITES_THAT_WORK = 6

setting: ContextVar[str] = ContextVar("setting", default="of nobody")


class Hook:
    """The hook of a store: writes take a while, and fail after some where `fails` is set."""

    def __init__(self) -> None:
        self.fails = False
        self.seconds = self.later = 0.0
        self.left = WRITES_THAT_WORK

    async def __call__(self, operation: str, key: str) -> None:
        if operation == "write_block":
            self.left -= 1
            await asyncio.sleep(self.seconds)
            if self.fails and self.left < 0:
                await asyncio.sleep(self.later)
                raise TransportError("broken")


@asynccontextmanager
async def opened(hook: Hook, **options: Any) -> AsyncIterator[AsyncBlockStore]:
    operations = Operations(HookedStore(MemoryStore(), hook))
    runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
    store = AsyncBlockStore(operations, runtime, deadline=None, concurrency=8)
    async with store.with_options(**options) as view:
        shrink_blocks(view, BLOCK)  # pyright: ignore[reportArgumentType]
        yield view


class Steps:
    """An async source, and where it was stepped."""

    def __init__(self, slow_at: int | None = None) -> None:
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.contexts: list[str] = []
        self.ended: asyncio.Task[Any] | None = None
        self.cancelled = 0
        self.is_slow = asyncio.Event()
        self._slow_at = slow_at

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            for number, piece in enumerate(PIECES):
                self.tasks.append(asyncio.current_task())
                self.contexts.append(setting.get())
                _ = setting.set(f"of piece {number}")
                if number == self._slow_at:
                    self.is_slow.set()
                    await asyncio.sleep(60)
                yield piece
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            await asyncio.sleep(0)  # what is not awaited to its end does not get here
            self.ended = asyncio.current_task()


async def fails(hook: Hook, steps: Steps) -> None:
    hook.fails, hook.later = True, 0.05  # the source is at its slow piece by then
    async with opened(hook) as store:
        with pytest.raises(TransportError, match="broken"):
            _ = await store.write_content("movie", steps.pieces())


async def is_late(hook: Hook, steps: Steps) -> None:
    async with opened(hook, deadline=1.0) as store:
        with pytest.raises(DeadlineExceededError):
            _ = await store.write_content("movie", steps.pieces())


async def is_cancelled(hook: Hook, steps: Steps) -> None:
    async with opened(hook) as store:
        call = asyncio.create_task(store.write_content("movie", steps.pieces()))
        _ = await steps.is_slow.wait()
        _ = call.cancel()
        with pytest.raises(asyncio.CancelledError):
            _ = await call


async def goes_well(hook: Hook, steps: Steps) -> None:
    async with opened(hook) as store:
        _ = await store.write_content("movie", steps.pieces())
        assert await store.read_content("movie") == b"".join(PIECES)


@pytest.mark.parametrize(
    ("call", "slow_at"),
    [(goes_well, None), (fails, None), (fails, 10), (is_late, 9), (is_cancelled, 9)],
)
def test_one_task_and_one_context_step_an_async_source_to_its_end(
    call: Callable[[Hook, Steps], Any], slow_at: int | None
) -> None:
    steps = Steps(slow_at)

    async def main() -> None:
        _ = setting.set("of the caller")
        await call(Hook(), steps)
        assert steps.ended is not None
        assert set(steps.tasks) == {steps.ended}
        expected = ["of the caller", *(f"of piece {number}" for number in range(len(PIECES)))]
        assert steps.contexts == expected[: len(steps.contexts)]
        assert steps.cancelled == (slow_at is not None)
        assert setting.get() == "of the caller"

    asyncio.run(main())


class Wrapped:
    """An iterator that is no generator, over one."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> Wrapped:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)


WRAPS: list[Callable[[Any], Any]] = [lambda pieces: pieces, Wrapped]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("where", ["in a piece", "between pieces"])
def test_a_timeout_around_the_pieces_ends_the_source_and_not_the_caller(
    where: str, wrap: Callable[[Any], Any]
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield PIECES[0]
        async with asyncio.timeout(0.05):
            for piece in PIECES:
                await asyncio.sleep(0.02 if where == "in a piece" else 0)
                yield piece

    hook = Hook()
    hook.seconds = 0.03 if where == "between pieces" else 0

    async def main() -> None:
        async with opened(hook) as store:
            with pytest.raises(TimeoutError) as raised:
                _ = await store.write_content("movie", wrap(pieces()))
            assert type(raised.value) is TimeoutError
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            assert await store.list_by_prefix() == []

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0.0, 0.02])
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_cancel_scope_around_the_pieces_ends_where_it_began(
    wrap: Callable[[Any], Any], seconds: float
) -> None:
    """Also when it ends while its task waits for the store."""
    given: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        with anyio.move_on_after(0.5):
            while True:
                given.append(PIECES[len(given) % 20])
                yield given[-1]
                await anyio.sleep(0.001)
        given.append(b"the end")
        yield given[-1]

    hook = Hook()
    hook.seconds = seconds

    async def main() -> None:
        async with opened(hook) as store:
            _ = await store.write_content("movie", wrap(pieces()))
            assert await store.read_content("movie") == b"".join(given)
            assert given[-1] == b"the end"
            assert len(given) > 2

    asyncio.run(main())


def test_a_timeout_between_pieces_goes_before_the_error_of_a_write() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        async with asyncio.timeout(0.1):
            for piece in PIECES:
                yield piece

    hook = Hook()
    hook.fails, hook.seconds, hook.left = True, 0.5, 0

    async def main() -> None:
        async with opened(hook) as store:
            with pytest.raises(TimeoutError) as raised:
                _ = await store.write_content("movie", pieces())
            assert raised.value.__notes__ == ["meanwhile TransportError: broken"]

    asyncio.run(main())


def test_the_end_of_a_source_is_waited_for_and_may_be_cancelled() -> None:
    ended: list[str] = []
    waits: asyncio.Queue[None] = asyncio.Queue()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield PIECES[0]
            waits.put_nowait(None)
            await asyncio.sleep(60)
        finally:
            waits.put_nowait(None)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async def main() -> None:
        async with opened(Hook()) as store:
            call = asyncio.create_task(store.write_content("movie", pieces()))
            for _ in range(2):
                await waits.get()
                _ = call.cancel()
                assert ended == []
            with pytest.raises(asyncio.CancelledError):
                _ = await call
            assert ended == ["cancelled"]
            late = store.with_options(deadline=0.5)
            shrink_blocks(late, BLOCK)  # pyright: ignore[reportArgumentType]
            with pytest.raises(DeadlineExceededError):
                _ = await late.write_content("movie", pieces())
            assert ended == ["cancelled"] * 2

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < 40


def test_what_the_end_of_a_source_raises_is_noted_on_the_error_of_the_call() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            for piece in PIECES:
                yield piece
        finally:
            raise LookupError("not found")

    def parts() -> Iterator[bytes]:
        try:
            yield from PIECES
        finally:
            raise LookupError("not found")

    for client, source in (("blocking", parts), ("asyncio", parts), ("asyncio", pieces)):
        hook = Hook()
        hook.fails = True
        hooked = HookedStore(MemoryStore(), hook)
        with open_client(client, hooked) as opened_client:  # pyright: ignore[reportArgumentType]
            shrink_blocks(opened_client.store, BLOCK)
            with pytest.raises(TransportError, match="broken") as raised:
                _ = opened_client.store.write_content("movie", source())  # pyright: ignore
            [note] = [
                note
                for note in getattr(raised.value, "__notes__", [])
                if "given to this call" in note
            ]
            assert "LookupError('not found')" in note


def test_what_a_source_raises_when_it_is_cancelled_goes_before_the_deadline() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield PIECES[0]
        try:
            await asyncio.sleep(60)
        finally:
            raise LookupError("not found")

    async def main() -> None:
        async with opened(Hook(), deadline=0.5) as store:
            with pytest.raises(LookupError) as raised:
                _ = await store.write_content("movie", pieces())
            assert raised.value.__notes__[0].startswith("meanwhile DeadlineExceededError")

    asyncio.run(main())


class OnOneThread:
    """What the caller hands over, and where it ran: it holds what belongs to one thread."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.contexts: list[str] = []
        self.ended = False
        self._database: sqlite3.Connection | None = None
        self._kept: Any = None
        self._written = 0

    def step(self) -> None:
        self.threads.add(threading.get_ident())
        self.contexts.append(setting.get())
        _ = setting.set(f"of step {len(self.contexts)}")
        if self._database is None:
            self._database = sqlite3.connect(":memory:")
        _ = self._database.execute("select 1")

    def kept(self, given: Any) -> Any:
        """It is not collected, so that nothing but the call closes it."""
        self._kept = given
        return given

    def end(self) -> None:
        self.step()
        assert self._database is not None
        self._database.close()
        self.ended = True

    def parts(self) -> Iterator[bytes]:
        try:
            for piece in PIECES:
                self.step()
                yield piece
        finally:
            self.end()

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        for number, part in enumerate(self.parts()):
            yield f"block-{number}", part

    def read(self, size: int, /) -> bytes:
        if len(self.contexts) == len(PIECES):
            self.end()
            return b""
        self.step()
        return PIECES[len(self.contexts) - 1]

    def write(self, data: Any, /) -> int:
        written = min(len(data), BLOCK // 2)
        self._written += written
        self(self._written)
        return written

    def __call__(self, done: int) -> None:
        self.step()
        if done == BLOCK * len(PIECES):
            self.end()


class Iterated:
    """An iterable whose `__iter__` is a step as well."""

    def __init__(self, one: OnOneThread) -> None:
        self._one = one

    def __iter__(self) -> Iterator[bytes]:
        self._one.step()
        return self._one.parts()


Call = Callable[[Any, OnOneThread], Any]
CALLS: dict[str, Call] = {
    "blocks": lambda store, one: store.write_blocks(one.kept(one.blocks())),
    "source generator": lambda store, one: store.write_content("film", one.kept(one.parts())),
    "source iterable": lambda store, one: store.write_content("film", Iterated(one)),
    "source file": lambda store, one: store.write_content("film", one),
    "target": lambda store, one: store.read_content_into("movie", one),
    "progress": lambda store, one: store.copy_content("movie", "film", progress=one),
}
CLOSED = ("blocks", "source generator", "source iterable")


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("client", CLIENTS)
def test_one_thread_and_one_context_step_what_is_the_callers(client: ClientName, kind: str) -> None:
    one, hook = OnOneThread(), Hook()
    token = setting.set("of the caller")
    with open_client(client, HookedStore(MemoryStore(), hook)) as opened_client:
        shrink_blocks(opened_client.store, BLOCK)
        _ = opened_client.store.write_content("movie", b"".join(PIECES))
        hook.seconds = 0.001  # so that there is more than one thing at a time
        _ = CALLS[kind](opened_client.store, one)
    assert len(one.threads) == 1
    assert len(one.contexts) >= len(PIECES)
    expected = ["of the caller", *(f"of step {n + 1}" for n in range(len(one.contexts)))]
    assert one.contexts == expected[:-1]
    assert one.ended
    setting.reset(token)


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_generator_that_is_left_early_is_closed_where_it_ran(
    client: ClientName, kind: str
) -> None:
    one, hook = OnOneThread(), Hook()
    hook.fails = True
    with open_client(client, HookedStore(MemoryStore(), hook)) as opened_client:
        store = opened_client.store.with_options(concurrency=2)
        shrink_blocks(store, BLOCK)
        with pytest.raises(TransportError, match="broken") as raised:
            _ = CALLS[kind](store, one)
        assert len(one.contexts) < len(PIECES)
        assert one.ended  # with no error, which would be noted
        assert not [
            note for note in getattr(raised.value, "__notes__", []) if "given to this call" in note
        ]
        assert len(one.threads) == 1


def test_a_generator_that_was_let_go_is_closed_on_its_thread_when_it_returns() -> None:
    let_go, closed = threading.Event(), threading.Event()
    threads: list[int] = []

    def parts() -> Iterator[bytes]:
        try:
            threads.append(threading.get_ident())
            yield PIECES[0]
            assert let_go.wait(60)
            yield PIECES[1]
        finally:
            threads.append(threading.get_ident())
            closed.set()

    async def main() -> None:
        async with opened(Hook(), deadline=0.5) as store:
            with pytest.raises(DeadlineExceededError):
                _ = await store.write_content("movie", parts())
            assert not closed.is_set()
            let_go.set()
            assert await asyncio.to_thread(closed.wait, 30)

    asyncio.run(main())
    assert len(set(threads)) == 1


def test_progress_that_runs_the_loop_itself_is_called_within_its_own_call() -> None:
    """As `nest_asyncio` lets it: a context can't be entered twice."""

    async def main() -> list[int]:
        code = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig())).user_code(quick=True)
        told: list[int] = []

        def progress(done: int) -> None:
            told.append(done)
            if done < 3:
                nested = code.run(lambda: progress(done + 1))
                with pytest.raises(StopIteration):
                    nested.send(None)

        await code.run(lambda: progress(1))
        return told

    assert asyncio.run(main()) == [1, 2, 3]
