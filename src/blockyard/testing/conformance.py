"""The conformance suite: what every store must pass, in both clients.

Subclass it in a test module and say where to store::

    from blockyard.testing.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def source(self, tmp_path):
            return MyStore(tmp_path)

`source` is a `Store` of one's own, or anything that `blockyard.open_store` takes. It is empty,
and fresh for each test; what a test leaves there is the fixture's to clear away. Each test runs
over the blocking client and over the asyncio one. Needs `pip install blockyard[testing]`.

What a service lacks, whatever the client, its class declares as `lacks` (`capabilities.py`), and
the keys that it has no place for as `unheld_keys`; the suite then holds the store to what it does
without.
A store whose blocks outlive it inherits `DurabilityTests` as well, one that waits for a server
`DeadlineTests`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("blockyard.testing.suite")

from blockyard.testing.suite.blocks import BlockTests  # noqa: E402 - rewritten from here on
from blockyard.testing.suite.conditions import ConditionTests  # noqa: E402
from blockyard.testing.suite.contents import ContentTests  # noqa: E402
from blockyard.testing.suite.copies import CopyTests  # noqa: E402
from blockyard.testing.suite.deletes import DeleteTests  # noqa: E402
from blockyard.testing.suite.lifecycle import (  # noqa: E402
    DeadlineTests,
    DurabilityTests,
    LifecycleTests,
)
from blockyard.testing.suite.listing import ListingTests  # noqa: E402
from blockyard.testing.suite.many import ManyTests  # noqa: E402
from blockyard.testing.suite.model import ModelTests  # noqa: E402
from blockyard.testing.suite.objects import ObjectTests  # noqa: E402
from blockyard.testing.suite.odd_keys import OddKeyTests  # noqa: E402
from blockyard.testing.suite.ranges import RangeTests  # noqa: E402
from blockyard.testing.suite.verifying import VerifyTests  # noqa: E402

__all__ = ["DeadlineTests", "DurabilityTests", "StoreConformance"]


class StoreConformance(
    BlockTests,
    ConditionTests,
    RangeTests,
    OddKeyTests,
    ListingTests,
    DeleteTests,
    CopyTests,
    ManyTests,
    VerifyTests,
    ContentTests,
    ObjectTests,
    LifecycleTests,
    ModelTests,
):
    """Every test that a store must pass. Override the fixture `source`."""
