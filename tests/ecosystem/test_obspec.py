"""`ObspecStore`: each protocol in both forms, over memory and moto, and who uses it."""

from __future__ import annotations

import asyncio
import inspect
import io
import pickle
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import obspec
import pytest
from async_tiff import TIFF
from obspec import exceptions
from obspec_utils.readers import BlockStoreReader, BufferedStoreReader, EagerStoreReader

import blockyard
from blockyard.obspec import ObspecStore, results
from blockyard.stores.memory import MemoryStore
from servers.endpoint import Endpoint
from tests.hooked_store import HookedStore

DATA = bytes(range(256)) * 400
REPOSITORY = Path(__file__).resolve().parents[2]


class Either:
    """Calls the blocking or the asynchronous form of a method."""

    def __init__(self, store: ObspecStore, form: Literal["blocking", "asyncio"]) -> None:
        self.store = store
        self.asyncio = form == "asyncio"

    def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        if not self.asyncio:
            return getattr(self.store, name)(*args, **options)

        async def call() -> Any:
            found = getattr(self.store, f"{name}_async")(*args, **options)
            return await found if inspect.isawaitable(found) else [each async for each in found]

        return asyncio.run(call())

    def got(self, path: str, **options: Any) -> Any:
        """The result of a get, its bytes and its pieces."""
        if not self.asyncio:
            result = self.store.get(path, options=options or None)  # pyright: ignore[reportArgumentType]
            return result, bytes(result.buffer()), [bytes(piece) for piece in result]

        async def call() -> Any:
            result = await self.store.get_async(path, options=options or None)  # pyright: ignore[reportArgumentType]
            data = bytes(await result.buffer_async())
            return result, data, [bytes(piece) async for piece in result]

        return asyncio.run(call())


@pytest.fixture(params=["memory", "moto", "cache"])
def client(request: pytest.FixtureRequest) -> Iterator[blockyard.BlockStore]:
    if request.param == "moto":
        endpoint: Endpoint = request.getfixturevalue("moto_endpoint")
        settings = endpoint.s3_settings(
            request.getfixturevalue("bucket"), request.getfixturevalue("key_prefix")
        )
        opened = blockyard.open_store(**settings)
    else:
        cache = {"memory": "16MiB"} if request.param == "cache" else None
        opened = blockyard.open_store("memory://", cache=cache)
    with opened as client:
        yield client


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest, client: blockyard.BlockStore) -> Iterator[Either]:
    store = ObspecStore(client)
    yield Either(store, request.param)
    store.close()


def test_it_has_every_method_of_obspec() -> None:
    protocols = [
        each
        for name in obspec.__all__
        if inspect.isclass(each := getattr(obspec, name)) and getattr(each, "_is_protocol", False)
        if not name.startswith("GetResult")
    ]
    methods = {name for each in protocols for name in vars(each) if not name.startswith("_")}
    assert len(methods) == 20
    assert methods <= set(dir(ObspecStore))
    for each in protocols:
        for name in methods & set(vars(each)):
            expected = inspect.signature(getattr(each, name)).parameters
            assert list(inspect.signature(getattr(ObspecStore, name)).parameters) == list(expected)


@pytest.mark.thorough
def test_type_checkers_see_its_protocols() -> None:
    program = str(REPOSITORY / "tests/ecosystem/obspec_protocols.py")
    for checker in (
        ["-m", "mypy", "--strict", "--follow-imports=silent"],
        ["-m", "basedpyright", "--pythonpath", sys.executable],
    ):
        told = subprocess.run(
            [sys.executable, *checker, program],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout


def test_an_object_and_parts_of_it(call: Either) -> None:
    put = call("put", "a/b", DATA)
    result, data, pieces = call.got("a/b")
    assert data == DATA
    assert pieces == [DATA]
    assert result.range == (0, len(DATA))
    assert result.meta["path"] == "a/b"
    assert result.meta["size"] == len(DATA)
    assert result.meta["e_tag"] == put["e_tag"]
    assert result.meta["last_modified"].tzinfo is not None
    assert call("head", "a/b") == result.meta
    for wanted, expected in (
        ((10, 20), (10, 20)),
        ([10, 200_000], (10, len(DATA))),
        ({"offset": 100_000}, (100_000, len(DATA))),
        ({"suffix": 30}, (len(DATA) - 30, len(DATA))),
        ({"suffix": 10**6}, (0, len(DATA))),
    ):
        result, data, _ = call.got("a/b", range=wanted)
        assert result.range == expected
        assert data == DATA[slice(*expected)]
    assert bytes(call("get_range", "a/b", start=5, end=9)) == DATA[5:9]
    assert bytes(call("get_range", "a/b", start=5, length=9)) == DATA[5:14]
    ranges = call("get_ranges", "a/b", starts=[0, 90_000], ends=[7, 90_010])
    assert [bytes(each) for each in ranges] == [DATA[:7], DATA[90_000:90_010]]
    assert ranges == call("get_ranges", "a/b", starts=[0, 90_000], lengths=[7, 10])


def test_a_large_object_comes_in_pieces_of_one_version(
    call: Either, client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PIECE", 30_000)
    _ = client.write_block("a", DATA)
    _, data, pieces = call.got("a")
    assert data == DATA
    assert [len(piece) for piece in pieces] == [30_000, 30_000, 30_000, 12_400]
    _, data, pieces = call.got("a", range=(10, 65_010))
    assert data == DATA[10:65_010]
    assert [len(piece) for piece in pieces] == [30_000, 30_000, 5_000]

    def replace_and_read() -> None:
        result = call.store.get("a")
        _ = client.write_block("a", DATA[::-1])
        _ = result.buffer()

    async def replace_and_read_async() -> None:
        result = await call.store.get_async("a")
        _ = client.write_block("a", DATA[::-1])
        _ = await result.buffer_async()

    with pytest.raises(exceptions.PreconditionError):
        asyncio.run(replace_and_read_async()) if call.asyncio else replace_and_read()


def test_an_object_without_bytes(call: Either) -> None:
    _ = call("put", "empty", b"")
    result, data, pieces = call.got("empty")
    assert (data, pieces, result.range) == (b"", [], (0, 0))
    assert result.meta["size"] == 0
    result, data, _ = call.got("empty", range={"suffix": 5})
    assert (data, result.range) == (b"", (0, 0))


def test_conditions_of_a_get(call: Either) -> None:
    etag = call("put", "a", DATA)["e_tag"]
    for head in (False, True):
        result, data, _ = call.got("a", if_match=etag, head=head)
        assert data == (b"" if head else DATA)
        assert result.meta["size"] == len(DATA)
        _ = call.got("a", if_none_match='"other"', head=head)
        with pytest.raises(exceptions.NotModifiedError):
            _ = call.got("a", if_none_match=etag, head=head)
        with pytest.raises(exceptions.PreconditionError):
            _ = call.got("a", if_match='"other"', head=head)


@pytest.mark.parametrize(
    "options",
    [{"if_match": "*"}, {"if_match": '"a", "b"'}, {"version": "1"}, {"if_modified_since": 1}],
)
def test_what_a_get_does_not_know(call: Either, options: dict[str, Any]) -> None:
    _ = call("put", "a", DATA)
    with pytest.raises(exceptions.NotSupportedError):
        _ = call.got("a", **options)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: DATA,
    "bytearray": lambda path: bytearray(DATA),
    "memoryview": lambda path: memoryview(DATA),
    "path": lambda path: path,
    "file": lambda path: io.BytesIO(DATA),
    "iterator": lambda path: iter([DATA[:1000], memoryview(DATA)[1000:]]),
    "list": lambda path: [DATA[:1000], DATA[1000:]],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_put(call: Either, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    _ = path.write_bytes(DATA)
    put = call("put", "a", SOURCES[kind](path))
    assert put == {"e_tag": call("head", "a")["e_tag"], "version": None}
    assert call.got("a")[1] == DATA


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("parts", [True, False, None])
def test_what_is_large_is_put_in_parts(
    call: Either,
    kind: str,
    parts: bool | None,
    *,
    client: blockyard.BlockStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes(range(256)) * 24_000
    monkeypatch.setattr(sys.modules[__name__], "DATA", data)
    path = tmp_path / "file"
    _ = path.write_bytes(data)
    options = {"chunk_size": 1000, "max_concurrency": 2}  # which is less than S3 takes

    put = call("put", "a", SOURCES[kind](path), use_multipart=parts, **options)

    assert put == {"e_tag": call("head", "a")["e_tag"], "version": None}
    assert call.got("a")[1] == data
    if client.stats().capabilities:
        assert client.stats().capabilities["uploads"] == (None if parts is False else True)


def test_a_text_is_no_path(call: Either, tmp_path: Path) -> None:
    _ = (tmp_path / "file").write_bytes(b"secret")
    for parts in (True, False, None):
        with pytest.raises(TypeError):
            _ = call("put", "a", str(tmp_path / "file"), use_multipart=parts)
    assert list(call.store.list()) == []


@pytest.mark.parametrize("parts", [True, False, None])
@pytest.mark.parametrize("source", [[3, 4], range(3), ["text"], {b"key": b"value"}])
def test_what_is_no_source_is_refused(call: Either, source: Any, parts: bool | None) -> None:
    """A number is no piece: `bytes(3)` would be three zeros."""
    with pytest.raises(TypeError, match="expected"):
        _ = call("put", "a", source, use_multipart=parts)
    assert list(call.store.list()) == []


def test_an_async_source_of_numbers_is_refused(client: blockyard.BlockStore) -> None:
    async def numbers() -> AsyncIterator[Any]:
        yield 3

    async def put(**options: Any) -> None:
        _ = await ObspecStore(client).put_async("a", numbers(), **options)

    for parts in (True, False, None):
        with pytest.raises(TypeError, match="expected bytes or another buffer, got int"):
            asyncio.run(put(use_multipart=parts))
    assert client.list_by_prefix() == []


def test_an_async_source_is_put(client: blockyard.BlockStore) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield DATA[:1000]
        yield DATA[1000:]

    async def put(store: ObspecStore) -> None:
        _ = await store.put_async("a", pieces())
        _ = await store.put_async("b", await store.get_async("a"))

    asyncio.run(put(ObspecStore(client)))
    assert client.read_blocks(["a", "b"]) == [DATA, DATA]


def test_conditions_of_a_put(call: Either) -> None:
    first = call("put", "a", b"1", mode="create")
    with pytest.raises(exceptions.AlreadyExistsError):
        _ = call("put", "a", b"2", mode="create")
    _ = call("put", "a", b"3", mode=first)
    with pytest.raises(exceptions.PreconditionError):
        _ = call("put", "a", b"4", mode=first)
    assert call.got("a")[1] == b"3"
    _ = call("put", "a", b"5", mode="overwrite")
    with pytest.raises(exceptions.NotSupportedError):
        _ = call("put", "a", b"6", mode={"version": "1"})
    assert call.got("a")[1] == b"5"


def test_attributes_and_tags(call: Either, client: blockyard.BlockStore) -> None:
    attributes = {"Content-Type": "text/plain", "Film": "one"}
    _ = call("put", "a", DATA, attributes=attributes)
    info = client.stat_block("a")
    assert (info.content_type, info.metadata) == ("text/plain", {"film": "one"})
    told = {"Content-Type": "text/plain", "film": "one"}
    assert call("get", "a", options={"head": True}).attributes == told
    told = told if client.stats().cache is None else {}
    for options in ({}, {"range": (1, 3)}):
        assert call("get", "a", options=options).attributes == told
    if "memory" in repr(client) or "Memory" in repr(client):
        with pytest.raises(exceptions.NotSupportedError, match="tags"):
            _ = call("put", "b", DATA, tags={"of": "films"})
    else:
        _ = call("put", "b", DATA, tags={"of": "films"})
    with pytest.raises(ValueError, match=r"metadata\['film'\]: expected printable"):
        _ = call("put", "a", DATA, attributes={"Film": "a\nb"})


def test_copies_renames_and_deletes(call: Either, client: blockyard.BlockStore) -> None:
    _ = call("put", "a", DATA)
    call("copy", "a", "b")
    call("rename", "b", "c")
    call("rename", "c", "c")
    assert client.list_by_prefix() == ["a", "c"]
    for method in ("copy", "rename"):
        with pytest.raises(exceptions.NotSupportedError, match="overwrite"):
            call(method, "a", "d", overwrite=False)
        with pytest.raises(exceptions.NotFoundError):
            call(method, "x", "y")
    call("delete", "a")
    call("delete", ["a", "c", "never there"])
    assert client.list_by_prefix() == []


@pytest.mark.parametrize("way", ["rename", "rename_async"])
def test_a_version_that_comes_while_an_object_is_renamed_stays(way: str) -> None:
    memory = MemoryStore()
    other = blockyard.open_store(memory)

    async def meanwhile(operation: str, key: str) -> None:
        if operation == "delete_block":
            _ = other.write_block("a", b"new")

    store = ObspecStore(HookedStore(memory, meanwhile))
    _ = other.write_block("a", b"old")

    def rename() -> None:
        if way == "rename":
            store.rename("a", "b")
        else:
            asyncio.run(store.rename_async("a", "b"))

    with pytest.raises(exceptions.PreconditionError):
        rename()
    assert (other.read_block("a"), other.read_block("b")) == (b"new", b"old")


def test_listings(call: Either, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard.obspec.store._LISTED", 2)
    for key in ("a/b/c", "a/b/d", "a/bc", "a/e", "ab", "z"):
        _ = call("put", key, b"1")

    def listed(*args: Any, **options: Any) -> list[list[str]]:
        return [[meta["path"] for meta in batch] for batch in call("list", *args, **options)]

    assert listed() == [["a/b/c", "a/b/d"], ["a/bc", "a/e"], ["ab", "z"]]
    assert listed("a/b") == listed("a/b/") == [["a/b/c", "a/b/d"]]
    assert listed("a", offset="a/b/d") == [["a/bc", "a/e"]]
    assert listed("nothing") == []
    found = call("list_with_delimiter", "a")
    assert found["common_prefixes"] == ["a/b"]
    assert [meta["path"] for meta in found["objects"]] == ["a/bc", "a/e"]
    assert call("list_with_delimiter")["common_prefixes"] == ["a"]


def test_errors_are_obspecs(call: Either) -> None:
    calls: dict[str, dict[str, Any]] = {
        "head": {},
        "get": {},
        "get_range": {"start": 0, "length": 5},
        "get_ranges": {"starts": [0], "lengths": [5]},
    }
    for method, options in calls.items():
        with pytest.raises(exceptions.NotFoundError) as raised:
            _ = call(method, "x", **options)
        assert isinstance(raised.value, FileNotFoundError)
        assert isinstance(raised.value.__cause__, blockyard.BlockNotFoundError)
    with pytest.raises(exceptions.InvalidPathError):
        _ = call("head", "a\x00b" * 600)
    _ = call("put", "a", DATA)
    for wrong in ({"start": 0}, {"start": 5, "end": 5}, {"start": 0, "end": 1, "length": 1}):
        with pytest.raises(ValueError, match="get_range: expected"):
            _ = call("get_range", "a", **wrong)
    with pytest.raises(blockyard.InvalidRangeError):
        _ = call("get_range", "a", start=10**6, length=5)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", exceptions.PermissionDeniedError),
        ("InvalidAccessKeyId", exceptions.UnauthenticatedError),
        ("SignatureDoesNotMatch", exceptions.UnauthenticatedError),
    ],
)
def test_what_is_refused(code: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    with blockyard.open_store("memory://") as client:

        def refused(key: str) -> None:
            raise blockyard.AccessDeniedError("no", status=403, code=code)

        monkeypatch.setattr(client, "stat_block", refused)
        with pytest.raises(kind):
            _ = ObspecStore(client).head("a")


def tiff(tile: bytes) -> bytes:
    """A TIFF of one tile of 16 x 16 bytes."""
    entries = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1), (322, 16), (323, 16)]
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(324, at), (325, len(tile))]
    short, long = 3, 4
    packed = b"".join(
        struct.pack("<HHII", tag, long if tag > 300 else short, 1, value) for tag, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + tile


def test_async_tiff_reads_a_tile(client: blockyard.BlockStore) -> None:
    tile = bytes(range(256))
    _ = client.write_block("a.tif", tiff(tile))

    async def read() -> bytes:
        image = await TIFF.open("a.tif", store=ObspecStore(client))
        found = await image.fetch_tile(0, 0, 0)
        return bytes(memoryview(found.compressed_bytes))  # pyright: ignore[reportArgumentType]

    assert asyncio.run(read()) == tile


@pytest.mark.parametrize("reader", [BlockStoreReader, BufferedStoreReader, EagerStoreReader])
def test_readers_of_obspec_utils(reader: Any, client: blockyard.BlockStore) -> None:
    _ = client.write_block("a", DATA)
    file = reader(ObspecStore(client), "a")
    assert file.read(10) == DATA[:10]
    _ = file.seek(50_000)
    assert file.read(1000) == DATA[50_000:51_000]
    assert file.read() == DATA[51_000:]


def test_it_opens_what_it_is_told_to_and_goes_along_in_pickles(tmp_path: Path) -> None:
    store = ObspecStore(tmp_path.as_uri())
    _ = store.put("a", DATA)
    again = pickle.loads(pickle.dumps(store))
    assert bytes(again.get("a").buffer()) == DATA
    assert repr(store).startswith("ObspecStore(<BlockStore ")
    store.close()
    with pytest.raises(blockyard.StoreClosedError):
        _ = store.head("a")
    assert again.head("a")["size"] == len(DATA)


def test_zarrs_object_store_takes_obstores_own_alone(client: blockyard.BlockStore) -> None:
    """When this fails, it takes others, and docs/obspec.md can say so."""
    from zarr.storage import ObjectStore

    with pytest.raises(TypeError):
        _ = ObjectStore(ObspecStore(client))  # pyright: ignore[reportArgumentType]
