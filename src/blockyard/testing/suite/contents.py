"""Contents: what the content layer builds on the blocks of the store."""

from __future__ import annotations

import io

import pytest

from blockyard.errors import BlockNotFoundError
from blockyard.model import BLOCK_SIZE
from blockyard.sync import BlockStore
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase


class ContentTests(SuiteBase):
    """A content comes back whole and by range, and goes with all its blocks."""

    @pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE, 2 * BLOCK_SIZE + 1])
    def test_a_content_survives(self, store: BlockStore, size: int) -> None:
        data = content(size)

        assert store.write_content("movie", data).size == size

        assert store.content_size("movie") == size
        assert store.read_content("movie") == data
        assert b"".join(store.iter_content("movie")) == data
        target = io.BytesIO()
        assert store.read_content_into("movie", target) == size
        assert target.getvalue() == data

    def test_a_range_over_two_blocks(self, store: BlockStore) -> None:
        data = content(2 * BLOCK_SIZE)
        _ = store.write_content("movie", data)

        edge = slice(BLOCK_SIZE - 100, BLOCK_SIZE + 100)
        assert store.read_content("movie", edge.start, 200) == data[edge]

    def test_shorter_content_leaves_nothing_of_the_longer(self, store: BlockStore) -> None:
        _ = store.write_content("movie", content(2 * BLOCK_SIZE + 1, seed=1))
        _ = store.write_content("movie", b"short")

        assert store.read_content("movie") == b"short"
        assert store.list_by_prefix() == ["movie/chunk-0/block-0"]

    def test_a_copy_and_a_delete(self, store: BlockStore) -> None:
        data = content(BLOCK_SIZE + 1)
        _ = store.write_content("movie", data)
        _ = store.write_content("movie2", b"a neighbour")

        assert store.copy_content("movie", "copy").size == len(data)
        store.delete_content("movie")

        assert store.read_content("copy") == data
        assert store.read_content("movie2") == b"a neighbour"
        with pytest.raises(BlockNotFoundError, match="movie"):
            _ = store.read_content("movie")
