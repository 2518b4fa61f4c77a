"""Writing in place of one version of a block alone, and deleting it: compare and swap."""

from __future__ import annotations

import pytest

from blockyard.errors import BlockNotFoundError, PreconditionFailedError, UnsupportedError
from blockyard.model import BlockInfo
from blockyard.sync import BlockStore
from blockyard.testing.capabilities import Capability
from blockyard.testing.clients import Client
from blockyard.testing.samples import content
from blockyard.testing.suite.base import SuiteBase, stored

KEY = "share/counter"
_ANOTHER = "0123456789abcdef0123456789abcdef"
_COUNTERS = 8
_ROUNDS = 4


class ConditionTests(SuiteBase):
    """`if_match` names the version that may be replaced or deleted."""

    def test_if_match_replaces_the_version_it_names(self, store: BlockStore) -> None:
        self._need_matching_writes()
        known = stored(store, KEY, content(70_000))

        for number in range(3):
            data = content(100 * number, seed=number)
            known = store.write_block(KEY, data, if_match=known.etag)

            assert (known.key, known.size) == (KEY, len(data))
            assert store.read_block_with_info(KEY, if_match=known.etag)[0] == data
            assert store.stat_block(KEY).etag == known.etag

    def test_if_match_leaves_another_version(self, store: BlockStore) -> None:
        self._need_matching_writes()
        first = stored(store, KEY, b"first")
        second = stored(store, KEY, b"second")

        for etag in (first.etag, _ANOTHER):
            with pytest.raises(PreconditionFailedError) as refused:
                _ = store.write_block(KEY, b"third", if_match=etag)
            for told in ("write_block", KEY, repr(etag), repr(second.etag)):
                assert told in str(refused.value)
            assert refused.value.unknown_attempts == 0

        assert store.read_block(KEY) == b"second"
        assert store.stat_block(KEY).etag == second.etag

    def test_if_match_writes_nothing_where_there_is_no_block(self, store: BlockStore) -> None:
        known = stored(store, KEY, b"first")
        store.delete_block(KEY)

        for key in (KEY, "share/counter/below", "elsewhere/absent"):
            with pytest.raises(BlockNotFoundError, match=f"write_block '{key}'"):
                _ = store.write_block(key, b"second", if_match=known.etag)

        assert store.list_by_prefix() == []

    def test_one_of_several_that_replace_a_version_wins(self, client: Client) -> None:
        """Each of them counts one more than it has read, until all have counted."""
        self._need_matching_writes()
        _ = client.store.write_block(KEY, b"0")

        for left in range(_COUNTERS, 0, -1):
            data, info = client.store.read_block_with_info(KEY)
            more = str(int(data) + 1).encode()

            def count(
                store: BlockStore, _: int, more: bytes = more, etag: str = info.etag
            ) -> BlockInfo:
                return store.write_block(KEY, more, if_match=etag)

            outcomes = client.at_once(count, range(left))

            losers = [one for one in outcomes if not isinstance(one, BlockInfo)]
            assert [type(loser) for loser in losers] == [PreconditionFailedError] * (left - 1)
        assert client.store.read_block(KEY) == str(_COUNTERS).encode()

    def test_if_match_is_refused_where_the_service_would_ignore_it(self, store: BlockStore) -> None:
        if Capability.MATCHING_WRITES not in self.lacks:
            pytest.skip("the service honours `If-Match` with a write")
        first = stored(store, KEY, b"first")

        with pytest.raises(PreconditionFailedError):
            _ = store.write_block(KEY, b"second", if_match=_ANOTHER)
        assert store.read_block(KEY) == b"first"
        for outcome in ("stored, perhaps in place of another", "not stored"):
            with pytest.raises(UnsupportedError, match=rf"write_block .*{KEY}': {outcome}"):
                _ = store.write_block(KEY, b"second", if_match=first.etag)

    def test_if_match_deletes_the_version_it_names(self, store: BlockStore) -> None:
        self._need_matching_deletes()
        known = stored(store, KEY, content(70_000))
        _ = store.write_block("share/other", b"other")

        assert store.delete_block(KEY, if_match=known.etag) is None

        assert store.list_by_prefix() == ["share/other"]
        with pytest.raises(BlockNotFoundError, match=f"delete_block '{KEY}'"):
            store.delete_block(KEY, if_match=known.etag)
        _ = store.write_block(KEY, b"again")
        assert store.read_block(KEY) == b"again"

    def test_if_match_does_not_delete_another_version(self, store: BlockStore) -> None:
        self._need_matching_deletes()
        first = stored(store, KEY, b"first")
        second = stored(store, KEY, b"second")

        for etag in (first.etag, _ANOTHER):
            with pytest.raises(PreconditionFailedError) as refused:
                store.delete_block(KEY, if_match=etag)
            for told in ("delete_block", KEY, repr(etag), repr(second.etag)):
                assert told in str(refused.value)
            assert refused.value.unknown_attempts == 0

        assert store.read_block(KEY) == b"second"
        assert store.stat_block(KEY).etag == second.etag
        assert store.list_by_prefix() == [KEY]

    def test_if_match_deletes_nothing_where_there_is_no_block(self, store: BlockStore) -> None:
        self._need_matching_deletes()
        known = stored(store, KEY, b"first")
        store.delete_block(KEY)

        for key in (KEY, "share/counter/below", "elsewhere/absent"):
            with pytest.raises(BlockNotFoundError, match=f"delete_block '{key}'"):
                store.delete_block(key, if_match=known.etag)

        assert store.list_by_prefix() == []

    def test_one_of_several_that_delete_a_version_succeeds(self, client: Client) -> None:
        """Beside as many that replace it: what one of them wrote stays."""
        self._need_matching_writes()
        self._need_matching_deletes()
        for number in range(_ROUNDS):
            known = stored(client.store, KEY, str(number).encode())

            def change(store: BlockStore, number: int, etag: str = known.etag) -> BlockInfo | None:
                if number % 2:
                    return store.write_block(KEY, f"new {number}".encode(), if_match=etag)
                return store.delete_block(KEY, if_match=etag)

            outcomes = client.at_once(change, range(_COUNTERS))

            there = [client.store.stat_block(key) for key in client.store.list_by_prefix()]
            written = [one.etag for one in outcomes if isinstance(one, BlockInfo)]
            assert [one.etag for one in there] == written
            refused = (PreconditionFailedError, BlockNotFoundError)
            losers = [one for one in outcomes if isinstance(one, refused)]
            assert len(losers) == _COUNTERS - 1

    def test_if_match_with_a_delete_is_refused_where_the_service_would_ignore_it(
        self, store: BlockStore
    ) -> None:
        if Capability.MATCHING_DELETES not in self.lacks:
            pytest.skip("the service honours `If-Match` with a delete")
        known = stored(store, KEY, b"first")

        for etag in (_ANOTHER, known.etag):
            with pytest.raises(UnsupportedError, match=rf"delete_block '{KEY}': not deleted"):
                store.delete_block(KEY, if_match=etag)

        assert store.read_block(KEY) == b"first"
        assert store.list_by_prefix() == [KEY]

    def _need_matching_deletes(self) -> None:
        if Capability.MATCHING_DELETES in self.lacks:
            pytest.skip("the service ignores `If-Match` with a delete: `if_match` is refused")

    def _need_matching_writes(self) -> None:
        if Capability.MATCHING_WRITES in self.lacks:
            pytest.skip("the service ignores `If-Match` with a write: `if_match` is refused")
