"""Plans: which request meets which fault; and host names that fail."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import pytest

from blockyard_faults import (
    FAULT_RATES,
    FaultyNames,
    FlipBit,
    LoseReply,
    Match,
    RandomFaults,
    ResetBefore,
    Script,
    SeenRequest,
    Status,
    Truncate,
)


def request(method: str = "GET", target: str = "/bucket/key") -> SeenRequest:
    return SeenRequest(1, 1, method, target, {}, 0)


def test_a_script_is_played_once_to_the_requests_that_match() -> None:
    script = Script([ResetBefore(), None, LoseReply()], Match("PUT", target="/a"))
    asked = [("GET", "/a"), ("PUT", "/b"), *[("PUT", "/bucket/a")] * 4]
    met = [script(request(*ask)) for ask in asked]
    assert met == [None, None, ResetBefore(), None, LoseReply(), None]
    assert script.left == 0


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(), True),
        (Match(method="GET"), True),
        (Match(method="PUT"), False),
        (Match(target="key$"), True),
        (Match(target="^key"), False),
        (Match(method="PUT", target="key"), False),
    ],
)
def test_match(match: Match, expected: bool) -> None:
    assert match(request()) is expected


def test_a_campaign_can_be_repeated() -> None:
    first, again, other = (
        [campaign(request()) for _ in range(500)]
        for campaign in (RandomFaults(seed, FAULT_RATES) for seed in (1, 1, 2))
    )
    assert first == again
    assert first != other


def test_a_campaign_keeps_its_rates() -> None:
    campaign = RandomFaults(3, FAULT_RATES)
    names = Counter(fault.name for _ in range(20_000) if (fault := campaign(request())))
    resets = [
        names.pop(name)
        for name in ("reset_before", "reset_during_request", "reset_during_body", "lose_reply")
    ]
    assert sum(resets) == pytest.approx(3000, rel=0.1)
    assert min(resets) > 600
    assert names.pop("status_503") == pytest.approx(2000, rel=0.1)
    assert names.pop("status_429") == pytest.approx(1000, rel=0.1)
    assert names.pop("truncate") == pytest.approx(400, rel=0.2)
    assert names.pop("flip_bit") == pytest.approx(200, rel=0.3)
    assert not names


def test_bits_are_flipped_only_where_a_client_could_tell() -> None:
    schedule = RandomFaults(4, {draw: rate for draw, rate in FAULT_RATES.items() if rate == 0.01})
    assert any(isinstance(schedule(request()), FlipBit) for _ in range(1000))
    for unnoticed in (
        request("GET", "/bucket?list-type=2"),
        request("PUT"),
        request("POST", "/b?delete"),
    ):
        assert not any(schedule(unnoticed) for _ in range(1000))


def test_a_campaign_is_only_for_requests_that_match() -> None:
    campaign = RandomFaults(5, {Status(503): 1.0}, Match("PUT"))
    assert campaign(request()) is None
    assert campaign(request("PUT")) == Status(503)


def test_rates_over_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 1 in all, got 1\.2"):
        _ = RandomFaults(6, {Truncate(): 0.7, Status(503): 0.5})


def resolve(name: str) -> str:
    return str(socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)[0][4][0])


async def resolve_in_asyncio(name: str) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(name, 80)
    return str(found[0][4][0])


def test_a_name_that_fails_and_then_resolves() -> None:
    with FaultyNames({"bucket.s3.test": "127.0.0.1"}, failures=2) as names:
        with pytest.raises(socket.gaierror, match="Temporary failure"):
            _ = resolve("bucket.s3.test")
        with pytest.raises(socket.gaierror, match="Temporary failure"):
            _ = asyncio.run(resolve_in_asyncio("bucket.s3.test"))
        assert resolve("bucket.s3.test") == "127.0.0.1"
        assert asyncio.run(resolve_in_asyncio("bucket.s3.test")) == "127.0.0.1"
        assert resolve("127.0.0.2") == "127.0.0.2"
        assert names.lookups == {"bucket.s3.test": 4}
    with pytest.raises(socket.gaierror):
        _ = socket.getaddrinfo("bucket.s3.test", 80, flags=socket.AI_NUMERICHOST)
