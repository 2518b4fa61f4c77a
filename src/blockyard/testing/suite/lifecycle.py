"""Health, views, and the end of a store."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from blockyard.errors import DeadlineExceededError, StoreClosedError
from blockyard.model import HealthReport
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, Source, open_client
from blockyard.testing.suite.base import SuiteBase, kind_raised

CALLS: dict[str, Callable[[BlockStore], Any]] = {
    "write_block": lambda store: store.write_block("a", b""),
    "read_block": lambda store: store.read_block("a"),
    "read_block_into": lambda store: store.read_block_into("a", bytearray(1)),
    "read_block_range": lambda store: store.read_block_range("a", 0, 1),
    "read_block_with_info": lambda store: store.read_block_with_info("a"),
    "list_folder": lambda store: store.list_folder("a"),
    "read_blocks": lambda store: store.read_blocks(["a"]),
    "read_block_ranges": lambda store: store.read_block_ranges([("a", 0, 1)]),
    "write_blocks": lambda store: store.write_blocks([("a", b"")]),
    "stat_block": lambda store: store.stat_block("a"),
    "block_exists": lambda store: store.block_exists("a"),
    "copy_block": lambda store: store.copy_block("a", "b"),
    "delete_block": lambda store: store.delete_block("a"),
    "delete_blocks": lambda store: store.delete_blocks(["a"]),
    "delete_by_prefix": lambda store: store.delete_by_prefix("a"),
    "list_by_prefix": lambda store: store.list_by_prefix(),
    "iter_blocks": lambda store: list(store.iter_blocks()),
    "verify_by_prefix": lambda store: store.verify_by_prefix(),
    "health_check": lambda store: store.health_check(),
    "pending": lambda store: store.pending(),
    "drain": lambda store: store.drain(),
    "write_object": lambda store: store.write_object("a", b""),
    "read_object_into": lambda store: store.read_object_into("a", io.BytesIO()),
    "iter_object": lambda store: list(store.iter_object("a")),
    "write_content": lambda store: store.write_content("a", b""),
    "read_content": lambda store: store.read_content("a"),
    "read_content_into": lambda store: store.read_content_into("a", io.BytesIO()),
    "iter_content": lambda store: list(store.iter_content("a")),
    "open_content": lambda store: store.open_content("a"),
    "stat_content": lambda store: store.stat_content("a"),
    "content_exists": lambda store: store.content_exists("a"),
    "list_contents": lambda store: store.list_contents(),
    "copy_content": lambda store: store.copy_content("a", "b"),
    "delete_content": lambda store: store.delete_content("a"),
    "adopt_content": lambda store: store.adopt_content("a"),
    "clean_contents": lambda store: store.clean_contents(),
}
"""One call of every method that a store does its work by."""


class LifecycleTests(SuiteBase):
    """A store says that it can be used, and is left in order."""

    def test_nothing_is_pending_once_it_was_drained(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"block")

        assert store.drain(60) == []

        assert store.pending() == []
        assert store.read_block("a") == b"block"

    def test_health(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"")

        report = store.health_check()

        assert isinstance(report, HealthReport)
        assert report.latency >= 0
        assert report.store
        assert store.list_by_prefix() == ["a"]

    def test_a_closed_store(self, store: BlockStore) -> None:
        _ = store.write_block("a", b"a")
        view = store.with_options(concurrency=2)
        store.close()

        for closed in (store, view):
            outcomes = {name: kind_raised(partial(call, closed)) for name, call in CALLS.items()}
            assert outcomes == dict.fromkeys(CALLS, StoreClosedError)

    def test_closing_a_view_closes_the_store(self, store: BlockStore) -> None:
        store.with_options(concurrency=2).close()

        with pytest.raises(StoreClosedError):
            _ = store.list_by_prefix()

    def test_closing_twice(self, store: BlockStore) -> None:
        _ = store.write_blocks([("a", b"")])  # so that there is a background loop to close

        store.close()
        store.close()

    def test_a_view_does_the_same_work(self, store: BlockStore) -> None:
        view = store.with_options(deadline=60)

        _ = view.write_block("a", b"block")

        assert store.read_block("a") == b"block"
        assert view.read_blocks(["a"]) == [b"block"]


class DurabilityTests(SuiteBase):
    """For a store that keeps its blocks when it is closed."""

    @pytest.mark.parametrize("reader", CLIENTS)
    def test_a_store_opened_again(
        self, source: Source, store: BlockStore, reader: ClientName
    ) -> None:
        _ = store.write_blocks([("a", b"1"), ("b/c", b"2")])
        store.close()

        with open_client(reader, source) as again:
            assert again.store.list_by_prefix() == ["a", "b/c"]
            assert again.store.read_blocks(["b/c", "a"]) == [b"2", b"1"]


class DeadlineTests(SuiteBase):
    """For a store that waits for others: its calls end when the caller's deadline has passed."""

    def test_a_deadline_that_has_passed(self, store: BlockStore) -> None:
        hasty = store.with_options(deadline=1e-9)

        outcomes = {name: kind_raised(partial(call, hasty)) for name, call in CALLS.items()}
        assert outcomes == dict.fromkeys(CALLS, DeadlineExceededError)
