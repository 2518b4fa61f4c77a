"""Presigned requests: AWS's published example, botocore as the oracle, and services."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as OracleCredentials
from freezegun import freeze_time

import blockyard
from blockyard import PutOptions
from blockyard.context import Origin, Request
from blockyard.s3.credentials import Credentials
from blockyard.s3.signing import Signer
from servers.endpoint import Endpoint

MIDNIGHT = 1369353600.0  # 2013-05-24T00:00:00Z
SETTINGS: dict[str, Any] = {"access_key": "AKIDEXAMPLE", "secret_key": "the-secret-key"}


def test_the_published_example() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html"""
    host = "examplebucket.s3.amazonaws.com"
    request = Request(Origin("https", host, 443), "GET", "/test.txt", {"host": host})
    keys = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    query = Signer("us-east-1").presign(request, keys, MIDNIGHT, 86400)
    assert query == (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F"
        "us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&"
        "X-Amz-SignedHeaders=host&X-Amz-Signature="
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.parametrize("token", ["", "a/to+ken=="])
@pytest.mark.parametrize("key", ["a", "with blank/grüß+&=~.txt"])
@pytest.mark.parametrize("options", [None, PutOptions(metadata={"a": "b  c"}, tags={"a": "b c"})])
def test_botocore_signs_the_same(token: str, key: str, options: PutOptions | None) -> None:
    with blockyard.open_store(
        "s3://my-data/below?region=eu-west-1", **SETTINGS, session_token=token
    ) as store:
        signed = store.presign(key, "PUT", 600, options=options)
    (date,) = parse_qs(signed.url)["X-Amz-Date"]
    with freeze_time(datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)):
        request = AWSRequest("PUT", signed.url.partition("?")[0], headers=dict(signed.headers))
        keys = OracleCredentials(SETTINGS["access_key"], SETTINGS["secret_key"], token or None)
        S3SigV4QueryAuth(keys, "s3", "eu-west-1", expires=600).add_auth(request)
    signature = signed.url.rpartition("X-Amz-Signature=")[2]
    assert signature == request.url.rpartition("X-Amz-Signature=")[2]
    assert len(signature) == 64


def send(signed: blockyard.PresignedRequest, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(  # noqa: S310
        signed.url,
        data,
        headers={"content-type": "application/octet-stream", **signed.headers},
        method=signed.method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read()


def sent_and_found(endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    options = PutOptions(metadata={"film": "one"})
    with blockyard.open_store(**endpoint.s3_settings(bucket, key_prefix)) as store:
        key = "with blank/grüß"
        assert send(store.presign(key, "PUT", options=options), b"sent by another") == b""
        assert store.read_block(key) == b"sent by another"
        assert store.stat_block(key).metadata == {"film": "one"}
        assert send(store.presign(key)) == b"sent by another"
        _ = send(store.presign(key, "HEAD", 60))
        _ = send(store.presign(key, "DELETE", 60))
        assert not store.block_exists(key)


def test_moto_takes_them(moto_endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    """Whatever their signature: moto looks at none of them."""
    sent_and_found(moto_endpoint, bucket, key_prefix)


def test_ceph_verifies_them(ceph_endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    sent_and_found(ceph_endpoint, bucket, key_prefix)
    with blockyard.open_store(**ceph_endpoint.s3_settings(bucket, key_prefix)) as store:
        signed = store.presign("a")
        forged = signed._replace(url=signed.url.replace("/a?", "/b?"))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            _ = send(forged)


def test_with_asyncio() -> None:
    async def call() -> blockyard.PresignedRequest:
        async with await blockyard.open_async_store("s3://my-data", **SETTINGS) as store:
            return await store.presign("a", expires=604800)

    signed = asyncio.run(call())
    assert (signed.method, signed.headers) == ("GET", {})
    assert urlsplit(signed.url).path == "/a"
    assert "X-Amz-Expires=604800&" in signed.url
    assert repr(signed).startswith("PresignedRequest('GET', 'https://my-data.s3.")
    assert "Signature" not in repr(signed)


def test_an_own_key_has_to_be_sent_with_it() -> None:
    with blockyard.open_store(
        "s3://my-data", **SETTINGS, customer_key="A" * 43 + "=", request_payer=True
    ) as store:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            headers = store.presign("a", method).headers
            own = "x-amz-server-side-encryption-customer-key" in headers
            assert own is (method != "DELETE")
            assert headers["x-amz-request-payer"] == "requester"


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("a", "POST"), ValueError, "method: expected GET, HEAD, PUT, DELETE"),
        (("a", "GET", 0), ValueError, "expires: expected 1 to 604800 seconds"),
        (("a", "GET", 604801), ValueError, "expires: expected 1 to 604800 seconds"),
        (("a", "GET", float("nan")), ValueError, "expires: expected 1 to 604800 seconds"),
        (("a", "GET", "60"), TypeError, "expires: expected a number of seconds"),
        (("",), blockyard.InvalidKeyError, "key"),
    ],
)
def test_what_it_does_not_take(arguments: Any, kind: type[Exception], said: str) -> None:
    with (
        blockyard.open_store("s3://my-data", **SETTINGS) as store,
        pytest.raises(kind, match=said),
    ):
        _ = store.presign(*arguments)


def test_options_are_for_a_put() -> None:
    with (
        blockyard.open_store("s3://my-data", **SETTINGS) as store,
        pytest.raises(ValueError, match="options: expected none for a GET"),
    ):
        _ = store.presign("a", options=PutOptions())


@pytest.mark.parametrize("source", ["memory://", "s3://my-data?anonymous=true"])
def test_where_there_is_nothing_to_sign(source: str) -> None:
    with (
        blockyard.open_store(source) as store,
        pytest.raises(blockyard.UnsupportedError, match="presign 'a'"),
    ):
        _ = store.presign("a")
