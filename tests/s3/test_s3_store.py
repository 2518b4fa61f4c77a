"""The S3 store's operations: what their replies mean, and what they must not be taken for."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import blockyard
from blockyard.config import HttpConfig, S3Config, StoreConfig, TimeoutConfig
from blockyard.context import Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    DeadlineExceededError,
    InvalidKeyError,
    NotS3Error,
    ProtocolError,
    S3Error,
    ServerError,
    StoreClosedError,
    TransportConnectionError,
)
from blockyard.model import MIB, CopyResult
from blockyard.s3.store import S3Store
from blockyard.stores.base import Store, WriteRequest
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, Client, ClientName, open_client
from blockyard_faults import FaultProxy, LoseReply, Match, Script, Truncate
from servers.endpoint import Endpoint
from tests.authority import Authority
from tests.s3.pretend import reply
from tests.s3.scripted_service import EMPTY, LISTING, Answer, Scripted, amazon, s3_error
from tests.transport.runtimes import EchoServer, echo, eventually, no_new_descriptors

PAGE = reply(200, {"content-type": "text/html"}, b"<html>Sign in</html>")
LOST = TransportConnectionError("the reply was lost")
TAKEN = s3_error(412, "PreconditionFailed")
WRITTEN = reply(200, {"etag": '"e"'}, b"")
NONCE = "x-amz-meta-blockyard-nonce"


def write(s3: Scripted, data: bytes = b"data", *, if_absent: bool = True) -> blockyard.BlockInfo:
    return s3.run(s3.store.write(s3.ctx, WriteRequest("key", data, if_absent)))


def there(nonce: str | None) -> Response:
    headers = {"etag": '"e"'} if nonce is None else {"etag": '"e"', NONCE: nonce}
    return Response(200, {**headers, "content-length": "4"}, b"", 0)


def its_own(request: Request) -> Response:
    """To a HEAD: the object that the last PUT would have made."""
    return there("0123456789abcdef01234567")


def test_a_write_whose_reply_was_lost_is_recognised() -> None:
    s3 = amazon(LOST, TAKEN, its_own)
    info = write(s3)
    assert (info.key, info.size, info.etag) == ("key", 4, "e")
    assert [each.method for each in s3.requests] == ["PUT", "PUT", "HEAD"]
    assert s3.requests[0].headers[NONCE] == s3.requests[1].headers[NONCE]
    assert s3.requests[0].headers["if-none-match"] == "*"


def test_a_race_with_ones_own_lost_write_is_recognised() -> None:
    s3 = amazon(LOST, s3_error(409, "ConditionalRequestConflict"), TAKEN, its_own)
    assert write(s3).etag == "e"


@pytest.mark.parametrize("nonce", [None, "", "ffffffffffffffffffffffff"])
def test_another_writers_block_is_not_taken_for_ones_own(nonce: str | None) -> None:
    s3 = amazon(LOST, TAKEN, there(nonce))
    with pytest.raises(BlockExistsError, match="write_block 'key'"):
        _ = write(s3)


def test_a_block_that_was_there_and_is_gone_again_was_there() -> None:
    s3 = amazon(TAKEN, s3_error(404), LISTING)
    with pytest.raises(BlockExistsError):
        _ = write(s3)


def test_only_a_conditional_write_is_conditional_and_marked() -> None:
    s3 = Scripted(WRITTEN)
    _ = write(s3, if_absent=False)
    assert not {NONCE, "if-none-match"} & s3.requests[0].headers.keys()
    s3 = Scripted(TAKEN)
    with pytest.raises(S3Error):
        _ = write(s3, if_absent=False)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([s3_error(404), LISTING], BlockNotFoundError),
        ([s3_error(404), s3_error(404, "NoSuchBucket")], BucketNotFoundError),
        ([s3_error(404), s3_error(404)], BucketNotFoundError),
        ([s3_error(404), s3_error(403, "AccessDenied")], BlockNotFoundError),
        ([s3_error(404), s3_error(403)], AccessDeniedError),
        ([s3_error(404), PAGE], NotS3Error),
        ([s3_error(404), s3_error(500)], ServerError),
        ([s3_error(403)], AccessDeniedError),
        ([s3_error(403, x_amz_request_id="NoSuchKey404")], AccessDeniedError),
        ([s3_error(500, x_amz_request_id="404")], ServerError),
        ([s3_error(400, x_amz_id_2="404 Not Found")], S3Error),
    ],
)
def test_what_a_refused_head_means(answers: list[Answer], kind: type[BlockStoreError]) -> None:
    s3 = Scripted(*answers, max_attempts=1)
    with pytest.raises(kind) as raised:
        _ = s3.run(s3.store.stat_block(s3.ctx, "k404"))
    assert type(raised.value) is kind
    assert "stat_block" in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (s3_error(404, "NoSuchKey"), BlockNotFoundError),
        (s3_error(404), BucketNotFoundError),  # the listing is answered so too
        (s3_error(404, "NoSuchBucket"), BucketNotFoundError),
        (s3_error(404, "NoSuchUpload"), S3Error),
        (s3_error(403, "AccessDenied", "NoSuchKey 404 NotFound"), AccessDeniedError),
        (s3_error(500, "InternalError", "404", x_amz_request_id="404"), ServerError),
    ],
)
def test_what_a_refused_get_means(answer: Answer, kind: type[BlockStoreError]) -> None:
    s3 = Scripted(answer, max_attempts=1)
    with pytest.raises(kind) as raised:
        _ = s3.read("404/NoSuchKey")
    assert type(raised.value) is kind
    assert "read_block '404/NoSuchKey'" in str(raised.value)


@pytest.mark.parametrize(
    "answers", [[EMPTY], [s3_error(404, "NoSuchKey")], [s3_error(404), LISTING]]
)
def test_deleting_what_is_not_there_is_no_error(answers: list[Answer]) -> None:
    s3 = Scripted(*answers)
    assert s3.run(s3.store.delete_block(s3.ctx, "key")) is None


def test_deleting_from_a_missing_bucket_is_one() -> None:
    s3 = Scripted(s3_error(404, "NoSuchBucket"))
    with pytest.raises(BucketNotFoundError):
        s3.run(s3.store.delete_block(s3.ctx, "key"))


def copy(s3: Scripted) -> CopyResult:
    return s3.run(s3.store.copy_block(s3.ctx, "the source", "target"))


COPIED = reply(200, {}, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")


def test_a_copy_is_one_request_that_names_its_source_encoded() -> None:
    s3 = Scripted(COPIED, key_prefix="pre/")
    assert copy(s3) == CopyResult("target", "e", None)
    (request,) = s3.requests
    assert request.target == "/bucket/pre/target"
    assert request.headers["x-amz-copy-source"] == "bucket/pre/the%20source"


def test_an_error_within_a_success_is_an_error() -> None:
    failed = reply(200, {}, b"<Error><Code>InternalError</Code></Error>")
    s3 = Scripted(failed, COPIED)
    assert copy(s3).etag == "e"
    assert len(s3.requests) == 2
    s3 = Scripted(failed, max_attempts=2)
    with pytest.raises(ServerError, match="copy_block 'the source'"):
        _ = copy(s3)


def test_a_copy_of_what_is_not_there_names_the_source() -> None:
    s3 = Scripted(s3_error(404, "NoSuchKey"))
    with pytest.raises(BlockNotFoundError, match="the source"):
        _ = copy(s3)


@pytest.mark.parametrize("body", [b"<Other/>", b"<CopyObjectResult/>", b"not XML"])
def test_a_copy_whose_reply_says_nothing_is_not_believed(body: bytes) -> None:
    s3 = Scripted(reply(200, {}, body), max_attempts=1)
    with pytest.raises(ProtocolError):
        _ = copy(s3)


@pytest.mark.parametrize(
    ("listing", "kind"),
    [
        (s3_error(404, "NoSuchBucket"), BucketNotFoundError),
        (s3_error(403, "SignatureDoesNotMatch"), AccessDeniedError),
        (s3_error(403, "AccessDenied"), AccessDeniedError),
    ],
)
def test_a_health_check_says_what_is_wrong(listing: Response, kind: type[BlockStoreError]) -> None:
    s3 = Scripted(listing)
    with pytest.raises(kind, match="health_check") as raised:
        _ = s3.run(s3.store.health_check(s3.ctx))
    assert isinstance(raised.value, S3Error)
    assert raised.value.code != ""


def test_a_healthy_bucket_is_described_without_secrets() -> None:
    s3 = Scripted(reply(200, {"server": "Ceph"}, LISTING.body), key_prefix="pre/")
    report = s3.run(s3.store.health_check(s3.ctx))
    assert report.store == "s3://bucket/pre/ at http://127.0.0.1:9"
    assert report.server == "Ceph"
    assert "the-secret" not in repr(report)


def test_a_key_that_is_too_long_with_the_prefix_is_refused_before_anything_is_sent() -> None:
    s3 = Scripted(EMPTY, key_prefix="p" * 100 + "/")
    for key in ("k" * 924, "é" * 470):
        with pytest.raises(InvalidKeyError, match="1024"):
            _ = s3.read(key)
    assert s3.requests == []


def test_the_store_has_every_operation_of_the_contract() -> None:
    assert issubclass(S3Store, Store)
    assert not getattr(S3Store, "__abstractmethods__", None)


# Over real connections, both clients


def on_moto(endpoint: Endpoint, url: str, bucket: str, prefix: str) -> StoreConfig:
    settings = endpoint.s3_settings(bucket, prefix) | {"endpoint": url}
    return StoreConfig(s3=S3Config(**settings, timeouts=TimeoutConfig(deadline=30)))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_lost_reply_to_a_conditional_write_is_no_conflict(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([LoseReply(), LoseReply()], Match("PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        config = on_moto(moto_endpoint, proxy.url, bucket, key_prefix)
        with open_client(client, config) as opened:
            info = opened.store.write_block("key", b"mine", if_absent=True)
            assert (info.size, plan.left) == (4, 0)
            assert opened.store.read_block("key") == b"mine"
            with pytest.raises(BlockExistsError):
                _ = opened.store.write_block("key", b"not mine", if_absent=True)
            assert opened.store.read_block("key") == b"mine"


@pytest.mark.parametrize("client", CLIENTS)
def test_of_many_conditional_writers_one_wins_though_replies_are_lost(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([LoseReply(), None, LoseReply(), None, None, LoseReply()], Match("PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        config = on_moto(moto_endpoint, proxy.url, bucket, key_prefix)
        with open_client(client, config) as opened:
            bodies = [f"writer {number}".encode() for number in range(8)]
            outcomes = opened.at_once(
                lambda store, body: store.write_block("key", body, if_absent=True), bodies
            )
            won = [
                body
                for body, outcome in zip(bodies, outcomes, strict=True)
                if isinstance(outcome, blockyard.BlockInfo)
            ]
            lost = [each for each in outcomes if isinstance(each, BlockExistsError)]
            assert (len(won), len(lost)) == (1, 7)
            assert opened.store.read_block("key") == won[0]


@pytest.mark.parametrize("client", CLIENTS)
def test_truncated_reads_and_listings_are_taken_up_again(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    body = bytes(range(256)) * 1000
    with FaultProxy(moto_endpoint.url, Script([Truncate(0.3), Truncate(0.5)] * 3)) as proxy:
        plain = on_moto(moto_endpoint, moto_endpoint.url, bucket, key_prefix)
        with open_client(client, plain) as opened:
            for key in ("a", "b"):
                _ = opened.store.write_block(key, body)
        faulty = on_moto(moto_endpoint, proxy.url, bucket, key_prefix)
        with open_client(client, faulty) as opened:
            assert opened.store.read_block("a") == body
            assert opened.store.list_by_prefix() == ["a", "b"]
            assert opened.store.read_blocks(["a", "b"]) == [body, body]


def store_config(server: EchoServer, **timeouts: float) -> StoreConfig:
    return StoreConfig(
        s3=S3Config(
            bucket="bucket",
            endpoint=server.url,
            force_path_style=True,
            anonymous=True,
            timeouts=TimeoutConfig(**timeouts),
        )
    )


def stored(key: str) -> bytes:
    return echo(f"/bucket/{key}")


def test_threads_share_a_store_and_get_each_their_own_bytes() -> None:
    with EchoServer() as server, blockyard.open_store(store_config(server)) as store:

        def work(number: int) -> None:
            keys = [f"{number}-{step}" for step in range(10)]
            assert [store.read_block(key) for key in keys] == [stored(key) for key in keys]
            assert store.read_blocks(keys) == [stored(key) for key in keys]

        with ThreadPoolExecutor(32) as threads:
            _ = list(threads.map(work, range(32)))


@pytest.mark.parametrize("client", CLIENTS)
def test_the_deadline_ends_every_kind_of_call(client: ClientName) -> None:
    with EchoServer(delay=30) as server, open_client(client, store_config(server)) as opened:
        store = opened.store.with_options(deadline=0.1)
        calls = [
            lambda: store.read_block("k"),
            lambda: store.read_block_into("k", bytearray(10)),
            lambda: store.read_blocks(["a", "b", "c"]),
            lambda: store.write_block("k", bytes(200_000)),
            lambda: store.delete_blocks(["a", "b"]),
            store.list_by_prefix,
        ]
        for call in calls:
            with pytest.raises(DeadlineExceededError):
                _ = call()


def test_an_asyncio_store_lives_from_one_loop_to_the_next() -> None:
    with EchoServer() as server, no_new_descriptors():
        store = asyncio.run(blockyard.open_async_store(store_config(server)))

        async def read(key: str) -> None:
            assert await store.read_block(key) == stored(key)
            assert await store.read_blocks([key, key]) == [stored(key)] * 2

        asyncio.run(read("first"))
        asyncio.run(read("second"))
        asyncio.run(store.close())
        with pytest.raises(StoreClosedError):
            asyncio.run(read("third"))


def test_an_asyncio_store_is_used_from_two_loops_at_once() -> None:
    with EchoServer() as server, no_new_descriptors():
        store = asyncio.run(blockyard.open_async_store(store_config(server)))

        async def read(name: int) -> None:
            for step in range(20):
                keys = [f"{name}-{step}-{number}" for number in range(3)]
                assert await store.read_blocks(keys) == [stored(key) for key in keys]

        with ThreadPoolExecutor(2) as threads:
            _ = list(threads.map(lambda name: asyncio.run(read(name)), range(2)))
        asyncio.run(store.close())


OPERATIONS = {
    "read_block": lambda store: store.read_block("k"),
    "write_block": lambda store: store.write_block("k", bytes(100_000)),
    "read_blocks": lambda store: store.read_blocks(["k"] * 3),
    "stat_block": lambda store: store.stat_block("k"),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_closing_while_calls_run_ends_them_or_lets_them_finish(operation: object) -> None:
    with EchoServer(delay=0.05) as server, no_new_descriptors():
        store = blockyard.open_store(store_config(server))

        def attempt(_: int) -> object:
            outcomes: list[object] = []
            while StoreClosedError not in outcomes:
                try:
                    _ = operation(store)  # type: ignore[operator]
                except StoreClosedError as error:
                    outcomes.append(type(error))
            return outcomes

        with ThreadPoolExecutor(4) as threads:
            attempts = [threads.submit(attempt, number) for number in range(4)]
            assert eventually(lambda: server.most_at_once >= 4)
            store.close()
            for each in attempts:
                assert each.result(10) == [StoreClosedError]
        assert server.wait_until_drained()


def test_closing_an_asyncio_store_while_calls_run_ends_them() -> None:
    async def main() -> None:
        store = await blockyard.open_async_store(store_config(server))
        tasks = [asyncio.create_task(each(store)) for each in OPERATIONS.values()]
        while server.most_at_once < 4:  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.002)
        await store.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreClosedError}

    with EchoServer(delay=30) as server, no_new_descriptors():
        asyncio.run(main())


SECRETS = ("s3cr3t-k3y", "s3ss10n-t0k3n", "pr0xy-passw0rd")


@contextmanager
def everything_said(caplog: pytest.LogCaptureFixture) -> Generator[list[str], None, None]:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    yield said
    said += [record.getMessage() for record in caplog.records]
    said += [repr(vars(record)) for record in caplog.records]
    for secret in SECRETS:
        assert not [text for text in said if secret in text]


@pytest.mark.parametrize("client", CLIENTS)
def test_secrets_are_in_nothing_that_is_said(
    client: ClientName, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors with all their causes, notes and locals' reprs; and what is logged."""
    bundle = str(Authority(tmp_path).bundle)
    settings = {
        "bucket": "bucket",
        "force_path_style": True,
        "access_key": "AKIDEXAMPLE",
        "secret_key": SECRETS[0],
        "session_token": SECRETS[1],
        "max_attempts": 2,
    }
    proxied = HttpConfig(proxy=f"http://user:{SECRETS[2]}@127.0.0.1:9", ca_bundle=bundle)
    configs = [
        StoreConfig(s3=S3Config(**settings, endpoint="http://127.0.0.1:9")),
        StoreConfig(s3=S3Config(**settings, endpoint="https://localhost:9", http=proxied)),
    ]
    with everything_said(caplog) as said:
        for config in configs:
            said.extend([repr(config), str(config)])
            with open_client(client, config) as opened:
                said.extend(ask_all(opened))


def ask_all(opened: Client) -> list[str]:
    said = [repr(opened.store)]
    for operation in OPERATIONS.values():
        try:
            _ = operation(opened.store)
        except BlockStoreError as error:
            said += [repr(error), repr(vars(error))]
            formatted = traceback.TracebackException.from_exception(error, capture_locals=True)
            said += [line for line in formatted.format() if "settings = " not in line]
    assert len(said) > len(OPERATIONS)
    return said


def test_a_large_block_both_ways(moto_endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    body = bytes(range(256)) * (40 * MIB // 256)
    config = on_moto(moto_endpoint, moto_endpoint.url, bucket, key_prefix)
    store: BlockStore
    with blockyard.open_store(config) as store:
        assert store.write_block("large", memoryview(body)).size == len(body)
        buffer = bytearray(len(body))
        assert store.read_block_into("large", buffer) == len(body)
        assert buffer == body
        assert store.read_block_range("large", 39 * MIB, 10 * MIB) == body[39 * MIB :]
