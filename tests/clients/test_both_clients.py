"""The two clients say the same, and hand everything on to the operations."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from blockyard import PutOptions
from blockyard.aio import AsyncBlockStore
from blockyard.bulk_reads import BulkRead
from blockyard.client import Client
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.model import BlockInfo, Page
from blockyard.operations import Operations
from blockyard.stores.base import ListRequest
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.bulk import BulkLoop
from blockyard.transport.connections import Connections

MANY = {
    "drain",
    "delete_blocks",
    "delete_by_prefix",
    "read_block_ranges",
    "read_blocks",
    "write_blocks",
}
"""What the blocking client hands to its background loop."""

ARGUMENTS: dict[str, Any] = {
    "key": "the key",
    "source_key": "the source",
    "target_key": "the target",
    "prefix": "the prefix",
    "data": b"data",
    "buffer": bytearray(3),
    "offset": 5,
    "length": 7,
    "suffix": 9,
    "if_match": "one",
    "if_none_match": "other",
    "keys": ["the", "keys"],
    "ranges": [("a", 1, 2)],
    "blocks": [("a", b"1")],
    "if_absent": True,
    "lifetime": "mutable",
    "method": "PUT",
    "expires": 60,
    "timeout": 5.0,
    "options": PutOptions(),
    "literal": True,
    "dry_run": True,
    "raise_on_failure": False,
}


def public(kind: type) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def under_asyncio(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation = ASYNCIO_TYPES.get(parameter.annotation, parameter.annotation)
    return parameter.replace(annotation=annotation)


SHARED = set(public(Client))
BLOCKING, ASYNCIO = public(BlockStore), public(AsyncBlockStore)
OPERATIONS = sorted(set(public(Operations)) & set(BLOCKING) - {"close"})
ITERATORS = {"iter_blocks", "iter_content", "iter_object"}
ASYNCIO_TYPES = {
    "BlockStore": "AsyncBlockStore",
    "BufferedReader": "AsyncContentFile",
    "ContentSource": "AsyncContentSource",
    "PageIterator[BlockInfo]": "AsyncPageIterator[BlockInfo]",
    "PageIterator[bytes]": "AsyncPageIterator[bytes]",
}
"""What differs in a signature of the asyncio client."""


class RecordedOperations:
    """Stands in for `Operations`: remembers each call and answers with its own token."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Context, tuple[Any, ...], dict[str, Any]]] = []
        self.closed = 0
        self.waits_to_close = False

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def answer() -> Any:
            if name == "list_page":
                return Page([BlockInfo("a", 1, "e")], None)
            return f"result of {name}"

        def operation(ctx: Context, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            self.calls.append((name, ctx, args, kwargs))
            return answer()

        def bulk_read(_: Context, *args: Any, **kwargs: Any) -> BulkRead:
            async def read(ctx: Context, _: object) -> Any:
                return await operation(ctx, *args, **kwargs)

            return BulkRead([None], [("k", 0, None)], read)

        return bulk_read if name in {"read_blocks", "read_block_ranges"} else operation

    def refuse_more(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def blocking_client(
    operations: Any, deadline: float | None = None, concurrency: int = 32
) -> BlockStore:
    http, timeouts = HttpConfig(), TimeoutConfig()
    return BlockStore(
        operations,
        BlockingRuntime(Connections(http, timeouts)),
        BulkLoop(Connections(http, timeouts)),
        deadline=deadline,
        concurrency=concurrency,
    )


def asyncio_client(
    operations: Any, deadline: float | None = None, concurrency: int = 32
) -> AsyncBlockStore:
    runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
    return AsyncBlockStore(operations, runtime, deadline=deadline, concurrency=concurrency)


def arguments_of(method: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: ARGUMENTS[name] for name in inspect.signature(method).parameters if name != "self"
    }


def test_both_clients_have_the_same_methods() -> None:
    assert set(BLOCKING) == set(ASYNCIO)
    assert {"__enter__", "__exit__"} <= set(vars(BlockStore))
    assert {"__aenter__", "__aexit__"} <= set(vars(AsyncBlockStore))


@pytest.mark.parametrize("name", BLOCKING)
def test_methods_take_the_same(name: str) -> None:
    expected = [under_asyncio(parameter) for parameter in parameters(BLOCKING[name])]

    assert parameters(ASYNCIO[name]) == expected


@pytest.mark.parametrize("name", BLOCKING)
def test_methods_return_the_same(name: str) -> None:
    returns = inspect.signature(BLOCKING[name]).return_annotation
    awaited = inspect.signature(ASYNCIO[name]).return_annotation

    assert awaited == ASYNCIO_TYPES.get(returns, returns)


@pytest.mark.parametrize("name", BLOCKING)
def test_the_asyncio_client_is_awaited(name: str) -> None:
    if name in ITERATORS:
        for method in (ASYNCIO[name], BLOCKING[name]):  # which checks its arguments when called
            assert not inspect.isasyncgenfunction(method)
            assert not inspect.isgeneratorfunction(method)
    else:
        assert inspect.iscoroutinefunction(ASYNCIO[name]) is (name not in {"with_options", "stats"})
        assert not inspect.iscoroutinefunction(BLOCKING[name])


@pytest.mark.parametrize("name", sorted(set(BLOCKING) - SHARED))
def test_methods_are_documented_once(name: str) -> None:
    assert len(BLOCKING[name].__doc__ or "") > 30
    assert (ASYNCIO[name].__doc__ or "").startswith(f"See `BlockStore.{name}`")


def test_every_operation_is_on_both_clients() -> None:
    """Listings and their pages are for `iter_blocks`; the others for what stands on operations:
    contents, `distributed`, fsspec and obspec."""
    others = {
        "blocks_in_flight",
        "check_open",
        "delete_copied",
        "describe",
        "list_page",
        "pages",
        "refuse_more",
    }
    assert set(public(Operations)) - set(BLOCKING) == others


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_blocking_client_hands_on_its_arguments(name: str) -> None:
    operations = RecordedOperations()
    arguments = arguments_of(BLOCKING[name])

    with blocking_client(operations) as store:
        assert getattr(store, name)(**arguments) == f"result of {name}"

    [(called, ctx, args, kwargs)] = operations.calls
    bound = inspect.signature(getattr(Operations, name)).bind(operations, ctx, *args, **kwargs)
    assert (called, {**bound.arguments} | {"self": 0, "ctx": 0}) == (
        name,
        {"self": 0, "ctx": 0} | arguments,
    )
    assert isinstance(ctx.runtime, AsyncioRuntime if name in MANY else BlockingRuntime)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_asyncio_client_hands_on_its_arguments(name: str) -> None:
    operations = RecordedOperations()
    arguments = arguments_of(ASYNCIO[name])

    async def call() -> Any:
        async with asyncio_client(operations) as store:
            return await getattr(store, name)(**arguments)

    assert asyncio.run(call()) == f"result of {name}"

    [(called, ctx, args, kwargs)] = operations.calls
    bound = inspect.signature(getattr(Operations, name)).bind(operations, ctx, *args, **kwargs)
    assert (called, {**bound.arguments} | {"self": 0, "ctx": 0}) == (
        name,
        {"self": 0, "ctx": 0} | arguments,
    )
    assert isinstance(ctx.runtime, AsyncioRuntime)


@pytest.mark.parametrize("name", OPERATIONS)
def test_options_reach_every_call(name: str) -> None:
    operations = RecordedOperations()
    arguments = arguments_of(BLOCKING[name])

    async def call() -> None:
        store = asyncio_client(operations).with_options(
            deadline=1000, concurrency=7, cache="bypass"
        )
        async with store.with_options():  # which keeps what was set before
            await getattr(store, name)(**arguments)

    with blocking_client(operations).with_options(
        deadline=1000, concurrency=7, cache="bypass"
    ) as store:
        before = BlockingRuntime.now()
        _ = getattr(store.with_options(), name)(**arguments)
        asyncio.run(call())
        after = BlockingRuntime.now()

    assert len(operations.calls) == 2
    for _, ctx, _, _ in operations.calls:
        assert (ctx.concurrency, ctx.cache) == (7, "bypass")
        assert ctx.deadline is not None
        assert before + 1000 <= ctx.deadline <= after + 1000


def test_without_options_there_is_no_deadline() -> None:
    operations = RecordedOperations()

    with blocking_client(operations) as store:
        _ = store.read_block("a")
        _ = store.read_blocks(["a"])

    assert [(ctx.deadline, ctx.concurrency) for _, ctx, _, _ in operations.calls] == [
        (None, 32),
        (None, 32),
    ]


class PagedOperations(Operations):
    """A listing of three pages."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.calls: list[tuple[str, str | None]] = []

    async def list_page(self, ctx: Context, request: ListRequest) -> Page:
        prefix = request.prefix
        self.calls.append((prefix, request.token))
        number = int(request.token or 0)
        blocks = [BlockInfo(f"{prefix}{number}{letter}", 0, "") for letter in "ab"]
        return Page(blocks, str(number + 1) if number < 2 else None)


def test_iterating_fetches_a_page_when_it_comes_to_it() -> None:
    operations = PagedOperations()
    expected = ["p0a", "p0b", "p1a", "p1b", "p2a", "p2b"]

    with blocking_client(operations) as store:
        blocks = store.iter_blocks("p")
        assert operations.calls == []
        assert [next(blocks).key for _ in range(3)] == expected[:3]
        assert len(operations.calls) == 2
        assert [block.key for block in blocks] == expected[3:]

    assert operations.calls == [("p", None), ("p", "1"), ("p", "2")]


def test_iterating_under_asyncio() -> None:
    operations = PagedOperations()

    async def keys() -> list[str]:
        async with asyncio_client(operations) as store:
            return [block.key async for block in store.iter_blocks("p")]

    assert asyncio.run(keys()) == ["p0a", "p0b", "p1a", "p1b", "p2a", "p2b"]
    assert operations.calls == [("p", None), ("p", "1"), ("p", "2")]


def test_leaving_a_with_block_closes() -> None:
    operations = RecordedOperations()

    with pytest.raises(ZeroDivisionError), blocking_client(operations):
        _ = 1 // 0

    async def left() -> None:
        async with asyncio_client(operations):
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        asyncio.run(left())
    assert operations.closed == 2
