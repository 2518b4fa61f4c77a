"""Ranges that lie close together: read together, and each the bytes that it would be alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blockyard
from blockyard.errors import BlockNotFoundError, InvalidRangeError
from blockyard.merging import Range, merged, part
from blockyard.model import KIB, MIB
from blockyard.testing.clients import CLIENTS, ClientName, open_client

BLOCKS = {"a": bytes(range(256)) * 1024, "b": b"another " * 30_000}
RANGES = st.lists(
    st.tuples(
        st.sampled_from(sorted(BLOCKS)),
        st.integers(0, 200_000),
        st.one_of(st.none(), st.integers(0, 70_000)),
    ),
    max_size=30,
)


def alone(wanted: Range) -> bytes:
    key, offset, length = wanted
    return BLOCKS[key][offset:] if length is None else BLOCKS[key][offset : offset + length]


@given(RANGES)
def test_every_range_is_read_once_and_gets_its_own_bytes(ranges: list[Range]) -> None:
    found: dict[int, bytes | None] = {}
    for read in merged(ranges):
        data = alone((read.key, read.offset, read.length))
        for index in read.indices:
            assert index not in found
            found[index] = part(read, data, ranges[index])
    assert found == {index: alone(each) for index, each in enumerate(ranges)}


@given(RANGES)
def test_little_is_read_that_nobody_asked_for(ranges: list[Range]) -> None:
    for read in merged(ranges):
        wanted = [ranges[index] for index in read.indices]
        if len(wanted) > 1:
            assert read.length is not None
            assert read.length <= max(MIB, *(length or 0 for _, _, length in wanted))
            asked = sum(length or 0 for _, _, length in wanted)
            assert read.length <= asked + 16 * KIB * (len(wanted) - 1)


def test_reads_go_out_in_the_order_that_was_asked_for() -> None:
    ranges: list[Range] = [("b", 9, 1), ("a", 500_000, 5), ("a", 0, 10), ("b", 0, 9)]
    assert [read.indices for read in merged(ranges)] == [[3, 0], [1], [2]]


def test_large_ranges_stay_apart_so_that_they_go_side_by_side() -> None:
    assert len(merged([("a", n * MIB, MIB) for n in range(4)])) == 4
    assert len(merged([("a", n * 16 * KIB, 16 * KIB) for n in range(256)])) == 4


def test_a_range_within_a_large_one_is_read_with_it() -> None:
    assert len(merged([("a", 0, 8 * MIB), ("a", 2 * MIB, 5)])) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_range_past_the_end_is_refused_as_it_is_alone(client: ClientName) -> None:
    with open_client(client, blockyard.StoreConfig(type="memory")) as opened:
        store = opened.store
        store.write_block("a", b"0123456789")
        assert store.read_block_ranges([("a", 8, 5), ("a", 0, 3)]) == [b"89", b"012"]
        for ranges in (
            [("a", 0, 3), ("a", 11, 2)],
            [("a", 11, 2), ("a", 12, 2)],
            [("a", 11, 5), ("a", 12, 2)],
            [("a", 11, 2), ("a", 11, 2)],
        ):
            with pytest.raises(InvalidRangeError, match="11"):
                _ = store.read_block_ranges(ranges)
        with pytest.raises(BlockNotFoundError, match="'absent'"):
            _ = store.read_block_ranges([("absent", 0, 3), ("absent", 2, 5)])
