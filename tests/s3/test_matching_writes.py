"""Writes with `if_match`: what the service says of the condition, and what a lost reply leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from blockyard import S3Config, StoreConfig, open_store
from blockyard.context import Request, Response
from blockyard.errors import (
    BlockNotFoundError,
    PreconditionFailedError,
    S3Error,
    TransportConnectionError,
    TransportError,
    UnsupportedError,
)
from blockyard.model import BlockInfo
from blockyard.stores.base import WriteRequest
from blockyard.transport.blocking import run_to_end
from blockyard_faults import FaultProxy, LoseReply, Match, Script
from servers.endpoint import Endpoint
from tests.s3.pretend import Pretended, Twist, path, reply, s3_error
from tests.s3.scripted_service import Scripted

NONCE = "x-amz-meta-blockyard-nonce"
REFUSED = s3_error(412, "PreconditionFailed")


def stored(s3: Pretended, data: bytes = b"first") -> str:
    """A block; the ETag that it has, without quotes."""
    s3.write("k", data)
    s3.requests.clear()
    return s3.stored("k").etag.strip('"')


def write(s3: Pretended, etag: str, data: bytes = b"second") -> BlockInfo:
    return run_to_end(s3.store.write(s3.ctx, WriteRequest("k", data, if_match=etag)))


def known() -> Pretended:
    """A service that is known to keep conditions, as AWS is."""
    s3 = Pretended()
    s3.store._caller.capabilities.matching_writes = True
    return s3


def sent(s3: Pretended) -> list[str]:
    return [f"{each.method} {each.headers.get('if-match', '')}".strip() for each in s3.requests]


def lose(_: Request, __: Response) -> TransportConnectionError:
    return TransportConnectionError("reset")


def test_the_first_one_shows_that_the_service_compares() -> None:
    s3 = Pretended()
    etag = stored(s3)
    info = write(s3, etag)
    assert sent(s3) == ["HEAD", f'PUT "{etag}"', f'PUT "{s3.runtime.nonce()}"']
    assert s3.stored("k").body == b"second"
    _ = write(s3, info.etag, b"third")
    assert sent(s3)[3:] == [f'PUT "{info.etag}"']  # known from now on


def test_amazon_is_taken_at_its_word() -> None:
    s3 = Scripted(reply(200, {"etag": '"e"'}, b""), endpoint="", force_path_style=False)
    _ = s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"", if_match="d")))
    assert [each.headers["if-match"] for each in s3.requests] == ['"d"']


@pytest.mark.parametrize("opened", [Pretended, known])
def test_a_mismatch_names_both_etags(opened: Callable[[], Pretended]) -> None:
    s3 = opened()
    etag = stored(s3)
    with pytest.raises(PreconditionFailedError, match=rf"'k': its ETag is '{etag}', not 'other'"):
        _ = write(s3, "other")
    assert s3.stored("k").body == b"first"


@pytest.mark.parametrize("opened", [Pretended, known])
@pytest.mark.parametrize("absent", [s3_error(404, "NoSuchKey"), REFUSED])
def test_an_absent_block(opened: Callable[[], Pretended], absent: Response) -> None:
    """AWS answers 404, Ceph 412."""
    s3 = opened()
    s3.write("other", b"")  # so that the bucket is known
    s3.service.always = lambda request, sent: absent if request.method == "PUT" else sent
    with pytest.raises(BlockNotFoundError, match="write_block 'k'"):
        _ = write(s3, "etag")


def test_a_write_whose_reply_was_lost_knows_its_own() -> None:
    s3 = known()
    etag = stored(s3)
    s3.service.twists = [lose]
    assert write(s3, etag).size == len(b"second")
    assert sent(s3) == [f'PUT "{etag}"'] * 2 + ["HEAD"]
    assert s3.ctx.unknown_attempts == 1


def replaced(s3: Pretended) -> Twist:
    def twist(request: Request, sent: Response) -> TransportConnectionError:
        s3.put("k", b"another's")
        return lose(request, sent)

    return twist


def deleted(s3: Pretended) -> Twist:
    def twist(request: Request, sent: Response) -> TransportConnectionError:
        del s3.service.objects[path("k")]
        return lose(request, sent)

    return twist


@pytest.mark.parametrize("meanwhile", [replaced, deleted])
def test_what_cannot_be_told_is_no_failed_condition(
    meanwhile: Callable[[Pretended], Twist],
) -> None:
    """It was written, and is not there now: `PreconditionFailedError` would say that it was not."""
    s3 = known()
    etag = stored(s3)
    s3.service.twists = [meanwhile(s3)]
    with pytest.raises(TransportError, match="write_block 'k': no reply says whether") as raised:
        _ = write(s3, etag)
    assert raised.value.unknown_attempts == 1
    assert not isinstance(raised.value, PreconditionFailedError)


def test_a_version_that_another_replaced_was_not_replaced_before() -> None:
    """So a 500 without a reason, which Ceph gives the losers of a race, is a failed condition."""
    s3 = known()
    etag = stored(s3)

    def lost(_: Request, __: Response) -> Response:
        s3.put("k", b"first")  # it was not carried out
        s3.runtime.nonce = lambda: "another's"  # type: ignore[method-assign]
        s3.service.twists = []
        _ = write(s3, etag, b"another's")
        return s3_error(500, "UnknownError")

    s3.service.twists = [lost]
    with pytest.raises(PreconditionFailedError, match=f"not '{etag}'") as raised:
        _ = write(s3, etag)
    assert raised.value.unknown_attempts == 0
    assert s3.stored("k").body == b"another's"


def test_a_look_that_fails_says_that_the_write_may_have_happened() -> None:
    s3 = known()
    etag = stored(s3)
    denied = s3_error(403, "AccessDenied")
    s3.service.twists = [lose, None, lambda _, __: denied, lambda _, __: denied]
    with pytest.raises(S3Error) as raised:
        _ = write(s3, etag)
    assert raised.value.unknown_attempts == 1


@pytest.mark.parametrize("lost", [0, 1])
def test_a_412_to_a_proxy_s_own_retry_is_no_failed_condition(lost: int) -> None:
    """nginx sends a PUT again by itself: the first answer that is seen may be to its second."""
    s3 = known()
    etag = stored(s3)

    def twice(request: Request, _: Response) -> Response:
        return s3.service.put(request)

    s3.service.twists = [*[lose] * lost, twice]
    _ = write(s3, etag)
    assert s3.stored("k").body == b"second"


def test_a_conflict_is_tried_again() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""
    s3 = known()
    etag = stored(s3)

    def conflict(request: Request, _: Response) -> Response:
        s3.put("k", b"first")  # it was not carried out
        return s3_error(409, "ConditionalRequestConflict")

    s3.service.twists = [conflict]
    _ = write(s3, etag)
    assert s3.ctx.unknown_attempts == 0


def ignoring(s3: Pretended) -> None:
    put = s3.service.put

    def without_condition(request: Request) -> Response:
        _ = request.headers.pop("if-match", None)
        return put(request)

    s3.service.always = lambda request, sent: (
        without_condition(request) if request.method == "PUT" else sent
    )


def test_a_service_that_ignores_the_condition_is_found_out_once() -> None:
    s3 = Pretended()
    etag = stored(s3)
    ignoring(s3)
    with pytest.raises(PreconditionFailedError):
        _ = write(s3, "other")
    assert s3.stored("k").body == b"first"
    with pytest.raises(UnsupportedError, match="if_match is not possible") as raised:
        _ = write(s3, etag)
    assert "stored, perhaps in place of another" in str(raised.value)
    assert raised.value.unknown_attempts == 1
    s3.requests.clear()
    with pytest.raises(UnsupportedError, match="not stored"):
        _ = write(s3, etag)
    assert s3.requests == []
    s3.write("k", b"third")


def test_two_that_replace_one_version_never_both_win_where_it_is_ignored() -> None:
    stores = [Pretended(), Pretended()]
    stores[1].service = stores[1].runtime.service = stores[0].service
    etag = stored(stores[0])
    ignoring(stores[0])
    for s3 in stores:
        with pytest.raises((UnsupportedError, PreconditionFailedError)):
            _ = write(s3, etag)


@pytest.mark.parametrize("answer", [s3_error(501, "NotImplemented"), Response(501, {}, b"", 0)])
def test_a_service_that_refuses_conditions_says_what_it_lacks(answer: Response) -> None:
    s3 = Pretended()
    etag = stored(s3)
    s3.service.always = lambda request, sent: answer if "if-match" in request.headers else sent
    with pytest.raises(UnsupportedError, match=r"not stored: .* If-Match") as raised:
        _ = write(s3, etag)
    assert isinstance(raised.value.__cause__, S3Error)


def test_a_service_that_refuses_the_right_etag_does_not_compare() -> None:
    """Else who reads and writes in a loop would do so for ever."""
    s3 = Pretended()
    etag = stored(s3)
    s3.service.answers["PUT"] = lambda _: REFUSED
    with pytest.raises(UnsupportedError, match="not stored"):
        _ = write(s3, etag)


def test_one_that_compares_is_believed_though_the_etag_is_right_again() -> None:
    s3 = known()
    etag = stored(s3)
    s3.service.answers["PUT"] = lambda _: REFUSED
    with pytest.raises(PreconditionFailedError, match="though it is now"):
        _ = write(s3, etag)


def test_the_quotes_that_ceph_compares_are_left_out() -> None:
    s3 = Pretended()
    etag = stored(s3)
    put = s3.service.put

    def bare(request: Request) -> Response:
        asked = request.headers.get("if-match")
        there = s3.service.objects.get(request.target)
        if asked is not None and (there is None or asked != there.etag.strip('"')):
            return REFUSED
        headers = {k: v for k, v in request.headers.items() if k != "if-match"}
        return put(Request(request.origin, "PUT", request.target, headers, request.body))

    s3.service.answers["PUT"] = bare
    info = write(s3, etag)
    assert sent(s3) == [
        "HEAD",
        f'PUT "{etag}"',
        "HEAD",
        f"PUT {etag}",
        f"PUT {s3.runtime.nonce()}",
    ]
    s3.requests.clear()
    info = write(s3, info.etag, b"third")
    assert len(s3.requests) == 1
    s3.runtime.nonce = lambda: "fedcba9876543210"  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailedError, match=f"is '{info.etag}', not '{etag}'"):
        _ = write(s3, etag)


def test_each_of_many_is_counted_once_though_replies_are_lost(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    """Only after a `TransportError` has one to look whether it was counted."""
    names = [f"{worker}-{number}" for worker in range(4) for number in range(6)]
    plan = Script([LoseReply(), None, None] * 40, Match("PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        settings = moto_endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
        with open_store(StoreConfig(s3=S3Config(**settings))) as store:
            _ = store.write_block("names", b"")
            untold: list[str] = []

            def add(name: str) -> bool:
                data, info = store.read_block_with_info("names")
                if name in untold and name.encode() in data.split():
                    return True
                try:
                    _ = store.write_block("names", data + f" {name}".encode(), if_match=info.etag)
                except PreconditionFailedError:
                    return False
                except TransportError:
                    untold.append(name)
                    return False
                return True

            def work(worker: int) -> None:
                for name in names[worker::4]:
                    while not add(name):
                        pass

            threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(store.read_block("names").decode().split()) == sorted(names)
        assert proxy.counts["lose_reply"] > 4
