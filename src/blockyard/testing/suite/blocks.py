"""Writing, reading and describing single blocks."""

from __future__ import annotations

from datetime import timedelta
from itertools import zip_longest
from typing import Any

import pytest

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    BufferTooSmallError,
    UnsupportedError,
)
from blockyard.model import BlockInfo
from blockyard.put_options import PutOptions
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.clients import Client
from blockyard.testing.samples import SIZES, WRITABLE, content, filled
from blockyard.testing.suite.base import SuiteBase, stored

KEY = "share/content/chunk-0/block-0"
_RACERS = 8


class BlockTests(SuiteBase):
    """What goes in comes out, whole and alone."""

    @pytest.mark.parametrize("size", SIZES)
    def test_sizes_survive(self, store: BlockStore, size: int) -> None:
        data = content(size)

        written = store.write_block(KEY, data)

        assert (written.key, written.size) == (KEY, size)
        read = store.read_block(KEY)
        assert type(read) is bytes
        assert read == data
        buffer = bytearray(size)
        assert store.read_block_into(KEY, buffer) == size
        assert buffer == data
        assert store.stat_block(KEY).size == size

    @pytest.mark.parametrize("kind", WRITABLE)
    def test_writes_from_any_buffer(self, store: BlockStore, kind: str) -> None:
        data = content(8192)

        assert store.write_block(KEY, filled(kind, data)).size == len(data)

        assert store.read_block(KEY) == data

    @pytest.mark.parametrize("kind", WRITABLE)
    def test_reads_into_any_buffer(self, store: BlockStore, kind: str) -> None:
        data = content(8192)
        _ = store.write_block(KEY, data)
        buffer = WRITABLE[kind](len(data))

        assert store.read_block_into(KEY, buffer) == len(data)

        assert bytes(memoryview(buffer).cast("B")) == data

    def test_the_caller_may_reuse_its_buffer(self, store: BlockStore) -> None:
        buffer = bytearray(b"first")
        _ = store.write_block(KEY, buffer)

        buffer[:] = b"later"

        assert store.read_block(KEY) == b"first"

    def test_a_larger_buffer_keeps_its_rest(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, b"block")
        buffer = bytearray(b"---------")

        assert store.read_block_into(KEY, buffer) == 5

        assert buffer == b"block----"

    @pytest.mark.parametrize("room", [0, 1, 4])
    def test_a_smaller_buffer_is_refused(self, store: BlockStore, room: int) -> None:
        _ = store.write_block(KEY, b"block")

        with pytest.raises(BufferTooSmallError, match=r"read_block_into .*block-0"):
            _ = store.read_block_into(KEY, bytearray(room))

        assert store.read_block(KEY) == b"block"

    @pytest.mark.parametrize(("old", "new"), [(9000, 3), (3, 9000), (9000, 0), (64, 64)])
    def test_a_write_replaces_all_of_the_old_block(
        self, store: BlockStore, old: int, new: int
    ) -> None:
        first = stored(store, KEY, content(old, seed=1))
        data = content(new, seed=2)

        second = stored(store, KEY, data)

        assert store.read_block(KEY) == data
        assert second.etag != first.etag
        assert store.stat_block(KEY).etag == second.etag
        assert store.list_by_prefix() == [KEY]

    def test_stat_describes_the_block(self, store: BlockStore) -> None:
        info = stored(store, KEY, b"block")

        known = store.stat_block(KEY)

        assert isinstance(known, BlockInfo)
        assert (known.key, known.size, known.etag) == (KEY, 5, info.etag)
        assert known.etag
        assert '"' not in known.etag
        assert known.last_modified is not None
        assert known.last_modified.utcoffset() == timedelta(0)
        assert store.block_exists(KEY) is True

    def test_a_look_tells_that_there_is_no_metadata(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, b"block")

        assert store.stat_block(KEY).metadata == {}
        assert [block.metadata for block in store.iter_blocks()] == [None]  # a listing tells none

    def test_no_metadata_and_no_tags_take_no_place(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, b"block", options=PutOptions(metadata={}, tags={}))

        assert store.read_block(KEY) == b"block"

    def test_if_absent_stores_once(self, store: BlockStore) -> None:
        self._need_conditional_writes()
        first = store.write_block(KEY, b"first", if_absent=True)

        with pytest.raises(BlockExistsError, match=r"write_block .*block-0"):
            _ = store.write_block(KEY, b"second", if_absent=True)

        assert store.read_block(KEY) == b"first"
        assert store.stat_block(KEY).etag == first.etag

    def test_if_absent_is_refused_where_the_service_would_ignore_it(
        self, store: BlockStore
    ) -> None:
        if Capability.CONDITIONAL_WRITES not in self.lacks:
            pytest.skip("the service honours `If-None-Match: *`")
        _ = store.write_block(KEY, b"first")

        with pytest.raises(BlockExistsError, match=r"write_block .*block-0"):
            _ = store.write_block(KEY, b"second", if_absent=True)
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="write_block 'absent'"):
                _ = store.write_block("absent", b"block", if_absent=True)
        with pytest.raises(UnsupportedError, match=r"write_block .*block-0"):
            _ = store.write_block(KEY, b"second", if_absent=True)

        assert store.read_block(KEY) == b"first"

    def test_if_absent_after_a_delete(self, store: BlockStore) -> None:
        self._need_conditional_writes()
        _ = store.write_block(KEY, b"first")
        store.delete_block(KEY)

        _ = store.write_block(KEY, b"second", if_absent=True)

        assert store.read_block(KEY) == b"second"

    def test_one_of_several_racing_writers_wins(self, client: Client) -> None:
        self._need_conditional_writes()

        def write(store: BlockStore, number: int) -> BlockInfo:
            return store.write_block(KEY, content(4096, seed=number), if_absent=True)

        for _ in range(5):
            outcomes = client.at_once(write, range(_RACERS))

            losers = [one for one in outcomes if not isinstance(one, BlockInfo)]
            assert [type(loser) for loser in losers] == [BlockExistsError] * (_RACERS - 1)
            winner = next(n for n, one in enumerate(outcomes) if isinstance(one, BlockInfo))
            assert client.store.read_block(KEY) == content(4096, seed=winner)
            client.store.delete_block(KEY)

    def test_readers_see_the_old_block_or_the_new(self, client: Client) -> None:
        """Of different sizes, so that a mixture or a short read would show."""
        versions = [content(100_000 + 1000 * number, seed=number) for number in range(6)]
        _ = client.store.write_block(KEY, versions[0])

        def act(store: BlockStore, number: int) -> bytes | BlockInfo:
            if number < len(versions):
                return store.write_block(KEY, versions[number])
            return store.read_block(KEY)

        for _ in range(3):
            outcomes = client.at_once(act, range(2 * len(versions)))

            reads = outcomes[len(versions) :]
            if Capability.ATOMIC_REPLACEMENT in self.lacks:
                reads = [read for read in reads if not isinstance(read, BlockStoreError)]
                places = list(zip_longest(*versions))
                for read in reads:  # of several versions, but each byte of its own place
                    assert isinstance(read, bytes)
                    assert len(read) <= len(places)
                    assert all(byte in place for byte, place in zip(read, places, strict=False))
            else:
                assert all(read in versions for read in reads)
        if Capability.ATOMIC_REPLACEMENT in self.lacks:  # the last ones may have left a mixture
            _ = client.store.write_block(KEY, versions[0])
        assert client.store.read_block(KEY) in versions

    def test_a_missing_block_is_said_so(self, store: BlockStore) -> None:
        _ = store.write_block(KEY + "0", b"a neighbour")
        reads: dict[str, Any] = {
            "read_block": lambda: store.read_block(KEY),
            "read_block_into": lambda: store.read_block_into(KEY, bytearray(9)),
            "read_block_range": lambda: store.read_block_range(KEY, 0, 1),
            "stat_block": lambda: store.stat_block(KEY),
        }
        for operation, read in reads.items():
            with pytest.raises(BlockNotFoundError, match=rf"{operation} .*{KEY}'"):
                read()
        assert store.block_exists(KEY) is False

    def _need_conditional_writes(self) -> None:
        if Capability.CONDITIONAL_WRITES in self.lacks:
            pytest.skip("the service ignores `If-None-Match: *`: `if_absent` is refused")
