"""`BlockyardStore`: Zarr's own tests of stores, over memory and S3, with and without a cache."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core import codec_pipeline
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

import blockyard
from blockyard import CacheStore
from blockyard.stores.memory import MemoryStore
from blockyard.zarr import BlockyardStore
from servers.endpoint import Endpoint


class _Suite(StoreTests[BlockyardStore, cpu.Buffer]):
    store_cls = BlockyardStore
    buffer_cls = cpu.Buffer

    async def set(self, store: BlockyardStore, key: str, value: Buffer) -> None:
        _ = store._clients.blocking.write_block(key, value.to_bytes())

    async def get(self, store: BlockyardStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store._clients.blocking.read_block(key))

    @pytest.fixture
    def client(self) -> Iterator[blockyard.BlockStore]:
        with blockyard.open_store("memory://") as client:
            yield client

    @pytest.fixture
    def store_kwargs(self, client: blockyard.BlockStore) -> dict[str, Any]:
        return {"source": client}

    @pytest.fixture
    def store(self, open_kwargs: dict[str, Any]) -> Iterator[BlockyardStore]:
        store = asyncio.run(self.store_cls.open(**open_kwargs))
        yield store
        store.close()

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> BlockyardStore:
        return self.store_cls(**store_kwargs)

    def test_store_repr(self, store: BlockyardStore) -> None:
        assert repr(store) == f"BlockyardStore({store._clients.blocking!r})"
        assert str(store.with_read_only(True)).endswith(", read-only)")

    def test_store_supports_writes(self, store: BlockyardStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: BlockyardStore) -> None:
        assert store.supports_listing


class TestMemory(_Suite):
    """Over `memory://`."""


class TestCache(_Suite):
    """With a cache in front."""

    @pytest.fixture
    def client(self) -> Iterator[blockyard.BlockStore]:
        cache = {"memory": "8MiB", "revalidate": "never"}
        with blockyard.open_store("memory://", cache=cache) as client:
            yield client


class TestS3(_Suite):
    """Over moto."""

    @pytest.fixture
    def client(
        self, moto_endpoint: Endpoint, bucket: str, key_prefix: str
    ) -> Iterator[blockyard.BlockStore]:
        with blockyard.open_store(**moto_endpoint.s3_settings(bucket, key_prefix)) as client:
            yield client


SMALL = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.filterwarnings("ignore")  # Zarr warns of its own data types
@pytest.mark.parametrize(
    "cache",
    [None, pytest.param({"memory": "8MiB", "revalidate": "never"}, marks=pytest.mark.thorough)],
)
@pytest.mark.parametrize("machine", [ZarrStoreStateMachine, ZarrHierarchyStateMachine])
def test_zarrs_stateful_tests(machine: Callable[[Any], Any], cache: dict[str, Any] | None) -> None:
    with blockyard.open_store("memory://", cache=cache) as client:
        store = BlockyardStore(client)

        def begin() -> Any:
            client.delete_by_prefix("", literal=True)
            return machine(store)

        run_state_machine_as_test(begin, settings=SMALL)  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("machine", [ZarrStoreStateMachine, ZarrHierarchyStateMachine])
def test_zarrs_stateful_tests_over_s3(
    machine: Callable[[Any], Any], moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    with blockyard.open_store(**moto_endpoint.s3_settings(bucket, key_prefix)) as client:

        def begin() -> Any:
            client.delete_by_prefix("", literal=True)
            return machine(BlockyardStore(client))

        few = settings(SMALL, max_examples=3, stateful_step_count=15)
        run_state_machine_as_test(begin, settings=few)  # pyright: ignore[reportUnknownArgumentType]


@pytest.fixture
def client() -> Iterator[blockyard.BlockStore]:
    with blockyard.open_store("memory://") as client:
        yield client


def test_an_array_is_written_and_read_by_both_kinds_of_method(client: blockyard.BlockStore) -> None:
    values = np.arange(10_000, dtype="int32").reshape(100, 100)
    store = BlockyardStore(client)
    array = zarr.create_array(store, shape=(100, 100), chunks=(10, 10), shards=(50, 50), dtype="i4")
    array[:] = values
    again: Any = zarr.open_array(BlockyardStore(client, read_only=True), mode="r")
    assert (again[:] == values).all()
    assert (again[13:17, 40:60] == values[13:17, 40:60]).all()
    assert {"zarr.json", "c/0/0", "c/1/1"} <= set(client.list_by_prefix())
    assert store.get_sync("zarr.json") is not None


class Blocking(BlockyardStore):
    """One whose chunks come by the synchronous methods alone."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Buffer | None:
        assert not key.startswith("c/")
        return await super().get(key, *args, **kwargs)

    async def set(self, key: str, value: Buffer) -> None:
        assert not key.startswith("c/")
        await super().set(key, value)

    async def delete(self, key: str) -> None:
        raise AssertionError(key)


@pytest.mark.skipif(
    not hasattr(codec_pipeline, "FusedCodecPipeline"),
    reason="Zarr 3.4 has the synchronous pipeline, and needs Python 3.12",
)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("layout", [{}, {"shards": (50, 50)}, {"compressors": None}])
def test_zarrs_synchronous_pipeline_uses_the_blocking_client(
    client: blockyard.BlockStore, layout: dict[str, Any], workers: int
) -> None:
    values = np.arange(1, 10_001, dtype="int32").reshape(100, 100)
    fused = {"path": "zarr.core.codec_pipeline.FusedCodecPipeline", "max_workers": workers}
    with zarr.config.set({f"codec_pipeline.{name}": value for name, value in fused.items()}):
        shape = {"shape": (100, 100), "chunks": (10, 10), "dtype": "i4"}
        array: Any = zarr.create_array(Blocking(client), **shape, **layout)
        array[:] = values
        array[13:17, 40:60] = values[13:17, 40:60] = 7
        array[50:, 50:] = values[50:, 50:] = 0  # what an array is filled with is not stored
        again: Any = zarr.open_array(Blocking(client, read_only=True), mode="r")
        assert (again[:] == values).all()
        assert (again[33:71, 8:52] == values[33:71, 8:52]).all()
    assert len(client.list_by_prefix("c/")) == (3 if "shards" in layout else 75)


def test_the_store_opens_what_it_is_told_to_and_closes_that(tmp_path: Path) -> None:
    store = BlockyardStore(tmp_path.as_uri(), cache={"memory": "1MiB"})
    store.set_sync("a", cpu.Buffer.from_bytes(b"1"))
    assert asyncio.run(store.exists("a"))
    assert [path.name for path in tmp_path.iterdir()] != []
    copy = store.with_read_only(True)
    copy.close()
    assert store.get_sync("a") is not None
    store.close()
    for closed in (store, copy):
        with pytest.raises(blockyard.StoreClosedError):
            _ = closed.get_sync("a")
        with pytest.raises(blockyard.StoreClosedError):
            _ = asyncio.run(closed.get("a"))


def test_a_client_that_was_given_stays_open(client: blockyard.BlockStore) -> None:
    async def both() -> None:
        asynchronous = await blockyard.open_async_store(client)
        for given in (client, asynchronous):
            store = BlockyardStore(given)
            await store.set("a", cpu.Buffer.from_bytes(b"1"))
            assert store.get_sync("a") is not None
            store.close()
            assert client.read_block("a") == b"1"
            assert await asynchronous.read_block("a") == b"1"

    asyncio.run(both())


def test_what_is_made_beside_a_client_goes_with_the_store(tmp_path: Path) -> None:
    """Not a thread, and not a word: `filterwarnings` makes an error of each."""
    source = tmp_path.as_uri()
    with blockyard.open_store(source) as client:
        _ = client.write_block("a", bytes(3_000_000))

    async def use() -> None:
        async with await blockyard.open_async_store(source) as given:
            for close in (True, False):
                store = BlockyardStore(given)
                ranges = [RangeByteRequest(0, 9), RangeByteRequest(2_900_000, 2_900_009)]
                found = store.get_ranges_sync(
                    "a", ranges, prototype=default_buffer_prototype(), max_gap_bytes=1
                )
                assert len(found) == 2
                if close:
                    store.close()
                del store
                _ = gc.collect()
            assert await given.read_block("a") == bytes(3_000_000)

    before = threading.active_count()
    asyncio.run(use())
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_threads_that_come_at_once_share_the_clients(client: blockyard.BlockStore) -> None:
    _ = client.write_block("a", b"1")
    for _ in range(20):
        store = BlockyardStore(client)
        barrier = threading.Barrier(6)

        def read(
            _: int, store: BlockyardStore = store, barrier: threading.Barrier = barrier
        ) -> int:
            _ = barrier.wait(30)
            assert asyncio.run(store.get("a")) is not None
            return id(store._clients.asyncio)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(read, range(6)))) == 1


def test_copies_of_a_process_share_a_store_and_close_each_on_its_own(tmp_path: Path) -> None:
    store = BlockyardStore(tmp_path.as_uri())
    copies = [pickle.loads(pickle.dumps(store)) for _ in range(3)]
    assert copies[0] == store
    clients = [getattr(each._clients, kind) for each in copies for kind in ("blocking", "asyncio")]
    assert len({id(each._runtime.connections) for each in clients}) == 1
    assert len({id(each._operations.store) for each in clients}) == 1
    copies[0].close()
    for call in (copies[0].get_sync, lambda key: asyncio.run(copies[0].get(key))):
        with pytest.raises(blockyard.StoreClosedError):
            _ = call("a")
    copies[1].set_sync("a", cpu.Buffer.from_bytes(b"1"))
    assert asyncio.run(copies[2].exists("a"))
    store.close()


def test_a_name_that_is_a_key_and_a_folder_is_listed_once(client: blockyard.BlockStore) -> None:
    async def listed() -> list[str]:
        return [name async for name in BlockyardStore(client).list_dir("")]

    for key in ("a", "a/b", "c"):
        _ = client.write_block(key, b"1")
    assert asyncio.run(listed()) == ["a", "c"]


def test_the_key_of_a_folder_itself_is_not_in_it(client: blockyard.BlockStore) -> None:
    """Consoles make such keys; with a name of no characters a group would be its own member."""
    store = BlockyardStore(client)
    group = zarr.open_group(store, mode="w").create_group("group")
    _ = group.create_array("array", shape=(2,), dtype="i4")
    _ = client.write_block("group/", b"")
    assert [name for name, _ in group.members(max_depth=None)] == ["array"]


def test_what_cannot_be_opened_is_said_once() -> None:
    with pytest.raises(blockyard.ConfigError, match="did you mean 'region'"):
        _ = BlockyardStore("s3://bucket", regoin="eu-west-1")  # pyright: ignore[reportCallIssue]
    assert gc.collect() >= 0  # what was begun is dropped without an error


def test_metadata_is_asked_for_again_and_chunks_are_not() -> None:
    inner = blockyard.open_store(MemoryStore())
    with blockyard.open_store(
        CacheStore(inner._operations.store, memory=2**20, revalidate="never")
    ) as client:
        store = BlockyardStore(client)
        for key in ("zarr.json", "a/.zarray", "a/c/0/0", "a/zarr.json.bin"):
            store.set_sync(key, cpu.Buffer.from_bytes(b"old"))
            assert store.get_sync(key) is not None
            _ = inner.write_block(key, b"new")
        read = [store.get_sync(key) for key in ("zarr.json", "a/.zarray", "a/c/0/0")]
        assert [each.to_bytes() for each in read if each] == [b"new", b"new", b"old"]
        for each in (RangeByteRequest(0, 2), OffsetByteRequest(1), SuffixByteRequest(1)):
            _ = inner.write_block("a/.zarray", b"new")
            assert store.get_sync("a/.zarray", byte_range=each) is not None
            _ = inner.write_block("a/.zarray", b"abc")
            found = store.get_sync("a/.zarray", byte_range=each)
            assert found is not None
            assert found.to_bytes() in {b"ab", b"bc", b"c"}
        other = asyncio.run(store.get("a/zarr.json.bin"))
        assert other is not None
        assert other.to_bytes() == b"old"


RANGES: list[Any] = [
    RangeByteRequest(0, 10),
    RangeByteRequest(500_000, 500_010),
    SuffixByteRequest(5),
    RangeByteRequest(12, 20),
    RangeByteRequest(900_000, 2_000_000),
    OffsetByteRequest(999_990),
    RangeByteRequest(7, 7),
    None,
    RangeByteRequest(5, 15),
]


@pytest.mark.parametrize(("gap", "most", "reads"), [(2**20, 2**24, 2), (10, 2**24, 4), (10, 9, 6)])
def test_ranges_are_read_together_as_zarr_says(
    client: blockyard.BlockStore, gap: int, most: int, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(1).bytes(1_000_000)
    _ = client.write_block("a", data)
    asked: list[list[Any]] = []
    read_block_ranges = client.read_block_ranges

    def noted(ranges: Any) -> list[bytes]:
        asked.append(list(ranges))
        return read_block_ranges(asked[-1])

    monkeypatch.setattr(client, "read_block_ranges", noted)
    store = BlockyardStore(client)
    found = store.get_ranges_sync(
        "a",
        RANGES,
        prototype=default_buffer_prototype(),
        max_gap_bytes=gap,
        max_coalesced_bytes=most,
    )
    read = {index: buffer.to_bytes() for index, buffer in found if buffer is not None}
    for index, each in enumerate(RANGES):
        match each:
            case RangeByteRequest(start, end):
                assert read[index] == data[start:end]
            case SuffixByteRequest(suffix):
                assert read[index] == data[-suffix:]
            case OffsetByteRequest(offset):
                assert read[index] == data[offset:]
            case _:
                assert read[index] == data
    assert len(read) == len(found) == len(RANGES)
    assert [len(ranges) for ranges in asked] == [reads]


@pytest.mark.parametrize("ranges", [[RangeByteRequest(0, 4)], [None], [SuffixByteRequest(3)]])
def test_ranges_of_a_missing_value(client: blockyard.BlockStore, ranges: list[Any]) -> None:
    store = BlockyardStore(client)
    with pytest.raises(ExceptionGroup) as raised:
        _ = store.get_ranges_sync("a", ranges, prototype=default_buffer_prototype())
    assert isinstance(raised.value.exceptions[0], FileNotFoundError)


def test_nothing_is_past_the_end_of_a_value(client: blockyard.BlockStore) -> None:
    """As in Zarr's own stores."""
    _ = client.write_block("a", b"value")
    store = BlockyardStore(client)
    past, within, ending = RangeByteRequest(20, 21), RangeByteRequest(1, 3), RangeByteRequest(4, 9)
    found = store.get_ranges_sync(
        "a", [past, within, OffsetByteRequest(9), ending], prototype=default_buffer_prototype()
    )
    read = {index: buffer.to_bytes() for index, buffer in found if buffer is not None}
    assert read == {0: b"", 1: b"al", 2: b"", 3: b"e"}
    assert asyncio.run(store.get("b", byte_range=past)) is None


def test_an_impossible_range_of_no_value_is_none(client: blockyard.BlockStore) -> None:
    store = BlockyardStore(client)
    for each in (SuffixByteRequest(-1), OffsetByteRequest(-3), OffsetByteRequest(100)):
        assert store.get_sync("none", byte_range=each) is None
        assert asyncio.run(store.get("none", byte_range=each)) is None


def test_a_suffix_of_an_empty_value_is_empty(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    with blockyard.open_store(**moto_endpoint.s3_settings(bucket, key_prefix)) as client:
        store = BlockyardStore(client)
        store.set_sync("empty", cpu.Buffer.from_bytes(b""))
        for read in (
            store.get_sync("empty", byte_range=SuffixByteRequest(8)),
            asyncio.run(store.get("empty", byte_range=SuffixByteRequest(8))),
        ):
            assert read is not None
            assert read.to_bytes() == b""


def test_values_are_kept_where_they_are_however_few_conditions_the_service_knows(
    client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call() -> None:
        store = BlockyardStore(client)
        asynchronous = store._clients.asyncio
        write_block = asynchronous.write_block

        async def unconditional(key: str, data: Any, *, if_absent: bool = False) -> Any:
            if if_absent:
                raise blockyard.UnsupportedError("no conditions")
            return await write_block(key, data)

        monkeypatch.setattr(asynchronous, "write_block", unconditional)
        for data in (b"1", b"2"):
            await store.set_if_not_exists("a", cpu.Buffer.from_bytes(data))
        assert client.read_block("a") == b"1"

        async def unencrypted(key: str, data: Any, *, if_absent: bool = False) -> Any:
            _ = await write_block(key, data)
            error = blockyard.UnsupportedError("not encrypted")
            error.of_options = True
            raise error

        monkeypatch.setattr(asynchronous, "write_block", unencrypted)
        with pytest.raises(blockyard.UnsupportedError, match="not encrypted"):
            await store.set_if_not_exists("b", cpu.Buffer.from_bytes(b"1"))

    asyncio.run(call())


def test_errors_other_than_of_a_missing_value_are_raised(
    client: blockyard.BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(key: str) -> bytes:
        raise blockyard.AccessDeniedError("no", status=403)

    monkeypatch.setattr(client, "read_block", refused)
    with pytest.raises(blockyard.AccessDeniedError):
        _ = BlockyardStore(client).get_sync("c/0/0")


def read_there(store: BlockyardStore) -> int:
    array: Any = zarr.open_array(store, mode="r")
    return int(array[:].sum())


def test_workers_get_the_store_with_their_tasks(tmp_path: Path) -> None:
    store = BlockyardStore(tmp_path.as_uri())
    array: Any = zarr.create_array(store, shape=(100,), chunks=(10,), dtype="i4")
    array[:] = np.arange(100)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert list(pool.map(read_there, [store.with_read_only(True)] * 4)) == [4950] * 4
    store.close()


def test_folders_are_listed_by_one_request(client: blockyard.BlockStore) -> None:
    async def listed(store: BlockyardStore, prefix: str) -> list[str]:
        return sorted([name async for name in store.list_dir(prefix)])

    for key in ("a/zarr.json", "a/c/0/0", "a/c/0/1", "ab/zarr.json", "zarr.json"):
        _ = client.write_block(key, b"1")
    store = BlockyardStore(client)
    assert asyncio.run(listed(store, "")) == ["a", "ab", "zarr.json"]
    assert asyncio.run(listed(store, "a")) == asyncio.run(listed(store, "a/")) == ["c", "zarr.json"]
    assert asyncio.run(store.getsize_prefix("a/c/")) == 2
    assert asyncio.run(store.getsize_prefix("a")) == 3
    assert asyncio.run(store.getsize_prefix("")) == 5


def test_nothing_of_zarr_is_imported_with_the_package() -> None:
    code = "import blockyard, sys; blockyard.open_store; print('zarr' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
