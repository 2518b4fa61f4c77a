"""Deleting many: each key has its own outcome, and only what may pass is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import unescape
from re import findall
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.context import Context, Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockStoreError,
    BucketNotFoundError,
    DeadlineExceededError,
    PartialDeleteError,
    ProtocolError,
    S3Error,
    ServerError,
    ThrottledError,
    TransportConnectionError,
)
from blockyard.model import DeleteResult
from tests.s3.pretend import reply
from tests.s3.scripted_service import EMPTY, Answer, Scripted, s3_error

MANY = [f"folder/key-{number:04}" for number in range(2500)]


def asked(request: Request) -> list[str]:
    """The keys that a DeleteObjects request names."""
    return [unescape(key) for key in findall("<Key>(.*?)</Key>", bytes(request.body).decode())]


def outcome(deleted: Iterable[str], errors: dict[str, str] | None = None) -> Response:
    rows = [f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in deleted]
    rows += [
        f"<Error><Key>{escape(key)}</Key><Code>{code}</Code><Message>m</Message></Error>"
        for key, code in (errors or {}).items()
    ]
    return reply(200, {}, f"<DeleteResult>{''.join(rows)}</DeleteResult>".encode())


def obey(request: Request) -> Response:
    """Delete what is asked."""
    return outcome(asked(request)) if request.method == "POST" else EMPTY


def refusing(code: str, *keys: str) -> Callable[[Request], Response]:
    """Delete all that is asked but `keys`."""

    def answer(request: Request) -> Response:
        wanted = asked(request)
        refused = {key: code for key in wanted if key in keys}
        return outcome([key for key in wanted if key not in refused], refused)

    return answer


def delete(s3: Scripted, keys: list[str]) -> DeleteResult:
    return s3.run(s3.store.delete_blocks(s3.ctx, keys))


def sizes(s3: Scripted) -> list[int]:
    return [len(asked(request)) for request in s3.requests if request.method == "POST"]


def test_all_go_in_batches_in_the_order_asked() -> None:
    s3 = Scripted(obey)
    assert delete(s3, MANY) == DeleteResult(MANY, {})
    assert sizes(s3) == [1000, 1000, 500]
    assert [key for request in s3.requests for key in asked(request)] == MANY


def test_nothing_is_asked_for_nothing() -> None:
    s3 = Scripted(obey)
    assert delete(s3, []) == DeleteResult([], {})
    assert s3.requests == []


@pytest.mark.parametrize("code", ["AccessDenied", "SomethingNew", "InvalidArgument"])
def test_a_key_that_fails_for_good_fails_alone_and_at_once(code: str) -> None:
    s3 = Scripted(refusing(code, "b"))
    result = delete(s3, ["a", "b", "c"])
    assert result.deleted == ["a", "c"]
    assert list(result.failed) == ["b"]
    assert "delete_blocks 'b'" in str(result.failed["b"])
    assert code in str(result.failed["b"])


@pytest.mark.parametrize("keys", [["a"], ["a", "b"]])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", AccessDeniedError),
        ("InternalError", ServerError),
        ("SlowDown", ThrottledError),
    ],
)
def test_keys_that_all_fail_for_themselves_are_still_results(
    keys: list[str], code: str, kind: type[BlockStoreError]
) -> None:
    """Also when there is only one: the request was made, and the key has its own outcome."""
    s3 = Scripted(refusing(code, *keys))
    result = delete(s3, keys)
    assert result.deleted == []
    assert list(result.failed) == keys
    assert {type(error) for error in result.failed.values()} == {kind}
    with pytest.raises(PartialDeleteError):
        result.raise_for_failures()


@pytest.mark.parametrize("code", ["InternalError", "SlowDown", "ServiceUnavailable"])
def test_only_the_keys_that_failed_are_tried_again(code: str) -> None:
    s3 = Scripted(refusing(code, "b", "d"), refusing(code, "d"), obey)
    assert delete(s3, ["a", "b", "c", "d"]) == DeleteResult(["a", "b", "c", "d"], {})
    assert [asked(request) for request in s3.requests] == [["a", "b", "c", "d"], ["b", "d"], ["d"]]
    assert len(s3.pauses) == 2


def test_a_key_that_keeps_failing_is_given_up_and_the_others_are_gone() -> None:
    s3 = Scripted(refusing("InternalError", "b"), max_attempts=4)
    result = delete(s3, ["a", "b", "c"])
    assert result.deleted == ["a", "c"]
    assert isinstance(result.failed["b"], ServerError)
    assert [asked(request) for request in s3.requests] == [["a", "b", "c"], ["b"], ["b"], ["b"]]
    assert len(result.failed["b"].__notes__) == 3


def test_keys_that_are_words_of_the_protocol_are_keys() -> None:
    keys = ["SlowDown", "<Error>", "NoSuchKey", "Deleted", "a&amp;b", "]]>", "InternalError", "404"]
    s3 = Scripted(refusing("AccessDenied", "SlowDown"))
    result = delete(s3, keys)
    assert result.deleted == keys[1:]
    assert list(result.failed) == ["SlowDown"]
    assert len(s3.requests) == 1


def test_keys_that_xml_can_not_hold_go_one_by_one() -> None:
    odd = ["a\x01b", "\x7f\x0b", "z\ufffe"]
    s3 = Scripted(obey)
    assert delete(s3, ["a", *odd, "b"]) == DeleteResult(["a", *odd, "b"], {})
    assert [request.method for request in s3.requests] == ["POST", *["DELETE"] * 3]
    assert asked(s3.requests[0]) == ["a", "b"]


def test_each_of_those_has_its_own_outcome_too() -> None:
    s3 = Scripted(EMPTY, s3_error(403, "AccessDenied"), EMPTY)
    result = delete(s3, ["\x01", "\x02", "\x03"])
    assert result.deleted == ["\x01", "\x03"]
    assert isinstance(result.failed["\x02"], AccessDeniedError)


def test_keys_are_named_without_the_prefix_that_the_service_knows() -> None:
    s3 = Scripted(refusing("AccessDenied", "pre/b"), key_prefix="pre/")
    result = delete(s3, ["a", "b"])
    assert asked(s3.requests[0]) == ["pre/a", "pre/b"]
    assert result.deleted == ["a"]
    assert list(result.failed) == ["b"]


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (s3_error(403, "AccessDenied"), AccessDeniedError),
        (s3_error(404, "NoSuchBucket"), BucketNotFoundError),
        (s3_error(400, "MalformedXML"), S3Error),
        (s3_error(500, "InternalError"), ServerError),
        (s3_error(503, "SlowDown"), ThrottledError),
        (TransportConnectionError("refused", established=False), TransportConnectionError),
        (reply(200, {}, b"<Nonsense/>"), ProtocolError),
    ],
    ids=repr,
)
@pytest.mark.parametrize("keys", [["a"], ["a", "b"], MANY], ids=["one", "two", "several batches"])
def test_when_nothing_could_be_attempted_that_is_raised(
    failure: Answer, kind: type[BlockStoreError], keys: list[str]
) -> None:
    s3 = Scripted(failure, max_attempts=2)
    with pytest.raises(kind) as raised:
        _ = delete(s3, keys)
    assert type(raised.value) is kind
    assert "delete_blocks" in str(raised.value)


def test_a_request_that_fails_after_others_did_their_part_leaves_results() -> None:
    s3 = Scripted(obey, s3_error(403, "AccessDenied"))
    result = delete(s3, MANY)
    assert result.deleted == MANY[:1000]
    assert list(result.failed) == MANY[1000:]
    assert {type(error) for error in result.failed.values()} == {AccessDeniedError}


def test_a_batch_that_failed_whole_after_a_part_of_it_was_done() -> None:
    s3 = Scripted(refusing("InternalError", "b"), s3_error(403, "AccessDenied"))
    result = delete(s3, ["a", "b"])
    assert result.deleted == ["a"]
    assert isinstance(result.failed["b"], AccessDeniedError)


def test_a_key_the_reply_passes_over_is_tried_again_and_never_called_gone() -> None:
    s3 = Scripted(outcome(["a"]), outcome([]), obey)
    assert delete(s3, ["a", "b"]) == DeleteResult(["a", "b"], {})
    assert [asked(request) for request in s3.requests] == [["a", "b"], ["b"], ["b"]]
    s3 = Scripted(outcome(["a"]), outcome([]), max_attempts=3)
    result = delete(s3, ["a", "b"])
    assert result.deleted == ["a"]
    assert {type(error) for error in result.failed.values()} == {ProtocolError}


class Busy:
    """A service that throttles requests for more keys than it likes."""

    def __init__(self, most: int, code: str = "SlowDown") -> None:
        self.most = most
        self._code = code
        self.gone: list[str] = []

    def __call__(self, request: Request) -> Response:
        keys = asked(request)
        if len(keys) > self.most:
            return s3_error(503, self._code)
        self.gone += keys
        return outcome(keys)


@pytest.mark.parametrize("most", [10, 60, 400, 999])
def test_throttling_shrinks_the_batches_until_they_pass(most: int) -> None:
    service = Busy(most)
    s3 = Scripted(service)
    assert delete(s3, MANY) == DeleteResult(MANY, {})
    assert sorted(service.gone) == MANY


def test_batches_grow_again_when_the_service_keeps_up() -> None:
    service = Busy(300)
    s3 = Scripted(service)
    _ = delete(s3, MANY)
    throttled = sizes(s3)
    service.most = 1000
    s3.requests.clear()
    _ = delete(s3, MANY * 2)
    assert min(throttled) <= 300
    assert sizes(s3)[0] < 1000
    assert max(sizes(s3)) == 1000


def test_no_batch_is_smaller_than_need_be() -> None:
    s3 = Scripted(s3_error(503, "SlowDown"))
    with pytest.raises(ThrottledError):
        _ = delete(s3, MANY[:100])
    assert min(sizes(s3)) == 10


def test_the_deadline_ends_the_tries() -> None:
    s3 = Scripted(refusing("InternalError", "b"))
    s3.ctx = Context(s3.runtime, deadline=0.5)
    result = delete(s3, ["a", "b", "c"])
    assert result.deleted == ["a", "c"]
    assert isinstance(result.failed["b"], ServerError)
    assert s3.runtime.clock < 0.5
    s3 = Scripted(s3_error(500))
    s3.ctx = Context(s3.runtime, deadline=0.5)
    with pytest.raises(DeadlineExceededError):
        _ = delete(s3, MANY)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.randoms(use_true_random=False),
    keys=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        unique=True,
        max_size=30,
    ),
)
def test_every_key_is_in_exactly_one_of_the_two(seed: object, keys: list[str]) -> None:
    chance = seed
    gone: set[str] = set()

    def answer(request: Request) -> Response:
        roll = chance.random()  # type: ignore[attr-defined]
        if roll < 0.15:
            return s3_error(503, "SlowDown")
        if roll < 0.25:
            raise TransportConnectionError("reset")
        if request.method == "DELETE":
            return EMPTY if roll < 0.8 else s3_error(403, "AccessDenied")
        wanted = asked(request)
        codes = ("", "", "", "InternalError", "AccessDenied", "SlowDown")
        fate = {key: chance.choice(codes) for key in wanted}  # type: ignore[attr-defined]
        done = [key for key, code in fate.items() if not code]
        gone.update(done)
        return outcome(done, {key: code for key, code in fate.items() if code})

    s3 = Scripted(answer, max_attempts=3)
    try:
        result = delete(s3, keys)
    except BlockStoreError:
        assert not gone
        return
    assert sorted([*result.deleted, *result.failed]) == sorted(keys)
    assert gone <= set(result.deleted)
    assert result.deleted == [key for key in keys if key not in result.failed]
