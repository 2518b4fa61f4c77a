"""Objects of more than one part: whole or not at all, from any source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.model import MIN_PART_SIZE
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase, stored

KEY = "files/large"
_PART = MIN_PART_SIZE
_ANOTHER = "0123456789abcdef0123456789abcdef"
_SOURCES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "iterator": lambda data: (data[at : at + 700_001] for at in range(0, len(data), 700_001)),
}


class ObjectTests(SuiteBase):
    """`write_object` stores what its source holds, in as many parts as that takes."""

    @pytest.mark.parametrize(
        ("kind", "size"),
        [
            *(("bytes", size) for size in (1, _PART, 2 * _PART + 12_345)),
            *(("iterator", size) for size in (0, _PART, _PART + 1, 2 * _PART)),
        ],
    )
    def test_an_object_survives(self, store: BlockStore, kind: str, size: int) -> None:
        data = content(size)
        done: list[int] = []

        info = store.write_object(KEY, _SOURCES[kind](data), part_size=_PART, progress=done.append)

        assert (info.key, info.size) == (KEY, size)
        known = store.stat_block(KEY)
        assert info.etag in {known.etag, ""}  # which a cache in write-back mode does not know yet
        assert known.size == size
        assert store.read_block(KEY) == data
        if size > _PART:
            around = store.read_block_range(KEY, _PART - 100, 200)
            assert around == data[_PART - 100 : _PART + 100]
        assert done == sorted(done)
        assert done[-1] == size
        assert store.list_by_prefix() == [KEY]

    def test_an_object_takes_the_place_of_what_was_there(self, store: BlockStore) -> None:
        _ = store.write_block(KEY, b"a block")
        for size in (_PART + 7, 11, _PART + 9):
            data = content(size, seed=size)
            _ = store.write_object(KEY, data, part_size=_PART)
            assert store.read_block(KEY) == data

    @pytest.mark.parametrize("size", [0, 10, _PART + 10])
    def test_a_source_that_fails_changes_nothing(self, store: BlockStore, size: int) -> None:
        _ = store.write_block(KEY, b"the block before")

        def broken() -> Iterator[bytes]:
            yield content(size)
            raise _BrokenError

        for key in (KEY, "files/new"):
            with pytest.raises(_BrokenError):
                _ = store.write_object(key, broken(), part_size=_PART)

        assert store.read_block(KEY) == b"the block before"
        assert store.list_by_prefix() == [KEY]

    def test_an_upload_where_something_is_changes_nothing(self, store: BlockStore) -> None:
        if Capability.CONDITIONAL_UPLOADS in self.lacks:
            pytest.skip("the service ignores `If-None-Match` with an upload")
        data = content(_PART + 1)
        _ = store.write_object(KEY, data, part_size=_PART, if_absent=True)

        for size in (_PART + 2, 3):
            with pytest.raises(BlockExistsError, match=f"write_object '{KEY}'"):
                _ = store.write_object(KEY, content(size), part_size=_PART, if_absent=True)

        assert store.read_block(KEY) == data

    def test_if_match_names_the_version_that_an_upload_replaces(self, store: BlockStore) -> None:
        if Capability.MATCHING_UPLOADS in self.lacks:
            pytest.skip("the service ignores `If-Match` with an upload")
        data = content(_PART + 1)
        with pytest.raises(BlockNotFoundError, match=f"write_object '{KEY}'"):
            _ = store.write_object(KEY, data, part_size=_PART, if_match=_ANOTHER)
        first = stored(store, KEY, b"first")
        with pytest.raises(PreconditionFailedError, match=f"write_object '{KEY}'"):
            _ = store.write_object(KEY, data, part_size=_PART, if_match=_ANOTHER)
        assert store.read_block(KEY) == b"first"

        second = store.write_object(KEY, data, part_size=_PART, if_match=first.etag)

        assert store.read_block_with_info(KEY, if_match=second.etag)[0] == data

    @pytest.mark.parametrize("condition", ["if_absent", "if_match"])
    def test_a_condition_is_refused_where_the_service_would_ignore_it(
        self, store: BlockStore, condition: str
    ) -> None:
        absent = condition == "if_absent"
        lacked = Capability.CONDITIONAL_UPLOADS if absent else Capability.MATCHING_UPLOADS
        if lacked not in self.lacks:
            pytest.skip(f"the service honours {condition} with an upload")
        first = stored(store, KEY, b"first")
        given: dict[str, Any] = {"if_absent": True} if absent else {"if_match": first.etag}

        for _ in range(2):
            with pytest.raises(UnsupportedError, match=rf"write_object '{KEY}': not stored"):
                _ = store.write_object(KEY, content(_PART + 1), part_size=_PART, **given)

        assert store.read_block(KEY) == b"first"
        assert store.list_by_prefix() == [KEY]


class _BrokenError(Exception):
    """Of a source."""
