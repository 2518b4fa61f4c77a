"""Verifying: every block below a prefix is read, and none that is as it was stored is blamed."""

from __future__ import annotations

from blockyard.model import VerifyReport
from blockyard.sync import BlockStore
from blockyard.testing.suite.base import SuiteBase

_BLOCKS = {"a": b"", "a/b": b"data", "a/c": bytes(100_000), "b": b"other"}


class VerifyTests(SuiteBase):
    """What a store can hold its blocks to is its own affair; the report has to add up."""

    def test_every_block_below_the_prefix_is_accounted_for(self, store: BlockStore) -> None:
        blocks = {key: _BLOCKS[key] for key in self.held(_BLOCKS)}
        _ = store.write_blocks(blocks.items())

        for prefix in ("", "a", "a/", "b", "c"):
            below = [data for key, data in blocks.items() if key.startswith(prefix)]
            report = store.verify_by_prefix(prefix)

            assert _accounted_for(report) == len(below)
            assert report.size == sum(map(len, below))
            assert (dict(report.damaged), dict(report.unreadable)) == ({}, {})

    def test_a_copy_is_as_good(self, store: BlockStore) -> None:
        _ = store.write_block("a", bytes(50_000))
        _ = store.copy_block("a", "b")

        assert store.verify_by_prefix("a") == store.verify_by_prefix("b")


def _accounted_for(report: VerifyReport) -> int:
    return sum(report.verified.values()) + report.unverifiable
