"""How the objects of a content are stored: `options` of a write, and what is not kept of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import blockyard
from blockyard import PutOptions, UnsupportedError
from servers.endpoint import Endpoint, boto3_client
from tests.small_s3 import small_s3

OPTIONS = PutOptions(
    storage_class="STANDARD_IA", tags={"of": "films"}, encryption="AES256", acl="public-read"
)
SIZES = [10, 200_000]
"""One that is kept in its manifest, and one that has blocks."""

Write = Callable[..., Any]


def write_blocking(store: blockyard.BlockStore, *args: Any, **options: Any) -> Any:
    return store.write_content(*args, **options)


def write_asyncio(store: blockyard.BlockStore, *args: Any, **options: Any) -> Any:
    async def call() -> Any:
        asynchronous = await blockyard.open_async_store(store)
        try:
            return await asynchronous.write_content(*args, **options)
        finally:
            await asynchronous._runtime.close()  # and not `store` with it

    return asyncio.run(call())


both = pytest.mark.parametrize("write", [write_blocking, write_asyncio])


@both
@pytest.mark.parametrize("size", SIZES)
def test_blocks_and_manifest_are_stored_so(
    write: Write, size: int, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    client: Any = boto3_client(moto_endpoint)
    with blockyard.open_store(**moto_endpoint.s3_settings(bucket, key_prefix)) as store:
        _ = write(store, "movie", bytes(size), metadata={"a": "b"}, options=OPTIONS)
        keys = store.list_by_prefix("movie")
        assert len(keys) == (1 if size == SIZES[0] else 2)
        for key in keys:
            place = {"Bucket": bucket, "Key": key_prefix + key}
            head = client.head_object(**place)
            assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
            assert client.get_object_tagging(**place)["TagSet"] == [{"Key": "of", "Value": "films"}]
            assert len(client.get_object_acl(**place)["Grants"]) == 2
        assert store.stat_content("movie").metadata == {"a": "b"}
        assert store.read_content("movie") == bytes(size)
        _ = write(store, "movie", bytes(size))
        assert store.stat_block("movie.blockyard").storage_class == "STANDARD"


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", {"a": "b"}),
        ("content_type", "text/plain"),
        ("content_encoding", "gzip"),
        ("cache_control", "no-store"),
    ],
)
def test_what_says_something_of_one_object_is_refused(write: Write, name: str, value: Any) -> None:
    with blockyard.open_store("memory://") as store:
        with pytest.raises(ValueError, match=f"^write_content 'a': options: {name}: expected only"):
            _ = write(store, "a", b"1", options=PutOptions(**{name: value}))
        with pytest.raises(TypeError, match="write_content: options: expected PutOptions"):
            _ = write(store, "a", b"1", options={"acl": "private"})
        assert store.list_by_prefix() == []


@both
@pytest.mark.parametrize("size", SIZES)
def test_a_store_that_can_not_keep_them_stores_nothing(write: Write, size: int) -> None:
    with blockyard.open_store("memory://") as store:
        with pytest.raises(UnsupportedError, match="options: tags: this store can't keep it"):
            _ = write(store, "a", bytes(size), options=PutOptions(tags={"a": "b"}))
        assert store.list_by_prefix() == []
        _ = write(store, "a", b"1", if_absent=True)  # conditions go on being held
        with pytest.raises(blockyard.ContentExistsError):
            _ = write(store, "a", b"2", if_absent=True)


@both
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("of_the_store", [False, True])
def test_a_service_that_ignores_the_encryption_is_told_of(
    write: Write, size: int, of_the_store: bool
) -> None:
    with small_s3() as server:
        put = {"encryption": "AES256"} if of_the_store else None
        options = None if of_the_store else PutOptions(encryption="AES256")
        with blockyard.open_store(server.store_url(), put=put) as store:
            with pytest.raises(UnsupportedError, match="does not say that it is enc") as raised:
                _ = write(store, "a", bytes(size), options=options)
            assert raised.value.unknown_attempts == 1
            assert store._writer._register.conditional
