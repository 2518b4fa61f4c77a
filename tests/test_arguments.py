"""Arguments of public methods: what is refused, before a store is asked, and what is welcome.

The table of wrong values is held against the signatures of both clients and of opened contents, so
that a parameter without a row fails here.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import io
import os
import pathlib
import typing
from array import array
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from importlib import import_module
from typing import Any

import pytest

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.config import FileConfig, S3Config, StoreConfig
from blockyard.content.files import AsyncContentFile, RawContentFile
from blockyard.errors import InvalidKeyError, InvalidRangeError
from blockyard.stores.base import Store
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client


class AskedStore(Store):
    """Fails the test when it is asked for anything."""

    def _asked(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the store was asked: {args} {kwargs}")

    write = read = _asked
    stat_block = copy_block = delete_block = delete_blocks = list = health_check = _asked


class Truthful:
    """Like numpy's own bool: neither a `bool` nor a whole number."""

    def __bool__(self) -> bool:
        return True


async def awaited_progress(done: int) -> None: ...


class AwaitedProgress:
    async def __call__(self, done: int) -> None: ...


class Drawn:
    """An iterable that is no collection: its items come one by one."""

    def __init__(self, *items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def released() -> memoryview:
    view = memoryview(bytearray(3))
    view.release()
    return view


GAPS = memoryview(bytearray(10))[::2]
BACKWARDS = memoryview(bytearray(10))[::-1]
OBJECTS = (ctypes.py_object * 2)(1, 2)

Wrong = tuple[Any, type[Exception]]


def types(*values: Any) -> list[Wrong]:
    return [(value, TypeError) for value in values]


KEY = [*types(None, 3, b"a", ["a"], True), ("", InvalidKeyError), ("a\0b", InvalidKeyError)]
CONTENT_ID = [*KEY, ("a/", InvalidKeyError), ("k" * 1024, InvalidKeyError)]
PREFIX = [*types(None, 3, b"a", ["a"], True), ("a\nb", InvalidKeyError)]
FLAG = types(None, 0, 1, "no", "", b"", [], Truthful())
BUFFER = [
    *types(None, "text", 3, [1, 2], b"read only", memoryview(b"read only")),
    *types(GAPS, BACKWARDS, io.BytesIO(b"a")),
    (released(), ValueError),
]
DATA = [*types(None, "text", 3, [1, 2], GAPS, BACKWARDS, OBJECTS), (released(), ValueError)]
OFFSET = [
    *types(None, 1.0, "1", b"1", True, [1], Decimal(1)),
    (-1, InvalidRangeError),
    (2**63, InvalidRangeError),
    (10**400, InvalidRangeError),
]
LENGTH = [
    *types(1.0, "1", b"1", False, [1]),
    (-1, InvalidRangeError),
    (-(10**400), InvalidRangeError),
]
ETAG = [*types(b"e", 3, True), ("", ValueError), ('"quoted"', ValueError), ("a\nb", ValueError)]
SEVERAL = types(None, 3, "abc", b"abc", bytearray(b"abc"), memoryview(b"abc"), {"a": b"b"})
PROGRESS = types(3, "print", [], awaited_progress, AwaitedProgress())

WRONG: dict[str, list[Wrong]] = {
    "key": KEY,
    "source_key": KEY,
    "target_key": KEY,
    "content_id": CONTENT_ID,
    "source_id": CONTENT_ID,
    "target_id": CONTENT_ID,
    "prefix": PREFIX,
    "start_after": PREFIX,
    "if_absent": FLAG,
    "literal": FLAG,
    "dry_run": FLAG,
    "raise_on_failure": FLAG,
    "no_writers": FLAG,
    "block_size": [
        *types(1.5, "8", b"8", True, [8]),
        *((value, ValueError) for value in (0, -1, 2**31, 10**400)),
    ],
    "chunk_blocks": [
        *types(1.5, "8", b"8", True, [8]),
        *((value, ValueError) for value in (0, -1, 10_001, 10**400)),
    ],
    "content_type": [
        *types(None, 3, b"text/plain", ["text/plain"]),
        *((value, ValueError) for value in ("x" * 1025, "a\r\nb", " a", "\udc80", "é")),
    ],
    "modified": [*types(3, 1.5, "2026-01-01"), (datetime(2026, 1, 1), ValueError)],  # noqa: DTZ001
    "metadata": [
        *types(3, "a", [("a", "b")], {"a": 1}, {1: "a"}, {b"a": "b"}),
        ({"a": "x" * 9000}, ValueError),
    ],
    "data": DATA,
    "buffer": BUFFER,
    "offset": OFFSET,
    "length": LENGTH,
    "suffix": LENGTH,
    "if_match": ETAG,
    "if_none_match": ETAG,
    "keys": [
        *SEVERAL,
        *types([None], ["a", b"b"], ["a", 3], Drawn("a", None), [["a"]]),
        (["a", ""], InvalidKeyError),
    ],
    "ranges": [
        *SEVERAL,
        *types(["abc"], [None], [("a", 0, 1), 3], [{"a", 0, 1}], [("a", 0, True)], [("a", "0", 1)]),
        *types([(b"a", 0, 1)], [("a", None, 1)], [("a", 0, 1.5)]),
        ([("a", 0, 1), ("b", 0)], ValueError),
        ([("a", 0, 1, 2)], ValueError),
        ([("a", 0, 1), ("b", -1, 1)], InvalidRangeError),
        ([("a", 0, 1), ("", 0, 1)], InvalidKeyError),
    ],
    "blocks": [
        *SEVERAL,
        *types(["ab"], [None], [("a", b""), 3], [("a", None)], [("a", "text")], [(3, b"")]),
        *types(Drawn(("a", "text")), [("a", b""), ("b", GAPS)]),
        ([("a", b""), ("b",)], ValueError),
        ([("a", b"", True)], ValueError),
        ([("a", b""), ("", b"")], InvalidKeyError),
        (Drawn(("", b"")), InvalidKeyError),
    ],
    "source": [
        *types(None, 3, 1.5, True, {"a": b"b"}, io.StringIO("text"), GAPS, OBJECTS),
        (released(), ValueError),
        ("a\0b", ValueError),
        (pathlib.Path("a\0b"), ValueError),
    ],
    "target": [
        ("a\0b", ValueError),
        *types(None, 3, b"path", bytearray(3), ["path"], io.StringIO()),
    ],
    "progress": PROGRESS,
    "deadline": [
        *types("5", b"5", True, [5], {}, 5j),
        *((value, ValueError) for value in (0, -1, 0.0, float("nan"), float("inf"), 10**400)),
        *((value, ValueError) for value in (-0.0, 7 * 24 * 3600 + 1, Decimal("nan"))),
    ],
    "timeout": [
        *types("5", b"5", True, [5], {}, 5j),
        *((value, ValueError) for value in (0, -1, float("nan"), 7 * 24 * 3600 + 1)),
    ],
    "concurrency": [
        *types(1.5, "8", b"8", True, False, [8], Decimal(8)),
        *((value, ValueError) for value in (0, -1, 10_001, 10**400)),
    ],
    "part_size": [
        *types(None, 1.5, "8", b"8", True, [8]),
        *((value, ValueError) for value in (0, -1, 2**16 - 1, 2**30 + 1, 10**400)),
    ],
    "lifetime": [*types(None, 1, b"mutable"), ("", ValueError), ("forever", ValueError)],
    "options": types(3, "text/plain", {"content_type": "text/plain"}, []),
    "method": [*types(None, 1, b"GET", ["GET"]), ("POST", ValueError), ("get", ValueError)],
    "expires": [
        *types(None, "60", True, [60]),
        *((value, ValueError) for value in (0, -1, 0.5, float("nan"), float("inf"), 604_801)),
    ],
    "cache": [*types(None, 1, b"use", True, ["use"]), ("", ValueError), ("none", ValueError)],
}
"""Wrong values of every parameter, by its name, and what each raises."""

VALID: dict[str, Any] = {
    "key": "a",
    "source_key": "a",
    "target_key": "b",
    "content_id": "content",
    "source_id": "content",
    "target_id": "copy",
    "prefix": "a",
    "data": b"data",
    "buffer": bytearray(10),
    "offset": 0,
    "keys": ["a"],
    "ranges": [("a", 0, 1)],
    "blocks": [("a", b"1")],
    "source": b"data",
    "target": "/nowhere/file",
}
"""Values of the parameters that have no default."""


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    given = inspect.signature(function).parameters.values()
    return [parameter for parameter in given if parameter.name != "self"]


EVERY = [
    (name, parameter.name)
    for name, method in methods(BlockStore).items()
    for parameter in parameters(method)
]
"""Each method with each of its parameters; `test_both_clients.py` compares the two clients."""


def test_every_parameter_has_wrong_values() -> None:
    assert len(EVERY) > 40
    assert {parameter for _, parameter in EVERY} == set(WRONG)


def drawn(result: Any) -> None:
    """Begin what only begins when it is iterated over."""
    if isinstance(result, Iterator):
        _ = list(result)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("method", "parameter"), EVERY)
def test_a_wrong_value_is_refused_before_the_store_is_asked(
    client: ClientName, method: str, parameter: str
) -> None:
    given = {
        each.name: VALID[each.name]
        for each in parameters(getattr(BlockStore, method))
        if each.default is inspect.Parameter.empty
    }
    with open_client(client, AskedStore()) as opened:
        for value, error in WRONG[parameter]:
            with pytest.raises(error, match=parameter) as refused:
                drawn(getattr(opened.store, method)(**given | {parameter: value}))
            assert method in str(refused.value), value
            if error in {TypeError, ValueError}:
                assert type(refused.value) is error, value
            assert len(str(refused.value)) < 250, value


@pytest.mark.parametrize("client", CLIENTS)
def test_parts_are_written_in_no_less_than_a_service_takes(client: ClientName) -> None:
    with (
        open_client(client, AskedStore()) as opened,
        pytest.raises(ValueError, match="write_object: part_size: expected 5242880 to"),
    ):
        _ = opened.store.write_object("a", b"data", part_size=5 * 2**20 - 1)


def test_places_in_a_list_are_named() -> None:
    with open_client("blocking", AskedStore()) as client:
        for call, says in (
            (
                lambda s: s.read_blocks(["a", "b", 3]),
                r"read_blocks: keys\[2\]: expected str",
            ),
            (lambda s: s.read_block_ranges([("a", 0, 1), ("b", 0)]), r"ranges\[1\]: .*2 items"),
            (lambda s: s.write_blocks([("a", b""), ("b", 3)]), r"'b': blocks\[1\]: data: .*int"),
            (
                lambda s: s.write_blocks([("a", b""), "bc"]),
                r"blocks\[1\]: .*\(key, data\)",
            ),
            (lambda s: s.write_blocks({"a": b""}), r"blocks: .*items\(\)"),
        ):
            with pytest.raises((TypeError, ValueError), match=says):
                _ = call(client.store)


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_is_written_of_a_list_with_a_wrong_block(client: ClientName) -> None:
    """Only an iterator is drawn, and checked, block by block."""
    for blocks in (
        [("a", b""), ("b", "text")],
        (("a", b""), ("b",)),
        {"a": b"", "b": "text"}.items(),
    ):
        with open_client(client, MemoryStore()) as opened:
            with pytest.raises((TypeError, ValueError)):
                _ = opened.store.write_blocks(typing.cast("Any", blocks))
            assert opened.store.list_by_prefix() == []


# What is welcome


class Whole:
    """A whole number of another library, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class Key(str, Enum):  # noqa: UP042 - this is the one whose text is not what `format` gives
    A = "the/key"


class Size(IntEnum):
    TWO = 2


def whole_numbers() -> list[Callable[[int], Any]]:
    kinds: list[Callable[[int], Any]] = [int, Whole, lambda value: Size(2) if value == 2 else value]
    try:
        numpy = import_module("numpy")
    except ImportError:
        return kinds
    return [*kinds, numpy.int64, numpy.uint8, numpy.array]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("number", whole_numbers())
def test_whole_numbers_of_other_libraries_are_welcome(
    client: ClientName, number: Callable[[int], Any]
) -> None:
    with open_client(client, MemoryStore()) as opened:
        store = opened.store.with_options(concurrency=number(2))
        _ = store.write_block("a", b"0123456789")
        _ = store.write_content("c", b"0123456789")

        assert store.read_block_range("a", number(2), number(3)) == b"234"
        assert store.read_block_ranges([("a", number(2), number(2))]) == [b"23"]
        assert store.read_content("c", number(2), number(3)) == b"234"
        assert list(store.iter_content("c", number(2), number(3))) == [b"234"]
        target = io.BytesIO()
        assert store.read_content_into("c", target, offset=number(2), length=number(3)) == 3
        assert target.getvalue() == b"234"


@pytest.mark.parametrize("source", ["memory", "file"])
@pytest.mark.parametrize("client", CLIENTS)
def test_lengths_beyond_everything_mean_the_end(
    client: ClientName, source: str, tmp_path: pathlib.Path
) -> None:
    opens = MemoryStore() if source == "memory" else f"file://{tmp_path}"
    with open_client(client, opens) as opened:
        _ = opened.store.write_block("a", b"0123456789")
        for length in (10, 2**31, 2**63 - 1, 2**63, 10**400):
            assert opened.store.read_block_range("a", 2, length) == b"23456789"
        with pytest.raises(InvalidRangeError, match="at or past the end"):
            _ = opened.store.read_block_range("a", 2**63 - 1, 2**63 - 1)


@pytest.mark.parametrize(
    "deadline", [5, 5.0, Whole(5), Decimal("2.5"), Fraction(5, 2), Size.TWO, 7 * 24 * 3600]
)
def test_numbers_that_are_deadlines(deadline: Any) -> None:
    with open_client("blocking", MemoryStore()) as client:
        view = client.store.with_options(deadline=deadline)
        _ = view.write_block("a", b"")
        assert view.read_blocks(["a"]) == [b""]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_text_of_a_class_of_its_own_is_its_text(client: ClientName) -> None:
    """`format` gives the name of an enum's member, which would be another key."""
    with open_client(client, MemoryStore()) as opened:
        _ = opened.store.write_block(Key.A, b"1")
        _ = opened.store.write_blocks([(Key.A, b"2")])
        _ = opened.store.write_content(Key.A, b"3")

        assert opened.store.read_block(Key.A) == opened.store.read_block("the/key") == b"2"
        keys = opened.store.list_by_prefix(Key.A)
        assert keys == ["the/key", "the/key.blockyard"]
        assert all(type(info.key) is str for info in opened.store.iter_blocks())


class Pixel(ctypes.BigEndianStructure):
    _fields_ = (("x", ctypes.c_uint16), ("y", ctypes.c_uint16))


BUFFERS: dict[str, Any] = {
    "ctypes, bytes": (ctypes.c_ubyte * 3)(1, 2, 3),
    "ctypes, big-endian": (ctypes.c_uint16.__ctype_be__ * 2)(1, 2),
    "structures": (Pixel * 2)((1, 2), (3, 4)),
    "array of numbers": array("d", [1.5, 2.5]),
    "one number of ctypes": ctypes.c_uint32(3),
    "two dimensions": memoryview(bytes(range(6))).cast("B", (2, 3)),
    "nothing": bytearray(),
    "nothing of numbers": array("d"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_buffers_of_every_item_type_are_their_bytes(client: ClientName, buffer: Any) -> None:
    expected = bytes(buffer)
    with open_client(client, MemoryStore()) as opened:
        _ = opened.store.write_block("a", buffer)
        _ = opened.store.write_blocks([("b", buffer)])
        _ = opened.store.write_content("c", buffer)
        assert opened.store.read_blocks(["a", "b"]) == [expected, expected]
        assert opened.store.read_content("c") == expected
        if not memoryview(buffer).readonly:
            assert opened.store.read_block_into("a", buffer) == len(expected)
            assert bytes(buffer) == expected


# Opened contents


FILE_WRONG: dict[str, list[Wrong]] = {
    "offset": [*types(None, "1", 1.5, True), (-1, ValueError), (-(10**400), ValueError)],
    "whence": [*types(None, "0", 1.5, True), (3, ValueError), (-1, ValueError)],
    "size": [*types("1", 1.5, True, [1]), (-2, ValueError)],
}


def test_every_parameter_of_an_opened_content_has_wrong_values() -> None:
    given = {
        each.name for method in methods(AsyncContentFile).values() for each in parameters(method)
    }
    assert given == set(FILE_WRONG)


def test_an_opened_content_refuses_wrong_values_and_stays_where_it_is() -> None:
    async def refused() -> None:
        async with await blockyard.open_async_store("memory://") as store:
            _ = await store.write_content("c", b"0123456789")
            file = await store.open_content("c")
            _ = await file.seek(4)
            for name, method in methods(AsyncContentFile).items():
                for parameter in parameters(method):
                    for value, error in FILE_WRONG[parameter.name]:
                        given = (
                            {"offset": 0, parameter.name: value}
                            if name == "seek"
                            else {"size": value}
                        )
                        with pytest.raises(error):
                            await getattr(file, name)(**given)
                        assert await file.tell() == 4
            assert await file.read(Whole(2)) == b"45"  # pyright: ignore[reportArgumentType]
            assert await file.seek(Whole(1), Whole(1)) == 7  # pyright: ignore[reportArgumentType]
            assert await file.read(None) == b"789"

    asyncio.run(refused())


# Opening


@pytest.mark.parametrize("source", [3, b"memory://", ["memory://"], True, {"type": "memory"}])
def test_a_source_of_a_wrong_type(source: Any) -> None:
    with pytest.raises(TypeError, match=r"^open_store: source: expected .*, got "):
        _ = blockyard.open_store(source)
    with pytest.raises(TypeError, match=r"^open_async_store: source: expected .*, got "):
        _ = asyncio.run(blockyard.open_async_store(source))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (S3Config(bucket="data"), r"StoreConfig\(s3="),
        (FileConfig(path=pathlib.Path("/f")), r"StoreConfig\(type='file', file="),
    ],
)
def test_a_section_is_no_source(source: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        _ = blockyard.open_store(source)


# Types


def public_callables() -> dict[str, Any]:
    """Functions, classes and their methods that users call, by name."""
    found: dict[str, Any] = {}
    public = {name: getattr(blockyard, name) for name in blockyard.__all__}
    for kind in (AsyncContentFile, RawContentFile, Store):
        public[kind.__name__] = kind
    for name, item in public.items():
        if inspect.isfunction(item):
            found[name] = item
        if inspect.isclass(item) and item.__module__.startswith("blockyard"):
            found[name] = item
            for member in vars(item):
                if inspect.isfunction(method := inspect.getattr_static(item, member)):
                    found[f"{name}.{member}"] = method
    return found


def test_annotations_can_be_resolved() -> None:
    """As `inspect`, pydantic, FastAPI and documentation tools do."""
    callables = public_callables()
    assert {"BlockStore.write_block", "AsyncBlockStore.close", "open_store"} <= set(callables)
    for name, item in callables.items():
        if name == "PartialDeleteError.__init__":  # of a type that is above it
            continue
        try:
            _ = typing.get_type_hints(item)
        except NameError as error:
            pytest.fail(f"{name}: {error}")


def test_the_buffers_of_the_signatures_are_buffers() -> None:
    hints = typing.get_type_hints(BlockStore.write_block)
    assert isinstance(b"", hints["data"])
    assert typing.get_type_hints(AsyncBlockStore.write_block) == hints
    assert not isinstance("", hints["data"])
    assert os.PathLike[str] in typing.get_args(
        typing.get_type_hints(BlockStore.write_content)["source"]
    )


def test_a_store_config_is_a_source() -> None:
    with blockyard.open_store(StoreConfig(type="memory")) as store:
        assert store.list_by_prefix() == []
