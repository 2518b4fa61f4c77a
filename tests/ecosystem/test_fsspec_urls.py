"""URLs of the fsspec file systems: which part is the key, and what may be said behind it."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blockyard
from blockyard.fsspec import BlockyardContentFileSystem, BlockyardFileSystem, urls

KEY_TEXT = st.text(st.sampled_from("a/?%3F25f=&region*[]+ é"), min_size=1)
strip = BlockyardFileSystem._strip_protocol


@given(KEY_TEXT)
def test_the_url_of_a_path_is_that_path_again(path: str) -> None:
    path = path.rstrip("/")
    assert urls.path_of(urls.url_of(path, "blockyard"), "blockyard") == path
    assert strip(path) == path, "and a path is no URL"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("blockyard://bucket/a/b", "bucket/a/b"),
        ("blockyard://bucket/a/", "bucket/a"),
        ("blockyard://bucket", "bucket"),
        ("blockyard://bucket/a?.csv", "bucket/a?.csv"),
        ("blockyard://bucket/a%3Fb", "bucket/a?b"),
        ("blockyard://bucket/a%3fb", "bucket/a?b"),
        ("blockyard://bucket/a%253Fb", "bucket/a%3Fb"),
        ("blockyard://bucket/day=1%3A00/a%20b+c", "bucket/day=1%3A00/a%20b+c"),
        ("blockyard://bucket/a?region=eu-west-1", "bucket/a"),
        ("blockyard://bucket/a/?region=eu-west-1&anon=true", "bucket/a"),
        ("blockyard://bucket/a?/b?region=eu-west-1", "bucket/a?/b"),
        ("blockyard://bucket/a?version=1", "bucket/a?version=1"),
        ("bucket/a?region=eu-west-1", "bucket/a?region=eu-west-1"),
        ("blockyard+content://bucket/a", "blockyard+content://bucket/a"),
    ],
)
def test_paths_of_urls(url: str, path: str) -> None:
    assert strip(url) == path
    assert strip([url, url]) == [path, path]


def test_settings_of_a_url() -> None:
    found = BlockyardFileSystem._get_kwargs_from_urls(
        "blockyard://bucket/a?endpoint_url=http%3A%2F%2Flocalhost%3A9000&anon=true&no_progress=3"
    )
    assert found == {"endpoint_url": "http://localhost:9000", "anon": "true", "no_progress": "3"}
    for url in ("blockyard://bucket/a?.csv", "bucket/a?region=x"):
        assert BlockyardFileSystem._get_kwargs_from_urls(url) == {}


@pytest.mark.parametrize(
    "name", ["secret_key", "session_token", "access_key", "customer_key", "proxy"]
)
def test_no_secret_is_taken_from_a_url(name: str) -> None:
    with pytest.raises(
        blockyard.ConfigError, match=f"URL: {name}: expected in storage_options"
    ) as e:
        _ = fsspec.open(f"blockyard://bucket/a?{name}=hunter2")
    assert "hunter2" not in str(e.value)


def test_settings_that_are_none() -> None:
    with pytest.raises(
        blockyard.ConfigError, match="no setting 'endpont'; did you mean 'endpoint'"
    ):
        _ = fsspec.open("blockyard://bucket/a?region=eu-west-1&endpont=x")
    with pytest.raises(blockyard.ConfigError, match="region is given twice"):
        _ = fsspec.open("blockyard://bucket/a?region=a&region=b")
    for name in ("bucket", "key_prefix"):
        with pytest.raises(blockyard.ConfigError, match=f"{name}: expected in the path"):
            _ = fsspec.filesystem("blockyard", **{name: "x"})
    with pytest.raises(blockyard.ConfigError, match="anonymous is given twice, once as anon"):
        _ = fsspec.filesystem("blockyard", anonymous=True, anon=True)


def test_settings_reach_the_store_of_each_bucket(tmp_path: object) -> None:
    fs, path = fsspec.url_to_fs(
        "blockyard://bucket/a?endpoint_url=http://localhost:1", anon=True, region="eu-west-1"
    )
    assert path == "bucket/a"
    for bucket in ("bucket", "other"):
        config = fs._stores.place(f"{bucket}/a").files._store._source.s3
        assert (config.bucket, config.endpoint) == (bucket, "http://localhost:1")
        assert (config.anonymous, config.region) == (True, "eu-west-1")
    named = fsspec.filesystem("blockyard", profile="other")._stores.place("bucket/a")
    assert named.files._store._source.s3.profile == "other"
    with pytest.raises(blockyard.ConfigError, match="expected the name of a bucket"):
        _ = fs._stores.place("bucket?region=x/a")
    with pytest.raises(blockyard.ConfigError, match="did you mean 'region'"):
        _ = fsspec.filesystem("blockyard", regoin="x")._stores.place("bucket/a")


def test_secrets_have_the_names_of_s3fs_too() -> None:
    fs: Any = BlockyardFileSystem(key="AKIA", secret="hunter2", token="hunter3")
    config = fs._stores.place("bucket/a").files._store._source.s3
    assert (config.access_key, config.secret_key.reveal()) == ("AKIA", "hunter2")
    assert config.session_token.reveal() == "hunter3"
    for twice in ({"secret_key": "a", "secret": "b"}, {"secret": "b", "secret_key": "a"}):
        with pytest.raises(
            blockyard.ConfigError, match=r"^secret_key is given twice, once as secret$"
        ):
            _ = BlockyardFileSystem(**twice)
    assert urls.settings_of("blockyard://bucket/page?key=1") == {}
    assert urls.path_of("blockyard://bucket/page?key=1", "blockyard") == "bucket/page?key=1"
    for name in ("key", "secret", "token"):
        with pytest.raises(blockyard.ConfigError, match=f"{name}: expected in storage_options"):
            _ = urls.settings_of(f"blockyard://bucket/a?region=x&{name}=hunter2")


def test_a_path_without_a_bucket_leads_nowhere() -> None:
    fs = BlockyardFileSystem(anon=True)
    assert fs.isdir("")
    for call in (fs.ls, fs.find, fs.cat_file):
        with pytest.raises(blockyard.InvalidKeyError, match="expected BUCKET/KEY"):
            _ = call("")
    with pytest.raises(blockyard.InvalidKeyError, match="expected BUCKET/KEY"):
        _ = fs.glob("*")


def test_they_are_found_by_their_protocols() -> None:
    assert fsspec.get_filesystem_class("blockyard") is BlockyardFileSystem
    assert fsspec.get_filesystem_class("blockyard+content") is BlockyardContentFileSystem
    assert fsspec.filesystem("blockyard", anon=True) is fsspec.filesystem("blockyard", anon=True)
    fs = fsspec.filesystem("blockyard+content", anon=True)
    assert fs.unstrip_protocol("bucket/a?b") == "blockyard+content://bucket/a%3Fb"
    assert fs.fsid.startswith("blockyard+content_")
