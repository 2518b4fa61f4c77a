"""Iterators of both clients after a step that failed: they go on, or fail, and never end."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest

import blockyard
from blockyard import BlockStore, ContentReplacedError, StoreClosedError, TransportError
from blockyard.aio import AsyncBlockStore
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.iterators import AsyncPageIterator, PageIterator
from blockyard.model import MIN_READ_PART
from blockyard.operations import Operations
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 1024
MOVIE = b"".join(bytes([number]) * BLOCK for number in range(20)) + b"end"
KEYS = [f"key-{number:02}" for number in range(35)]

KINDS: dict[str, Callable[[Any], Any]] = {
    "blocks": lambda store: store.iter_blocks("key-"),
    "content": lambda store: store.iter_content("movie"),
    "range": lambda store: store.iter_content("movie", 100, 12 * BLOCK),
    "object": lambda store: store.iter_object("object", 100, part_size=MIN_READ_PART),
}
OBJECT = b"".join(bytes([number]) * MIN_READ_PART for number in range(6)) + b"end"
WHOLE: dict[str, Any] = {
    "blocks": KEYS,
    "content": MOVIE,
    "range": MOVIE[100:][: 12 * BLOCK],
    "object": OBJECT[100:],
}


def joined(kind: str, items: list[Any]) -> Any:
    return [item.key for item in items] if kind == "blocks" else b"".join(items)


class Failing:
    """The hook of a store: the operations whose numbers are in `at` fail."""

    def __init__(self) -> None:
        self.count = 0
        self.at: set[int] = set()

    async def __call__(self, operation: str, key: str) -> None:
        self.count += 1
        if self.count in self.at:
            raise TransportError(f"operation {self.count}: {operation} {key}")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard.prefixes.PAGE_SIZE", 10)


@pytest.fixture(params=CLIENTS)
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[BlockStore, Failing]]:
    hook = Failing()
    with open_client(request.param, HookedStore(MemoryStore(), hook)) as client:
        store = client.store
        shrink_blocks(store, BLOCK)
        _ = store.write_blocks([(key, b"") for key in KEYS])
        _ = store.write_content("movie", MOVIE)
        _ = store.write_block("object", OBJECT)
        yield store, hook


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_fails_is_tried_again_by_the_next(
    opened: tuple[BlockStore, Failing], kind: str
) -> None:
    store, hook = opened
    hook.count = 0
    assert joined(kind, list(KINDS[kind](store))) == WHOLE[kind]
    calls = hook.count
    assert calls > 3
    for at in [{number} for number in range(1, calls + 1)] + [set(range(1, 200, 7))]:
        hook.count, hook.at = 0, at
        iterator, items, failures = KINDS[kind](store), list[Any](), 0
        while True:
            try:
                items.append(next(iterator))
            except StopIteration:
                break
            except TransportError:
                failures += 1
        assert joined(kind, items) == WHOLE[kind]
        assert failures == 1 or len(at) > 1
        assert list(iterator) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_cancelled_is_tried_again_by_the_next(kind: str) -> None:
    """As by `asyncio.wait_for(anext(iterator), seconds)`, at each turn of the loop."""

    async def turn(operation: str, key: str) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        hooked = Operations(HookedStore(MemoryStore(), turn))
        store = AsyncBlockStore(hooked, runtime, deadline=None, concurrency=4)
        shrink_blocks(store, BLOCK)  # pyright: ignore[reportArgumentType]
        async with store:
            _ = await store.write_blocks([(key, b"") for key in KEYS])
            _ = await store.write_content("movie", MOVIE)
            _ = await store.write_block("object", OBJECT)
            for turns in range(30):
                iterator, items, cancelled = KINDS[kind](store), list[Any](), 0
                while True:
                    step: asyncio.Task[Any] = asyncio.ensure_future(anext(iterator))
                    for _ in range(turns + cancelled):
                        await asyncio.sleep(0)
                    if step.cancel():
                        cancelled += 1
                    try:
                        items.append(await step)
                    except asyncio.CancelledError:
                        continue
                    except StopAsyncIteration:
                        break
                assert joined(kind, items) == WHOLE[kind]

    asyncio.run(main())


def test_what_was_replaced_meanwhile_is_read_to_its_end(opened: tuple[BlockStore, Failing]) -> None:
    store, _ = opened
    iterator = store.iter_content("movie")
    items = [next(iterator)]
    _ = store.write_content("movie", MOVIE[::-1])
    assert b"".join([*items, *iterator]) == MOVIE


def test_what_was_deleted_meanwhile_is_an_error_each_time(
    opened: tuple[BlockStore, Failing],
) -> None:
    store, _ = opened
    iterator = store.iter_content("movie")
    items = [next(iterator)]
    store.delete_content("movie")
    for _ in range(3):
        with pytest.raises(ContentReplacedError, match="movie"):
            items.extend(iterator)
    assert MOVIE.startswith(b"".join(items))


def test_arguments_are_checked_at_the_call(opened: tuple[BlockStore, Failing]) -> None:
    store, hook = opened
    hook.count = 0
    wrong: list[Callable[[Any], Any]] = [
        lambda store: store.iter_blocks(7),
        lambda store: store.iter_blocks("a\0"),
        lambda store: store.iter_content(7),
        lambda store: store.iter_content(""),
        lambda store: store.iter_content("movie", -1),
        lambda store: store.iter_content("movie", 0, "all"),
        lambda store: store.iter_object(7),
        lambda store: store.iter_object("object", -1),
        lambda store: store.iter_object("object", part_size=1),
    ]
    for call in wrong:
        with pytest.raises((TypeError, ValueError), match="iter_"):
            call(store)
    assert hook.count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_store_gives_no_iterator_and_no_quiet_end(
    opened: tuple[BlockStore, Failing], kind: str
) -> None:
    store, _ = opened
    begun = KINDS[kind](store)
    _ = next(begun)
    store.close()
    for _ in range(2):
        with pytest.raises(StoreClosedError):
            _ = list(begun)
    with pytest.raises(StoreClosedError):
        KINDS[kind](store)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", CLIENTS)
def test_closing_one_ends_it_and_dropping_one_frees_it(client: ClientName, kind: str) -> None:
    async def under_asyncio() -> None:
        async with await blockyard.open_async_store("memory://") as store:
            _ = await store.write_content("movie", MOVIE)
            _ = await store.write_block("object", OBJECT)
            _ = await store.write_blocks([(key, b"") for key in KEYS])
            async with aclosing(KINDS[kind](store)) as iterator:
                _ = await anext(iterator)
            assert [item async for item in iterator] == []
            dropped: AsyncPageIterator[Any] = KINDS[kind](store)
            _ = await anext(dropped)
            gone = weakref.ref(dropped)
            del dropped
            assert gone() is None

    if client == "asyncio":
        asyncio.run(under_asyncio())
        return
    with blockyard.open_store("memory://") as store:
        _ = store.write_content("movie", MOVIE)
        _ = store.write_block("object", OBJECT)
        _ = store.write_blocks([(key, b"") for key in KEYS])
        with closing(KINDS[kind](store)) as iterator:
            _ = next(iterator)
        assert list(iterator) == []
        dropped: PageIterator[Any] = KINDS[kind](store)
        _ = next(dropped)
        gone = weakref.ref(dropped)
        del dropped
        assert gone() is None


def test_two_steps_at_once_are_refused() -> None:
    async def under_asyncio() -> None:
        async with await blockyard.open_async_store("memory://") as store:
            _ = await store.write_content("movie", MOVIE)
            iterator = store.iter_content("movie")
            steps = [asyncio.ensure_future(anext(iterator)) for _ in range(2)]
            first, second = await asyncio.gather(*steps, return_exceptions=True)
            assert first == MOVIE
            assert isinstance(second, RuntimeError)

    asyncio.run(under_asyncio())
    nested: list[RuntimeError] = []

    async def step(operation: str, key: str) -> None:
        """As a signal handler may, in the middle of another step."""
        with pytest.raises(RuntimeError, match="another step") as raised:
            _ = next(iterator)
        nested.append(raised.value)

    hooked = HookedStore(MemoryStore())
    with open_client("blocking", hooked) as client:
        _ = client.store.write_block("key-1", b"")
        iterator = client.store.iter_blocks("key-")
        hooked.hook = step
        assert [block.key for block in iterator] == ["key-1"]
    assert len(nested) == 1
