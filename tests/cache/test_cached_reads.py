"""What a cache answers itself, what it asks of the store, and what it keeps of the answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.cache.disk import DiskCache
from blockyard.cache.store import CacheStore, Revalidate
from blockyard.context import Context, Response
from blockyard.errors import (
    BlockNotFoundError,
    BufferTooSmallError,
    IntegrityError,
    InvalidRangeError,
    NotModifiedError,
    PreconditionFailedError,
)
from blockyard.model import BLOCK_SIZE, KIB, MIB, BlockInfo, CacheStats
from blockyard.s3.store import S3Store
from blockyard.stores.base import ListRequest, ReadRequest, UploadRequest
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.transport.blocking import run_to_end
from tests.cache.stores import Cached, CountingStore
from tests.s3.pretend import Pretended, asked_ranges, flip, with_body

PAGE = 16 * KIB
LARGE_PAGE = 32 * KIB
BLOCK = os.urandom(5 * PAGE + 77)
SIZE = len(BLOCK)
OVER = os.urandom(BLOCK_SIZE + MIB)
WHOLE = (None, None)


def counts(cached: Cached) -> CacheStats:
    stats = cached.store.stats().cache
    assert stats is not None
    return stats


# What is asked of the store.


def test_a_block_is_read_once() -> None:
    cached = Cached()
    _ = cached.write("k", BLOCK)
    first = cached.block("k")
    again = cached.block("k")

    assert first.data == again.data == BLOCK
    assert again.data is first.data  # nothing is copied
    assert (again.size, again.info) == (SIZE, first.info)
    assert cached.reads == [WHOLE]


def test_what_is_told_with_the_bytes_is_the_same_whether_they_were_kept(tmp_path: Path) -> None:
    """Metadata is not kept: a copy in place changes it, and the ETag stays."""
    disk = DiskCache(tmp_path / "cache", 8 * MIB, "its")
    with blockyard.open_store("memory://") as inner:
        options = blockyard.PutOptions(content_type="text/plain", metadata={"a": "b"})
        written = inner.write_block("k", BLOCK, options=options)
        assert inner.read_block_with_info("k")[1] == inner.stat_block("k")
        store = CacheStore(inner._operations.store, memory=MIB, disk=disk)
        with blockyard.open_store(store) as cached:
            told = [
                cached.read_block_with_info("k", **asked)[1] for asked in ({}, {"offset": 1}, {})
            ]
            assert cached.stats().cache.memory_hits == 2
            stat = cached.stat_block("k")
            assert told == [BlockInfo("k", SIZE, written.etag, stat.last_modified)] * 3
            assert (stat.content_type, stat.metadata) == ("text/plain", {"a": "b"})
            bypassing = cached.with_options(cache="bypass")
            assert bypassing.read_block_with_info("k")[1] == stat


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (PAGE, PAGE), (PAGE - 1, 2), (5 * PAGE, None), (77, SIZE)]
)
def test_a_range_is_read_to_the_edges_of_pages(offset: int, length: int | None) -> None:
    cached = Cached()
    _ = cached.write("k", BLOCK)
    end = None if length is None else offset + length

    for _ in range(3):
        assert cached.read("k", offset=offset, length=length) == BLOCK[offset:end]

    [(asked, asked_length)] = cached.reads
    assert asked == offset // PAGE * PAGE
    assert asked_length is None or (asked + asked_length) % PAGE == 0
    assert cached.read("k", offset=asked, length=1) == BLOCK[asked : asked + 1]
    assert cached.reads == []


@pytest.mark.parametrize(
    ("pages", "asked"),
    [
        ([0, 0, 1], [(0, PAGE), WHOLE]),
        ([1, 2], [(PAGE, PAGE), WHOLE]),
        ([4, 3, 2, 0], [(4 * PAGE, PAGE), (3 * PAGE, PAGE), (2 * PAGE, PAGE), WHOLE]),
        ([4, 0, 2, 3], [(4 * PAGE, PAGE), (0, PAGE), (2 * PAGE, PAGE), WHOLE]),
        ([4, 0, 1], [(4 * PAGE, PAGE), (0, PAGE), WHOLE]),
    ],
)
def test_a_block_whose_ranges_are_missing_is_read_whole(
    pages: list[int], asked: list[tuple[int | None, int | None]]
) -> None:
    """At the fourth of them, or when one goes on where the last one ended."""
    cached = Cached()
    _ = cached.write("k", BLOCK)

    for page in pages:
        begin = page * PAGE + 5
        assert cached.read("k", offset=begin, length=10) == BLOCK[begin : begin + 10]
    assert cached.reads == asked
    assert cached.read("k") == BLOCK
    assert cached.reads == []
    assert (counts(cached).misses, counts(cached).partial_hits) == (1, len(asked) - 1)


def test_of_a_block_over_4_mib_pages_are_read_each_time() -> None:
    cached = Cached()
    _ = cached.write("k", OVER)

    for number in (0, 2, 3, 9):
        begin = number * LARGE_PAGE
        assert cached.read("k", offset=begin + 5, length=10) == OVER[begin + 5 : begin + 15]
    assert cached.read("k", offset=0, length=LARGE_PAGE) == OVER[:LARGE_PAGE]
    # the first one did not know how large the pages are, and half a page can't be kept
    assert cached.reads == [
        (0, PAGE),
        *((number * LARGE_PAGE, LARGE_PAGE) for number in (2, 3, 9)),
        (0, LARGE_PAGE),
    ]
    assert (
        cached.read("k", offset=2 * LARGE_PAGE, length=2 * LARGE_PAGE)
        == (OVER[2 * LARGE_PAGE : 4 * LARGE_PAGE])
    )
    assert cached.reads == []


@pytest.mark.parametrize("suffix", [1, 77, 78, PAGE, SIZE, SIZE + 1])
def test_the_end_of_a_block(suffix: int) -> None:
    cached = Cached()
    _ = cached.write("k", BLOCK)

    for _ in range(2):
        assert cached.read("k", suffix=suffix) == BLOCK[-suffix:]
    assert len(cached.reads) == 1
    assert cached.read("k", offset=5 * PAGE) == BLOCK[5 * PAGE :]
    assert cached.reads == []


@pytest.mark.parametrize("size", [SIZE + 3 * PAGE, SIZE - 3 * PAGE, 10, 0])
def test_the_end_of_a_block_that_has_another_size_by_now(size: int) -> None:
    cached = Cached(revalidate="never")
    _ = cached.write("k", BLOCK)
    _ = cached.read("k", offset=0, length=10)
    new = os.urandom(size)
    _ = cached.write_elsewhere("k", new)

    assert cached.read("k", suffix=20) == new[-20:]


def test_a_block_without_bytes() -> None:
    cached = Cached()
    _ = cached.write("k", b"")

    assert [cached.read("k") for _ in range(2)] == [b""] * 2
    assert cached.read("k", suffix=5) == b""
    assert cached.reads == [WHOLE]
    for how in ({"offset": 0, "length": 1}, {"offset": 0}, {"offset": 5, "length": 0}):
        with pytest.raises(InvalidRangeError):
            _ = cached.read("k", **how)


def test_a_range_past_the_end_names_the_offset_that_was_asked_for() -> None:
    for reads_first in (0, 1):
        cached = Cached()
        _ = cached.write("k", BLOCK)
        for _ in range(reads_first):
            _ = cached.read("k")
        for offset in (SIZE, SIZE + 1, SIZE + 10 * PAGE + 3):
            with pytest.raises(InvalidRangeError, match=f"'k': offset {offset} "):
                _ = cached.read("k", offset=offset, length=5)


@pytest.mark.parametrize("reads_first", [0, 1])
def test_into_a_buffer(reads_first: int) -> None:
    cached = Cached()
    _ = cached.write("k", BLOCK)
    for _ in range(reads_first):
        _ = cached.read("k")
    buffer = bytearray(SIZE + 5)

    assert cached.block("k", into=memoryview(buffer)).size == SIZE
    assert buffer == BLOCK + bytes(5)
    assert cached.block("k", offset=3, length=9, into=memoryview(buffer)).size == 9
    assert buffer[:9] == BLOCK[3:12]
    with pytest.raises(BufferTooSmallError, match=f"the block has {SIZE} bytes, the buffer 5"):
        _ = cached.block("k", into=memoryview(bytearray(5)))
    assert cached.reads == [WHOLE]


def test_a_buffer_larger_than_the_cache_is_filled_by_the_store() -> None:
    cached = Cached(memory=PAGE)
    _ = cached.write("k", BLOCK)
    buffer = bytearray(SIZE)

    assert cached.block("k", into=memoryview(buffer)).size == SIZE
    assert buffer == BLOCK
    assert cached.inner.reads[0].into is not None


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cached = Cached(memory=3 * PAGE)
    _ = cached.write("k", BLOCK)

    assert [cached.read("k"), cached.read("k")] == [BLOCK] * 2
    assert cached.reads == [WHOLE] * 2
    for number in (0, 0, 1, 1):  # and so no range is read for the sake of the block
        assert cached.read("k", offset=number * PAGE, length=1)
    assert cached.reads == [(0, PAGE), (PAGE, PAGE)]


def test_the_budget_is_kept() -> None:
    cached = Cached(memory=10 * PAGE)
    for number in range(30):
        _ = cached.write(f"{number}", bytes(PAGE))
        _ = cached.read(f"{number}")
        assert counts(cached).memory_used <= 10 * PAGE
    assert counts(cached).evicted >= 20


@pytest.mark.parametrize("key", ["k" * 1024, "é" * 512, "a//b", ".."])
def test_any_key(key: str) -> None:
    cached = Cached()
    _ = cached.write(key, BLOCK)

    assert [cached.read(key), cached.read(key)] == [BLOCK] * 2
    assert cached.reads == [WHOLE]


def test_what_is_absent_is_asked_for_each_time() -> None:
    cached = Cached()
    for _ in range(2):
        with pytest.raises(BlockNotFoundError, match="read_block 'k'"):
            _ = cached.read("k")
    assert cached.reads == [WHOLE] * 2
    _ = cached.write_elsewhere("k", BLOCK)
    assert cached.read("k") == BLOCK


def test_what_has_no_etag_is_not_kept() -> None:
    cached = Cached()
    cached.inner.tell = lambda info: BlockInfo(info.key, info.size, "", info.last_modified)
    _ = cached.write("k", BLOCK)

    assert [cached.read("k"), cached.read("k", offset=1, length=3)] == [BLOCK, BLOCK[1:4]]
    assert [cached.read("k"), cached.read("k", offset=1, length=3)] == [BLOCK, BLOCK[1:4]]
    assert len(cached.reads) == 4


def test_listings_checks_and_verification_go_to_the_store() -> None:
    cached = Cached()
    info = cached.write("k", BLOCK)
    _ = cached.read("k")
    changed = cached.write_elsewhere("k", b"new")
    assert changed != info

    assert run_to_end(cached.store.stat_block(cached.ctx, "k")) == changed._replace(metadata={})
    page = run_to_end(cached.store.list(cached.ctx, ListRequest("")))
    assert page.blocks == [changed]
    assert run_to_end(cached.store.list_keys(cached.ctx, ListRequest(""))) == (["k"], None)
    assert run_to_end(cached.store.health_check(cached.ctx)).store == "memory"
    assert cached.read("k") == BLOCK
    _ = cached.reads
    assert run_to_end(cached.store.verify_block(cached.ctx, "k")) is None
    cached.delete_elsewhere("k")
    with pytest.raises(BlockNotFoundError):
        _ = run_to_end(cached.store.verify_block(cached.ctx, "k"))


# How old an entry may be.


@pytest.mark.parametrize(
    ("revalidate", "young", "old"), [(60.0, 59.0, 61.0), (5, 4.9, 5.0), ("always", None, 0.0)]
)
def test_an_entry_that_is_too_old_is_asked_about(
    revalidate: Revalidate, young: float | None, old: float
) -> None:
    cached = Cached(revalidate=revalidate)
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    _ = cached.reads
    if young is not None:
        cached.wait(young)
        assert cached.read("k") == BLOCK
        assert cached.reads == []
        cached.wait(-young)

    cached.wait(old)
    etag = cached.block("k").info.etag
    assert [each.if_none_match for each in cached.inner.reads] == [etag]
    _ = cached.reads
    assert counts(cached).revalidated == 1
    if young is not None:  # it is young again
        cached.wait(young)
        assert cached.read("k") == BLOCK
        assert cached.reads == []


def test_an_entry_is_never_asked_about() -> None:
    cached = Cached(revalidate="never")
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    _ = cached.write_elsewhere("k", b"new")
    cached.wait(1e9)

    assert cached.read("k") == BLOCK
    assert cached.reads == [WHOLE]


def test_an_entry_from_a_time_to_come_is_as_good_as_new() -> None:
    """The clock is monotonic: only a test sets it back."""
    cached = Cached(revalidate=60)
    cached.wait(1000)
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    cached.wait(-500)
    assert cached.read("k") == BLOCK


@pytest.mark.parametrize("how", [{}, {"offset": PAGE, "length": 10}, {"suffix": 5}])
def test_what_was_replaced_elsewhere_is_seen_once_the_entry_is_old(how: dict[str, Any]) -> None:
    cached = Cached(revalidate=60)
    _ = cached.write("k", BLOCK)
    _ = cached.read("k", **how)
    new = os.urandom(SIZE)
    _ = cached.write_elsewhere("k", new)

    cached.wait(61)
    data = cached.read("k", **how)

    whole = cached.read("k")
    assert whole == new
    if how:
        begin = how.get("offset", SIZE - 5)
        assert data == new[begin : begin + how.get("length", 5)]
    else:
        assert data == new


def test_what_was_deleted_elsewhere_is_gone_once_the_entry_is_old() -> None:
    cached = Cached(revalidate=60)
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    cached.delete_elsewhere("k")
    cached.wait(61)

    for _ in range(2):
        with pytest.raises(BlockNotFoundError):
            _ = cached.read("k")
        cached.wait(-61)
    assert counts(cached).memory_used < SIZE


def test_pages_of_two_versions_are_never_put_together() -> None:
    cached = Cached(revalidate="never")
    _ = cached.write("k", OVER)
    _ = cached.read("k", offset=0, length=2 * LARGE_PAGE)
    _ = cached.read("k", offset=0, length=2 * LARGE_PAGE)
    new = os.urandom(len(OVER))
    _ = cached.write_elsewhere("k", new)

    assert cached.read("k", offset=0, length=10) == OVER[:10]
    begin = LARGE_PAGE
    assert (
        cached.read("k", offset=begin, length=2 * LARGE_PAGE)
        == (new[begin : begin + 2 * LARGE_PAGE])
    )
    assert cached.read("k", offset=0, length=10) == new[:10]


def test_an_etag_alike_is_not_the_same_version_where_the_checksums_differ() -> None:
    """Some services make ETags of the time and the size."""
    s3 = Pretended()
    cached = Cached(s3.store, revalidate="never")
    cached.ctx = Context(s3.runtime)
    old, new = os.urandom(len(OVER)), os.urandom(len(OVER))
    s3.write("k", old)
    s3.stored("k").headers["etag"] = '"same"'
    _ = cached.read("k", offset=0, length=10)
    _ = cached.read("k", offset=0, length=10)
    s3.write("k", new)
    s3.stored("k").headers["etag"] = '"same"'

    _ = cached.read("k", offset=LARGE_PAGE, length=10)
    both = cached.read("k", offset=0, length=2 * LARGE_PAGE)

    assert both == new[: 2 * LARGE_PAGE]


# Conditions.


def test_conditions_on_the_version_that_is_held() -> None:
    cached = Cached()
    info = cached.write("k", BLOCK)
    _ = cached.read("k")
    _ = cached.reads

    assert cached.read("k", if_match=info.etag) == BLOCK
    assert cached.read("k", if_match=info.etag, if_none_match="another") == BLOCK
    for how in ({}, {"if_match": info.etag}):
        with pytest.raises(NotModifiedError, match=f"read_block 'k'.*{info.etag}"):
            _ = cached.read("k", if_none_match=info.etag, **how)
    assert cached.reads == []


def test_conditions_on_another_version_are_the_stores_to_answer() -> None:
    """It may have that version by now."""
    cached = Cached(revalidate="never")
    old = cached.write("k", BLOCK)
    _ = cached.read("k")
    new = cached.write_elsewhere("k", b"new")

    assert cached.read("k", if_none_match="another") == b"new"
    _ = cached.write_elsewhere("k", b"newer")
    with pytest.raises(PreconditionFailedError):
        _ = cached.read("k", if_match=old.etag)
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    newest = cached.write_elsewhere("k", b"newest")
    assert cached.read("k", if_match=newest.etag) == b"newest"
    assert newest.etag != new.etag
    assert cached.read("k") == b"newest"


def test_a_condition_that_the_store_confirms_makes_an_old_entry_young() -> None:
    cached = Cached(revalidate=60)
    info = cached.write("k", BLOCK)
    _ = cached.read("k")
    cached.wait(61)
    _ = cached.reads

    with pytest.raises(NotModifiedError):
        _ = cached.read("k", if_none_match=info.etag)
    assert len(cached.reads) == 1
    assert cached.read("k") == BLOCK
    assert cached.reads == []


def test_compare_and_swap_beside_another_machine() -> None:
    """Who lost reads what is there now, and not again what is in the cache."""
    cached = Cached(revalidate="never")
    _ = cached.write("k", b"0")
    for count in range(1, 20, 2):
        seen = cached.block("k")
        _ = cached.write_elsewhere("k", b"%d" % count)
        with pytest.raises(PreconditionFailedError):
            _ = cached.write("k", b"lost", if_match=seen.info.etag)
        seen = cached.block("k")
        assert seen.data == b"%d" % count
        _ = cached.write("k", b"%d" % (count + 1), if_match=seen.info.etag)
    assert cached.read("k") == b"20"


# What a caller may ask of the cache.


def test_bypass_asks_the_store_and_keeps_nothing() -> None:
    cached = Cached(revalidate="never")
    _ = cached.write("k", BLOCK)
    cached.ctx.cache = "bypass"
    assert [cached.read("k"), cached.read("k")] == [BLOCK] * 2
    assert len(cached.reads) == 2
    _ = cached.write("k", b"new")

    cached.ctx.cache = "use"
    assert cached.read("k") == b"new"
    _ = cached.write_elsewhere("k", b"newer")
    cached.ctx.cache = "bypass"
    assert cached.read("k") == b"newer"
    cached.ctx.cache = "use"
    assert cached.read("k") == b"new"


def test_refresh_asks_the_store_and_keeps_what_it_says() -> None:
    cached = Cached(revalidate="never")
    _ = cached.write("k", BLOCK)
    _ = cached.read("k")
    _ = cached.write_elsewhere("k", b"new")
    _ = cached.reads

    cached.ctx.cache = "refresh"
    assert cached.read("k") == b"new"
    cached.ctx.cache = "use"
    assert cached.read("k") == b"new"
    assert cached.reads == [WHOLE]


@pytest.mark.parametrize("name", CLIENTS)
def test_views_of_a_client(name: ClientName) -> None:
    inner = CountingStore()
    with open_client(name, CacheStore(inner, memory=MIB, revalidate="never")) as client:
        store = client.store
        _ = store.write_blocks([("a", b"a"), ("b", b"b")])
        for use, reads in (("use", 2), ("use", 2), ("bypass", 4), ("refresh", 6), ("use", 6)):
            view = store.with_options(cache=use)  # pyright: ignore[reportArgumentType]
            assert view.read_blocks(["a", "b"]) == [b"a", b"b"]
            assert len(inner.reads) == reads


# Bulk reads.


@pytest.mark.parametrize("name", CLIENTS)
def test_bulk_reads_of_what_is_held_ask_nobody(name: ClientName) -> None:
    inner = CountingStore()
    with open_client(name, CacheStore(inner, memory=MIB)) as client:
        store = client.store
        blocks = [(f"k{number}", os.urandom(1000)) for number in range(20)]
        _ = store.write_blocks(blocks)
        keys = [key for key, _ in blocks]
        expected = [data for _, data in blocks]
        ranges = [(key, 100, 50) for key in keys]

        _ = store.read_blocks(keys[::2])
        assert len(inner.reads) == 10
        assert store.read_blocks(keys) == expected
        assert len(inner.reads) == 20
        assert store.read_blocks(keys) == expected
        assert store.read_block_ranges(ranges) == [data[100:150] for data in expected]
        assert store.read_block_ranges([("k3", 990, None), ("k3", 5, 0)]) == [
            expected[3][990:],
            b"",
        ]
        assert len(inner.reads) == 20
        with pytest.raises(InvalidRangeError, match="read_block_range 'k3': offset 1000 "):
            _ = store.read_block_ranges([("k1", 0, 1), ("k3", 1000, 1)])


def test_a_bulk_read_of_what_is_held_starts_no_thread() -> None:
    from blockyard import open_store

    with open_store(CacheStore(CountingStore(), memory=MIB)) as store:
        _ = store.write_block("k", BLOCK)
        _ = store.read_block("k")
        assert store.read_blocks(["k"] * 3) == [BLOCK] * 3
        assert store.read_block_ranges([("k", 1, 2)]) == [BLOCK[1:3]]
        assert store._bulk._loops == []  # pyright: ignore[reportPrivateUsage]


# Over S3.


def s3_cached(revalidate: Revalidate = "never") -> tuple[Pretended, Cached]:
    s3 = Pretended()
    cached = Cached(s3.store, revalidate=revalidate)
    cached.ctx = Context(s3.runtime)
    assert isinstance(s3.store, S3Store)
    return s3, cached


def test_ranges_of_an_s3_block_are_one_request_each() -> None:
    s3, cached = s3_cached()
    s3.write("k", BLOCK)
    s3.requests.clear()

    assert cached.read("k", offset=PAGE + 5, length=10) == BLOCK[PAGE + 5 : PAGE + 15]
    assert cached.read("k", offset=PAGE, length=PAGE) == BLOCK[PAGE : 2 * PAGE]
    assert cached.read("k", suffix=10) == BLOCK[-10:]
    assert cached.read("k", suffix=SIZE) == BLOCK
    most = SIZE + 2 * (PAGE - 1)
    assert asked_ranges(s3) == [
        f"bytes={PAGE}-{2 * PAGE - 1}",
        f"bytes=-{10 + 2 * (PAGE - 1)}",
        f"bytes=-{most}",
    ]


def test_a_304_of_an_s3_service() -> None:
    s3, cached = s3_cached(revalidate="always")
    s3.write("k", BLOCK)
    _ = cached.read("k")
    s3.requests.clear()

    assert cached.read("k") == BLOCK
    assert cached.read("k", offset=5, length=5) == BLOCK[5:10]
    assert [request.headers["if-none-match"] for request in s3.requests] == [
        s3.stored("k").etag
    ] * 2
    assert counts(cached).revalidated == 2


def test_damaged_bytes_are_not_kept() -> None:
    s3, cached = s3_cached()
    s3.write("k", BLOCK)

    def damaged(_: object, sent: Response) -> Response:
        return with_body(sent, flip(sent.body, 3)) if sent.body else sent

    s3.service.always = damaged
    with pytest.raises(IntegrityError):
        _ = cached.read("k")
    s3.service.always = None
    assert cached.read("k") == BLOCK


def test_a_cache_in_front_of_a_cache_has_the_checksums_too() -> None:
    s3, cached = s3_cached()
    s3.write("k", BLOCK)
    expected = s3.read_with("k", page_sums=True).page_sums

    for _ in range(2):
        assert cached.block("k", page_sums=True).page_sums == expected
        assert cached.block("k", offset=5, length=5, page_sums=True).page_sums == expected
        assert cached.block("k").page_sums is None


def test_an_entry_has_the_checksums_of_its_writer() -> None:
    s3, cached = s3_cached()
    s3.write("k", BLOCK)
    _ = cached.read("k")
    tier = cached.store._memory  # pyright: ignore[reportPrivateUsage]
    assert tier is not None

    kept = tier.entries["k"]

    assert kept.sums is not None
    assert kept.sums == s3.read_with("k", page_sums=True).page_sums
    request = ReadRequest("k", 0, 1)
    assert cached.store.read_at_once(cached.ctx, request) is not None


# Objects that are no blocks.


def test_an_upload_in_parts_is_a_change() -> None:
    cached = Cached()
    _ = cached.write("k", BLOCK)
    assert cached.read("k") == BLOCK
    store, ctx = cached.store, cached.ctx

    opened = run_to_end(store.start_upload(ctx, UploadRequest("k")))
    part = run_to_end(store.upload_part(ctx, opened, 1, 0, b"another"))
    assert cached.read("k") == BLOCK
    _ = run_to_end(store.complete_upload(ctx, opened, [part]))

    assert cached.read("k") == b"another"
    assert run_to_end(store.list_uploads(ctx, "", None)).uploads == []


def test_what_is_larger_than_a_block_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of it would be of megabytes, and are not verified."""
    monkeypatch.setattr("blockyard.cache.tiers.MAX_BLOCK_SIZE", SIZE - 1)
    cached = Cached()
    _ = cached.write("k", BLOCK)
    for _ in range(3):
        assert cached.read("k", offset=PAGE + 1, length=10) == BLOCK[PAGE + 1 : PAGE + 11]
    assert cached.reads == [(PAGE, PAGE)] * 3
    assert counts(cached).filled == 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"memory": "1MiB"}, TypeError, "CacheStore: memory: expected a whole number, got '1MiB'"),
        ({"memory": -1}, ValueError, "CacheStore: memory: expected bytes, from 0, got -1"),
        ({"revalidate": "60"}, TypeError, "CacheStore: revalidate: expected never, always or"),
        ({"revalidate": [60]}, TypeError, "CacheStore: revalidate: expected never, always or"),
        ({"revalidate": -1.0}, ValueError, "CacheStore: revalidate: expected seconds, from 0 to"),
        ({"disk": {"path": "/c", "size": "8MiB"}}, TypeError, "CacheStore: disk: expected a DiskT"),
    ],
)
def test_what_a_cache_can_not_be_made_with(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _ = CacheStore(CountingStore(), **given)
