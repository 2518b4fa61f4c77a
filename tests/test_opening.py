"""From a source to an open store: the right kind, with the settings that were given."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import pytest

import blockyard
from blockyard.cache.store import CacheStore
from blockyard.config import FileConfig, S3Config, Secret, Settings
from blockyard.config.cache import CacheConfig
from blockyard.config.sections import Section
from blockyard.model import CacheStats
from blockyard.s3.store import S3Store
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from tests.config.setting_types import types_below

KEYS = "access_key=AKIA&secret_key=hunter2"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in ("BLOCKYARD_STORE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("memory://", MemoryStore),
        ("file:///nowhere/blocks", FilesystemStore),
        (f"s3://my-data?{KEYS}", S3Store),
        (f"s3://my-data/blocks?{KEYS}&endpoint=http://127.0.0.1:1", S3Store),
    ],
)
def test_each_type_has_its_store_in_both_clients(source: str, kind: type) -> None:
    async def open_async() -> None:
        async with await blockyard.open_async_store(source) as store:
            assert isinstance(store, blockyard.AsyncBlockStore)
            assert type(store._operations.store) is kind

    with blockyard.open_store(source) as store:
        assert isinstance(store, blockyard.BlockStore)
        assert type(store._operations.store) is kind
    asyncio.run(open_async())


def test_opening_writes_nothing(tmp_path: Path) -> None:
    with blockyard.open_store((tmp_path / "blocks").as_uri()):
        assert list(tmp_path.iterdir()) == []


def test_memory_stores_are_separate() -> None:
    with blockyard.open_store("memory://") as one, blockyard.open_store("memory://") as other:
        _ = one.write_block("a", b"1")
        assert one.list_by_prefix() == ["a"]
        assert other.list_by_prefix() == []


def test_an_open_client_gives_the_other_client_of_its_store() -> None:
    async def call(one: blockyard.BlockStore) -> None:
        other = await blockyard.open_async_store(one)
        assert await other.read_block("a") == b"1"
        _ = await other.write_block("b", b"2")
        again = blockyard.open_store(other)
        assert again.read_block("b") == b"2"
        assert (again._deadline, again._concurrency, again._cache) == (1000, 7, "bypass")
        await other.close()
        assert other.closed
        for closed in (one, again):
            assert closed.closed
            with pytest.raises(blockyard.StoreClosedError):
                _ = closed.read_block("a")
        with pytest.raises(blockyard.StoreClosedError):
            _ = await other.read_block("a")
        again.close()

    with blockyard.open_store("memory://") as store:
        _ = store.write_block("a", b"1")
        asyncio.run(call(store.with_options(deadline=1000, concurrency=7, cache="bypass")))


def test_both_clients_of_a_store_have_one_cache_and_connections_of_their_own() -> None:
    async def call(one: blockyard.BlockStore) -> None:
        async with await blockyard.open_async_store(one) as other:
            assert await other.read_block("a") == b"1"  # from the cache, which is to have it
            assert one.stats().cache == other.stats().cache
            _ = await other.write_block("a", b"2")
            assert one.read_block("a") == b"2"
            assert one._runtime.connections is not other._runtime.connections
            assert one._runtime.connections.http is other._runtime.connections.http

    with blockyard.open_store("memory://", cache={"memory": "1MiB"}) as store:
        _ = store.write_block("a", b"1")
        assert store.read_block("a") == b"1"
        asyncio.run(call(store))


def test_a_client_that_is_dropped_leaves_the_store_to_the_others() -> None:
    async def call(one: blockyard.BlockStore) -> None:
        assert await (await blockyard.open_async_store(one)).block_exists("a") is False

    with blockyard.open_store("memory://") as store:
        asyncio.run(call(store))
        _ = gc.collect()
        assert store.read_blocks([]) == []
        _ = store.write_block("a", b"1")


def test_an_open_client_takes_no_settings() -> None:
    with (
        blockyard.open_store("memory://") as store,
        pytest.raises(blockyard.ConfigError, match="deadline: settings do not apply to a store"),
    ):
        _ = blockyard.open_async_store(store, deadline=3)


def test_a_file_store_stays_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = blockyard.StoreConfig(type="file", file=blockyard.FileConfig(path=Path("blocks")))
    with blockyard.open_store(config) as store:
        monkeypatch.chdir("/")
        _ = store.write_block("a", b"1")
    assert (tmp_path / "blocks").is_dir()


def test_blockyard_store_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKYARD_STORE", "memory://")
    with blockyard.open_store() as store:
        assert store.health_check().latency >= 0


def test_a_yaml_file_and_keyword_arguments(tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"
    _ = path.write_text("block_store: {s3: {bucket: my-data, access_key: A, secret_key: B}}")
    with blockyard.open_store(path, deadline=7, concurrency=3, max_connections=5) as store:
        assert (store._deadline, store._concurrency) == (7, 3)
        assert store._runtime.connections.here()._pool._max_connections == 5


def test_errors_come_at_once_in_both_clients() -> None:
    with pytest.raises(blockyard.ConfigError, match="did you mean 'region'"):
        _ = blockyard.open_store("s3://my-data", regoin="eu-west-1")
    with pytest.raises(blockyard.ConfigError, match="got the scheme 'gs'"):
        _ = asyncio.run(blockyard.open_async_store("gs://my-data"))


def test_no_secret_is_shown_by_what_is_open() -> None:
    with blockyard.open_store(f"s3://my-data?{KEYS}") as store:
        seen = [store, store._operations, store._operations.store, store._runtime]
        assert "hunter2" not in "".join(
            repr(vars(each)) for each in seen if hasattr(each, "__dict__")
        )


def accepted(name: str, kind: Any) -> object:
    """The type of the keyword argument for a setting of type `kind`."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind | Mapping[str, Any] | None
    if name == "in_flight":  # a size
        return int | str | None
    wider = {Secret: str | Secret, Path: str | os.PathLike[str]}
    return wider.get(kind, kind) | None


def test_the_keyword_arguments_are_the_settings() -> None:
    """Each setting by its own name, and of the type that it takes: `Settings` can't drift."""
    kinds = {**types_below(S3Config), **types_below(FileConfig)}
    sections = {(name,): known.section for name, known in S3Config.settings.items()}
    kinds |= {path: section for path, section in sections.items() if section}
    kinds["cache",] = CacheConfig
    expected = {path[-1]: accepted(path[-1], kind) for path, kind in kinds.items()}
    assert get_type_hints(Settings) == expected
    for function in (blockyard.open_store, blockyard.open_async_store):
        assert get_type_hints(function)["settings"] == Unpack[Settings]


@pytest.mark.parametrize("name", get_type_hints(Settings))
def test_every_keyword_argument_reaches_its_setting(name: str) -> None:
    source = "file:///a" if name == "path" else "s3://my-data?region=eu-west-1"
    with pytest.raises(blockyard.ConfigError, match=rf"\.{name} \(from an argument\): expected"):
        _ = blockyard.open_store(source, **{name: "\n"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("source", ["s3://my-data?region=eu-west-1", "file:///a", "memory://"])
def test_a_cache_in_front_of_the_store(source: str) -> None:
    with blockyard.open_store(source) as plain:
        assert plain.stats().cache is None
    with blockyard.open_store(source, cache={"memory": "1MiB"}) as store:
        assert isinstance(store._operations.store, CacheStore)  # pyright: ignore[reportPrivateUsage]
        assert store.stats().cache == CacheStats()
        assert repr(store) == repr(plain).replace(", closed", "")


def test_a_cache_on_disk_is_kept_for_the_next_one(tmp_path: Path) -> None:
    disk = {"path": tmp_path / "cache", "size": "8MiB"}
    source = f"file://{tmp_path}/blocks"
    with blockyard.open_store(source, cache={"memory": 0, "disk": disk}) as store:
        _ = store.write_block("k", b"block")
        _ = store.read_block("k")
    with blockyard.open_store(source, cache={"memory": 0, "disk": disk}) as store:
        assert store.read_block("k") == b"block"
        counts = store.stats().cache
    assert counts is not None
    assert counts.disk_hits == 1
    another = blockyard.open_store(f"{source}2", cache={"disk": disk})
    with another, pytest.raises(blockyard.BlockNotFoundError):
        _ = another.read_block("k")


# A store of one's own, and what a client says of itself.


def test_a_store_of_ones_own_is_opened_and_closed() -> None:
    closed: list[str] = []

    class Kept(MemoryStore):
        def close(self) -> None:
            closed.append("now")

    own = Kept()
    with blockyard.open_store(own) as store:
        _ = store.write_block("a", b"1")
        assert not closed

    async def main() -> None:
        async with blockyard.open_async_store(own) as store:
            assert await store.read_block("a") == b"1"

    asyncio.run(main())
    assert closed == ["now", "now"]


def test_a_store_of_ones_own_takes_no_settings() -> None:
    with pytest.raises(blockyard.ConfigError, match="concurrency: settings do not apply"):
        _ = blockyard.open_store(MemoryStore(), concurrency=3)


def test_an_asyncio_store_is_awaited_or_entered() -> None:
    async def main() -> None:
        async with blockyard.open_async_store("memory://") as entered:
            assert not entered.closed
        assert entered.closed
        async with await blockyard.open_async_store("memory://") as awaited:
            _ = await awaited.write_block("a", b"")
        assert awaited.closed

    asyncio.run(main())
    with asyncio.Runner() as runner:
        run = runner.run(blockyard.open_async_store("memory://"))
        runner.run(run.close())
        assert run.closed


def test_a_client_tells_what_it_is_without_a_secret() -> None:
    url = "s3://my-data/blocks/?endpoint=http://127.0.0.1:1&access_key=AKIA&secret_key=hunter2"
    store = blockyard.open_store(url, deadline=5)
    assert not store.closed
    where = "s3://my-data/blocks/ at http://127.0.0.1:1"
    assert repr(store) == f"<BlockStore {where}, deadline 5 s, concurrency 32>"
    store.close()
    assert store.closed
    assert repr(store) == f"<BlockStore {where}, deadline 5 s, concurrency 32, closed>"
    assert repr(blockyard.open_async_store("memory://")._store).startswith("<AsyncBlockStore mem")


def test_a_view_takes_a_deadline_off() -> None:
    store = blockyard.open_store("memory://")
    hasty = store.with_options(deadline=5, concurrency=3)
    assert "deadline 5 s, concurrency 3" in repr(hasty)
    assert "deadline 5 s, concurrency 4" in repr(hasty.with_options(concurrency=4))
    assert "deadline" not in repr(hasty.with_options(deadline=None))
    store.close()
    assert hasty.closed


def test_an_asyncio_store_that_was_not_awaited_says_so() -> None:
    opening = blockyard.open_async_store("memory://")
    with pytest.raises(AttributeError, match="awaited before 'read_blocks' is used"):
        _ = opening.read_blocks  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'read_blokcs'"):
        _ = opening.read_blokcs  # type: ignore[attr-defined]
    assert not hasattr(opening, "nothing")
    asyncio.run(asyncio.run(opening).close())


def test_a_python_without_the_gil_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard.opening.FREE_THREADED", True)
    with pytest.warns(RuntimeWarning, match="does not support free-threaded Python yet"):
        blockyard.open_store("memory://").close()
