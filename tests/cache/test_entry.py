"""The format of the disk cache's entries: what is read is what was written, or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from blockyard.cache import entry
from blockyard.cache.entry import HEAD, Head
from blockyard.model import KIB, MIB, BlockInfo
from blockyard.s3.integrity import PageChecksums, page_size, upload_headers

BOOT = b"thisboot"
NAME = entry.name_of("store", "key")


def running_sums(block: bytes) -> bytes:
    headers = upload_headers(block)
    stored = PageChecksums.of(headers)
    assert stored is not None
    sums = stored.all(headers)
    assert sums is not None
    return sums.running


def head_of(block: bytes, *, sums: bool = True) -> Head:
    info = BlockInfo("key", len(block), "etag", datetime(2026, 1, 2, tzinfo=UTC))
    return Head(NAME, info, 7, running_sums(block) if sums else b"")


@given(
    st.text(min_size=1, max_size=256),
    st.text(min_size=1, max_size=128),
    st.integers(0, 1024 * MIB),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.integers(0, 2**64 - 1),
)
def test_a_head_says_what_was_put_in(
    key: str, etag: str, size: int, modified: datetime | None, epoch: int
) -> None:
    pages = max(1, -(-size // page_size(size)))
    sums = b"sums" * pages * (epoch % 2)
    head = Head(NAME, BlockInfo(key, size, etag, modified), epoch, sums)
    encoded = entry.encode_head(head)
    assert encoded is not None
    assert len(encoded) == HEAD
    assert entry.decode_head(encoded, NAME) == head


def test_the_longest_key_and_most_pages_fit() -> None:
    info = BlockInfo("k" * 1024, 1024 * MIB, "e" * 512)
    head = Head(NAME, info, 0, b"sums" * 256)
    encoded = entry.encode_head(head)
    assert encoded is not None
    assert entry.decode_head(encoded, NAME) == head


def test_what_does_not_fit_or_has_no_etag_gets_no_head() -> None:
    for key, etag in (("k" * 1025, "e"), ("k", "e" * 513), ("k", "")):
        assert entry.encode_head(Head(NAME, BlockInfo(key, 1, etag), 0, b"")) is None


def test_each_byte_flipped_in_what_never_changes_is_noticed() -> None:
    head = head_of(bytes(100 * KIB))
    encoded = entry.encode_head(head)
    assert encoded is not None
    end = len(encoded.rstrip(b"\0"))
    for place in range(end):
        for bit in (0x01, 0x80):
            damaged = bytearray(encoded)
            damaged[place] ^= bit
            assert entry.decode_head(bytes(damaged), NAME) is None, place


@given(st.binary(max_size=HEAD + 10))
def test_any_bytes_are_a_head_or_none(data: bytes) -> None:
    assert entry.decode_head(data, NAME) is None


@given(st.binary(min_size=HEAD - entry.MUTABLE_AT, max_size=HEAD - entry.MUTABLE_AT))
def test_marks_of_any_bytes_never_say_that_they_were_checked(data: bytes) -> None:
    marks = entry.decode_marks(data, 256, BOOT)
    assert marks.checked_at == -inf
    assert not marks.settled or data[: len(entry.SETTLED)] == entry.SETTLED


def test_what_was_checked_in_another_boot_was_never_checked() -> None:
    data = bytearray(HEAD - entry.MUTABLE_AT)
    record = entry.encode_checked(12.5, BOOT)
    place = entry.CHECKED_AT - entry.MUTABLE_AT
    data[place : place + len(record)] = record
    assert entry.decode_marks(bytes(data), 4, BOOT).checked_at == 12.5
    assert entry.decode_marks(bytes(data), 4, b"another!").checked_at == -inf


@given(st.integers(1, 200_000), st.data(), st.booleans())
def test_a_run_of_pages_is_verified_and_any_flipped_byte_is_not(
    size: int, data: st.DataObject, summed: bool
) -> None:
    block = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    head = head_of(block, sums=summed)
    own = entry.own_sums(block, head.page_size)
    first = data.draw(st.integers(0, head.pages - 1))
    last = data.draw(st.integers(first + 1, head.pages))
    run = block[first * head.page_size : last * head.page_size]
    assert entry.verified(run, first, head, own)
    damaged = bytearray(run)
    damaged[data.draw(st.integers(0, len(run) - 1))] ^= data.draw(st.integers(1, 255))
    assert not entry.verified(bytes(damaged), first, head, own)


def test_two_stores_have_two_names_for_a_key() -> None:
    assert entry.name_of("a", "b c") != entry.name_of("a b", "c")
    assert len(NAME) == 16
