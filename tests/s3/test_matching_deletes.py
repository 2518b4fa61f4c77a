"""Deletes with `if_match`: what the service says of the condition, and what a lost reply leaves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from blockyard import S3Config, StoreConfig
from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    PreconditionFailedError,
    S3Error,
    ServerError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
    UnsupportedError,
)
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.transport.blocking import run_to_end
from blockyard_faults import FaultProxy, IgnoreHeader, LoseReply, Match, Script
from servers.endpoint import Endpoint
from tests.s3.pretend import Pretended, PretendS3, path, reply, s3_error
from tests.s3.scripted_service import EMPTY, Answer, Scripted, amazon

REFUSED = s3_error(412, "PreconditionFailed")
ABSENT = s3_error(404, "NoSuchKey")
PROBE = ".blockyard-probe-0123456789abcdef01234567"
WRONG = 'DELETE "0123456789abcdef01234567"'
"""The probe's delete with an ETag that nothing has."""


def deleting(service: PretendS3) -> Callable[[Request], Response]:
    """A DELETE that honours `If-Match`, as AWS does."""

    def delete(request: Request) -> Response:
        if "if-match" in request.headers and (refused := service.condition(request)):
            return refused
        _ = service.objects.pop(request.target, None)
        return EMPTY

    return delete


def opened(*, known: bool = False) -> Pretended:
    """A service with a block `k`, which is `known` to honour conditions or not."""
    s3 = Pretended()
    s3.service.answers["DELETE"] = deleting(s3.service)
    if known:
        s3.store._caller.capabilities.matching_deletes = True
    s3.write("k", b"first")
    s3.requests.clear()
    return s3


def known() -> Pretended:
    return opened(known=True)


def etag_of(s3: Pretended) -> str:
    return s3.stored("k").etag.strip('"')


def delete(s3: Pretended | Scripted, etag: str) -> None:
    run_to_end(s3.store.delete_block(s3.ctx, "k", etag))


def sent(s3: Pretended) -> list[str]:
    return [f"{each.method} {each.headers.get('if-match', '')}".strip() for each in s3.requests]


def is_there(s3: Pretended, key: str = "k") -> bool:
    return path(key) in s3.service.objects


def lose(_: Request, __: Response) -> TransportConnectionError:
    return TransportConnectionError("reset")


def test_the_first_one_shows_that_the_service_compares() -> None:
    s3 = opened()
    etag = etag_of(s3)
    delete(s3, etag)
    probe = f'"{hash(b"probe"):x}"'
    assert sent(s3) == ["PUT", WRONG, f"DELETE {probe}", "DELETE", f'DELETE "{etag}"']
    assert {each.target for each in s3.requests} == {path(PROBE), path("k")}
    assert s3.service.objects == {}
    s3.write("k", b"second")
    s3.requests.clear()
    delete(s3, etag_of(s3))
    assert len(s3.requests) == 1  # known from now on


def test_amazon_is_taken_at_its_word() -> None:
    s3 = amazon(EMPTY)
    delete(s3, "e")
    assert [(each.method, each.headers["if-match"]) for each in s3.requests] == [("DELETE", '"e"')]


@pytest.mark.parametrize("of", [opened, known])
def test_a_mismatch_names_both_etags(of: Callable[[], Pretended]) -> None:
    s3 = of()
    match = rf"delete_block 'k': its ETag is '{etag_of(s3)}', not 'other'"
    with pytest.raises(PreconditionFailedError, match=match):
        delete(s3, "other")
    assert is_there(s3)
    assert not is_there(s3, PROBE)


@pytest.mark.parametrize("absent", [ABSENT, REFUSED])
def test_an_absent_block(absent: Response) -> None:
    """AWS answers 404; RFC 9110 would have 412."""
    s3 = known()
    del s3.service.objects[path("k")]
    s3.service.answers["DELETE"] = lambda _: absent
    with pytest.raises(BlockNotFoundError, match="delete_block 'k'") as raised:
        delete(s3, "etag")
    assert raised.value.unknown_attempts == 0


def test_without_a_condition_an_absent_block_is_none() -> None:
    s3 = known()
    s3.service.answers["DELETE"] = lambda _: ABSENT
    run_to_end(s3.store.delete_block(s3.ctx, "k"))


@pytest.mark.parametrize("of", [opened, known])
def test_a_conflict_is_tried_again(of: Callable[[], Pretended]) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html"""
    s3 = of()
    answers = iter([s3_error(409, "ConditionalRequestConflict")])
    honest = s3.service.answers["DELETE"]
    s3.service.answers["DELETE"] = lambda request: next(answers, None) or honest(request)
    delete(s3, etag_of(s3))
    assert not is_there(s3)
    assert s3.ctx.unknown_attempts == 0


@pytest.mark.parametrize("absent", [ABSENT, REFUSED])
@pytest.mark.parametrize(
    "failure", [lose, lambda _, __: s3_error(500, "InternalError"), lambda _, __: s3_error(504, "")]
)
def test_a_delete_whose_reply_was_lost_can_not_be_told_from_another_s(
    absent: Response, failure: Callable[[Request, Response], Any]
) -> None:
    """It may have been ours, so it is neither success nor `BlockNotFoundError`."""
    s3 = known()
    etag = etag_of(s3)
    s3.service.twists = [failure, lambda _, __: absent]
    with pytest.raises(TransportError, match="no reply says whether it deleted ETag") as raised:
        delete(s3, etag)
    assert not is_there(s3)
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 1
    assert "there is no block now" in str(raised.value)


def test_another_block_after_a_lost_reply_is_no_failed_condition() -> None:
    s3 = known()
    etag = etag_of(s3)

    def written_over(request: Request, then: Response) -> TransportConnectionError:
        s3.put("k", b"another's")
        return lose(request, then)

    s3.service.twists = [written_over]
    with pytest.raises(TransportError, match="no reply says whether") as raised:
        delete(s3, etag)
    assert raised.value.unknown_attempts == 1
    assert not isinstance(raised.value, PreconditionFailedError)


def test_one_that_says_what_it_replaced_shows_that_nothing_was_deleted() -> None:
    s3 = known()
    etag = etag_of(s3)

    def not_carried_out(request: Request, then: Response) -> TransportConnectionError:
        s3.put("k", b"first")
        s3.service.twists = []
        s3.store._caller.capabilities.matching_writes = True
        _ = run_to_end(s3.store.write(s3.ctx, WriteRequest("k", b"second", if_match=etag)))
        return lose(request, then)

    s3.service.twists = [not_carried_out]
    with pytest.raises(PreconditionFailedError, match=f"not '{etag}'") as raised:
        delete(s3, etag)
    assert raised.value.unknown_attempts == 0
    assert s3.stored("k").body == b"second"


def test_a_look_that_fails_says_that_the_delete_may_have_happened() -> None:
    s3 = known()
    denied = s3_error(403, "AccessDenied")
    s3.service.twists = [lose, lambda _, __: REFUSED, *[lambda _, __: denied] * 2]
    with pytest.raises(AccessDeniedError) as raised:
        delete(s3, etag_of(s3))
    assert raised.value.unknown_attempts == 1


def test_one_that_compares_is_believed_though_the_etag_is_right_again() -> None:
    s3 = known()
    s3.service.answers["DELETE"] = lambda _: REFUSED
    with pytest.raises(PreconditionFailedError, match="though it is now"):
        delete(s3, etag_of(s3))


def ignoring(s3: Pretended) -> None:
    honest = s3.service.answers["DELETE"]

    def without_condition(request: Request) -> Response:
        headers = {name: each for name, each in request.headers.items() if name != "if-match"}
        return honest(replace(request, headers=headers))

    s3.service.answers["DELETE"] = without_condition


def test_a_service_that_ignores_the_condition_is_found_out_once() -> None:
    s3 = opened()
    ignoring(s3)
    for etag in ("other", etag_of(s3)):
        with pytest.raises(UnsupportedError, match="delete_block 'k': not deleted") as raised:
            delete(s3, etag)
        assert raised.value.unknown_attempts == 0
    assert sent(s3) == ["PUT", WRONG, "DELETE"]
    assert list(s3.service.objects) == [path("k")]
    assert s3.store.stats().capabilities["matching_deletes"] is False
    run_to_end(s3.store.delete_block(s3.ctx, "k"))
    assert not is_there(s3)


def test_a_service_that_ignores_the_condition_is_found_out_though_a_reply_is_lost() -> None:
    s3 = opened()
    ignoring(s3)
    s3.service.twists = [None, lose]
    with pytest.raises(UnsupportedError):
        delete(s3, etag_of(s3))
    assert is_there(s3)
    assert s3.ctx.unknown_attempts == 0  # none of them was of the caller's block


def test_a_service_that_compares_is_found_out_though_a_reply_is_lost() -> None:
    s3 = opened()
    s3.service.twists = [None, None, lose]
    delete(s3, etag_of(s3))
    assert s3.service.objects == {}
    assert s3.ctx.unknown_attempts == 0


def test_an_object_that_others_delete_meanwhile_shows_nothing() -> None:
    s3 = opened()

    def swept(_: Request, then: Response) -> Response:
        del s3.service.objects[path(PROBE)]
        return then

    s3.service.twists = [swept]
    delete(s3, etag_of(s3))
    assert sent(s3)[:4] == ["PUT", WRONG, "DELETE", "PUT"]
    assert s3.store.stats().capabilities["matching_deletes"] is True
    s3 = opened()
    s3.service.twists = [None, swept]
    delete(s3, etag_of(s3))
    assert sent(s3).count("PUT") == 2
    s3 = opened()
    s3.service.always = lambda request, then: swept(request, then) if is_there(s3, PROBE) else then
    with pytest.raises(TransportError, match="gone each time"):
        delete(s3, etag_of(s3))
    assert is_there(s3)
    assert s3.store.stats().capabilities["matching_deletes"] is None


def test_an_object_that_others_deleted_is_not_taken_for_one_that_is_refused() -> None:
    """Where the reply to `If-Match` and no object is 412."""
    s3 = opened()
    honest = s3.service.answers["DELETE"]

    def delete_or_refuse(request: Request) -> Response:
        absent = request.target not in s3.service.objects
        return REFUSED if absent and "if-match" in request.headers else honest(request)

    def swept(_: Request, then: Response) -> Response:
        del s3.service.objects[path(PROBE)]
        return then

    s3.service.answers["DELETE"] = delete_or_refuse
    s3.service.twists = [swept]
    delete(s3, etag_of(s3))
    assert s3.store.stats().capabilities["matching_deletes"] is True


@pytest.mark.parametrize("answer", [s3_error(501, "NotImplemented"), Response(501, {}, b"", 0)])
@pytest.mark.parametrize("of", [opened, known])
def test_a_service_that_refuses_conditions_says_what_it_lacks(
    of: Callable[[], Pretended], answer: Response
) -> None:
    s3 = of()
    honest = s3.service.answers["DELETE"]
    s3.service.answers["DELETE"] = lambda request: (
        answer if "if-match" in request.headers else honest(request)
    )
    with pytest.raises(UnsupportedError, match=r"not deleted: .* If-Match"):
        delete(s3, etag_of(s3))
    assert list(s3.service.objects) == [path("k")]


def test_a_service_that_refuses_the_right_etag_does_not_compare() -> None:
    s3 = opened()
    honest = s3.service.answers["DELETE"]
    s3.service.answers["DELETE"] = lambda request: (
        REFUSED if "if-match" in request.headers else honest(request)
    )
    with pytest.raises(UnsupportedError):
        delete(s3, etag_of(s3))
    assert list(s3.service.objects) == [path("k")]


def test_one_that_compares_the_quotes_gets_none() -> None:
    s3 = opened()
    honest = s3.service.answers["DELETE"]

    def bare(request: Request) -> Response:
        asked = request.headers.get("if-match")
        if asked is not None and asked != s3.service.objects[request.target].etag.strip('"'):
            return REFUSED
        return honest(replace(request, headers={}))

    s3.service.answers["DELETE"] = bare
    etag = etag_of(s3)
    delete(s3, etag)
    assert sent(s3)[-1] == f"DELETE {etag}"
    assert s3.service.objects == {}
    s3.write("k", b"third")
    with pytest.raises(PreconditionFailedError, match=f"not '{etag}'"):
        delete(s3, etag)


def test_what_fails_before_it_says_what_it_was_for() -> None:
    s3 = opened()
    s3.service.answers["PUT"] = lambda _: s3_error(403, "AccessDenied")
    with pytest.raises(AccessDeniedError) as raised:
        delete(s3, etag_of(s3))
    assert "whether the service holds deletes to If-Match" in raised.value.__notes__[-1]
    assert is_there(s3)


def test_what_fails_before_it_has_not_touched_the_block() -> None:
    s3 = opened()
    s3.service.always = lose
    with pytest.raises(TransportConnectionError) as raised:
        delete(s3, etag_of(s3))
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 0
    assert is_there(s3)


@pytest.mark.parametrize("late", ["PUT", "DELETE"])
def test_an_object_of_its_own_is_removed_after_the_deadline(late: str) -> None:
    s3 = opened()
    s3.ctx.deadline = 5.0

    def too_late(request: Request, then: Response) -> Response | TransportError:
        if request.method != late or s3.runtime.clock:
            return then
        s3.runtime.clock = 5.0
        return DeadlineExceededError("the deadline of this call has passed")

    s3.service.always = too_late
    with pytest.raises(DeadlineExceededError) as raised:
        delete(s3, etag_of(s3))
    assert list(s3.service.objects) == [path("k")]
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 0
    assert not [note for note in raised.value.__notes__ if "may" in note]


def test_an_object_of_its_own_is_removed_when_the_deadline_comes_after_the_last_step() -> None:
    s3 = opened()
    s3.ctx.deadline = 5.0

    def slow(request: Request, then: Response) -> Response:
        s3.runtime.clock = 5.0 if request.method == "DELETE" and PROBE in request.target else 0.0
        return then

    s3.service.always = slow
    with pytest.raises(DeadlineExceededError):
        delete(s3, etag_of(s3))
    assert list(s3.service.objects) == [path("k")]


def test_an_object_of_its_own_that_can_not_be_removed_is_told_of() -> None:
    s3 = opened()
    s3.service.answers["DELETE"] = lambda _: s3_error(403, "AccessDenied")
    with pytest.raises(AccessDeniedError) as raised:
        delete(s3, etag_of(s3))
    told = next(note for note in raised.value.__notes__ if "may be left" in note)
    assert repr(PROBE) in told
    assert "`clean` removes it: delete_block" in told
    assert is_there(s3, PROBE)


def test_an_object_of_its_own_is_removed_when_that_fails() -> None:
    s3 = opened()
    denied = s3_error(403, "AccessDenied")
    honest = s3.service.answers["DELETE"]
    s3.service.answers["DELETE"] = lambda request: (
        denied if "if-match" in request.headers else honest(request)
    )
    with pytest.raises(AccessDeniedError):
        delete(s3, etag_of(s3))
    assert list(s3.service.objects) == [path("k")]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_delete_whose_reply_a_proxy_loses(
    name: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([None, None, None, LoseReply()], Match("DELETE"))  # after those of the probe
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        settings = moto_endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
        with open_client(name, StoreConfig(s3=S3Config(**settings))) as client:
            store = client.store
            known = store.write_block("k", b"first")
            with pytest.raises(TransportError, match="no reply says whether") as raised:
                store.delete_block("k", if_match=known.etag)
            assert raised.value.unknown_attempts == 1
            assert store.list_by_prefix() == []
        assert proxy.counts["lose_reply"] == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_a_proxy_that_drops_the_header_is_found_out(
    name: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([IgnoreHeader("if-match")] * 9, Match("DELETE"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        settings = moto_endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
        with open_client(name, StoreConfig(s3=S3Config(**settings))) as client:
            store = client.store
            known = store.write_block("k", b"first")
            with pytest.raises(UnsupportedError, match="not deleted"):
                store.delete_block("k", if_match=known.etag)
            assert store.list_by_prefix() == ["k"]


# Once


WRITTEN = reply(200, {"etag": '"e"'}, b"")
Change = Callable[[Scripted], Coroutine[Any, Any, object]]
ONCE: dict[str, tuple[Change, Answer]] = {
    "a write": (lambda s3: s3.store.write(s3.ctx, WriteRequest("k", b"data")), WRITTEN),
    "a write, if_match": (
        lambda s3: s3.store.write(s3.ctx, WriteRequest("k", b"data", if_match="d")),
        WRITTEN,
    ),
    "a write, if_absent": (
        lambda s3: s3.store.write(s3.ctx, WriteRequest("k", b"data", if_absent=True)),
        WRITTEN,
    ),
    "a delete": (lambda s3: s3.store.delete_block(s3.ctx, "k"), EMPTY),
    "a delete, if_match": (lambda s3: s3.store.delete_block(s3.ctx, "k", "e"), EMPTY),
}
changes = pytest.mark.parametrize(("change", "success"), ONCE.values(), ids=ONCE)


@changes
@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (TransportConnectionError("reset"), TransportConnectionError),
        (TransportTimeoutError("no byte moved"), TransportTimeoutError),
        (s3_error(500, "InternalError"), ServerError),
        (s3_error(503, ""), BlockStoreError),
    ],
)
def test_once_is_not_again_after_an_unknown_outcome(
    change: Change, success: Answer, failure: Answer, kind: type[BlockStoreError]
) -> None:
    s3 = amazon(failure, success)
    s3.ctx.once = True
    with pytest.raises(kind) as raised:
        _ = s3.run(change(s3))
    assert len(s3.requests) == 1
    assert s3.requests[0].once
    assert raised.value.unknown_attempts == s3.ctx.unknown_attempts == 1


@changes
@pytest.mark.parametrize(
    "refused",
    [
        s3_error(503, "SlowDown"),
        s3_error(409, "OperationAborted"),
        TransportConnectionError("refused", established=False),
    ],
)
def test_once_is_again_after_what_was_certainly_not_done(
    change: Change, success: Answer, refused: Answer
) -> None:
    s3 = amazon(refused, success)
    s3.ctx.once = True
    _ = s3.run(change(s3))
    assert len(s3.requests) == 2
    assert s3.ctx.unknown_attempts == 0


def test_reads_are_tried_again_all_the_same() -> None:
    s3 = amazon(TransportConnectionError("reset"), reply(200, {"etag": '"e"'}, b"hello"))
    s3.ctx.once = True
    assert s3.read() == b"hello"
    assert not s3.requests[0].once


def test_what_is_found_out_first_may_be_tried_again() -> None:
    s3 = opened()
    s3.ctx.once = True
    s3.service.twists = [lose, None, lose]
    delete(s3, etag_of(s3))
    assert s3.ctx.unknown_attempts == 0


# The service's clock

DATE = {"date": "Thu, 26 Nov 2026 20:54:43 GMT"}
MOMENT = datetime(2026, 11, 26, 20, 54, 43, tzinfo=UTC)
EMPTY_LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda s3: s3.store.read(s3.ctx, ReadRequest("k")), reply(200, {"etag": "e"} | DATE, b"")),
        (lambda s3: s3.store.read(s3.ctx, ReadRequest("k")), s3_error(404, "NoSuchKey", **DATE)),
        (lambda s3: s3.store.stat_block(s3.ctx, "k"), reply(200, {"etag": "e"} | DATE, b"")),
        (lambda s3: s3.store.list(s3.ctx, ListRequest("")), reply(200, DATE, EMPTY_LISTING)),
        (
            lambda s3: s3.store.write(s3.ctx, WriteRequest("k", b"")),
            reply(200, {"etag": "e"} | DATE, b""),
        ),
        (lambda s3: s3.store.delete_block(s3.ctx, "k", "e"), reply(204, DATE, b"")),
        (
            lambda s3: s3.store.delete_block(s3.ctx, "k", "e"),
            s3_error(412, "PreconditionFailed", **DATE),
        ),
    ],
)
def test_each_reply_tells_the_service_s_time(
    call: Callable[[Scripted], Coroutine[Any, Any, object]], answer: Response
) -> None:
    s3 = amazon(answer)
    assert s3.store.date(s3.ctx) is None
    try:
        _ = s3.run(call(s3))
    except (BlockNotFoundError, S3Error, PreconditionFailedError):
        assert answer.status >= 300
    assert s3.store.date(s3.ctx) == MOMENT


@pytest.mark.parametrize("headers", [{}, {"date": "tomorrow"}])
def test_a_reply_without_a_date_tells_none(headers: dict[str, str]) -> None:
    s3 = amazon(reply(200, {"etag": "e"} | headers, b""))
    _ = s3.read("k")
    assert s3.store.date(s3.ctx) is None


def test_stores_of_this_machine_tell_their_own_time() -> None:
    s3 = amazon(reply(200, {"etag": "e"} | DATE, b""))
    for store in (MemoryStore(), WrapperStore(MemoryStore())):
        assert store.date(s3.ctx) == datetime.fromtimestamp(s3.runtime.wall_time(), UTC)
    _ = s3.read("k")
    assert WrapperStore(s3.store).date(s3.ctx) == MOMENT
