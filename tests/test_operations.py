"""The operations: what they refuse before a store is asked, and what they build on top of one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from blockyard import arguments
from blockyard.context import Context
from blockyard.errors import (
    AccessDeniedError,
    BlockStoreError,
    BlockTooLargeError,
    InvalidKeyError,
    InvalidRangeError,
    LocalStorageError,
    PartialDeleteError,
    ProtocolError,
)
from blockyard.model import BlockInfo, CopyResult, DeleteResult, Page, Upload, UploadPage
from blockyard.stores.base import ListRequest, Store
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.samples import REFUSED_KEYS

READ_ONLY = memoryview(b"read only")
GAPS = memoryview(bytearray(10))[::2]
BACKWARDS = memoryview(bytearray(10))[::-1]

Call = Callable[[BlockStore], Any]


class AskedStore(Store):
    """Fails the test when it is asked for anything."""

    def _asked(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the store was asked: {args} {kwargs}")

    write = read = _asked
    stat_block = copy_block = delete_block = delete_blocks = list = health_check = _asked


def with_key(key: Any) -> dict[str, Call]:
    """A call of each method that takes a key, with this one."""
    return {
        "write_block": lambda store: store.write_block(key, b""),
        "read_block": lambda store: store.read_block(key),
        "read_block_into": lambda store: store.read_block_into(key, bytearray(1)),
        "read_block_range": lambda store: store.read_block_range(key, 0),
        "read_blocks": lambda store: store.read_blocks([key]),
        "read_blocks, late": lambda store: store.read_blocks(["a", "b", key]),
        "read_block_ranges": lambda store: store.read_block_ranges([("a", 0, 1), (key, 0, 1)]),
        "write_blocks": lambda store: store.write_blocks([("a", b""), (key, b"")]),
        "write_blocks, drawn": lambda store: store.write_blocks(iter([(key, b"")])),
        "stat_block": lambda store: store.stat_block(key),
        "block_exists": lambda store: store.block_exists(key),
        "copy_block": lambda store: store.copy_block(key, "a"),
        "copy_block, target": lambda store: store.copy_block("a", key),
        "copy_block, both": lambda store: store.copy_block(key, key),
        "delete_block": lambda store: store.delete_block(key),
        "delete_blocks": lambda store: store.delete_blocks(["a", key]),
    }


REFUSED: list[tuple[str, type[Exception], str, Call]] = [
    *(
        (f"{method}, {what}", InvalidKeyError, "key", call)
        for what, key in REFUSED_KEYS.items()
        for method, call in with_key(key).items()
    ),
    *(
        (f"{method}, {what}", InvalidKeyError, "prefix", call)
        for what, prefix in REFUSED_KEYS.items()
        if prefix != ""
        for method, call in {
            "list_by_prefix": lambda store, prefix=prefix: store.list_by_prefix(prefix),
            "iter_blocks": lambda store, prefix=prefix: next(store.iter_blocks(prefix)),
            "delete_by_prefix": lambda store, prefix=prefix: store.delete_by_prefix(prefix),
        }.items()
    ),
    ("empty prefix", InvalidKeyError, "literal=True", lambda s: s.delete_by_prefix("")),
    ("offset below 0", InvalidRangeError, "offset", lambda s: s.read_block_range("a", -1)),
    ("length below 0", InvalidRangeError, "length", lambda s: s.read_block_range("a", 0, -1)),
    (
        "a bad range among others",
        InvalidRangeError,
        "'b': offset",
        lambda s: s.read_block_ranges([("a", 0, 1), ("b", -1, 1)]),
    ),
    ("str as data", TypeError, "data: expected bytes .*str", lambda s: s.write_block("a", "text")),
    ("None as data", TypeError, "data: expected bytes", lambda s: s.write_block("a", None)),
    ("list as data", TypeError, "data: expected bytes", lambda s: s.write_block("a", [1, 2])),
    ("number as data", TypeError, "data: expected bytes", lambda s: s.write_block("a", 3)),
    ("data with gaps", TypeError, "data: .*contiguous.* bytes", lambda s: s.write_block("a", GAPS)),
    ("data backwards", TypeError, "data: .*contiguous", lambda s: s.write_block("a", BACKWARDS)),
    ("str in write_blocks", TypeError, "data: ", lambda s: s.write_blocks([("a", "text")])),
    ("bytes as buffer", TypeError, "buffer: .*writable", lambda s: s.read_block_into("a", b"abc")),
    ("no bytes as buffer", TypeError, "buffer: .*writable", lambda s: s.read_block_into("a", b"")),
    (
        "a view of bytes",
        TypeError,
        "buffer: .*writable",
        lambda s: s.read_block_into("a", READ_ONLY),
    ),
    ("str as buffer", TypeError, "buffer: expected", lambda s: s.read_block_into("a", "abc")),
    ("buffer with gaps", TypeError, "buffer: .*contig", lambda s: s.read_block_into("a", GAPS)),
    (
        "both conditions",
        ValueError,
        "write_block 'a': if_match: expected no if_absent",
        lambda s: s.write_block("a", b"", if_absent=True, if_match="e"),
    ),
    ("one key, read", TypeError, "several keys", lambda s: s.read_blocks("abc")),
    ("one key, delete", TypeError, "several keys", lambda s: s.delete_blocks("abc")),
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("error", "says", "call"),
    [pytest.param(error, says, call, id=what) for what, error, says, call in REFUSED],
)
def test_bad_input_never_reaches_the_store(
    client: ClientName, error: type[Exception], says: str, call: Call
) -> None:
    with open_client(client, AskedStore()) as opened, pytest.raises(error, match=says):
        call(opened.store)


def test_the_largest_block_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "MAX_BLOCK_SIZE", 100)

    with open_client("blocking", MemoryStore()) as client:
        _ = client.store.write_block("a", bytes(100))
        for data in (bytes(101), bytearray(101), array("I", bytes(104))):
            with pytest.raises(BlockTooLargeError, match=r"write_block 'a': \d+ bytes, the limit"):
                _ = client.store.write_block("a", data)
        assert client.store.stat_block("a").size == 100


class DeletingStore(MemoryStore):
    """Refuses to delete what it is told to, and whole batches from a certain one on."""

    def __init__(self, refuse: Sequence[str] = (), batches: int = 10**6) -> None:
        super().__init__()
        self._refuse = refuse
        self._batches = batches
        self.closed = 0

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        if self._batches == 0:
            raise AccessDeniedError("denied", status=403)
        self._batches -= 1
        failed: dict[str, BlockStoreError] = {
            key: LocalStorageError(f"delete_block {key!r}: read-only") for key in self._refuse
        }
        result = await super().delete_blocks(ctx, [key for key in keys if key not in failed])
        return DeleteResult(result.deleted, {key: failed[key] for key in keys if key in failed})

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        return await super().list(ctx, replace(request, page_size=1))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(params=CLIENTS)
def client_name(request: pytest.FixtureRequest) -> ClientName:
    name: ClientName = request.param
    return name


KEYS = ["a", "a/1", "a/2", "a/3", "a/4", "a/5"]


def test_failed_keys_are_kept_apart_over_all_pages(client_name: ClientName) -> None:
    with open_client(client_name, DeletingStore(refuse=["a", "a/2", "a/5"])) as client:
        _ = client.store.write_blocks([(key, b"") for key in KEYS])

        with pytest.raises(PartialDeleteError, match=r"3 of 6 keys .* 'a'") as raised:
            _ = client.store.delete_by_prefix("a")

        result = raised.value.result
        assert result.deleted == ["a/1", "a/3", "a/4"]
        assert list(result.failed) == ["a", "a/2", "a/5"]
        assert client.store.list_by_prefix() == ["a", "a/2", "a/5"]


def test_a_delete_that_breaks_off_says_what_is_gone(client_name: ClientName) -> None:
    with open_client(client_name, DeletingStore(batches=1)) as client:
        _ = client.store.write_blocks([(key, b"") for key in KEYS])

        result = client.store.delete_by_prefix("a", raise_on_failure=False)

        assert result.deleted == ["a", "a/1", "a/2", "a/3", "a/4"]
        assert {key: type(error) for key, error in result.failed.items()} == {
            "a/5": AccessDeniedError
        }
        assert client.store.list_by_prefix() == ["a/5"]


def test_a_delete_of_some_keys_raises_when_all_were_tried(client_name: ClientName) -> None:
    with open_client(client_name, DeletingStore(refuse=["a/2"])) as client:
        _ = client.store.write_blocks([(key, b"") for key in KEYS])

        with pytest.raises(PartialDeleteError) as raised:
            _ = client.store.delete_blocks(["a/2", "a/1", "b"])
        kept = client.store.delete_blocks(["a/2"], raise_on_failure=False)

        assert raised.value.result.deleted == ["a/1", "b"]
        assert list(kept.failed) == ["a/2"]


def test_a_delete_that_can_not_begin_raises(client_name: ClientName) -> None:
    with open_client(client_name, DeletingStore(batches=0)) as client:
        _ = client.store.write_blocks([(key, b"") for key in KEYS])

        with pytest.raises(AccessDeniedError):
            _ = client.store.delete_by_prefix("a")

        assert client.store.list_by_prefix() == KEYS


def test_a_store_is_asked_for_each_key_once(client_name: ClientName) -> None:
    asked: list[list[str]] = []

    class RememberingStore(MemoryStore):
        async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
            asked.append(list(keys))
            return await super().delete_blocks(ctx, keys)

    with open_client(client_name, RememberingStore()) as client:
        _ = client.store.delete_blocks(key for key in "cacab")

    assert asked == [["c", "a", "b"]]


def test_a_copy_onto_itself_is_no_copy(client_name: ClientName) -> None:
    class UncopyingStore(MemoryStore):
        async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
            raise AssertionError(f"copied {source_key} onto {target_key}")

    with open_client(client_name, UncopyingStore()) as client:
        written = client.store.write_block("a", b"block")

        copied = client.store.copy_block("a", "a")

        assert copied == CopyResult("a", written.etag, written.last_modified)


def test_an_error_is_no_answer_to_whether_a_block_exists(client_name: ClientName) -> None:
    class DeniedStore(MemoryStore):
        async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
            raise AccessDeniedError("denied", status=403)

    with open_client(client_name, DeniedStore()) as client, pytest.raises(AccessDeniedError):
        _ = client.store.block_exists("a")


def test_the_store_is_closed_once(client_name: ClientName) -> None:
    store = DeletingStore()

    with open_client(client_name, store) as client:
        client.store.close()
        client.store.close()

    assert store.closed == 1


class RoundAndRound(MemoryStore):
    """Lists the same uploads again and again, two pages of them in turns."""

    def __init__(self, distinct: int) -> None:
        super().__init__()
        self.distinct = distinct
        self.pages = 0

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        self.pages += 1
        assert self.pages < 5_000, "it never ends"
        turn = self.pages % self.distinct
        return UploadPage([Upload("key", f"id {turn}")], f"token {turn}")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("distinct", [1, 2, 1_500])
def test_a_listing_of_uploads_that_repeats_itself_ends(client: ClientName, distinct: int) -> None:
    store = RoundAndRound(distinct)
    with (
        open_client(client, store) as opened,
        pytest.raises(ProtocolError, match="clean_contents: the listing of uploads"),
    ):
        _ = opened.store.clean_contents("")
    assert store.pages == distinct + 1_001
