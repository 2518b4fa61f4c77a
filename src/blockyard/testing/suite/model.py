"""Any sequence of operations, against a dictionary (a Hypothesis state machine)."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    InvalidRangeError,
    PreconditionFailedError,
)
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability, held_together
from blockyard.testing.suite.base import SuiteBase

_SOME_KEYS = ["a", "a/", "a/b", "a/b/c", "a0", "ab", "A", "a//b", "/a", "..", "a+b", "a%2Bb", "é"]
_KEYS = st.runner().flatmap(lambda machine: st.sampled_from(machine.held_keys))
_PREFIXES = _KEYS | st.sampled_from(["a/b/", "c"])
_DATA = st.binary(max_size=100) | st.integers(0, 70_000).map(bytes)


class StoreModel(RuleBasedStateMachine):
    """What the store does to its blocks, `self.blocks` does to a dictionary."""

    def __init__(self, store: BlockStore, lacks: Collection[Capability]) -> None:
        super().__init__()
        self.store = store
        self.held_keys = held_together(_SOME_KEYS, lacks)
        self.conditional_writes = Capability.CONDITIONAL_WRITES not in lacks
        self.matching_writes = Capability.MATCHING_WRITES not in lacks
        self.matching_deletes = Capability.MATCHING_DELETES not in lacks
        self.blocks: dict[str, bytes] = {}

    @rule(key=_KEYS, data=_DATA)
    def write(self, key: str, data: bytes) -> None:
        assert self.store.write_block(key, data).size == len(data)
        self.blocks[key] = data

    @precondition(lambda self: self.conditional_writes)
    @rule(key=_KEYS, data=_DATA)
    def write_if_absent(self, key: str, data: bytes) -> None:
        try:
            _ = self.store.write_block(key, data, if_absent=True)
        except BlockExistsError:
            assert key in self.blocks
        else:
            assert key not in self.blocks
            self.blocks[key] = data

    @precondition(lambda self: self.matching_writes)
    @rule(key=_KEYS, other=_KEYS, data=_DATA)
    def write_if_match(self, key: str, other: str, data: bytes) -> None:
        """With the ETag of a block that may be the one, or hold the same."""
        if other not in self.blocks:
            return
        etag = self.store.stat_block(other).etag
        matches = key in self.blocks and self.store.stat_block(key).etag == etag
        try:
            _ = self.store.write_block(key, data, if_match=etag)
        except BlockNotFoundError:
            assert key not in self.blocks
        except PreconditionFailedError:
            assert not matches
        else:
            assert matches
            self.blocks[key] = data

    @precondition(lambda self: self.matching_deletes)
    @rule(key=_KEYS, other=_KEYS)
    def delete_if_match(self, key: str, other: str) -> None:
        if other not in self.blocks:
            return
        etag = self.store.stat_block(other).etag
        matches = key in self.blocks and self.store.stat_block(key).etag == etag
        try:
            self.store.delete_block(key, if_match=etag)
        except BlockNotFoundError:
            assert key not in self.blocks
        except PreconditionFailedError:
            assert not matches
        else:
            assert matches
            del self.blocks[key]

    @rule(blocks=st.dictionaries(_KEYS, _DATA, max_size=5))
    def write_many(self, blocks: dict[str, bytes]) -> None:
        written = self.store.write_blocks(list(blocks.items()))
        assert [block.key for block in written] == list(blocks)
        self.blocks |= blocks

    @rule(key=_KEYS)
    def read(self, key: str) -> None:
        try:
            data = self.store.read_block(key)
        except BlockNotFoundError:
            assert key not in self.blocks
        else:
            assert data == self.blocks[key]

    @rule(key=_KEYS, offset=st.integers(0, 120), length=st.none() | st.integers(0, 120))
    def read_range(self, key: str, offset: int, length: int | None) -> None:
        try:
            data = self.store.read_block_range(key, offset, length)
        except BlockNotFoundError:
            assert key not in self.blocks
        except InvalidRangeError:
            assert offset >= len(self.blocks[key])
        else:
            end = None if length is None else offset + length
            assert data == self.blocks[key][offset:end]

    @rule()
    def read_all(self) -> None:
        assert self.store.read_blocks(self.blocks.keys()) == list(self.blocks.values())

    @rule(key=_KEYS, copy_key=_KEYS)
    def copy(self, key: str, copy_key: str) -> None:
        try:
            _ = self.store.copy_block(key, copy_key)
        except BlockNotFoundError:
            assert key not in self.blocks
        else:
            self.blocks[copy_key] = self.blocks[key]

    @rule(key=_KEYS)
    def delete(self, key: str) -> None:
        self.store.delete_block(key)
        _ = self.blocks.pop(key, None)

    @rule(keys=st.lists(_KEYS, max_size=5))
    def delete_many(self, keys: list[str]) -> None:
        result = self.store.delete_blocks(keys)
        assert result.deleted == list(dict.fromkeys(keys))
        for key in keys:
            _ = self.blocks.pop(key, None)

    @rule(prefix=_PREFIXES, literal=st.booleans(), dry_run=st.booleans())
    def delete_prefix(self, prefix: str, literal: bool, dry_run: bool) -> None:
        below = prefix if literal or prefix.endswith("/") else prefix + "/"
        gone = [key for key in self.keys() if key.startswith(below) or key == prefix]
        result = self.store.delete_by_prefix(prefix, literal=literal, dry_run=dry_run)
        assert result.deleted == gone
        if not dry_run:
            self.blocks = {key: self.blocks[key] for key in self.blocks if key not in gone}

    @rule(prefix=_PREFIXES)
    def list_prefix(self, prefix: str) -> None:
        assert self.store.list_by_prefix(prefix) == [
            key for key in self.keys() if key.startswith(prefix)
        ]

    @invariant()
    def holds_the_same(self) -> None:
        listed = [(block.key, block.size) for block in self.store.iter_blocks()]
        assert listed == [(key, len(self.blocks[key])) for key in self.keys()]

    def keys(self) -> list[str]:
        """In the order that a store lists them."""
        return sorted(self.blocks, key=str.encode)

    def teardown(self) -> None:
        """Leave the store empty for the next run."""
        _ = self.store.delete_by_prefix("", literal=True)


class ModelTests(SuiteBase):
    """`model_examples` runs of `model_steps` operations: set them lower for a slow server."""

    model_examples = 20
    model_steps = 25

    def test_any_sequence_of_operations(self, store: BlockStore) -> None:
        lacks = self.lacks

        class ModelOfThisStore(StoreModel):
            def __init__(self) -> None:
                super().__init__(store, lacks)

        run_state_machine_as_test(
            ModelOfThisStore,
            settings=settings(
                max_examples=self.model_examples,
                stateful_step_count=self.model_steps,
                deadline=None,  # a store is as fast as its disk or its server
                suppress_health_check=[HealthCheck.too_slow],
                database=None,
            ),
        )
