"""One store under several names in one cache's folder, and folders that lie in each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockyard import BlockStore, ConfigError, open_store
from blockyard.cache.uploads import Uploads
from blockyard.config import S3Config
from blockyard.s3.credentials import StaticCredentials
from blockyard.s3.store import S3Store
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore


def cached(folder: Path, cache: Path, **options: Any) -> BlockStore:
    disk = {"path": cache, "size": "32MiB"}
    return open_store(folder.as_uri(), cache={"memory": 0, "disk": disk, **options})


@pytest.fixture
def names(tmp_path: Path) -> tuple[Path, Path]:
    """A folder, and another name of it."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    return folder, link


def disk_hits(store: BlockStore) -> int:
    counts = store.stats().cache
    assert counts is not None
    return counts.disk_hits


def test_a_change_under_one_name_is_seen_under_the_other(
    names: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = (cached(name, tmp_path / "cache", revalidate="never") for name in names)
    with one, other:
        _ = one.write_block("k", b"first")
        while not disk_hits(other):
            assert other.read_block("k") == b"first"
        _ = one.write_block("k", b"second")
        assert other.read_block("k") == b"second"


def test_what_is_staged_under_one_name_is_there_under_the_other(
    names: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no newer than what is written there later."""

    def add(*_: object) -> None:
        """Upload nothing."""

    monkeypatch.setattr(Uploads, "add", add)
    folder, link = names
    with cached(folder, tmp_path / "cache", mode="write_back") as one:
        _ = one.write_block("k", b"first")
    with cached(link, tmp_path / "cache", mode="write_back") as other:
        assert other.read_block("k") == b"first"
        _ = other.write_block("k", b"second")
        assert other.drain() == []
    with cached(folder, tmp_path / "cache", mode="write_back") as one:
        assert one.pending() == []
    with open_store(folder.as_uri()) as store:
        assert store.read_block("k") == b"second"


def identity(**settings: Any) -> str:
    named: dict[str, Any] = {"bucket": "bucket", **settings}
    config = S3Config(**named)
    return WrapperStore(S3Store(config, StaticCredentials(None))).identity


def test_a_bucket_is_the_same_whichever_way_it_is_reached() -> None:
    assert {
        identity(),
        identity(region="eu-west-1"),
        identity(force_path_style=True),
        identity(use_dualstack_endpoint=True),
        identity(use_fips_endpoint=True),
        identity(endpoint="https://s3.eu-west-1.amazonaws.com"),
    } == {"s3://bucket/ at AWS, amazonaws.com"}
    assert identity(endpoint="Minio.:443") == "s3://bucket/ at https://minio"
    others = [{"bucket": "other"}, {"key_prefix": "a"}, {"region": "cn-north-1"}]
    assert len({identity(**other) for other in [{}, *others]}) == 4


def test_a_store_of_ones_own_is_told_by_its_name() -> None:
    assert WrapperStore(MemoryStore()).identity == "memory"


@pytest.mark.parametrize("mode", ["write_through", "write_back"])
@pytest.mark.parametrize(
    ("folder", "cache"),
    [
        ("data", "data"),
        ("data", "data/cache"),
        ("cache/data", "cache"),
        ("cache/stage", "cache"),
        ("data", "link/cache"),
        ("link", "data"),
        ("link/sub", "data"),
        ("data", "data/../data/a/b/../c"),
    ],
)
def test_a_cache_and_a_store_can_not_lie_in_each_other(
    folder: str, cache: str, mode: str, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"cache\.disk\.path: expected a folder that is neither"):
        _ = cached(tmp_path / folder, tmp_path / cache, mode=mode)
    assert [each.name for each in tmp_path.iterdir()] == ["link"]


def test_a_cache_may_lie_beside_a_store(tmp_path: Path) -> None:
    with cached(tmp_path / "data", tmp_path / "data-cache") as store:
        _ = store.write_block("k", b"block")
        assert store.read_block("k") == b"block"
