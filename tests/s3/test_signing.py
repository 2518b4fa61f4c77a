"""Signatures against AWS's published examples, and against botocore's signer as the oracle."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as OracleCredentials
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockyard.context import Origin, Request
from blockyard.errors import ConfigError
from blockyard.s3 import signing
from blockyard.s3.credentials import Credentials
from blockyard.s3.requests import encode_key
from blockyard.s3.signing import EMPTY_SHA256, UNSIGNED_PAYLOAD, Signer

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ORIGIN = Origin("https", "examplebucket.s3.amazonaws.com", 443)
HOST = ORIGIN.host
MIDNIGHT = 1369353600.0  # 2013-05-24T00:00:00Z, when all published examples are signed


def credentials(token: str = "", access_key: str = "AKIAIOSFODNN7EXAMPLE") -> Credentials:
    return Credentials(access_key, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", token, None)


def request(method: str, target: str, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(ORIGIN, method, target, {"host": HOST, **named})


def signature(signed: Request) -> str:
    return signed.headers["authorization"].rpartition("Signature=")[2]


def signed_names(signed: Request) -> str:
    return signed.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]


# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Examples"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/?lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_published_examples_for_a_bucket(target: str, expected: str) -> None:
    asked = request("GET", target)
    Signer("us-east-1").sign(asked, credentials(), MIDNIGHT, EMPTY_SHA256)
    assert asked.headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={expected}"
    )


@pytest.mark.parametrize(
    ("asked", "also_signed", "body", "expected"),
    [
        (
            request("GET", "/test.txt", range="bytes=0-9"),
            "range",
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            request(
                "PUT",
                "/test%24file.text",
                date="Fri, 24 May 2013 00:00:00 GMT",
                x_amz_storage_class="REDUCED_REDUNDANCY",
            ),
            "date",
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_published_examples_that_sign_a_header_more(
    monkeypatch: pytest.MonkeyPatch, asked: Request, also_signed: str, body: bytes, expected: str
) -> None:
    monkeypatch.setattr(signing, "_SIGNED", signing._SIGNED | {also_signed})
    monkeypatch.setattr(signing, "_CACHEABLE", frozenset[str]())
    payload_hash = hashlib.sha256(body).hexdigest()
    Signer("us-east-1").sign(asked, credentials(), MIDNIGHT, payload_hash)
    assert also_signed in signed_names(asked).split(";")
    assert signature(asked) == expected


# botocore signs every header it is given, so it gets only those that are signed here.


class Oracle(S3SigV4Auth):
    """botocore's signer, at a time and with a payload hash of the test's choice."""

    def __init__(self, keys: Credentials, region: str, timestamp: str, payload_hash: str) -> None:
        token = keys.session_token or None
        super().__init__(OracleCredentials(keys.access_key, keys.secret_key, token), "s3", region)
        self._timestamp = timestamp
        self._payload_hash = payload_hash

    def authorization(self, signed: Request) -> str:
        scheme = signed.origin.scheme
        asked = AWSRequest(signed.method, f"{scheme}://{signed.headers['host']}{signed.target}")
        asked.headers = HTTPHeaders.from_dict(
            {
                name: value
                for name, value in signed.headers.items()
                if name in ("content-md5", "content-type") or name.startswith("x-amz-")
            }
        )
        asked.context["timestamp"] = self._timestamp
        to_sign = self.string_to_sign(asked, self.canonical_request(asked))
        names = self.signed_headers(self.headers_to_sign(asked))
        return (
            f"AWS4-HMAC-SHA256 Credential={self.scope(asked)}, SignedHeaders={names}, "
            f"Signature={self.signature(to_sign, asked)}"
        )

    def payload(self, request: AWSRequest) -> str:
        return self._payload_hash


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40) | (
    st.text(" a", max_size=10)
)
signed_headers = st.dictionaries(
    st.sampled_from(["content-md5", "content-type"])
    | st.from_regex(r"x-amz-(meta|checksum)-[a-z0-9-]{1,12}", fullmatch=True),
    header_values,
    max_size=5,
) | st.just({"x-amz-checksum-mode": "ENABLED"})
unsigned_headers = st.dictionaries(
    st.sampled_from(
        ["range", "if-match", "if-none-match", "user-agent", "accept", "cache-control"]
    ),
    header_values,
    max_size=3,
)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=60)
queries = st.dictionaries(
    st.sampled_from(["prefix", "continuation-token", "list-type", "delete"]), keys, max_size=4
)


@st.composite
def signable(draw: st.DrawFn) -> Request:
    """A request as `requests.py` could build it: its path encoded, its query sorted."""
    query = draw(queries)
    text = "&".join(f"{name}={quote(query[name], safe='')}" for name in sorted(query))
    target = f"/{encode_key(draw(keys))}" + (f"?{text}" if text else "")
    headers = draw(unsigned_headers) | draw(signed_headers)
    method = draw(st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]))
    return Request(ORIGIN, method, target, {"host": HOST, **headers})


@steady
@given(
    asked=signable(),
    token=st.just("") | visible,
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "auto"]),
    timestamp=st.floats(0, 4e9),
    payload_hash=st.sampled_from([EMPTY_SHA256, UNSIGNED_PAYLOAD]),
)
def test_agrees_with_botocore(
    asked: Request, token: str, region: str, timestamp: float, payload_hash: str
) -> None:
    keys = credentials(token)
    Signer(region).sign(asked, keys, timestamp, payload_hash)
    written = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(timestamp))
    oracle = Oracle(keys, region, written, payload_hash)
    assert asked.headers["authorization"] == oracle.authorization(asked)


def test_a_read_is_signed_by_target_and_second_alone() -> None:
    signer, keys = Signer("us-east-1"), credentials()
    first = request("GET", "/block", range="bytes=0-9")
    second = request("GET", "/block", range="bytes=10-19", if_match='"tag"')
    signer.sign(first, keys, MIDNIGHT + 0.1, UNSIGNED_PAYLOAD)
    signer.sign(second, keys, MIDNIGHT + 0.9, UNSIGNED_PAYLOAD)
    assert first.headers["authorization"] is second.headers["authorization"]


@pytest.mark.parametrize(
    ("target", "host", "seconds", "payload_hash"),
    [
        ("/other", HOST, 0, UNSIGNED_PAYLOAD),
        ("/block", "elsewhere", 0, UNSIGNED_PAYLOAD),
        ("/block", HOST, 1, UNSIGNED_PAYLOAD),
        ("/block", HOST, 86400, UNSIGNED_PAYLOAD),
        ("/block", HOST, 0, EMPTY_SHA256),
    ],
)
def test_a_remembered_signature_serves_the_same_request_only(
    target: str, host: str, seconds: int, payload_hash: str
) -> None:
    signer, keys = Signer("us-east-1"), credentials()
    signer.sign(request("GET", "/block"), keys, MIDNIGHT, UNSIGNED_PAYLOAD)
    warm, cold = request("GET", target, host=host), request("GET", target, host=host)
    signer.sign(warm, keys, MIDNIGHT + seconds, payload_hash)
    Signer("us-east-1").sign(cold, keys, MIDNIGHT + seconds, payload_hash)
    assert warm.headers == cold.headers


def test_a_read_that_asks_for_checksums_has_its_own_signature() -> None:
    signer, keys = Signer("us-east-1"), credentials()
    asking, plain = request("GET", "/k", x_amz_checksum_mode="ENABLED"), request("GET", "/k")
    signer.sign(asking, keys, MIDNIGHT, EMPTY_SHA256)
    signer.sign(plain, keys, MIDNIGHT, EMPTY_SHA256)
    assert signed_names(asking) == "host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date"
    assert signature(asking) != signature(plain)


def test_methods_do_not_share_a_signature() -> None:
    signer, keys = Signer("us-east-1"), credentials()
    get, delete = request("GET", "/block"), request("DELETE", "/block")
    signer.sign(get, keys, MIDNIGHT, EMPTY_SHA256)
    signer.sign(delete, keys, MIDNIGHT, EMPTY_SHA256)
    assert signature(get) != signature(delete)


def test_remembers_a_bounded_number_of_signatures() -> None:
    signer, keys = Signer("us-east-1"), credentials()
    for number in range(2 * signing._REMEMBERED):
        signer.sign(request("GET", f"/{number}"), keys, MIDNIGHT, EMPTY_SHA256)
    assert signer._moment is not None
    assert len(signer._moment.remembered) == signing._REMEMBERED


def test_signing_again_replaces_every_trace_of_the_first_try() -> None:
    signer = Signer("us-east-1")
    asked, fresh = request("GET", "/block"), request("GET", "/block")
    signer.sign(asked, credentials("old-token"), MIDNIGHT, EMPTY_SHA256)
    assert signed_names(asked) == "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"
    renewed = credentials()
    signer.sign(asked, renewed, MIDNIGHT + 5, UNSIGNED_PAYLOAD)
    Signer("us-east-1").sign(fresh, renewed, MIDNIGHT + 5, UNSIGNED_PAYLOAD)
    assert asked.headers == fresh.headers


def test_renewed_credentials_sign_at_once_with_the_new_secret() -> None:
    signer = Signer("us-east-1")
    asked, fresh = request("GET", "/block"), request("GET", "/block")
    renewed = Credentials("AKIAIOSFODNN7EXAMPLE", "another", "", None)
    signer.sign(asked, credentials(), MIDNIGHT, EMPTY_SHA256)
    signer.sign(asked, renewed, MIDNIGHT, EMPTY_SHA256)
    Signer("us-east-1").sign(fresh, renewed, MIDNIGHT, EMPTY_SHA256)
    assert asked.headers == fresh.headers


def test_a_secret_that_is_not_unicode_signs_by_its_bytes() -> None:
    """As the environment gives it: such a byte reaches Python as a lone surrogate."""
    asked = request("GET", "/block")
    secret = b"s\xffcret".decode(errors="surrogateescape")
    Signer("us-east-1").sign(asked, Credentials("A", secret, "", None), MIDNIGHT, EMPTY_SHA256)
    assert len(signature(asked)) == 64


@pytest.mark.parametrize(
    ("token", "access_key"),
    [
        ("token\r\nx-evil: 1", "AKIA"),
        ("tok\nen", "AKIA"),
        ("", "AK IA"),
        ("", "AKIA\n"),
        ("é", "A"),
    ],
)
def test_credentials_that_would_break_a_header_are_refused(token: str, access_key: str) -> None:
    with pytest.raises(ConfigError, match="visible ASCII") as caught:
        Signer("us-east-1").sign(
            request("GET", "/"), credentials(token, access_key), MIDNIGHT, EMPTY_SHA256
        )
    assert "wJalr" not in str(caught.value)
    assert token == "" or token not in str(caught.value)


def test_a_region_that_would_break_a_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="region"):
        _ = Signer("eu\r\nx-evil: 1")


@steady
@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"])))
@example(key=b"k" * 65, message="m")
def test_the_signing_key_is_hmac(key: bytes, message: str) -> None:
    expected = hmac.digest(key, message.encode(), "sha256")
    assert signing._SigningKey(key).sign(message).digest() == expected


def test_threads_share_a_signer() -> None:
    signer = Signer("us-east-1")
    several = [credentials(f"token-{number}") for number in range(4)]
    wrong: list[Request] = []

    def work(keys: Credentials) -> None:
        for number in range(300):
            asked, alone = request("GET", f"/{number % 7}"), request("GET", f"/{number % 7}")
            moment = MIDNIGHT + number % 3
            signer.sign(asked, keys, moment, EMPTY_SHA256)
            Signer("us-east-1").sign(alone, keys, moment, EMPTY_SHA256)
            if asked.headers != alone.headers:
                wrong.append(asked)

    threads = [threading.Thread(target=work, args=(keys,)) for keys in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
