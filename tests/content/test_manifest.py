"""The format of manifests: what is written is read, and nothing else is taken for one."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.content.manifest import (
    INLINE_LIMIT,
    LEAST_SIZE,
    MOST_REPLACED,
    Manifest,
    Replaced,
    block_count,
    decode,
    encode,
    generation_key,
    generation_of,
)
from blockyard.crc32c import combined, crc32c
from blockyard.errors import IntegrityError, UnsupportedError

GENERATION = "20261126T030704Z-9f86d081884c7d65"
OTHER = "20250101T000000Z-0123456789abcdef"
NONCE = "a" * 24
BIG = Manifest(
    GENERATION,
    size=10_000_001,
    block_size=4 << 20,
    layout="generation",
    crc32c=5,
    checksums=struct.pack(">3I", 1, 2, 0xFFFFFFFF),
    history=(Replaced(OTHER, 1_700_000_000.5, 7),),
)
SMALL = Manifest(GENERATION, size=5, crc32c=crc32c(b"small"), data=b"small")
GONE = Manifest(GENERATION, deleted=True, history=BIG.history)

generations = st.from_regex(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}", fullmatch=True)
histories = st.lists(
    st.builds(Replaced, generations, st.floats(0, 1e11), st.integers(0, 1 << 20)),
    max_size=MOST_REPLACED,
).map(tuple)
texts = st.text(max_size=40)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    history = draw(histories)
    if draw(st.booleans()):
        return Manifest(draw(generations), history=history, deleted=True)
    said: dict[str, Any] = {
        "crc32c": draw(st.none() | st.integers(0, 0xFFFFFFFF)),
        "content_type": draw(texts),
        "modified": draw(st.none() | st.floats(-1e10, 1e10)),
        "metadata": draw(st.dictionaries(texts, texts, max_size=5)),
        "history": history,
        "chunk_blocks": draw(st.integers(1, 100)),
    }
    layout = draw(st.sampled_from(["inline", "generation", "plain"]))
    if layout == "inline":
        data = draw(st.binary(max_size=3000))
        return Manifest(draw(generations), size=len(data), data=data, **said)
    size, block_size = draw(st.integers(0, 1 << 20)), draw(st.integers(10_000, 1 << 22))
    count = block_count(size, block_size)
    return Manifest(
        draw(generations),
        size=size,
        block_size=block_size,
        layout=layout,
        checksums=draw(st.sampled_from([b"", bytes(4 * count)])),
        etags=draw(st.sampled_from([(), ("e",) * count])),
        **said,
    )


@given(manifests())
def test_what_is_written_is_read(manifest: Manifest) -> None:
    data = encode(manifest, NONCE)
    assert decode("here", data) == manifest
    assert (len(data) < LEAST_SIZE) == manifest.deleted
    assert encode(manifest, "b" * 24) != data


@settings(max_examples=300)
@given(st.sampled_from([BIG, SMALL, GONE]), st.data())
def test_a_changed_or_missing_byte_is_found(manifest: Manifest, data: st.DataObject) -> None:
    encoded = bytearray(encode(manifest, NONCE))
    place = data.draw(st.integers(0, len(encoded) - 1))
    if data.draw(st.booleans()):
        encoded[place] ^= data.draw(st.integers(1, 255))
    else:
        del encoded[place:]
    says = r"^here: (the manifest of the content is damaged|its manifest is of a later format)"
    with pytest.raises((IntegrityError, UnsupportedError), match=says):
        _ = decode("here", bytes(encoded))


def test_a_length_past_the_end_is_found() -> None:
    head, rest = encode(GONE, NONCE).split(b"\n", 1)
    longer = head[:-3] + b"999\n" + rest
    with pytest.raises(IntegrityError, match="it is shorter than it says"):
        _ = decode("here", longer)


@given(st.binary(max_size=200))
def test_anything_else_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        _ = decode("here", data)


def with_stated(manifest: Manifest, **changed: Any) -> bytes:
    """A manifest with other JSON, and a right checksum."""
    data = encode(manifest, NONCE)
    head, rest = data.split(b"\n", 1)
    length = int(head.split()[-1])
    stated = {**json.loads(rest[:length]), **changed}
    text = json.dumps({name: value for name, value in stated.items() if value != "absent"}).encode()
    body = rest[length:]
    return b"blockyard-content 1 %08x %d\n" % (crc32c(text + body), len(text)) + text + body


@pytest.mark.parametrize(
    "name", ["id", "state", "history", "size", "layout", "block_size", "etags"]
)
def test_a_field_that_is_missing(name: str) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        _ = decode("here", with_stated(BIG, **{name: "absent"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "movie"),
        ("id", 3),
        ("state", "undead"),
        ("size", -1),
        ("size", 10_000_001.0),
        ("size", True),
        ("size", 2**80),
        ("size", 4),
        ("size", 40_000_000),
        ("block_size", 0),
        ("block_size", 1),
        ("block_size", "4"),
        ("chunk_blocks", 0),
        ("layout", "round"),
        ("crc32c", -1),
        ("crc32c", 2**32),
        ("modified", "now"),
        ("modified", float("inf")),
        ("content_type", None),
        ("metadata", []),
        ("metadata", {"a": 1}),
        ("etags", ["one"]),
        ("etags", [1, 2, 3]),
        ("history", "all"),
        ("history", [[OTHER, 1.0]]),
        ("history", [["x", 1.0, 2]]),
        ("history", [[OTHER, 1.0, 2]] * (MOST_REPLACED + 1)),
    ],
)
def test_a_field_that_can_not_be(name: str, value: object) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        _ = decode("here", with_stated(BIG, **{name: value}))


def test_json_that_is_nested_without_end_is_refused() -> None:
    text = b"[" * 100_000
    data = b"blockyard-content 1 %08x %d\n" % (crc32c(text), len(text)) + text
    with pytest.raises(IntegrityError):
        _ = decode("here", data)


@pytest.mark.parametrize("nothing", ["[]", "{}", "[{}]"])
def test_json_of_many_small_things_is_refused_unread(nothing: str) -> None:
    """They take twenty times the memory of their text, and whoever may write may put them there."""
    text = f"[{','.join([nothing] * 100_000)}]".encode()
    data = b"blockyard-content 1 %08x %d\n" % (crc32c(text), len(text)) + text
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="more lists and mappings"):
            _ = decode("here", data)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()


def test_a_full_tombstone_is_shorter_than_any_live_manifest() -> None:
    history = tuple(Replaced(OTHER, 1_795_662_424.123456, 1 << 24) for _ in range(MOST_REPLACED))
    assert len(encode(Manifest(GENERATION, deleted=True, history=history), NONCE)) < LEAST_SIZE
    assert len(encode(Manifest(GENERATION), "")) >= LEAST_SIZE


def test_a_tebibyte() -> None:
    count = 1 << 18
    manifest = Manifest(
        GENERATION,
        size=1 << 40,
        block_size=4 << 20,
        layout="generation",
        checksums=bytes(4 * count),
    )
    assert decode("here", encode(manifest, NONCE)) == manifest
    assert manifest.blocks == count
    last = generation_key("a/b", GENERATION, count - 1, 16)
    assert last == f"a/b/{GENERATION}/chunk-016383/block-0015"


def test_checksums_are_those_of_the_blocks() -> None:
    assert [BIG.checksum(index) for index in range(3)] == [1, 2, 0xFFFFFFFF]
    assert SMALL.blocks == 0
    assert INLINE_LIMIT == 64 * 1024


def test_which_keys_are_of_a_generation() -> None:
    key = generation_key("a/b", GENERATION, 20, 16)
    assert generation_of(key) == ("a/b", GENERATION)
    for other in (
        key[:-1],
        key + "0",
        key.replace("chunk-", "chunk"),
        f"{GENERATION}/chunk-000000/block-0000",
        f"/{GENERATION}/chunk-000000/block-0000",
        "a/b/chunk-0/block-0",
    ):
        assert generation_of(other) is None


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_two_parts_are_combined(first: bytes, second: bytes) -> None:
    assert combined(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


def test_checksums_of_large_parts_are_combined() -> None:
    block = bytes(range(256)) * (1 << 14)
    whole = 0
    for _ in range(5):
        whole = combined(whole, crc32c(block), len(block))
    assert whole == crc32c(block * 5)
