"""Clients in pickles: the same store in another process, and no secret that was not given."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import pickletools
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard import pickling
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from tests.small_s3 import SmallS3, small_s3
from tests.transport.runtimes import EchoServer, eventually, no_new_descriptors, no_new_threads

SECRET = "wJalrXUtnFEMI"
GIVEN = {"access_key": "AKIA", "secret_key": SECRET, "region": "eu-west-1"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    for name in list(os.environ):
        if name.startswith(("BLOCKYARD_", "AWS_")):
            monkeypatch.delenv(name)
    _forget_stores()
    yield
    _forget_stores()


def _forget_stores() -> None:
    pickling._let_go()
    pickling._kept.clear()
    pickling._open.clear()


def pickled_again(client: Any) -> Any:
    return pickle.loads(pickle.dumps(client))


def write_there(store: blockyard.BlockStore, key: str) -> int:
    _ = store.write_block(key, b"from a worker")
    return os.getpid()


async def _write(store: blockyard.AsyncBlockStore, key: str) -> None:
    _ = await store.write_block(key, b"from a worker")
    await store.close()


def write_there_async(store: blockyard.AsyncBlockStore, key: str) -> int:
    asyncio.run(_write(store, key))
    return os.getpid()


def refused_there(store: blockyard.BlockStore) -> list[str]:
    told: list[str] = []
    calls: list[Callable[[], object]] = [
        lambda: store.write_block("a", b"1"),
        lambda: store.write_content("a", b"1"),
        lambda: store.read_block("a"),
        lambda: store.read_blocks(["a"]),
        store.list_by_prefix,
        lambda: store.delete_by_prefix("a", literal=True),
        lambda: store.copy_block("a", "b"),
        store.health_check,
    ]
    for call in calls:
        try:
            told.append(f"done: {call()}")
        except blockyard.BlockStoreError as error:
            told.append(f"{type(error).__name__}: {error}")
    return [repr(store), *told]


def in_another(method: str, function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        return pool.submit(function, *args).result(60)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("write", [write_there, write_there_async])
def test_a_worker_process_uses_the_same_store(
    method: str, write: Callable[..., int], tmp_path: Path
) -> None:
    source = tmp_path.as_uri()
    with blockyard.open_store(source) as store:
        client: Any = store
        if write is write_there_async:
            client = asyncio.run(blockyard.open_async_store(source))
        assert in_another(method, write, client, "a/b") != os.getpid()
        assert store.read_block("a/b") == b"from a worker"


def test_a_worker_process_writes_to_s3() -> None:
    with small_s3() as server:
        settings = {**GIVEN, "endpoint": server.url, "force_path_style": True}
        with blockyard.open_store("s3://bucket/below", **settings) as store:
            _ = in_another("spawn", write_there, store, "a")
            assert store.read_block("a") == b"from a worker"


def shares(one: Any, other: Any) -> bool:
    connections = one._runtime.connections is other._runtime.connections
    store = one._operations.store is other._operations.store
    assert connections is store
    return store


def closed_counts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The stores in folders that are closed from now on."""
    closed: list[object] = []

    def close(store: FilesystemStore) -> None:
        closed.append(store)

    monkeypatch.setattr(FilesystemStore, "close", close)
    return closed


def test_the_clients_of_one_process_share_a_store_and_close_each_on_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blockyard.open_store(tmp_path.as_uri()) as store:
        closed = closed_counts(monkeypatch)
        one, other = pickled_again(store), pickled_again(store.with_options(deadline=5))
        assert shares(one, other)
        assert not shares(one, store)
        assert (one._deadline, other._deadline) == (None, 5)
        one.close()
        with pytest.raises(blockyard.StoreClosedError):
            _ = one.read_block("a")
        with pytest.raises(blockyard.StoreClosedError):
            _ = one.read_blocks(["a"])
        assert (one.closed, other.closed, store.closed, closed) == (True, False, False, [])
        _ = other.write_blocks([("a", b"1"), ("b", b"2")])
        third = pickled_again(store)
        assert shares(third, other)
        other.close()
        assert third.read_block("a") == b"1"
        third.close()
        assert closed == [third._operations.store]
        again = pickled_again(store)
        assert not shares(again, third)
        assert again.read_blocks(["a", "b"]) == [b"1", b"2"]
        again.close()
        again.close()
        assert len(closed) == 2


def test_both_clients_of_a_pickled_store_share_it(tmp_path: Path) -> None:
    async def call(store: blockyard.BlockStore) -> None:
        asynchronous = await blockyard.open_async_store(store)
        first, second = pickled_again(store), pickled_again(asynchronous)
        assert type(second) is blockyard.AsyncBlockStore
        assert shares(first, second)
        await second.close()
        _ = first.write_block("a", b"1")
        third = await blockyard.open_async_store(first)
        assert shares(first, third)
        assert await third.read_block("a") == b"1"
        first.close()
        for closed in (second, third):
            with pytest.raises(blockyard.StoreClosedError):
                _ = await closed.read_block("a")

    with blockyard.open_store(tmp_path.as_uri(), cache={"memory": "1MiB"}) as store:
        asyncio.run(call(store))


def test_a_task_that_closes_its_store_closes_it_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blockyard.open_store(tmp_path.as_uri()) as store:
        _ = store.write_block("a", b"1")
        told = pickle.dumps(store)
    closed, opened = closed_counts(monkeypatch), set[object]()

    def task(number: int) -> None:
        for _ in range(40):
            with pickle.loads(told) as store:
                opened.add(store._operations.store)
                for _ in range(5):
                    assert store.read_block("a") == b"1"
                if number == 0:
                    assert store.read_blocks(["a", "a"]) == [b"1", b"1"]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            _ = list(pool.map(task, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert len(closed) == len(set(closed))
    assert opened <= set(closed)  # and those that another thread opened first
    assert dict(pickling._kept) == dict(pickling._open) == {}


def test_what_a_closed_client_has_under_way_ends_and_no_others(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"1"
        begun.set()
        assert go_on.wait(30)
        yield b"2"

    with blockyard.open_store(tmp_path.as_uri()) as store, ThreadPoolExecutor(2) as threads:
        closing, other = pickled_again(store), pickled_again(store)
        cut_off = threads.submit(closing.write_content, "a", pieces())
        assert begun.wait(30)
        begun.clear()
        goes_on = threads.submit(other.write_content, "b", pieces())
        assert begun.wait(30)
        ending = threading.Thread(target=closing.close)
        ending.start()
        assert eventually(lambda: closing.closed)
        go_on.set()
        ending.join()
        with pytest.raises(blockyard.StoreClosedError):
            cut_off.result(30)
        assert goes_on.result(30).size == 2
        assert other.read_content("b") == b"12"
        other.close()


def test_one_pool_serves_all_and_ends_with_the_last() -> None:
    with EchoServer() as server:
        with blockyard.open_store(SmallS3(server.url).store_url()) as store:
            first, second = pickled_again(store), pickled_again(store)
            third = asyncio.run(_read_async(store))
        assert first.read_block("k")
        for each in (first, second):
            assert each.stats().connections_idle == 1
        assert second.read_block("k")
        assert server.connections == 1
        first.close()
        assert second.stats().connections_idle == 1
        second.close()
        assert third.stats().connections_idle == 1
        asyncio.run(third.close())
        assert third.stats().connections_idle == 0
        assert server.wait_until_drained()


async def _read_async(store: blockyard.BlockStore) -> blockyard.AsyncBlockStore:
    client = pickled_again(await blockyard.open_async_store(store))
    assert await client.read_block("k")
    return client


def test_clients_that_are_dropped_leave_what_is_kept_alone() -> None:
    with EchoServer() as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        with blockyard.open_store(SmallS3(server.url).store_url()) as store:
            told = pickle.dumps(store), pickle.dumps(asyncio.run(_async(store)))

        async def use_async() -> None:
            client = pickle.loads(told[1])
            assert len(await client.read_blocks(["k", "k"])) == 2

        def use() -> None:
            client = pickle.loads(told[0])
            assert client.read_block("k")
            assert len(client.read_blocks(["k", "k"])) == 2

        with no_new_descriptors():
            with no_new_threads():
                use()
                accepted = server.connections
                for _ in range(10):
                    use()
                    asyncio.run(use_async())
            assert server.connections <= accepted + 1
            _forget_stores()
        assert server.wait_until_drained()


async def _async(store: blockyard.BlockStore) -> blockyard.AsyncBlockStore:
    return await blockyard.open_async_store(store)


def test_options_go_along(tmp_path: Path) -> None:
    with blockyard.open_store(tmp_path.as_uri(), cache={"memory": "1MiB"}) as store:
        view = store.with_options(deadline=7.5, concurrency=3, cache="refresh")
        again = pickled_again(view)
        assert (again._deadline, again._concurrency, again._cache) == (7.5, 3, "refresh")
        assert again.stats().cache is not None


def test_every_setting_goes_along(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **GIVEN,
        "endpoint": "http://127.0.0.1:9",
        "force_path_style": True,
        "deadline": 9.0,
        "connect": 2.0,
        "verify_ranges": "covered",
        "max_connections": 7,
        "proxy": "http://user:password@127.0.0.1:8",
        "cache": {"memory": "8MiB", "revalidate": "never"},
        "in_flight": "32MiB",
        "tags": {"a": "b"},
    }
    with blockyard.open_store("s3://bucket/below", **settings) as store:
        again = pickled_again(store)
        assert again._source == store._source
        assert again._runtime.connections.http == store._runtime.connections.http
        assert again._runtime.connections.timeouts == store._runtime.connections.timeouts
        assert again._operations.in_flight == 32 * 2**20
        assert pickled_again(again)._source == store._source


@pytest.mark.parametrize("name", ["BLOCKYARD_S3_SECRET_KEY", "BLOCKYARD_STORE"])
def test_a_secret_of_the_environment_stays_there(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = None
    if name == "BLOCKYARD_STORE":
        monkeypatch.setenv(name, f"s3://bucket?access_key=AKIA&secret_key={SECRET}")
    else:
        source = "s3://bucket"
        monkeypatch.setenv(name, SECRET)
        monkeypatch.setenv("BLOCKYARD_S3_ACCESS_KEY", "AKIA")
    with blockyard.open_store(source, region="eu-west-1") as store:
        pickle_of_it = pickle.dumps(store)
        assert SECRET.encode() not in pickle_of_it
        assert pickle.loads(pickle_of_it)._source == store._source
        monkeypatch.setenv("BLOCKYARD_STORE", "s3://bucket?access_key=OTHER&secret_key=other")
        pickling._kept.clear()
        other = pickle.loads(pickle_of_it)
        assert other._source.s3.access_key == "OTHER"
        assert other._source.s3.region == "eu-west-1"
        other.close()
        for gone in ("BLOCKYARD_STORE", "BLOCKYARD_S3_SECRET_KEY"):
            monkeypatch.delenv(gone, raising=False)
        pickling._kept.clear()
        with pytest.raises(blockyard.ConfigError, match="BLOCKYARD_S3_SECRET_KEY: expected in"):
            _ = pickle.loads(pickle_of_it).read_block("a")


def test_secrets_from_two_places_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKYARD_STORE", f"s3://bucket?access_key=AKIA&secret_key={SECRET}")
    monkeypatch.setenv("BLOCKYARD_S3_HTTP_PROXY", "http://user:word@127.0.0.1:9")
    monkeypatch.setenv("BLOCKYARD_S3_PUT_CUSTOMER_KEY", "A" * 43 + "=")
    with blockyard.open_store() as store:
        pickle_of_it = pickle.dumps(store)
        for secret in (SECRET, "word@", "AAAA"):
            assert secret.encode() not in pickle_of_it
        assert pickle.loads(pickle_of_it)._source == store._source
        monkeypatch.delenv("BLOCKYARD_S3_PUT_CUSTOMER_KEY")
        pickling._kept.clear()
        with pytest.raises(
            blockyard.ConfigError, match=r"^BLOCKYARD_S3_PUT_CUSTOMER_KEY: expected"
        ):
            _ = pickle.loads(pickle_of_it).read_block("a")


def test_credentials_are_taken_whole_from_the_workers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLOCKYARD_S3_ACCESS_KEY", "AKIA")
    monkeypatch.setenv("BLOCKYARD_S3_SECRET_KEY", SECRET)
    with blockyard.open_store("s3://bucket") as store:
        pickle_of_it = pickle.dumps(store)
    first = pickle.loads(pickle_of_it)
    monkeypatch.setenv("BLOCKYARD_STORE", "/not/there.yaml")  # of no use, and no hindrance
    monkeypatch.setenv("BLOCKYARD_S3_ACCESS_KEY", "ASIA")
    monkeypatch.setenv("BLOCKYARD_S3_SECRET_KEY", "other")
    monkeypatch.setenv("BLOCKYARD_S3_SESSION_TOKEN", "token")
    second = pickle.loads(pickle_of_it)
    assert first._source.s3.access_key == "AKIA"
    assert second._source.s3.access_key == "ASIA"
    assert second._source.s3.session_token.reveal() == "token"
    monkeypatch.delenv("BLOCKYARD_S3_SESSION_TOKEN")
    third = pickle.loads(pickle.dumps(second))
    assert not third._source.s3.session_token
    assert third._source.s3.secret_key.reveal() == "other"


def test_sections_of_other_types_stay_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.yaml"
    s3 = f"{{bucket: my-data, access_key: A, secret_key: {SECRET}}}"
    _ = path.write_text(f"block_store: {{type: file, file: {{path: {tmp_path}}}, s3: {s3}}}")
    monkeypatch.setenv("BLOCKYARD_STORE", str(path))
    with blockyard.open_store() as store:
        pickle_of_it = pickle.dumps(store)
    assert SECRET.encode() not in pickle_of_it
    monkeypatch.delenv("BLOCKYARD_STORE")
    assert pickle.loads(pickle_of_it).list_by_prefix() == []


def test_threads_that_load_at_once_share_a_store(tmp_path: Path) -> None:
    pickles: list[bytes] = []
    for number in range(20):
        with blockyard.open_store((tmp_path / str(number)).as_uri()) as store:
            pickles.append(pickle.dumps(store))
    barrier = threading.Barrier(8)

    def load(_: int) -> set[int]:
        _ = barrier.wait(30)
        shared = {id(pickle.loads(pickles[0])._operations.store) for _ in range(3)}
        _ = barrier.wait(30)
        for _ in range(20):  # more than are kept
            for each in pickles:
                _ = pickle.loads(each)
        return shared

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            loaded = list(pool.map(load, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert len(set.union(*loaded)) == 1


def test_a_process_that_ends_leaves_no_connection_open() -> None:
    program = (
        "import pickle, sys, blockyard\n"
        "with blockyard.open_store(sys.argv[1]) as store: told = pickle.dumps(store)\n"
        "for number in range(20):\n"
        "    client = pickle.loads(pickle.dumps(blockyard.open_store(sys.argv[1] + str(number))))\n"
        "    client.write_block('a', b'1'); client.read_blocks(['a', 'a'])\n"
        "client = pickle.loads(told)\n"
        "client.write_block('a', b'1')\n"
    )
    with small_s3() as server:
        url = server.store_url()
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", program, f"{url}&key_prefix=p"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr, ended.stderr


def test_copies_of_a_memory_store_come_and_go_without_a_word() -> None:
    with blockyard.open_store("memory://") as store:
        for _ in range(5):
            _ = pickled_again(store).write_blocks([("a", b"1"), ("b", b"2")])
        _ = gc.collect()
        assert store.read_blocks(["a", "b"]) == [b"1", b"2"]


def the_same(store: blockyard.BlockStore) -> blockyard.BlockStore:
    return store


def test_what_cannot_be_used_somewhere_comes_back_as_it_was() -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", b"1")
        assert in_another("spawn", the_same, store).read_block("a") == b"1"


def test_a_secret_that_was_given_goes_along() -> None:
    with blockyard.open_store("s3://bucket", **GIVEN) as store:
        assert SECRET.encode() in pickle.dumps(store)
        for shown in (repr(pickling.pickled(store._stack(), "BlockStore")), repr(pickling._kept)):
            assert SECRET not in shown


def test_credentials_of_the_chain_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with small_s3() as server:
        source = f"s3://bucket?endpoint={server.url}&force_path_style=true&region=us-east-1"
        with blockyard.open_store(source) as store:
            _ = store.write_block("a", b"1")
            assert SECRET.encode() not in pickle.dumps(store)
            assert pickled_again(store).read_block("a") == b"1"


def test_a_memory_store_is_found_again_by_its_process() -> None:
    with blockyard.open_store("memory://") as store:
        again = pickled_again(store)
        _ = again.write_block("a", b"1")
        assert store.read_block("a") == b"1"
        assert pickle.dumps(again) == pickle.dumps(store)
        assert copy.deepcopy({"store": store})["store"].read_block("a") == b"1"


def test_the_clients_of_a_memory_store_close_each_on_its_own() -> None:
    store = blockyard.open_store("memory://", cache={"memory": "1MiB"})
    told = pickle.dumps(store)
    with pickle.loads(told) as copy_of_it:
        _ = copy_of_it.write_block("a", b"1")
    last = pickle.loads(told)
    assert store.read_block("a") == b"1"
    store.close()
    assert last.read_block("a") == b"1"
    last.close()
    with pytest.raises(blockyard.UnsupportedError, match="gone with its last client"):
        _ = pickle.loads(told).list_by_prefix()


def test_a_memory_store_is_not_kept_by_its_pickles() -> None:
    store = blockyard.open_store("memory://")
    pickle_of_it = pickle.dumps(store)
    assert pickle.loads(pickle_of_it).list_by_prefix() == []
    store.close()
    del store
    with pytest.raises(blockyard.UnsupportedError, match="gone with its last client"):
        _ = pickle.loads(pickle_of_it).list_by_prefix()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_memory_store_is_refused_elsewhere(method: str) -> None:
    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", b"1")
        name, *told = in_another(method, refused_there, store)
    assert name.startswith("<BlockStore of a pickle")
    assert len(told) == 8
    for each in told:
        assert each.startswith("UnsupportedError: a memory:// store is in the memory of")
        assert str(os.getpid()) in each


def test_what_cannot_be_opened_there_is_said_on_use(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    _ = bundle.write_text("-----BEGIN CERTIFICATE-----")
    with blockyard.open_store("s3://bucket", **GIVEN, ca_bundle=str(bundle)) as store:
        pickle_of_it = pickle.dumps(store)
    bundle.unlink()
    again = pickle.loads(pickle_of_it)
    with pytest.raises(blockyard.ConfigError, match="ca_bundle"):
        _ = again.read_block("a")
    again.close()


def test_a_store_of_the_callers_own_is_not_pickled() -> None:
    with (
        blockyard.open_store(MemoryStore()) as store,
        pytest.raises(TypeError, match=r"BlockStore over a Store of your own \(MemoryStore\)"),
    ):
        _ = pickle.dumps(store)


def test_a_process_keeps_a_few_stores(tmp_path: Path) -> None:
    for number in range(20):
        with blockyard.open_store((tmp_path / str(number)).as_uri()) as store:
            _ = pickled_again(store)
    assert len(pickling._kept) == len(pickling._open) == pickling._KEPT


def test_a_closed_store_can_be_pickled(tmp_path: Path) -> None:
    store = blockyard.open_store(tmp_path.as_uri())
    store.close()
    _ = pickled_again(store).write_block("a", b"1")


def test_pickles_name_what_stays_importable() -> None:
    """Of the package's own, a pickle names one method and three classes."""
    with blockyard.open_store("s3://bucket", **GIVEN) as store:
        named = {
            str(argument)
            for opcode, argument, _ in pickletools.genops(pickle.dumps(store))
            if opcode.name == "SHORT_BINUNICODE" and str(argument).startswith("blockyard")
        }
    assert named == {"blockyard.pickling", "blockyard.config.portable"}
