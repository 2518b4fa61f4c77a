"""Contents: what the content layer builds on the blocks of the store."""

from __future__ import annotations

import io

import pytest

from blockyard.errors import (
    BlockNotFoundError,
    ContentChangedError,
    ContentExistsError,
    UnsupportedError,
)
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

        assert store.stat_content("movie").size == size
        assert store.read_content("movie") == data
        assert b"".join(store.iter_content("movie")) == data
        target = io.BytesIO()
        assert store.read_content_into("movie", target) == size
        assert target.getvalue() == data

    def test_contents_are_described_and_listed(self, store: BlockStore) -> None:
        _ = store.write_block("films.txt", b"no content")
        sizes = {"films/one": 0, "films/two": BLOCK_SIZE, "films/two!": BLOCK_SIZE + 1, "photo": 7}
        for name, size in sizes.items():
            _ = store.write_content(name, content(size))
        _ = store.write_content("films/gone", content(BLOCK_SIZE + 1))
        store.delete_content("films/gone")

        infos = [store.stat_content(name) for name in sizes]

        assert {info.content_id: info.size for info in infos} == sizes
        assert [info.blocks for info in infos] == [0, 1, 2, 0]
        assert all(info.last_modified for info in infos)
        listed = store.list_contents()
        assert [entry.content_id for entry in listed] == list(sizes)
        assert all(entry.last_modified for entry in listed)
        assert store.list_contents("films/t") == listed[1:3]
        assert [store.content_exists(name) for name in sizes] == [True] * 4
        for name in ("films/gone", "films", "films.txt"):
            assert not store.content_exists(name)

    def test_a_range_over_two_blocks(self, store: BlockStore) -> None:
        data = content(2 * BLOCK_SIZE)
        _ = store.write_content("movie", data)

        edge = slice(BLOCK_SIZE - 100, BLOCK_SIZE + 100)
        assert store.read_content("movie", edge.start, 200) == data[edge]

    def test_shorter_content_leaves_nothing_of_the_longer(self, store: BlockStore) -> None:
        _ = store.write_content("movie", content(2 * BLOCK_SIZE + 1, seed=1))
        _ = store.write_content("movie", b"short")

        assert store.read_content("movie") == b"short"
        _ = store.clean_contents(dry_run=False, no_writers=True)
        assert store.list_by_prefix() == ["movie.blockyard"]

    def test_conditions_decide_between_writers(self, store: BlockStore) -> None:
        try:
            first = store.write_content("movie", b"first", if_absent=True)
        except UnsupportedError:
            pytest.skip("the service ignores conditions")
        with pytest.raises(ContentExistsError, match="movie"):
            _ = store.write_content("movie", b"second", if_absent=True)
        second = store.write_content("movie", content(BLOCK_SIZE + 1), if_match=first.version)
        with pytest.raises(ContentChangedError, match="movie"):
            _ = store.write_content("movie", b"third", if_match=first.version)
        assert store.stat_content("movie").version == second.version

    def test_what_was_replaced_is_readable_for_a_while(self, store: BlockStore) -> None:
        old = content(2 * BLOCK_SIZE, seed=1)
        _ = store.write_content("movie", old)
        blocks = store.iter_content("movie")
        begin = next(iter(blocks))
        _ = store.write_content("movie", content(BLOCK_SIZE, seed=2))
        assert begin + b"".join(blocks) == old
        assert store.read_content("movie") == content(BLOCK_SIZE, seed=2)

    def test_the_plain_layout_is_read_and_adopted(self, store: BlockStore) -> None:
        data = content(BLOCK_SIZE + 1)
        _ = store.write_block("movie/chunk-0/block-0", data[:BLOCK_SIZE])
        _ = store.write_block("movie/chunk-0/block-1", data[BLOCK_SIZE:])
        assert store.read_content("movie") == data
        version = store.adopt_content("movie").version
        assert store.stat_content("movie").version == version
        assert store.read_content("movie") == data
        store.delete_content("movie")
        assert not store.content_exists("movie")

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
