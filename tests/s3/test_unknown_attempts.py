"""A change that was tried more than once says how many attempts have an unknown outcome."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import pytest

from blockyard import S3Config, StoreConfig
from blockyard.context import Request, Response
from blockyard.errors import (
    BlockExistsError,
    BlockStoreError,
    DeadlineExceededError,
    ProtocolError,
    S3Error,
    StoreClosedError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
)
from blockyard.stores.base import WriteRequest
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard_faults import FaultProxy, LoseReply, Match
from blockyard_faults import Script as FaultScript
from servers.endpoint import Endpoint
from tests.s3.pretend import reply
from tests.s3.scripted_service import EMPTY, OK, Answer, Scripted, amazon, s3_error

WRITTEN = reply(200, {"etag": '"e"'}, b"")
COPIED = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
UNKNOWN: dict[str, Answer] = {
    "reset": TransportConnectionError("reset"),
    "timeout": TransportTimeoutError("no byte moved"),
    "garbage": ProtocolError("garbage"),
    "a page": reply(200, {}, b"<html></html>"),
    "500": s3_error(500, "InternalError"),
    "502": s3_error(502),
    "504": s3_error(504),
    "503 of a proxy": s3_error(503),
    "408": s3_error(408),
    "520": s3_error(520),
}
KNOWN: dict[str, Answer] = {
    "refused": TransportConnectionError("refused", established=False),
    "not connected": TransportTimeoutError("connecting", established=False),
    "503": s3_error(503, "SlowDown"),
    "429": s3_error(429),
    "RequestTimeout": s3_error(400, "RequestTimeout"),
    "BadDigest": s3_error(400, "BadDigest"),
    "OperationAborted": s3_error(409, "OperationAborted"),
}
SKEWED = s3_error(403, "RequestTimeTooSkewed", date="Tue, 14 Nov 2023 23:13:20 GMT")
Change = Callable[[Scripted], object]
CHANGES: dict[str, tuple[Change, Answer]] = {
    "write_block": (
        lambda s3: s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"data"))),
        WRITTEN,
    ),
    "delete_block": (lambda s3: s3.run(s3.store.delete_block(s3.ctx, "k")), EMPTY),
}
changes = pytest.mark.parametrize(("change", "success"), CHANGES.values(), ids=CHANGES.keys())


@changes
@pytest.mark.parametrize("failure", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_attempt_whose_outcome_is_unknown_is_counted(
    change: Change, success: Answer, failure: Answer
) -> None:
    s3 = Scripted(success, failure, failure, success)
    _ = change(s3)
    assert s3.ctx.unknown_attempts == 0
    _ = change(s3)
    assert s3.ctx.unknown_attempts == 2


@changes
@pytest.mark.parametrize("failure", KNOWN.values(), ids=KNOWN.keys())
def test_an_attempt_that_was_not_carried_out_is_not(
    change: Change, success: Answer, failure: Answer
) -> None:
    s3 = Scripted(success, failure, failure, success)
    _ = change(s3)
    _ = change(s3)
    assert s3.ctx.unknown_attempts == 0


@changes
@pytest.mark.parametrize("failure", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_error_says_so_as_well(change: Change, success: Answer, failure: Answer) -> None:
    s3 = Scripted(success, failure, max_attempts=3)
    _ = change(s3)
    with pytest.raises(BlockStoreError) as raised:
        _ = change(s3)
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 3
    assert "3 of the attempts may have taken effect" in raised.value.__notes__[-1]


@pytest.mark.parametrize("failure", KNOWN.values(), ids=KNOWN.keys())
def test_an_error_of_attempts_that_were_not_carried_out_says_nothing(failure: Answer) -> None:
    s3 = Scripted(failure, max_attempts=2)
    with pytest.raises(BlockStoreError) as raised:
        _ = CHANGES["write_block"][0](s3)
    assert raised.value.unknown_attempts == 0


def test_a_deadline_that_passes_before_anything_is_sent_leaves_nothing_unknown() -> None:
    s3 = Scripted(s3_error(503, "SlowDown"), s3_error(503, "SlowDown", retry_after="9"))
    s3.ctx = replace(s3.ctx, deadline=5.0)
    with pytest.raises(DeadlineExceededError) as raised:
        _ = CHANGES["write_block"][0](s3)
    assert raised.value.unknown_attempts == 0


def test_a_write_that_waited_for_its_place_in_vain_sent_nothing() -> None:
    s3 = Scripted(WRITTEN)
    limiter = s3.store._caller._limiter
    limiter.limit = 1.0
    permit = s3.run(limiter.acquire(s3.ctx))
    s3.ctx = replace(s3.ctx, deadline=5.0)
    with pytest.raises(DeadlineExceededError) as raised:
        _ = CHANGES["write_block"][0](s3)
    assert raised.value.unknown_attempts == 0
    del permit
    assert s3.requests == []


def test_a_deadline_that_passes_while_waiting_for_the_reply_does() -> None:
    s3 = Scripted(DeadlineExceededError("late"))
    with pytest.raises(DeadlineExceededError) as raised:
        _ = CHANGES["write_block"][0](s3)
    assert raised.value.unknown_attempts == 1


def test_a_write_that_closing_the_store_cuts_off_does_too() -> None:
    s3 = Scripted(StoreClosedError("the store was closed while the call was under way"))
    with pytest.raises(StoreClosedError) as raised:
        _ = CHANGES["write_block"][0](s3)
    assert raised.value.unknown_attempts == 1


def resent(then: Answer) -> Answer:
    """The runtime sent the request twice, since the first connection broke."""

    def answer(request: Request) -> Response:
        request.resent = True
        if isinstance(then, BaseException):
            raise copy(then)
        assert isinstance(then, Response)
        return then

    return answer


@changes
@pytest.mark.parametrize("then", ["success", "refused", "expired"])
def test_a_request_that_the_runtime_sent_twice_has_an_unknown_outcome(
    change: Change, success: Answer, then: str
) -> None:
    """Also where the second connection was refused, so that this one sent nothing."""
    second = {"success": success, "refused": KNOWN["refused"], "expired": SKEWED}[then]
    s3 = Scripted(success, resent(second), success)
    _ = change(s3)
    _ = change(s3)
    assert s3.ctx.unknown_attempts == 1
    s3 = Scripted(success, resent(KNOWN["refused"]), max_attempts=1)
    _ = change(s3)
    with pytest.raises(TransportConnectionError) as raised:
        _ = change(s3)
    assert raised.value.unknown_attempts == 1


def test_a_copy_counts_as_a_change() -> None:
    s3 = Scripted(UNKNOWN["reset"], COPIED)
    _ = s3.run(s3.store.copy_block(s3.ctx, "k", "l"))
    assert s3.ctx.unknown_attempts == 1


def test_a_conditional_write_that_met_its_own_block_knows_of_the_first_attempt() -> None:
    own = reply(200, {"etag": "e", "x-amz-meta-blockyard-nonce": "0123456789abcdef01234567"}, b"")
    s3 = amazon(UNKNOWN["timeout"], s3_error(412, "PreconditionFailed"), own)
    _ = s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"", if_absent=True)))
    assert s3.ctx.unknown_attempts == 1


CALLS_AFTER_IT: dict[str, tuple[Change, list[Answer], dict[str, object]]] = {
    "the look at a block that was taken": (
        CHANGES["write_block"][0],
        [reply(200, {}, b""), s3_error(403, "AccessDenied")],
        {"write_proof": "head"},
    ),
    "a block that was taken and is not there": (
        CHANGES["write_block"][0],
        [reply(200, {}, b""), s3_error(404, "NoSuchKey")],
        {"write_proof": "head"},
    ),
    "the proof that conditions are kept": (
        lambda s3: s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"", if_absent=True))),
        [s3_error(404, "NoSuchKey"), WRITTEN, s3_error(403, "AccessDenied")],
        {},
    ),
    "whether it is one's own block": (
        lambda s3: s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"", if_absent=True))),
        [
            s3_error(404, "NoSuchKey"),
            TransportTimeoutError("x"),
            s3_error(412),
            s3_error(403, "AccessDenied"),
        ],
        {},
    ),
}


@pytest.mark.parametrize(
    ("change", "answers", "settings"), CALLS_AFTER_IT.values(), ids=CALLS_AFTER_IT.keys()
)
def test_what_follows_on_a_change_and_fails_says_that_it_may_have_happened(
    change: Change, answers: list[Answer], settings: dict[str, object]
) -> None:
    s3 = Scripted(*answers, **settings)
    with pytest.raises(BlockStoreError) as raised:
        _ = change(s3)
    assert raised.value.unknown_attempts == 1


def test_deletes_of_many_count_their_batches() -> None:
    rows = b"<DeleteResult><Deleted><Key>a</Key></Deleted></DeleteResult>"
    s3 = Scripted(UNKNOWN["reset"], reply(200, {}, rows))
    _ = s3.run(s3.store.delete_blocks(s3.ctx, ["a"]))
    assert s3.ctx.unknown_attempts == 1


def test_reads_change_nothing() -> None:
    s3 = Scripted(UNKNOWN["reset"], OK)
    _ = s3.read()
    assert s3.ctx.unknown_attempts == 0
    with pytest.raises(S3Error) as raised:
        _ = Scripted(s3_error(500), max_attempts=2).read()
    assert raised.value.unknown_attempts == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_write_whose_replies_are_lost_says_that_it_may_have_happened(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    """Over sockets: the block is there, though every reply was lost."""
    plan = FaultScript([LoseReply(), LoseReply()], Match(method="PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        settings = moto_endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
        config = StoreConfig(s3=S3Config(**settings, max_attempts=2))
        with open_client(client, config) as opened:
            with pytest.raises(TransportError) as raised:
                _ = opened.store.write_block("key", b"mine")
            assert raised.value.unknown_attempts == 2
            assert opened.store.read_block("key") == b"mine"


@pytest.mark.parametrize(("first", "unknown"), [(UNKNOWN["reset"], 1), (KNOWN["503"], 0)])
def test_a_block_that_is_there_does_not_make_an_earlier_attempt_known(
    first: Answer, unknown: int
) -> None:
    """It may be carried out late, once that block was deleted: then it succeeds."""
    there = reply(200, {"etag": '"other"', "content-length": "5"}, b"")
    s3 = amazon(first, s3_error(412, "PreconditionFailed"), there)
    with pytest.raises(BlockExistsError) as raised:
        _ = s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"data", if_absent=True)))
    assert raised.value.unknown_attempts == unknown
