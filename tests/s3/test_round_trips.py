"""What each operation costs on a long path: its requests, and how many wait for one another.

`COSTS` is the table, for both clients; docs/round-trips.md shows its entries that hold today. One
with a reason is a cost that a rebuilding is to bring down: it names the subject.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest

from blockyard.config import S3Config, StoreConfig
from blockyard.errors import BlockNotFoundError
from blockyard.model import BLOCK_SIZE
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from tests.docs.markdown_pages import page, table
from tests.s3.counting_service import Cost, CountingService

MANY = 8
KEYS = [f"d/{n}" for n in range(MANY)]
SMALL, LARGE = b"content", bytes(2 * BLOCK_SIZE + 1)
BLOCKS = 3
"""Blocks of `LARGE`."""
QUIET = (0.05, 0.1, 0.2, 0.5)
"""How long the service waits for more of a round, in one attempt after the other."""

ONE_STEP = "issue 16, contents in one step"
NO_BARRIER = "issue 15, no serial tail and no barriers"


class Row(NamedTuple):
    """At most so many requests, at most so many round trips one after the other."""

    operation: str
    call: Callable[[BlockStore], Any]
    requests: int
    rounds: int
    reason: str = ""


SECOND = "2-0"
"""The ETag of the second write of a bucket: see `Bucket.put`."""
COSTS = [
    Row("`write_block`", lambda store: store.write_block("new", b"data"), 1, 1),
    Row(
        "`write_block`, `if_absent`",
        lambda store: store.write_block("new", b"data", if_absent=True),
        1,
        1,
    ),
    Row(
        "`write_block`, `if_match`",
        lambda store: store.write_block("known", b"", if_match=SECOND),
        1,
        1,
    ),
    Row("`read_block`", lambda store: store.read_block("d/0"), 1, 1),
    Row("`read_block_into`", lambda store: store.read_block_into("d/0", bytearray(99)), 1, 1),
    Row("`read_block_range`", lambda store: store.read_block_range("d/0", 0, 1), 1, 1),
    Row("`stat_block`", lambda store: store.stat_block("d/0"), 1, 1),
    Row("`block_exists`", lambda store: store.block_exists("d/0"), 1, 1),
    Row(
        "`block_exists` of an absent key, the bucket known",
        lambda store: store.block_exists("absent"),
        1,
        1,
    ),
    Row(
        "`copy_block`",
        lambda store: store.copy_block("d/0", "new"),
        1,
        1,
    ),
    Row("`delete_block`", lambda store: store.delete_block("d/0"), 1, 1),
    Row(
        "`delete_block`, `if_match`",
        lambda store: store.delete_block("known", if_match=SECOND),
        1,
        1,
    ),
    Row("`delete_blocks`, to 1,000 keys", lambda store: store.delete_blocks(KEYS), 1, 1),
    Row(
        '`delete_by_prefix("d")`, to 1,000 keys',
        lambda store: store.delete_by_prefix("d"),
        3,
        2,
    ),
    Row(
        '`delete_by_prefix("d/")`, to 1,000 keys',
        lambda store: store.delete_by_prefix("d/"),
        2,
        2,
    ),
    Row("`list_by_prefix`, each 1,000 keys", lambda store: store.list_by_prefix("d/"), 1, 1),
    Row("`iter_blocks`, each 1,000 keys", lambda store: list(store.iter_blocks("d/")), 1, 1),
    Row("`read_blocks`, N keys", lambda store: store.read_blocks(KEYS), MANY, 1),
    Row(
        "`read_block_ranges`, N ranges",
        lambda store: store.read_block_ranges([(key, 0, 1) for key in KEYS]),
        MANY,
        1,
    ),
    Row(
        "`read_block_ranges`, N ranges of one block that touch",
        lambda store: store.read_block_ranges([("d/0", at, 1) for at in range(MANY)]),
        1,
        1,
    ),
    Row(
        "`write_blocks`, N blocks",
        lambda store: store.write_blocks([(f"new/{key}", b"data") for key in KEYS]),
        MANY,
        1,
    ),
    Row("`verify_by_prefix`, N keys", lambda store: store.verify_by_prefix("d/"), MANY + 1, 2),
    Row("`health_check`", lambda store: store.health_check(), 1, 1),
    Row("`write_content`, new, 1 block", lambda store: store.write_content("new", SMALL), 2, 2),
    Row(
        "`write_content`, new, N blocks",
        lambda store: store.write_content("new", LARGE),
        BLOCKS + 2,
        2,
        ONE_STEP,
    ),
    Row(
        "`write_content` over another, 1 block",
        lambda store: store.write_content("small", SMALL),
        2,
        2,
    ),
    Row(
        "`write_content` over another, N blocks",
        lambda store: store.write_content("large", LARGE),
        BLOCKS + 2,
        3,
        ONE_STEP,
    ),
    Row("`stat_content`", lambda store: store.stat_content("large"), 1, 1),
    Row("`content_exists`", lambda store: store.content_exists("large"), 1, 1),
    Row("`list_contents`, each 1,000 blocks", lambda store: store.list_contents(), 1, 1),
    Row("`read_content`, 1 block", lambda store: store.read_content("small"), 2, 2, ONE_STEP),
    Row(
        "`read_content`, N blocks",
        lambda store: store.read_content("large"),
        BLOCKS + 1,
        2,
        ONE_STEP,
    ),
    Row(
        "`read_content_into` a stream, N blocks",
        lambda store: store.read_content_into("large", io.BytesIO()),
        BLOCKS + 2,
        3,
        NO_BARRIER,
    ),
    Row(
        "`iter_content`, N blocks",
        lambda store: list(store.iter_content("large")),
        BLOCKS + 2,
        3,
        NO_BARRIER,
    ),
    Row(
        "`copy_content`, N blocks",
        lambda store: store.copy_content("large", "new"),
        BLOCKS + 3,
        3,
        ONE_STEP,
    ),
    Row("`delete_content`", lambda store: store.delete_content("large"), 3, 3),
]
CONTENTS = {"small": SMALL, "large": LARGE}


@contextmanager
def opened(client: ClientName, quiet: float) -> Generator[tuple[CountingService, BlockStore]]:
    """A store that knows the bucket, and that its service keeps conditions."""
    with CountingService(quiet) as service:
        config = S3Config(
            bucket="bucket",
            endpoint=service.url,
            force_path_style=True,
            access_key="testing",
            secret_key="testing",
        )
        with open_client(client, StoreConfig(s3=config)) as opened:
            known = opened.store.write_block("known", b"", if_absent=True)
            _ = opened.store.write_block("known", b"", if_match=known.etag)
            with suppress(BlockNotFoundError):
                opened.store.delete_block("absent", if_match="any")
            yield service, opened.store


def stored(service: CountingService) -> None:
    for key in KEYS:
        _ = service.bucket.put(key, b"data data data")
    for content_id, body in CONTENTS.items():
        for at in range(0, len(body), BLOCK_SIZE):
            key = f"{content_id}/chunk-0/block-{at // BLOCK_SIZE}"
            _ = service.bucket.put(key, body[at : at + BLOCK_SIZE])


def least_cost(
    client: ClientName, call: Callable[[BlockStore], Any], rounds: int, attempts: int = len(QUIET)
) -> Cost:
    """What the call costs: the least of the attempts, which a busy machine can't make less."""
    costs: list[Cost] = []
    for quiet in QUIET[:attempts]:
        with opened(client, quiet) as (service, store):
            stored(service)
            service.reset()
            _ = call(store)
            costs.append(service.cost)
        if costs[-1].rounds <= rounds:
            break
    return min(costs, key=lambda cost: cost.rounds)


def _to_come(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)


def rows() -> list[Any]:
    return [
        pytest.param(
            row,
            id=row.operation,
            marks=_to_come(row.reason) if row.reason else [],
        )
        for row in COSTS
    ]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", rows())
def test_an_operation_costs_no_more_than_its_row(client: ClientName, row: Row) -> None:
    cost = least_cost(client, row.call, row.rounds, 1 if row.reason else len(QUIET))
    assert len(cost.requests) <= row.requests, cost.requests
    assert cost.rounds <= row.rounds, cost.requests


@pytest.mark.parametrize("client", CLIENTS)
def test_a_copy_of_a_content_asks_for_no_copied_block(client: ClientName) -> None:
    cost = least_cost(client, lambda store: store.copy_content("large", "new"), rounds=99)
    assert not [request for request in cost.requests if request.startswith("HEAD")]


@pytest.mark.parametrize("client", CLIENTS)
def test_calls_of_many_use_the_connections_of_single_calls(client: ClientName) -> None:
    with opened(client, QUIET[0]) as (service, store):
        stored(service)
        _ = store.read_block("d/0")
        service.reset()
        assert store.read_blocks(["d/0"]) == [b"data data data"]
        assert service.cost.connections == 0


def test_the_page_shows_the_rows_that_hold() -> None:
    shown = table(page("docs/round-trips.md"), "call")
    holding = [row for row in COSTS if not row.reason]
    counts = {MANY: "N", MANY + 1: "N + 1"}
    wanted = [
        [row.operation, counts.get(row.requests, str(row.requests)), str(row.rounds)]
        for row in holding
    ]
    assert shown == wanted
