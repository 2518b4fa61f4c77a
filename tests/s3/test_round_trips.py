"""What each operation costs on a long path: its requests, and how many wait for one another.

`COSTS` is the table, for both clients; docs/round-trips.md shows it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import pytest

from bench.path.objects import Bucket
from blockyard.config import S3Config, StoreConfig
from blockyard.errors import BlockNotFoundError
from blockyard.model import BLOCK_SIZE, MIN_PART_SIZE
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from tests.docs.markdown_pages import page, table
from tests.s3.counting_service import Cost, CountingService

MANY = 8
KEYS = [f"d/{n}" for n in range(MANY)]
SMALL, LARGE = b"content", bytes(2 * BLOCK_SIZE + 1)
BLOCKS = 3
"""Blocks of `LARGE`."""
PARTS = 2
"""The same, of `MIN_PART_SIZE` bytes."""
READ, READ_PARTS = BLOCK_SIZE, 3
"""The parts that `LARGE` is read in."""
QUIET = (0.05, 0.1, 0.2, 0.5)
"""How long the service waits for more of a round, in one attempt after the other."""


class Row(NamedTuple):
    """At most so many requests, at most so many round trips one after the other."""

    operation: str
    call: Callable[[BlockStore], Any]
    requests: int
    rounds: int


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
        4,
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
    Row("`write_content`, new, to 64 KiB", lambda store: store.write_content("new", SMALL), 1, 1),
    Row(
        "`write_content`, new, N blocks",
        lambda store: store.write_content("new", LARGE),
        BLOCKS + 2,
        2,
    ),
    Row(
        "`write_content` over another, to 64 KiB",
        lambda store: store.write_content("small", SMALL),
        4,
        4,
    ),
    Row(
        "`write_content` over another, N blocks",
        lambda store: store.write_content("large", LARGE),
        BLOCKS + 2,
        2,
    ),
    Row("`write_object`, to one part", lambda store: store.write_object("new", SMALL), 1, 1),
    Row(
        "`write_object`, N parts",
        lambda store: store.write_object("new", LARGE, part_size=MIN_PART_SIZE),
        PARTS + 2,
        3,
    ),
    Row(
        "`read_object_into`, to one part",
        lambda store: store.read_object_into("d/0", io.BytesIO()),
        1,
        1,
    ),
    Row(
        "`read_object_into` of an empty object",
        lambda store: store.read_object_into("empty", io.BytesIO()),
        2,
        2,
    ),
    Row(
        "`read_object_into`, N parts",
        lambda store: store.read_object_into("object", io.BytesIO(), part_size=READ),
        READ_PARTS,
        2,
    ),
    Row(
        "`iter_object`, N parts",
        lambda store: list(store.iter_object("object", part_size=READ)),
        READ_PARTS,
        3,
    ),
    Row("`stat_content`", lambda store: store.stat_content("large"), 1, 1),
    Row("`content_exists`", lambda store: store.content_exists("large"), 1, 1),
    Row(
        "`list_contents` of a folder, each 1,000",
        lambda store: store.list_contents("folder/"),
        1,
        1,
    ),
    Row("`read_content`, to 64 KiB", lambda store: store.read_content("small"), 1, 1),
    Row(
        "`read_content` of a part of a block",
        lambda store: store.read_content("large", 5, 16384),
        2,
        2,
    ),
    Row("`read_content`, N blocks", lambda store: store.read_content("large"), BLOCKS + 1, 2),
    Row(
        "`read_content_into` a stream, N blocks",
        lambda store: store.read_content_into("large", io.BytesIO()),
        BLOCKS + 1,
        2,
    ),
    Row(
        "`iter_content`, N blocks",
        lambda store: list(store.iter_content("large")),
        BLOCKS + 1,
        3,
    ),
    Row(
        "`copy_content`, N blocks",
        lambda store: store.copy_content("large", "new"),
        BLOCKS + 3,
        3,
    ),
    Row(
        "`delete_content`, to 1,000 blocks",
        lambda store: store.delete_content("large"),
        4,
        3,
    ),
]
CONTENTS = {"small": SMALL, "large": LARGE, "folder/one": SMALL, "folder/two": SMALL}


def config(service: CountingService) -> S3Config:
    return S3Config(
        bucket="bucket",
        endpoint=service.url,
        force_path_style=True,
        access_key="testing",
        secret_key="testing",
    )


@contextmanager
def opened(client: ClientName, quiet: float) -> Generator[tuple[CountingService, BlockStore]]:
    """A store that knows the bucket, and that its service keeps conditions."""
    with (
        CountingService(0) as service,
        open_client(client, StoreConfig(s3=config(service))) as opened,
    ):
        known = opened.store.write_block("known", b"", if_absent=True)
        _ = opened.store.write_block("known", b"", if_match=known.etag)
        with suppress(BlockNotFoundError):
            opened.store.delete_block("absent", if_match="any")
        learnt: Any = getattr(opened.store, "_store", opened.store)  # the driven asyncio client's
        learnt._operations.store._caller.capabilities.upload_etags = True
        service.quiet = quiet
        yield service, opened.store


@cache
def stored() -> Bucket:
    """What operations find. Its ETags are none that another bucket gives."""
    bucket = Bucket(first=1000)
    for key in KEYS:
        _ = bucket.put(key, b"data data data")
    _ = bucket.put("object", LARGE), bucket.put("empty", b"")
    with (
        CountingService(0, bucket) as service,
        open_client("blocking", StoreConfig(s3=config(service))) as other,
    ):
        for content_id, body in CONTENTS.items():
            _ = other.store.write_content(content_id, body)
    return bucket


def least_cost(client: ClientName, call: Callable[[BlockStore], Any], rounds: int) -> Cost:
    """What the call costs: the least of the attempts, which a busy machine can't make less."""
    costs: list[Cost] = []
    for quiet in QUIET:
        with opened(client, quiet) as (service, store):
            service.bucket.take_all_of(stored())
            service.reset()
            _ = call(store)
            costs.append(service.cost)
        if costs[-1].rounds <= rounds:
            break
    return min(costs, key=lambda cost: cost.rounds)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", COSTS, ids=lambda row: row.operation)
def test_an_operation_costs_no_more_than_its_row(client: ClientName, row: Row) -> None:
    cost = least_cost(client, row.call, row.rounds)
    assert len(cost.requests) <= row.requests, cost.requests
    assert cost.rounds <= row.rounds, cost.requests


@pytest.mark.parametrize("client", CLIENTS)
def test_a_copy_of_a_content_asks_for_no_copied_block(client: ClientName) -> None:
    cost = least_cost(client, lambda store: store.copy_content("large", "new"), rounds=99)
    assert not [request for request in cost.requests if request.startswith("HEAD")]


@pytest.mark.parametrize("client", CLIENTS)
def test_calls_of_many_use_the_connections_of_single_calls(client: ClientName) -> None:
    with opened(client, QUIET[0]) as (service, store):
        service.bucket.take_all_of(stored())
        _ = store.read_block("d/0")
        service.reset()
        assert store.read_blocks(["d/0"]) == [b"data data data"]
        assert service.cost.connections == 0


def test_the_page_shows_the_rows() -> None:
    shown = table(page("docs/round-trips.md"), "call")
    assert shown == [[row.operation, counted(row), str(row.rounds)] for row in COSTS]


def counted(row: Row) -> str:
    """The requests, of N keys or N blocks as the page says them."""
    if "N blocks" in row.operation and "content" in row.operation:
        return f"N + {row.requests - BLOCKS}"
    if "N parts" in row.operation:
        more = row.requests - (PARTS if "write" in row.operation else READ_PARTS)
        return f"N + {more}" if more else "N"
    return {MANY: "N", MANY + 1: "N + 1"}.get(row.requests, str(row.requests))
