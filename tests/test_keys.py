"""What a key and a prefix may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.errors import BlockStoreError, InvalidKeyError
from blockyard.keys import (
    MAX_KEY_BYTES,
    below,
    check_key,
    check_prefix,
    range_past_end,
)
from blockyard.testing.samples import ODD_KEYS, REFUSED_KEYS

steady = settings(deadline=None)


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
def test_odd_keys_are_allowed(key: str) -> None:
    check_key(key)
    check_prefix(key)


@pytest.mark.parametrize("key", REFUSED_KEYS.values(), ids=REFUSED_KEYS)
def test_refused_keys(key: str) -> None:
    with pytest.raises(InvalidKeyError, match=r"^key"):
        check_key(key)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "at least one character"),
        ("a\nb", r"'a\\nb': CR, LF and NUL"),
        ("k" * 1025, "1025 bytes in UTF-8, the limit is 1024"),
        ("\u00e9" * 600, "1200 bytes in UTF-8, the limit is 1024"),
        ("a\ud800", "not valid unicode"),
    ],
)
def test_the_message_says_what_is_wrong(key: str, says: str) -> None:
    with pytest.raises(InvalidKeyError, match=says):
        check_key(key)


def test_a_long_key_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidKeyError) as refused:
        check_key("k" * 1_000_000)

    assert len(str(refused.value)) < 200


def test_the_empty_prefix_is_every_key() -> None:
    check_prefix("")


@steady
@given(st.text())
def test_a_key_is_allowed_or_refused_by_our_own_error(key: str) -> None:
    try:
        check_key(key)
    except InvalidKeyError:
        assert not key or set(key) & set("\r\n\0") or len(key.encode()) > MAX_KEY_BYTES
    else:
        assert 1 <= len(key.encode()) <= MAX_KEY_BYTES
        assert not set(key) & set("\r\n\0")


def test_a_range_past_the_end_names_what_is_known() -> None:
    assert "offset 5 is at or past the end of the block's 5 bytes" in str(
        range_past_end("read_block_range", "a", 5, 5)
    )
    assert "'a': offset 5 is at or past the end of the block" in str(
        range_past_end("read_block_range", "a", 5)
    )
    assert isinstance(range_past_end("read_block_range", "a", 5), BlockStoreError)


@pytest.mark.parametrize(
    ("prefix", "folder"), [("a", "a/"), ("a/", "a/"), ("a//", "a//"), ("a/b", "a/b/"), ("/", "/")]
)
def test_below_ends_with_one_more_slash_at_most(prefix: str, folder: str) -> None:
    assert below(prefix) == folder
