"""Every key that is allowed works, through every method; every other is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from blockyard.errors import BlockNotFoundError, BlockStoreError, InvalidKeyError
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability, is_held
from blockyard.testing.samples import MISTYPED_KEYS, ODD_KEYS, REFUSED_KEYS, content
from blockyard.testing.suite.base import SuiteBase, kind_raised

_CALLS: dict[str, Callable[[BlockStore, str], Any]] = {
    "write_block": lambda store, key: store.write_block(key, b""),
    "read_block": lambda store, key: store.read_block(key),
    "read_block_into": lambda store, key: store.read_block_into(key, bytearray(1)),
    "read_block_range": lambda store, key: store.read_block_range(key, 0),
    "read_blocks": lambda store, key: store.read_blocks(["a", key]),
    "read_block_ranges": lambda store, key: store.read_block_ranges([("a", 0, 1), (key, 0, 1)]),
    "write_blocks": lambda store, key: store.write_blocks([("a", b""), (key, b"")]),
    "stat_block": lambda store, key: store.stat_block(key),
    "block_exists": lambda store, key: store.block_exists(key),
    "copy_block from": lambda store, key: store.copy_block(key, "a"),
    "copy_block to": lambda store, key: store.copy_block("a", key),
    "delete_block": lambda store, key: store.delete_block(key),
    "delete_blocks": lambda store, key: store.delete_blocks(["a", key]),
}
_OTHER = "another key"
_FOR_A_REFUSAL = 5
"""Seconds in which an error that is retried has to end."""


class OddKeyTests(SuiteBase):
    """Keys that servers, file systems, URLs and XML find hard."""

    @pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
    def test_a_key_survives_every_method(self, store: BlockStore, key: str) -> None:
        data = content(50)
        if not is_held(key, self.lacks):
            hasty = store.with_options(deadline=_FOR_A_REFUSAL)
            if kind_raised(partial(hasty.write_block, key, data)) is None:
                assert key.endswith("/")
                assert store.list_by_prefix() == [key.removesuffix("/")]
            return

        assert store.write_block(key, data).key == key
        assert store.read_block(key) == data
        assert store.read_block_into(key, bytearray(50)) == 50
        assert store.read_block_range(key, 20, 10) == data[20:30]
        assert store.read_blocks([key]) == [data]
        assert store.read_block_ranges([(key, 49, 9)]) == [data[49:]]
        assert store.stat_block(key).key == key
        assert store.block_exists(key)
        assert [block.key for block in store.iter_blocks()] == [key]
        assert store.list_by_prefix(key) == [key]
        assert store.copy_block(key, _OTHER).key == _OTHER
        assert store.delete_blocks([key]).deleted == [key]
        assert not store.block_exists(key)
        assert store.copy_block(_OTHER, key).key == key
        assert store.read_block(key) == data
        assert store.delete_by_prefix(key).deleted == [key]
        _ = store.write_blocks([(key, b"again")])
        assert store.read_block(key) == b"again"
        store.delete_block(key)
        with pytest.raises(BlockNotFoundError):
            _ = store.read_block(key)
        assert store.list_by_prefix() == [_OTHER]

    def test_all_of_them_side_by_side(self, store: BlockStore) -> None:
        keys = self.held(ODD_KEYS.values())
        _ = store.write_blocks([(key, key.encode()) for key in keys])

        assert store.list_by_prefix() == sorted(keys, key=str.encode)
        assert store.read_blocks(keys) == [key.encode() for key in keys]

        result = store.delete_blocks(keys[::2])
        assert result.deleted == keys[::2]
        assert not result.failed
        assert store.list_by_prefix() == sorted(keys[1::2], key=str.encode)
        assert store.read_blocks(keys[1::2]) == [key.encode() for key in keys[1::2]]

    def test_a_key_may_lie_below_another(self, store: BlockStore) -> None:
        if Capability.NESTED_KEYS in self.lacks:
            pytest.skip("the service can't hold a key beside keys below it: the second is refused")
        keys = ["a", "a/", "a/b", "a/b/", "a/b/c"]
        for key in keys:
            _ = store.write_block(key, key.encode())

        assert store.list_by_prefix() == keys
        for key in ("a/b", "a", "a/b/c", "a/", "a/b/"):
            assert store.read_block(key) == key.encode()
            store.delete_block(key)
            keys.remove(key)
            assert store.list_by_prefix() == keys

    def test_a_key_below_another_is_refused_where_the_service_has_no_place_for_it(
        self, store: BlockStore
    ) -> None:
        if Capability.NESTED_KEYS not in self.lacks:
            pytest.skip("the service holds a key beside keys below it")
        hasty = store.with_options(deadline=_FOR_A_REFUSAL)
        _ = store.write_block("a", b"first")

        with pytest.raises(BlockStoreError, match="'a/b'"):
            _ = hasty.write_block("a/b", b"second")

        assert store.read_block("a") == b"first"
        _ = store.write_block("c/d", b"first")
        with pytest.raises(BlockStoreError, match="'c'"):
            _ = hasty.write_block("c", b"second")

    def test_keys_that_none_may_have(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"untouched")

        for what, key in (REFUSED_KEYS | MISTYPED_KEYS).items():
            outcomes = {
                name: kind_raised(partial(call, store, key)) for name, call in _CALLS.items()
            }
            expected = TypeError if what in MISTYPED_KEYS else InvalidKeyError
            assert outcomes == dict.fromkeys(_CALLS, expected), what

        assert [(block.key, block.size) for block in store.iter_blocks()] == [("a", 9)]

    def test_prefixes_that_no_key_can_have(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"untouched")

        for what, prefix in (REFUSED_KEYS | MISTYPED_KEYS).items():
            if prefix == "":
                continue
            calls = {
                "list_by_prefix": partial(store.list_by_prefix, prefix),
                "iter_blocks": lambda prefix=prefix: list(store.iter_blocks(prefix)),
                "delete_by_prefix": partial(store.delete_by_prefix, prefix),
                "literally": partial(store.delete_by_prefix, prefix, literal=True),
            }
            outcomes = {name: kind_raised(call) for name, call in calls.items()}
            expected = TypeError if what in MISTYPED_KEYS else InvalidKeyError
            assert outcomes == dict.fromkeys(calls, expected), what

        assert store.list_by_prefix() == ["a"]
