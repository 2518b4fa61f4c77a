"""Objects of more than one part: whole or not at all, from any source and to any target."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    InvalidRangeError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.model import MIN_PART_SIZE, MIN_READ_PART
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase, stored

KEY = "files/large"
_PART = MIN_PART_SIZE
_READ = MIN_READ_PART
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

    @pytest.mark.parametrize("size", [0, 1, _READ, _READ + 1, 9 * _READ + 321])
    def test_an_object_is_read_in_parts(self, store: BlockStore, tmp_path: Path, size: int) -> None:
        data, path = content(size), tmp_path / "target"
        known = stored(store, KEY, data)
        for start, length in _spans(size):
            wanted = data[start:] if length is None else data[start : start + length]
            options: dict[str, Any] = {"offset": start, "length": length, "part_size": _READ}
            stream, done = io.BytesIO(), list[int]()

            info = store.read_object_into(KEY, stream, **options)
            again = store.read_object_into(KEY, path, progress=done.append, **options)

            assert stream.getvalue() == path.read_bytes() == wanted
            assert (info.key, info.size, info.etag) == (KEY, size, known.etag)
            assert again.etag == known.etag
            assert done == sorted(done)
            assert done[-1:] == [len(wanted)] * bool(wanted)
            assert b"".join(store.iter_object(KEY, start, length, part_size=_READ)) == wanted

    def test_an_object_that_was_written_in_parts_is_read(self, store: BlockStore) -> None:
        data, stream = content(_PART + 7), io.BytesIO()
        _ = store.write_object(KEY, data, part_size=_PART)

        _ = store.read_object_into(KEY, stream, part_size=1_000_000)

        assert stream.getvalue() == data
        assert b"".join(store.iter_object(KEY, _PART - 5)) == data[-12:]

    def test_what_can_not_be_read_of_an_object(self, store: BlockStore, tmp_path: Path) -> None:
        targets = tmp_path / "targets"
        targets.mkdir()
        path = targets / "target"

        def into_a_file(**options: Any) -> None:
            _ = store.read_object_into(KEY, path, **options)

        def by_an_iterator(**options: Any) -> None:
            _ = list(store.iter_object(KEY, **options))

        calls: list[Callable[..., None]] = [into_a_file, by_an_iterator]
        for call in calls:
            with pytest.raises(BlockNotFoundError, match=f"object.* '{KEY}'"):
                call()
        for size in (0, 10):
            _ = store.write_block(KEY, content(size))
            for call in calls:
                with pytest.raises(InvalidRangeError, match=f"object.* '{KEY}'.* {10 + size}"):
                    call(offset=10 + size)
                with pytest.raises(PreconditionFailedError, match=f"object.* '{KEY}'"):
                    call(if_match=_ANOTHER)
        assert list(targets.iterdir()) == []

    def test_an_object_that_is_replaced_is_not_read_on(self, store: BlockStore) -> None:
        old, new = content(40 * _READ), content(40 * _READ, seed=2)
        first = stored(store, KEY, old)
        narrow = store.with_options(concurrency=2)
        parts = narrow.iter_object(KEY, part_size=_READ, if_match=first.etag)
        got = [next(parts)]
        _ = store.write_block(KEY, new)

        for _ in range(2):
            with pytest.raises(PreconditionFailedError, match=f"iter_object '{KEY}'"):
                got.extend(parts)

        assert len(got) < 40
        assert old.startswith(b"".join(got))
        assert b"".join(narrow.iter_object(KEY, part_size=_READ)) == new


def _spans(size: int) -> list[tuple[int, int | None]]:
    """Ranges of an object: offset and length."""
    within = [(1, None), (_READ - 1, 2), (_READ + 5, 3 * _READ)]
    return [(0, None), (0, 0), (0, 10**9), *(span for span in within if span[0] < size)]


class _BrokenError(Exception):
    """Of a source."""
