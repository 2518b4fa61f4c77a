"""What a store says of itself: `stats`, and what it logs under `blockyard`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

import blockyard
from blockyard import StoreStats, open_async_store
from blockyard.errors import BlockStoreError, TransportConnectionError
from blockyard.s3.hedging import Hedging
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from tests.s3.pretend import Pretended
from tests.s3.scripted_service import OK, Answer, Scripted, s3_error
from tests.small_s3 import small_s3

SECRETS = ("AKIDEXAMPLE", "the-secret", "the-token", "private/key")
SKEWED = s3_error(403, "RequestTimeTooSkewed", date="Tue, 14 Nov 2023 23:13:20 GMT")
ELSEWHERE = s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3")


def test_requests_are_counted_by_their_outcome() -> None:
    s3 = Scripted(
        OK,
        TransportConnectionError("reset"),
        s3_error(503, "SlowDown"),
        s3_error(500, "InternalError"),
        OK,
        s3_error(404, "NoSuchKey"),
    )
    for _ in range(2):
        _ = s3.read()
    with pytest.raises(BlockStoreError):
        _ = s3.read()
    stats = s3.store.stats()
    assert (stats.succeeded, stats.lost, stats.throttled, stats.error_responses) == (2, 1, 1, 2)
    assert stats.succeeded + stats.lost + stats.throttled + stats.error_responses == len(
        s3.requests
    )
    assert stats.retries == 3
    assert stats.concurrency_limit is not None
    assert 0 < stats.retry_tokens < 500


def test_what_was_learnt_is_told() -> None:
    s3 = Scripted(SKEWED, OK)
    before = s3.store.stats()
    _ = s3.read()
    after = s3.store.stats()
    assert (before.clock_offset, after.clock_offset) == (0.0, 3600.0)
    assert (before.capabilities["answered"], after.capabilities["answered"]) == (False, True)
    assert before.region == "us-east-1"
    assert (before.page_size, before.concurrency_limit) == (16 * 1024, None)


def test_a_snapshot_does_not_change() -> None:
    s3 = Pretended()
    before = s3.store.stats()
    copy = replace(before, capabilities=dict(before.capabilities))
    s3.write("k", b"")
    assert before == copy != s3.store.stats()


def test_the_page_size_is_that_of_the_last_ranged_read() -> None:
    s3 = Pretended()
    s3.write("large", bytes(8 * 1024 * 1024))
    _ = s3.read_range("large", 5, 10)
    assert s3.store.stats().page_size == 32 * 1024


def test_local_stores_count_nothing_and_a_wrapper_forwards() -> None:
    class Counted(MemoryStore):
        def stats(self) -> StoreStats:
            return StoreStats(succeeded=3)

    with blockyard.open_store("memory://") as store:
        assert store.stats() == StoreStats()
    with blockyard.open_store(WrapperStore(Counted())) as store:
        assert store.stats().succeeded == 3
    assert store.stats().succeeded == 3  # closed


LOGGED: dict[str, tuple[list[Answer], int, str]] = {
    "a retry": ([TransportConnectionError("reset"), OK], logging.INFO, "attempt 1 failed"),
    "throttling": ([s3_error(503, "SlowDown"), OK], logging.INFO, "the service throttles"),
    "a clock": ([SKEWED, OK], logging.INFO, "clock of the service is +3600 s off"),
    "a region": ([ELSEWHERE, OK], logging.INFO, "the bucket is in eu-west-3"),
    "a capability": (
        [s3_error(400, "InvalidArgument"), OK],
        logging.INFO,
        "learnt of the service: checksum_mode is False",
    ),
}


@pytest.mark.parametrize(("answers", "level", "text"), LOGGED.values(), ids=LOGGED.keys())
def test_each_event_is_logged_without_a_secret(
    answers: list[Answer], level: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "blockyard")
    s3 = Scripted(*answers)
    _ = s3.read()
    found = [record for record in caplog.records if text in record.getMessage()]
    assert [record.levelno for record in found] == [level]
    assert found[0].name.startswith("blockyard.")
    assert not any(secret in caplog.text for secret in SECRETS[:3])


def test_the_end_of_throttling_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "blockyard")
    s3 = Scripted(OK)
    s3.store._caller._limiter.limit = 255.999
    for _ in range(3):
        _ = s3.read()
    assert [record.getMessage() for record in caplog.records if "keeps up" in record.message] == [
        "the service keeps up: requests are not limited any more"
    ]


def test_a_hedge_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "blockyard")
    hedging = Hedging()
    for _ in range(64):
        hedging.answered(0.001)
    assert hedging.hedge is not None
    assert hedging.hedge.allowed()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_nothing_is_logged_where_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "blockyard")
    s3 = Pretended()
    s3.write("k", b"data")
    assert s3.read("k") == b"data"
    caplog.clear()
    for _ in range(3):
        assert s3.read("k") == b"data"
    assert caplog.records == []


def test_connections_are_counted_in_both_clients() -> None:
    """A request sees its own connection taken; the next one finds it idle."""

    async def under_asyncio(url: str) -> list[tuple[int, int]]:
        async with open_async_store(url) as store:
            await store.write_block("k", b"data")
            return [connections(store.stats())]

    with small_s3() as server:
        url = server.store_url()
        with blockyard.open_store(url) as store:
            assert connections(store.stats()) == (0, 0)
            _ = store.write_block("k", b"data")
            assert connections(store.stats()) == (0, 1)
        assert connections(store.stats()) == (0, 0)
        assert asyncio.run(under_asyncio(url)) == [(0, 1)]


def connections(stats: StoreStats) -> tuple[int, int]:
    return stats.connections_taken, stats.connections_idle
