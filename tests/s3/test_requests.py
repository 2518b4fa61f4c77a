"""Addresses, targets and headers of every S3 request, and that every byte of a key survives."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockyard.context import Origin, Request
from blockyard.errors import ConfigError, ProtocolError
from blockyard.s3 import requests
from blockyard.s3.endpoints import bucket_address
from blockyard.s3.requests import encode_key, xml_safe

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
ENDPOINT = "http://127.0.0.1:9000"
BUCKET = bucket_address(ENDPOINT, "us-east-1", "my-data", path_style=True)
HOSTED = bucket_address("", "us-east-1", "my-data", path_style=False)

keys = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=80
)


# Addresses


@pytest.mark.parametrize(
    ("endpoint", "bucket", "origin", "host", "root"),
    [
        ("", "b-1", ("https", "b-1.s3.eu-west-1.amazonaws.com", 443), None, ""),
        ("", "a.b", ("https", "s3.eu-west-1.amazonaws.com", 443), None, "/a.b"),
        ("", "Old_Name", ("https", "s3.eu-west-1.amazonaws.com", 443), None, "/Old_Name"),
        ("http://s3.example", "a.b", ("http", "a.b.s3.example", 80), None, ""),
        ("http://s3.example", "a..b", ("http", "s3.example", 80), None, "/a..b"),
        ("s3.example:9000", "b-1", ("https", "b-1.s3.example", 9000), "b-1.s3.example:9000", ""),
        ("HTTPS://S3.Example/", "b-1", ("https", "b-1.s3.example", 443), None, ""),
        ("https://s3.example:443", "b-1", ("https", "b-1.s3.example", 443), None, ""),
        ("http://s3.example:443", "b-1", ("http", "b-1.s3.example", 443), "b-1.s3.example:443", ""),
        ("http://localhost:4566", "b-1", ("http", "localhost", 4566), "localhost:4566", "/b-1"),
        ("http://minio:9000", "b-1", ("http", "minio", 9000), "minio:9000", "/b-1"),
        ("http://s3.localhost:1", "b-1", ("http", "b-1.s3.localhost", 1), "b-1.s3.localhost:1", ""),
        ("http://127.0.0.1:9000", "b-1", ("http", "127.0.0.1", 9000), "127.0.0.1:9000", "/b-1"),
        ("http://[::1]:9000", "b-1", ("http", "::1", 9000), "[::1]:9000", "/b-1"),
        ("https://[fd00::1]", "b-1", ("https", "fd00::1", 443), "[fd00::1]", "/b-1"),
        ("https://e.example/v1/s3", "b-1", ("https", "e.example", 443), None, "/v1/s3/b-1"),
        ("http://s3.example.", "b-1", ("http", "b-1.s3.example.", 80), "b-1.s3.example", ""),
        ("http://s3.example.:9", "b-1", ("http", "b-1.s3.example.", 9), "b-1.s3.example:9", ""),
        ("http://localhost.", "b-1", ("http", "localhost.", 80), "localhost", "/b-1"),
        ("http://127.0.0.1.", "b-1", ("http", "127.0.0.1.", 80), "127.0.0.1", "/b-1"),
        ("https://e.example/v1/s3/", "a.b", ("https", "e.example", 443), None, "/v1/s3/a.b"),
    ],
)
def test_address(
    endpoint: str, bucket: str, origin: tuple[str, str, int], host: str | None, root: str
) -> None:
    address = bucket_address(endpoint, "eu-west-1", bucket, path_style=False)
    assert address.origin == Origin(*origin)
    assert (address.host, address.root, address.bucket) == (host or origin[1], root, bucket)


def test_path_style_when_asked() -> None:
    address = bucket_address("", "eu-west-1", "b-1", path_style=True)
    assert address.host == "s3.eu-west-1.amazonaws.com"
    assert (address.root, address.path) == ("/b-1", "/b-1")


def test_a_bucket_can_not_change_the_path() -> None:
    address = bucket_address(ENDPOINT, "us-east-1", "a/../b?x=%20", path_style=True)
    assert address.root == "/a%2F..%2Fb%3Fx%3D%2520"


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://s3.example",
        "https://",
        "https://:9000",
        "https://s3.example:port",
        "https://s3.example:0",
        "https://s3.example:65536",
        "https://[::1",
        "https://s3.example?x=1",
        "https://s3.example#x",
        "https://s3.example/a b",
        "https://s3.example/a%2",
        "https://s3.exa\r\nmple",
        "https://s3.example\t",
        "https://bücher.example",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint: expected a URL"):
        _ = bucket_address(endpoint, "us-east-1", "b-1", path_style=False)


@pytest.mark.parametrize("rest", ["", ":port", "/a b"])
def test_a_password_in_an_endpoint_is_refused_and_not_shown(rest: str) -> None:
    with pytest.raises(ConfigError, match="endpoint") as caught:
        _ = bucket_address(f"https://me:hunter2@s3.example{rest}", "r", "b-1", path_style=False)
    assert "hunter2" not in str(caught.value)


# Keys


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("share/content/chunk-0/block-0", "share/content/chunk-0/block-0"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("%41", "%2541"),
        ("//a//", "//a//"),
        ("../a/./..", "../a/./.."),
        ("-._~", "-._~"),
        ("é/🎈", "%C3%A9/%F0%9F%8E%88"),
        ("?x=1&y#z", "%3Fx%3D1%26y%23z"),
        ("\x01\x7f\t", "%01%7F%09"),
    ],
)
def test_encoded_key(key: str, encoded: str) -> None:
    assert encode_key(key) == encoded


@steady
@given(keys)
def test_every_byte_of_a_key_survives(key: str) -> None:
    request = requests.get_object(BUCKET, key)
    assert request.target.isascii()
    assert not set(request.target) & set(" ?#\\\"<>'()*!")
    assert unquote_to_bytes(request.target) == b"/my-data/" + key.encode()


@steady
@given(source=keys, target=keys)
def test_both_keys_of_a_copy_survive(source: str, target: str) -> None:
    request = requests.copy_object(BUCKET, source, target)
    copied = request.headers["x-amz-copy-source"]
    assert copied.isascii()
    assert "+" not in copied
    assert "?" not in copied
    assert unquote_to_bytes(copied) == b"my-data/" + source.encode()
    assert unquote_to_bytes(request.target) == b"/my-data/" + target.encode()


# Requests


def test_requests_of_an_object() -> None:
    for address, path in ((BUCKET, "/my-data/a%20b"), (HOSTED, "/a%20b")):
        host = {"host": address.host}
        origin = address.origin
        assert requests.get_object(address, "a b") == Request(origin, "GET", path, host)
        assert requests.head_object(address, "a b") == Request(origin, "HEAD", path, host)
        assert requests.delete_object(address, "a b") == Request(origin, "DELETE", path, host)
        assert requests.put_object(address, "a b", b"x") == Request(origin, "PUT", path, host, b"x")


@pytest.mark.parametrize(
    ("byte_range", "header"),
    [((0, 0), "bytes=0-0"), ((5, 9), "bytes=5-9"), ((7, None), "bytes=7-")],
)
def test_range(byte_range: tuple[int, int | None], header: str) -> None:
    request = requests.get_object(BUCKET, "k", byte_range=byte_range, if_match="tag")
    assert request.headers == {"host": BUCKET.host, "range": header, "if-match": '"tag"'}


def test_a_read_that_asks_for_checksums() -> None:
    request = requests.get_object(BUCKET, "k", checksum=True)
    assert request.headers == {"host": BUCKET.host, "x-amz-checksum-mode": "ENABLED"}


def test_put_headers() -> None:
    request = requests.put_object(
        BUCKET, "k", b"", headers={"x-amz-meta-by": "me and you"}, if_absent=True
    )
    assert request.headers == {
        "host": BUCKET.host,
        "x-amz-meta-by": "me and you",
        "if-none-match": "*",
    }


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\n", "a\0", "\r", "\t", "é", "\x7f"])
def test_a_header_value_that_would_break_the_message_is_refused(value: str) -> None:
    with pytest.raises(ProtocolError, match="if-match"):
        _ = requests.get_object(BUCKET, "k", if_match=value)
    with pytest.raises(ProtocolError, match="x-amz-meta-by"):
        _ = requests.put_object(BUCKET, "k", b"", headers={"x-amz-meta-by": value})


def test_first_page_of_a_listing() -> None:
    request = requests.list_objects(BUCKET, "", token=None, max_keys=1000)
    assert request.method == "GET"
    assert request.target == "/my-data?encoding-type=url&list-type=2&max-keys=1000"


@steady
@given(prefix=keys, token=keys)
@example(prefix="a/+ %", token="1/=+&")
def test_a_listing_is_asked_in_canonical_form(prefix: str, token: str) -> None:
    request = requests.list_objects(HOSTED, prefix, token=token, max_keys=7)
    path, _, query = request.target.partition("?")
    assert path == "/"
    assert "/" not in query
    assert "+" not in query
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    assert pairs == sorted(pairs)
    assert dict(pairs) == {
        "continuation-token": token,
        "encoding-type": "url",
        "list-type": "2",
        "max-keys": "7",
        "prefix": prefix,
    }


@steady
@given(st.lists(keys.filter(xml_safe), min_size=1, max_size=20))
@example(["<&>\"']]>", "a b", "é", "&amp;"])
def test_a_delete_names_every_key(asked: list[str]) -> None:
    request = requests.delete_objects(HOSTED, asked)
    assert (request.method, request.target) == ("POST", "/?delete=")
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    assert b64decode(request.headers["content-md5"]) == digest
    root = ET.fromstring(bytes(request.body))  # noqa: S314 # it was written here
    assert root.tag == f"{XMLNS}Delete"
    assert [found.text for found in root.iterfind(f"{XMLNS}Object/{XMLNS}Key")] == asked
    assert root.findtext(f"{XMLNS}Quiet") == "false"


@pytest.mark.parametrize(
    "key",
    [
        "\x01",
        "a\x1fb",
        "a\x7f",
        "\x85a",
        "a\u2028b",
        "a\ufffe",
        "a\tb",
        " a",
        "a ",
        "\xa0a",
        "\udc80",
    ],
)
def test_keys_that_xml_or_its_readers_would_change(key: str) -> None:
    assert not xml_safe(key)


@pytest.mark.parametrize("key", ["a", "a b", "<&>'\"", "]]>", "é🎈", "\ufffd", "//", "..", "%41+"])
def test_keys_that_xml_carries(key: str) -> None:
    assert xml_safe(key)
