"""Whatever a reply holds, only blockyard's own errors escape from reading it."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockyard.context import Response
from blockyard.errors import BlockStoreError, S3Error
from blockyard.s3.error_responses import error_from, region_hint, retry_after, server_time
from blockyard.s3.listing import PageRequest, list_page
from blockyard.s3.responses import block_info, copy_result, delete_outcome

pytestmark = pytest.mark.thorough

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ASKED = ["a", "b/c", "SlowDown"]

ROOTS = ["ListBucketResult", "DeleteResult", "CopyObjectResult", "Error"]
RECORDS = ["Contents", "Deleted", "Error", "Owner"]
FIELDS = ["Key", "Size", "ETag", "LastModified", "Code", "Message", "RequestId", "Region"]
PAGING = ["IsTruncated", "NextContinuationToken", "ContinuationToken", "EncodingType"]
NUMBERS_AND_DATES = ["content-length", "retry-after", "date", "last-modified"]
NAMES_AND_TAGS = ["etag", "x-amz-bucket-region", "x-amz-request-id", "x-amz-id-2"]

names = st.sampled_from(ROOTS + RECORDS + FIELDS + PAGING) | st.text(
    string.ascii_letters, min_size=1, max_size=5
)
texts = (
    st.sampled_from(
        ["a", "b/c", "SlowDown", "NoSuchKey", "InternalError", "true", "false", "url", "1", "%FF"]
    )
    | st.integers().map(str)
    | st.datetimes().map(str)
    | st.text(max_size=20)
)
xml_texts = texts.map(lambda text: text.replace("&", "&amp;").replace("<", "&lt;"))


def element(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>"


documents = st.recursive(
    xml_texts,
    lambda inner: st.builds(element, names, st.lists(inner, max_size=5).map("".join)),
    max_leaves=20,
)
namespaces = st.sampled_from(["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"']) | st.text(
    "{}[]()/.*@='!: ab", max_size=6
).map(lambda text: f' xmlns="{text}"')
likely = st.builds(
    lambda root, namespace, rest: f"<{root}{namespace}>{''.join(rest)}</{root}>",
    st.sampled_from(ROOTS),
    namespaces,
    st.lists(st.builds(element, names, documents), max_size=8),
).map(lambda text: text.encode(errors="surrogatepass"))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A likely document that was cut, or of which a piece was replaced."""
    body = draw(likely)
    begin = draw(st.integers(0, len(body)))
    end = draw(st.integers(begin, len(body)))
    return body[:begin] + draw(st.binary(max_size=8)) + draw(st.sampled_from([body[end:], b""]))


headers = st.dictionaries(
    st.sampled_from(NUMBERS_AND_DATES + NAMES_AND_TAGS),
    texts | st.text(st.characters(max_codepoint=255), max_size=30),
)
responses = st.builds(
    lambda status, headers, body: Response(status, headers, body, len(body)),
    st.sampled_from([200, 204, 206, 301, 400, 403, 404, 412, 416, 429, 500, 503])
    | st.integers(100, 999),
    headers,
    likely | damaged() | st.binary(max_size=100),
)


@pytest.mark.parametrize(
    "read",
    [
        lambda response: block_info("k", response),
        lambda response: list_page(response, PageRequest("")),
        lambda response: list_page(response, PageRequest("b/"), "b/"),
        lambda response: copy_result(response, "k"),
        lambda response: delete_outcome(response, ASKED),
    ],
    ids=["info", "list", "list below a prefix", "copy", "delete"],
)
@steady
@given(response=responses)
def test_only_our_errors_escape(read: Callable[[Response], object], response: Response) -> None:
    with contextlib.suppress(BlockStoreError):
        _ = read(response)


@steady
@given(response=responses, key=st.none() | st.text(max_size=10))
def test_every_error_response_is_an_error(response: Response, key: str | None) -> None:
    error = error_from(response, "read_block", key)
    assert isinstance(error, BlockStoreError)
    assert str(error).isprintable()
    if isinstance(error, S3Error):
        assert error.status >= 300


@steady
@given(response=responses)
def test_the_advice_in_headers_is_usable(response: Response) -> None:
    wait = retry_after(response, now=1e9)
    assert wait is None or 0 <= wait < 1e12
    moment = server_time(response)
    assert moment is None or abs(moment) < 1e12
    region = region_hint(response)
    assert region is None or region.isascii()


@steady
@given(response=responses)
def test_a_delete_accounts_for_every_key(response: Response) -> None:
    try:
        gone, failed = delete_outcome(response, ASKED)
    except BlockStoreError:
        return
    assert sorted([*gone, *failed]) == sorted(ASKED)
