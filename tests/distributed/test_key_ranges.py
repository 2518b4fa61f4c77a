"""Splitting a range of keys: every key is in exactly one part, and few requests are made."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.distributed.key_ranges import KeyRange, Splitter
from blockyard.errors import StoreClosedError
from blockyard.keys import check_prefix
from blockyard.operations import Operations
from blockyard.stores.base import ListRequest
from blockyard.stores.memory import MemoryStore
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections

CTX = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))


class Listed(MemoryStore):
    """A store that holds keys alone, and counts what is asked of it."""

    def __init__(self, keys: Iterable[str], page_limit: int = 1000) -> None:
        super().__init__()
        self.sorted = sorted(set(keys))
        self.requests = 0
        self.page_limit = page_limit
        self.empty_pages = False

    async def list_keys(self, ctx: Context, request: ListRequest) -> tuple[list[str], str | None]:
        self.requests += 1
        check_prefix(request.start_after)
        if self.empty_pages and request.token is None:
            return [], "\0"
        after = request.start_after if request.token in {None, "\0"} else request.token
        assert after is not None
        found = [key for key in self.sorted if key > after and key.startswith(request.prefix)]
        size = min(request.page_size, self.page_limit)
        page = found[:size]
        return page, page[-1] if len(found) > size else None


def split(store: Listed, whole: KeyRange, pieces: int) -> list[KeyRange]:
    return run_to_end(Splitter(Operations(store), "verify_by_prefix").split(CTX, whole, pieces))


def keys_in(store: Listed, keys: KeyRange) -> list[str]:
    return [
        key
        for key in store.sorted
        if key.startswith(keys.prefix) and key > keys.after and keys.holds(key)
    ]


def check(store: Listed, whole: KeyRange, pieces: int) -> list[int]:
    """How many keys each part has; together they are the whole."""
    parts = split(store, whole, pieces)
    assert len(parts) <= max(1, pieces)
    counts = [len(keys_in(store, part)) for part in parts]
    assert [key for part in parts for key in keys_in(store, part)] == keys_in(store, whole)
    if parts:
        assert (parts[0].after, parts[-1].up_to) == (whole.after, whole.up_to)
        for one, following in pairwise(parts):
            assert one.up_to == following.after
    if pieces > 1:
        assert 0 not in counts
    return counts


ALPHABET = "ab/0\t\x7fé\ud7ff\ue000\uffff\U0010ffff"
KEYS = st.sets(st.text(ALPHABET, min_size=1, max_size=6), max_size=60)


@given(
    KEYS,
    st.builds(KeyRange, st.text(ALPHABET, max_size=1), *[st.text(ALPHABET, max_size=4)] * 2),
    st.integers(1, 12),
    st.integers(1, 20),
)
def test_every_key_is_in_one_part(
    keys: set[str], whole: KeyRange, pieces: int, page_limit: int
) -> None:
    """Pages are small here, so that few keys need what a thousand would."""
    store = Listed(keys, page_limit)
    _ = check(store, whole, pieces)
    assert store.requests < 40 + 20 * pieces


@pytest.mark.parametrize("last", ["\t", "\x0c", "\ud7ff", "\U0010ffff"])
def test_bounds_hold_only_what_keys_may(last: str) -> None:
    """Behind these come characters that no key has, or none at all."""
    store = Listed([f"a{last}{number}" for number in range(5)] + ["a\U0010ffff", "b", "c"], 2)
    assert len(check(store, KeyRange(""), 4)) > 1


NAMES: dict[str, Any] = {
    "numbers": [f"share/block-{number:07}" for number in range(20_000)],
    "hashes": [f"{random.Random(number).getrandbits(128):032x}" for number in range(20_000)],  # noqa: S311
    "contents": [
        f"share/videos/{content:03}/20260101T000000Z-0123456789abcdef/chunk-{chunk:06}/block-{block:04}"
        for content in range(40)
        for chunk in range(30)
        for block in range(16)
    ],
    "one folder has nearly all": [f"a/{n}" for n in range(20)] + [f"b/{n:05}" for n in range(9000)],
    "letters": [
        a + b + c for a in string.ascii_letters for b in string.ascii_letters for c in "xyz"
    ],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [2, 8, pytest.param(64, marks=pytest.mark.thorough)])
def test_about_as_many_requests_as_parts(name: str, pieces: int) -> None:
    store = Listed(NAMES[name])
    counts = check(store, KeyRange(""), pieces)
    assert len(counts) >= pieces * 0.75
    assert store.requests <= 3 * pieces + 15
    assert sum(counts) == len(NAMES[name])


def test_the_rest_of_a_range_is_split_within_its_bounds() -> None:
    store = Listed(NAMES["numbers"])
    whole = KeyRange("share/", "share/block-0012345", "share/block-0017777")
    counts = check(store, whole, 16)
    assert sum(counts) == 17777 - 12345
    assert len(counts) == 16


def test_a_few_keys_are_shared_out_evenly_by_one_request() -> None:
    store = Listed(f"k{number:03}" for number in range(1000))
    assert check(store, KeyRange("k"), 8) == [125] * 8
    assert store.requests == 1
    assert check(store, KeyRange("k", up_to="k024"), 8) == [10, 10, 5]
    assert check(store, KeyRange("k", "k999"), 8) == []


def test_one_part_asks_nothing() -> None:
    store = Listed(["a"])
    assert split(store, KeyRange("b"), 1) == [KeyRange("b")]
    assert store.requests == 0


def test_a_page_without_keys_is_not_the_end() -> None:
    store = Listed(NAMES["numbers"])
    store.empty_pages = True
    assert len(check(store, KeyRange("share/"), 8)) == 8


def test_keys_that_each_begin_the_next() -> None:
    """The worst case: it is given up, and the range stays whole."""
    store = Listed(("a" * length for length in range(1, 1024)), page_limit=10)
    assert check(store, KeyRange(""), 8) == [1023]
    assert store.requests < 40


def test_a_closed_store_is_not_asked() -> None:
    operations = Operations(Listed(["a"]))
    operations.refuse_more()
    with pytest.raises(StoreClosedError, match="verify_by_prefix"):
        _ = run_to_end(Splitter(operations, "verify_by_prefix").split(CTX, KeyRange(""), 4))
