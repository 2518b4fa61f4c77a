"""What a writer says of a content: what is refused before anything is sent, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from blockyard import BlockTooLargeError
from blockyard.content import manifest as manifests
from blockyard.content.manifest import Manifest, decode, encode, generation_key, generation_of
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.samples import content

GENERATION = "20260101T000000Z-0123456789abcdef"
ZONE = timezone(timedelta(hours=-14))


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest) -> Iterator[BlockStore]:
    with open_client(request.param, MemoryStore()) as client:
        yield client.store


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content_type", "x" * 1025),
        ("content_type", "text/plain\r\nx: y"),
        ("content_type", " text/plain"),
        ("content_type", "téxt/plain"),
        ("modified", datetime.max.replace(tzinfo=UTC)),
        ("modified", datetime.max.replace(tzinfo=ZONE)),
        ("modified", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("block_size", 0),
        ("chunk_blocks", 0),
        ("chunk_blocks", -1),
        ("chunk_blocks", 10_001),
    ],
)
@pytest.mark.parametrize("source", [b"short", content(100_000)])
def test_what_is_refused_names_the_argument(
    store: BlockStore, name: str, value: Any, source: bytes
) -> None:
    with pytest.raises(ValueError, match=f"write_content: {name}: "):
        store.write_content("c", source, **{name: value})
    assert store.list_by_prefix() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("content_type", b"text/plain"), ("chunk_blocks", 1.5), ("chunk_blocks", True)],
)
def test_what_is_of_a_wrong_type_names_the_argument(
    store: BlockStore, name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"write_content: {name}: "):
        store.write_content("c", b"short", **{name: value})


@pytest.mark.parametrize(
    "modified",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(1969, 12, 31, tzinfo=ZONE),
    ],
)
def test_what_is_kept(store: BlockStore, modified: datetime) -> None:
    longest = "x/" + "y" * 1022
    store.write_content("c", b"short", content_type=longest, modified=modified)
    info = store.stat_content("c")
    assert (info.content_type, info.modified) == (longest, modified)


@pytest.mark.parametrize(("chunk", "places"), [(1, [0, 1, 2]), (2, [0, 0, 1]), (10_000, [0, 0, 0])])
def test_chunks_of_as_many_blocks(store: BlockStore, chunk: int, places: list[int]) -> None:
    data = content(250_000)
    store.write_content("c", data, block_size=100_000, chunk_blocks=chunk)
    keys = [key.split("/", 2)[2] for key in store.list_by_prefix("c/")]
    assert [key.split("/")[0] for key in keys] == [f"chunk-{place:06}" for place in places]
    store.copy_content("c", "copy")
    for content_id in ("c", "copy"):
        assert store.read_content(content_id) == data
    store.delete_content("c")
    store.delete_content("copy")
    assert not [key for key in store.list_by_prefix() if "chunk-" in key]


def test_sixteen_blocks_to_a_chunk_unless_said_otherwise(store: BlockStore) -> None:
    store.write_content("c", content(100_000), block_size=5000)
    keys = store.list_by_prefix("c/")
    assert [key for key in keys if "chunk-000001" in key] == keys[16:]


@pytest.mark.parametrize("chunk", [1, 16, 10_000])
@pytest.mark.parametrize("index", [0, 999_999, 1_000_000, 15_999_999, manifests.MOST_BLOCKS - 1])
def test_every_key_of_a_block_is_known_as_one(index: int, chunk: int) -> None:
    key = generation_key("a/b", GENERATION, index, chunk)
    assert generation_of(key) == ("a/b", GENERATION)


@pytest.mark.parametrize(
    "place",
    ["chunk-00001/block-0000", "chunk-0000001/block-0000", "chunk-000001/block-00000", "x/y"],
)
def test_no_other_key_is(place: str) -> None:
    assert generation_of(f"c/{GENERATION}/{place}") is None


def test_a_manifest_that_nobody_could_read_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_MOST_TEXT", 2000)
    for etags, fits in ((("e" * 32,) * 10, True), (("e" * 32,) * 100, False)):
        known = Manifest(GENERATION, size=len(etags), block_size=1, layout="plain", etags=etags)
        if fits:
            assert decode("", encode(known, "nonce")).etags == etags
        else:
            with pytest.raises(BlockTooLargeError, match="100 blocks are more than a manifest"):
                encode(known, "nonce")
    most = manifests.MOST_BLOCKS
    with pytest.raises(BlockTooLargeError):
        encode(Manifest(GENERATION, size=most + 1, block_size=1, layout="plain"), "nonce")


def test_adopting_more_blocks_than_a_manifest_can_name(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_MOST_TEXT", 2000)
    store.write_block("c/chunk-0/block-0", b"x")
    store.adopt_content("c")
    monkeypatch.setattr(manifests, "_MOST_TEXT", 100)
    store.write_block("d/chunk-0/block-0", b"x")
    with pytest.raises(BlockTooLargeError):
        store.adopt_content("d")
    assert store.list_by_prefix("d") == ["d/chunk-0/block-0"]
