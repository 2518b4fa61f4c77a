"""What each S3 reply is read as: results, and the error for every kind of error response."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockyard.context import Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    BucketNotFoundError,
    InvalidRangeError,
    NotS3Error,
    ProtocolError,
    S3Error,
    ServerError,
    ThrottledError,
)
from blockyard.model import BlockInfo
from blockyard.s3.dates import http_date, iso_date
from blockyard.s3.error_responses import (
    MAX_ERROR_BODY,
    error_from,
    region_hint,
    retry_after,
    server_time,
)
from blockyard.s3.listing import PageRequest, list_page
from blockyard.s3.requests import xml_safe
from blockyard.s3.responses import block_info, copy_result, delete_outcome
from blockyard.s3.retry import is_transient
from blockyard.s3.xml import MAX_REPLY, read_xml

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def reply(body: str | bytes = b"", status: int = 200, **headers: str) -> Response:
    data = body if isinstance(body, bytes) else body.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, data, len(data))


def s3_error(status: int, code: str, **fields: str) -> Response:
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in fields.items())
    return reply(f"<?xml version='1.0'?><Error><Code>{code}</Code>{inner}</Error>", status)


def entry(key: str, size: str = "7", etag: str = "&quot;tag&quot;") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2024-05-06T07:08:09.000Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass>"
        "<ChecksumAlgorithm>CRC32C</ChecksumAlgorithm><ChecksumAlgorithm>SHA1</ChecksumAlgorithm>"
        "<Owner><ID>me</ID></Owner></Contents>"
    )


def listing(*entries: str, encoded: bool = True, rest: str = "") -> Response:
    rest = rest or "<IsTruncated>false</IsTruncated>"
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    return reply(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{XMLNS}">'
        f"<Name>b</Name>{encoding}{''.join(entries)}{rest}</ListBucketResult>"
    )


def deletion(*records: str) -> Response:
    return reply(f'<DeleteResult xmlns="{XMLNS}">{"".join(records)}</DeleteResult>')


def deleted(key: str) -> str:
    return f"<Deleted><Key>{escape(key)}</Key></Deleted>"


def not_deleted(key: str, code: str, message: str = "") -> str:
    return (
        f"<Error><Key>{escape(key)}</Key><Code>{code}</Code>"
        f"<Message>{escape(message)}</Message></Error>"
    )


# Error responses


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", BlockNotFoundError),
        (404, "NoSuchBucket", BucketNotFoundError),
        (404, "NoSuchUpload", S3Error),
        (403, "AccessDenied", AccessDeniedError),
        (403, "InvalidAccessKeyId", AccessDeniedError),
        (403, "SignatureDoesNotMatch", AccessDeniedError),
        (403, "RequestTimeTooSkewed", AccessDeniedError),
        (403, "SomethingNew", AccessDeniedError),
        (401, "Unauthorized", AccessDeniedError),
        (400, "ExpiredToken", AccessDeniedError),
        (400, "InvalidToken", AccessDeniedError),
        (412, "PreconditionFailed", S3Error),
        (409, "ConditionalRequestConflict", S3Error),
        (416, "InvalidRange", InvalidRangeError),
        (429, "TooManyRequests", ThrottledError),
        (503, "SlowDown", ThrottledError),
        (503, "ServiceUnavailable", ThrottledError),
        (503, "SomethingNew", ThrottledError),
        (400, "RequestLimitExceeded", ThrottledError),
        (400, "ThrottlingException", ThrottledError),
        (500, "InternalError", ServerError),
        (503, "InternalError", ServerError),
        (502, "BadGateway", ServerError),
        (504, "GatewayTimeout", ServerError),
        (501, "NotImplemented", ServerError),
        (400, "RequestTimeout", S3Error),
        (400, "MalformedXML", S3Error),
        (301, "PermanentRedirect", S3Error),
        (304, "NotModified", S3Error),
    ],
)
def test_kind_of_error_by_code(status: int, code: str, kind: type[BlockStoreError]) -> None:
    error = error_from(s3_error(status, code), "read_block", "a/b", ranged=True)
    assert type(error) is kind
    assert "read_block 'a/b'" in str(error)
    assert code in str(error)
    if isinstance(error, S3Error):
        assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize(
    ("status", "of_key", "of_bucket"),
    [
        (301, S3Error, S3Error),
        (400, S3Error, S3Error),
        (401, AccessDeniedError, AccessDeniedError),
        (403, AccessDeniedError, AccessDeniedError),
        (404, BlockNotFoundError, BucketNotFoundError),
        (412, S3Error, S3Error),
        (416, S3Error, S3Error),
        (429, ThrottledError, ThrottledError),
        (500, ServerError, ServerError),
        (503, ThrottledError, ThrottledError),
        (599, ServerError, ServerError),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>NoSuchBucket 404 SlowDown</body></html>",
        b"<Error><Code>SlowDown</Code>",
        b"<Error></Error>",
        b"<Other><Code>SlowDown</Code></Other>",
        b"\xff\xfe\x00",
        b"<Error><Code>SlowDown</Code></Error>" + b" " * MAX_ERROR_BODY,
    ],
)
def test_kind_of_error_by_status_alone(
    status: int, of_key: type[BlockStoreError], of_bucket: type[BlockStoreError], body: bytes
) -> None:
    if status == 404 and body not in {b"", b"<Error></Error>"}:  # no 404 of S3's
        of_key = of_bucket = NotS3Error
    assert type(error_from(reply(body, status), "stat_block", "k")) is of_key
    assert type(error_from(reply(body, status), "health_check", None)) is of_bucket


@pytest.mark.parametrize("code", ["InvalidRange", ""])
def test_a_range_is_wrong_only_where_one_was_asked_for(code: str) -> None:
    refused = s3_error(416, code)
    assert type(error_from(refused, "read_block", "k", ranged=True)) is InvalidRangeError
    error = error_from(refused, "write_block", "k")
    assert type(error) is S3Error
    assert (error.status, error.code) == (416, code)
    assert "write_block 'k': the service refused (416" in str(error)


@pytest.mark.parametrize("code", ["InternalError", "NeverHeardOf404", ""])
def test_no_text_but_the_code_decides(code: str) -> None:
    told = s3_error(500, code, Message="404 NoSuchKey NotFound", Key="SlowDown", RequestId="404403")
    assert type(error_from(told, "read_block", "404")) is ServerError


def test_a_missing_bucket_is_not_a_missing_block() -> None:
    error = error_from(s3_error(404, "NoSuchBucket"), "read_block", "k")
    assert isinstance(error, BucketNotFoundError)
    assert not isinstance(error, BlockNotFoundError)
    assert "force_path_style" in str(error)


def test_an_error_says_what_support_asks_for() -> None:
    told = s3_error(403, "AccessDenied", Message="No.", RequestId="R1", HostId="H1")
    error = error_from(told, "write_block", "k")
    assert isinstance(error, AccessDeniedError)
    assert (error.request_id, error.host_id) == ("R1", "H1")
    assert str(error).startswith("write_block 'k': No. (403 AccessDenied, request id R1); ")


@pytest.mark.parametrize("status", [403, 404])
def test_the_request_id_comes_from_the_headers_too(status: int) -> None:
    told = reply(b"", status, x_amz_request_id="R2", x_amz_id_2="H2")
    error = error_from(told, "stat_block", "k")
    assert "request id R2" in str(error)
    if isinstance(error, S3Error):
        assert error.host_id == "H2"


@pytest.mark.parametrize(
    ("response", "key", "hint"),
    [
        (s3_error(403, "SignatureDoesNotMatch"), "k", "check secret_key"),
        (s3_error(403, "InvalidAccessKeyId"), "k", "check access_key"),
        (s3_error(403, "RequestTimeTooSkewed"), "k", "clock"),
        (s3_error(400, "ExpiredToken"), "k", "renewing"),
        (s3_error(403, "AccessDenied"), "k", "may list the bucket"),
        (reply(b"", 403), "k", "may list the bucket"),
        (reply(b"", 404), None, "force_path_style"),
        (
            s3_error(400, "AuthorizationHeaderMalformed", Region="eu-west-1"),
            "k",
            "'eu-west-1'",
        ),
        (s3_error(301, "PermanentRedirect"), None, "check region"),
        (reply(b"", 301, x_amz_bucket_region="eu-west-1"), None, "set region to 'eu-west-1'"),
    ],
)
def test_hints(response: Response, key: str | None, hint: str) -> None:
    assert hint in str(error_from(response, "read_block", key, reads=True))
    if "may list" in hint:
        assert "have to allow it" in str(error_from(response, "write_block", key))


@pytest.mark.parametrize("key", ["a/b", None])
@pytest.mark.parametrize("told", [s3_error(404, "NoSuchBucket"), reply(b"", 404)])
def test_a_missing_bucket_is_named_and_the_key_too(told: Response, key: str | None) -> None:
    error = error_from(told, "read_block", key, bucket="data", on_bucket=True)
    assert isinstance(error, BucketNotFoundError)
    assert "there is no bucket 'data'" in str(error)
    assert key is None or "read_block 'a/b': " in str(error)


@pytest.mark.parametrize(
    ("told", "kind", "reason"),
    [
        (s3_error(403, "InvalidObjectState"), S3Error, "the block is archived"),
        (
            s3_error(403, "InvalidObjectState", Message="No."),
            S3Error,
            "is archived: No. (403",
        ),
        (s3_error(403, "QuotaExceeded"), S3Error, "the quota is used up"),
        (s3_error(400, "XMinioAdminBucketQuotaExceeded"), S3Error, "the quota is used up"),
        (s3_error(507, "XMinioStorageFull"), ServerError, "has no room left"),
        (s3_error(507, "InsufficientStorage"), ServerError, "has no room left"),
        (reply(b"", 507), ServerError, "has no room left"),
    ],
)
def test_what_is_no_lack_of_access(
    told: Response, kind: type[BlockStoreError], reason: str
) -> None:
    error = error_from(told, "read_block", "k")
    assert type(error) is kind
    assert reason in str(error)
    assert "access denied" not in str(error)
    assert not is_transient(error)


def test_an_archived_block_is_to_be_restored() -> None:
    assert "; restore it" in str(error_from(s3_error(403, "InvalidObjectState"), "read_block", "k"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_says_where_it_leads(status: int) -> None:
    """As from http to https, which some services ask for, and all requests fail."""
    told = reply(b"", status, location="https://s3.example.com/bucket/k?list-type=2")
    for body in (told, reply(b"<html>Moved</html>", status, location=told.headers["location"])):
        error = error_from(body, "read_block", "k")
        assert type(error) is S3Error
        assert "redirects to 'https://s3.example.com/bucket/k': set endpoint" in str(error)
    elsewhere = reply(b"", status, location="https://x", x_amz_bucket_region="eu-west-1")
    assert "set region to 'eu-west-1'" in str(error_from(elsewhere, "read_block", "k"))


def test_an_error_response_that_is_not_the_services_says_so() -> None:
    page = reply(b"<html>Blocked</html>", 403, content_type="text/html")
    error = error_from(page, "write_block", "k")
    assert type(error) is AccessDeniedError
    assert "is this an S3 endpoint" in str(error)


def test_a_message_can_not_forge_lines_or_fill_the_log() -> None:
    told = s3_error(400, "Odd", Message="one\n\ttwo\u202e\x85three " + "x" * 10_000)
    error = error_from(told, "read_block", "k\u202e\x1b[31m")
    assert str(error).isprintable()
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("response", "region"),
    [
        (reply(b"", 301, x_amz_bucket_region="eu-west-1"), "eu-west-1"),
        (s3_error(400, "AuthorizationHeaderMalformed", Region="ap-south-1"), "ap-south-1"),
        (s3_error(400, "AuthorizationHeaderMalformed"), None),
        (s3_error(400, "AuthorizationHeaderMalformed", Region="eu/../x"), None),
        (reply(b"", 301, x_amz_bucket_region="a" * 41), None),
        (reply(b"", 403), None),
    ],
)
def test_region_hint(response: Response, region: str | None) -> None:
    assert region_hint(response) == region


# Dates and times


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Thu, 29 Feb 2024 23:59:59 GMT", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("Wed, 29 Feb 2023 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Wednesday, 06-Nov-69 08:49:37 GMT", datetime(2069, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun Nov  6 08:49:37 1994", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Wed Nov 16 08:49:37 1994", datetime(1994, 11, 16, 8, 49, 37, tzinfo=UTC)),
        ("Sunday, 06-Nov-94 08:49:37 CET", None),
        ("Sun Nop  6 08:49:37 1994", None),
        ("Sun Nov  6 08:49:37 94", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT ", None),
        ("Sun, 06 Nov 1994 08:49:37  GMT", None),
        ("", None),
    ],
)
def test_http_date(text: str, moment: datetime | None) -> None:
    assert http_date(text) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-06T07:08:09.000Z", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("2024-05-06T07:08:09", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("2024-05-06T07:08:09+02:00", datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)),
        ("0001-01-01T00:00:00+12:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_iso_date(text: str, moment: datetime | None) -> None:
    found = iso_date(text)
    assert found == moment
    assert found is None or found.tzinfo is UTC


def test_server_time() -> None:
    assert server_time(reply(date="Fri, 24 May 2013 00:00:00 GMT")) == 1369353600.0
    assert server_time(reply(date="soon")) is None
    assert server_time(reply()) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Fri, 24 May 2013 00:00:30 GMT", 30.0),
        ("Thu, 23 May 2013 00:00:00 GMT", 0.0),
        ("-5", None),
        ("1e9", None),
        ("٣", None),
        ("9" * 400, None),
        ("soon", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(reply(retry_after=value), now=1369353600.0) == seconds


# Headers of one object


def test_block_info_from_headers() -> None:
    told = reply(
        etag='"tag"', content_length="4194304", last_modified="Fri, 24 May 2013 00:00:00 GMT"
    )
    moment = datetime(2013, 5, 24, tzinfo=UTC)
    assert block_info("k", told) == BlockInfo("k", 4194304, "tag", moment)


@pytest.mark.parametrize("etag", ['"tag"', "tag", 'W/"tag"'])
def test_block_info_of_a_write(etag: str) -> None:
    assert block_info("k", reply(etag=etag), size=5) == BlockInfo("k", 5, "tag", None)


@pytest.mark.parametrize("length", ["", "-1", "1.0", "٣", "1_000", "9" * 19, "0x10"])
def test_block_info_without_a_size(length: str) -> None:
    with pytest.raises(ProtocolError, match="size"):
        _ = block_info("k", reply(content_length=length))


# Listings


def test_a_page() -> None:
    page = list_page(
        listing(entry("p/a"), entry("p/b", size="0", etag="bare")), PageRequest("p/"), "p/"
    )
    moment = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert page.blocks == [BlockInfo("a", 7, "tag", moment), BlockInfo("b", 0, "bare", moment)]
    assert page.next_token is None


def aws_encoded(key: str) -> str:
    return quote_plus(key, safe="/")


def fully_encoded(key: str) -> str:
    return quote(key, safe="")


def encoded_in_lower_case(key: str) -> str:
    return re.sub("%..", lambda escape: escape[0].lower(), quote(key, safe="/"))


@pytest.mark.parametrize("encoded", [aws_encoded, fully_encoded, encoded_in_lower_case])
@steady
@given(listed=st.lists(keys, max_size=10, unique=True).map(sorted))
@example(
    listed=sorted(["a b", "a+b", "a%20b", "a%2Bb", "%2F", "a/b", "é", "\x01", "\r\n", "🎈", "&<>"])
)
def test_encoded_keys_are_decoded(encoded: Callable[[str], str], listed: list[str]) -> None:
    page = list_page(
        listing(*[entry(encoded(f"p/{key}")) for key in listed]), PageRequest("p/"), "p/"
    )
    assert [block.key for block in page.blocks] == listed


@steady
@given(listed=st.lists(keys.filter(xml_safe), max_size=10, unique=True).map(sorted))
@example(listed=["%2F", "a%20b", "a+b"])
def test_keys_that_the_service_did_not_encode_are_left_alone(listed: list[str]) -> None:
    page = list_page(
        listing(*[entry(escape(key)) for key in listed], encoded=False), PageRequest("")
    )
    assert [block.key for block in page.blocks] == listed


def test_the_prefix_itself_is_no_block() -> None:
    assert (
        list_page(listing(entry("p/"), entry("p/a")), PageRequest("p/"), "p/").blocks[0].key == "a"
    )


@pytest.mark.parametrize("key", ["q/a", "", "p", "%70%2", "p%2F%FF"])
def test_a_key_that_was_not_asked_for_is_refused(key: str) -> None:
    with pytest.raises(ProtocolError):
        _ = list_page(listing(entry(key)), PageRequest("p/"), "p/")


def test_an_entry_without_a_key_is_refused() -> None:
    with pytest.raises(ProtocolError):
        _ = list_page(listing("<Contents><Size>1</Size></Contents>"), PageRequest(""))


@pytest.mark.parametrize("size", ["", "-1", "seven", "1e3", "9" * 5000])
def test_a_block_without_a_size_is_refused(size: str) -> None:
    with pytest.raises(ProtocolError, match="size"):
        _ = list_page(listing(entry("a", size=size)), PageRequest(""))


def test_a_page_that_goes_on() -> None:
    rest = (
        "<IsTruncated>true</IsTruncated><ContinuationToken>t1</ContinuationToken>"
        "<NextContinuationToken>t2/=+</NextContinuationToken>"
    )
    assert list_page(listing(rest=rest), PageRequest("")).next_token == "1\0\0t2/=+"


def test_the_key_to_start_after_is_passed_over() -> None:
    listed = listing(entry("a", size="1"), entry("b", size="2", etag="e"))
    [block] = list_page(listed, PageRequest("", after="a")).blocks
    assert (block.key, block.size, block.etag) == ("b", 2, "e")
    with pytest.raises(ProtocolError, match="do not increase"):
        _ = list_page(listed, PageRequest("", "token", after="a"))


def folders(*names: str) -> str:
    return "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in names)


def test_a_listing_by_folder() -> None:
    rest = folders("p/a%2B/", "p/b/") + "<IsTruncated>true</IsTruncated>"
    rest += "<NextContinuationToken>t</NextContinuationToken>"
    asked = PageRequest("p/", delimiter="/")
    page = list_page(listing(entry("p/"), entry("p/a"), rest=rest), asked, "p/")
    assert [block.key for block in page.blocks] == ["a"]
    assert page.folders == ["a+/", "b/"]
    assert page.next_token == "0\0p/b/\0t"

    again = PageRequest("p/", "t", "p/b/", delimiter="/")  # begun with the last one once more
    rest = folders("p/b/", "p/c/") + "<IsTruncated>false</IsTruncated>"
    assert list_page(listing(rest=rest), again, "p/").folders == ["c/"]


@pytest.mark.parametrize(
    "listed",
    [
        (entry("p/a/b"), ""),
        ("", folders("p/b/", "p/a/")),
        ("", folders("p/a/", "p/a/")),
        ("", folders("q/")),
        ("", folders("p/")),
        ("", folders("p/a")),
        ("", folders("p/a/b/")),
        ("", folders("")),
    ],
)
def test_a_listing_that_is_not_by_the_folder_asked_for_is_refused(listed: tuple[str, str]) -> None:
    entries, prefixes = listed
    rest = prefixes + "<IsTruncated>false</IsTruncated>"
    with pytest.raises(ProtocolError):
        _ = list_page(listing(entries, rest=rest), PageRequest("p/", delimiter="/"))


def test_folders_that_were_not_asked_for_are_refused() -> None:
    rest = folders("p/a/") + "<IsTruncated>false</IsTruncated>"
    for asked in (PageRequest("p/"), PageRequest("p/", "t", "p/b", delimiter="/")):
        with pytest.raises(ProtocolError, match="common prefix"):
            _ = list_page(listing(rest=rest), asked)
    after = PageRequest("p/", after="p/a/x", delimiter="/")  # there may be more in there
    assert list_page(listing(rest=rest), after).folders == ["p/a/"]


@pytest.mark.parametrize(
    "rest",
    [
        "<IsTruncated>true</IsTruncated>",
        "<IsTruncated>true</IsTruncated><NextContinuationToken/>",
        "<IsTruncated>true</IsTruncated><NextMarker>a</NextMarker>",
        "<IsTruncated>perhaps</IsTruncated><NextContinuationToken>t</NextContinuationToken>",
        "<NextContinuationToken>t</NextContinuationToken>",
        "<Name>nothing said</Name>",
        "<IsTruncated>true</IsTruncated><ContinuationToken>t</ContinuationToken>"
        "<NextContinuationToken>t</NextContinuationToken>",
    ],
)
def test_a_listing_that_would_end_early_or_never_is_refused(rest: str) -> None:
    with pytest.raises(ProtocolError):
        _ = list_page(listing(entry("a"), rest=rest), PageRequest(""))


# Deletes


def test_every_key_of_a_delete_has_one_outcome() -> None:
    told = deletion(
        deleted("p/a"),
        not_deleted("p/b", "AccessDenied", "No."),
        not_deleted("p/c", "SlowDown"),
        not_deleted("p/d", "InternalError"),
        not_deleted("p/e", "NoSuchKey"),
        not_deleted("p/f", "SomethingNew"),
    )
    told.headers["x-amz-request-id"] = "R1"
    gone, failed = delete_outcome(told, ["e", "a", "b", "c", "d", "f", "g"], "p/")
    assert gone == ["e", "a"]
    assert {key: type(error) for key, error in failed.items()} == {
        "b": AccessDeniedError,
        "c": ThrottledError,
        "d": ServerError,
        "f": ServerError,
        "g": ProtocolError,
    }
    denied, slow = failed["b"], failed["c"]
    assert isinstance(denied, S3Error)
    assert (denied.status, denied.code, denied.request_id) == (403, "AccessDenied", "R1")
    assert isinstance(slow, S3Error)
    assert slow.status == 503
    assert str(denied).startswith("delete_blocks 'b': ")
    assert "'g'" in str(failed["g"])


@steady
@given(st.lists(keys.filter(xml_safe), unique=True), st.data())
@example(["SlowDown", "NoSuchKey", "<Error>", "404", "InternalError"], None)
def test_keys_may_hold_any_text(asked: list[str], data: st.DataObject | None) -> None:
    refused = (
        set(asked[::2]) if data is None else data.draw(st.sets(st.sampled_from(asked or [""])))
    )
    refused &= set(asked)
    records = [
        not_deleted(key, "AccessDenied") if key in refused else deleted(key) for key in asked
    ]
    gone, failed = delete_outcome(deletion(*reversed(records)), asked)
    assert gone == [key for key in asked if key not in refused]
    assert set(failed) == refused


def test_a_key_that_is_both_gone_and_not_has_failed() -> None:
    told = deletion(not_deleted("a", "InternalError"), deleted("a"), deleted("a"))
    gone, failed = delete_outcome(told, ["a"])
    assert gone == []
    assert list(failed) == ["a"]


@pytest.mark.parametrize("record", [deleted("b"), not_deleted("b", "X")])
def test_an_outcome_for_a_key_that_was_not_asked_for_is_refused(record: str) -> None:
    with pytest.raises(ProtocolError, match="not requested"):
        _ = delete_outcome(deletion(deleted("a"), record), ["a"])


# Copies, and errors inside a 200


def test_a_copy() -> None:
    told = reply(
        f'\n\n<?xml version="1.0"?>\n<CopyObjectResult xmlns="{XMLNS}"><ETag>"tag"</ETag>'
        "<LastModified>2024-05-06T07:08:09.000Z</LastModified></CopyObjectResult>\n"
    )
    assert copy_result(told, "k") == ("tag", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("InternalError", ServerError, 500),
        ("SlowDown", ThrottledError, 503),
        ("SomethingNew", ServerError, 500),
        ("AccessDenied", AccessDeniedError, 403),
        ("PreconditionFailed", S3Error, 412),
        ("NoSuchBucket", BucketNotFoundError, 404),
        ("NoSuchKey", BlockNotFoundError, None),
        ("", ServerError, 500),
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda told: copy_result(told, "k"),
        lambda told: delete_outcome(told, ["k"]),
        lambda told: list_page(told, PageRequest("")),
    ],
)
def test_an_error_inside_a_success(
    read: Callable[[Response], object],
    code: str,
    kind: type[BlockStoreError],
    status: int | None,
) -> None:
    with pytest.raises(kind) as caught:
        _ = read(s3_error(200, code))
    assert type(caught.value) is kind
    assert getattr(caught.value, "status", None) == status


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html/>",
        "<CopyObjectResult/>",
        "<CopyObjectResult><ETag/></CopyObjectResult>",
        "<ListBucketResult><ETag>tag</ETag></ListBucketResult>",
        "<CopyObjectResult><ETag>tag</ETag>",
    ],
)
def test_a_copy_that_says_nothing_is_refused(body: str) -> None:
    with pytest.raises(ProtocolError):
        _ = copy_result(reply(body), "k")


# XML


@pytest.mark.parametrize("namespace", ["", f' xmlns="{XMLNS}"', ' xmlns="http://elsewhere/"'])
def test_namespaces_are_not_compared(namespace: str) -> None:
    document = read_xml(f"<A{namespace}><B>x</B><C><D>y</D></C></A>".encode())
    assert (document.name, document.text("B"), document.text("Z")) == ("A", "x", "")
    assert list(document.entries("C", "D", "E")) == [["y", ""]]


def test_text_is_the_same_however_it_is_written() -> None:
    body = b"<A><B><![CDATA[a<!DOCTYPE&]]>b<!-- c -->d&#101;&amp;<?p i?>f</B></A>"
    assert read_xml(body).text("B") == "a<!DOCTYPE&bde&f"


def test_characters_that_xml_forbids_are_read_nonetheless() -> None:
    """Ceph writes them so in its tokens, each of which is the last key of a page."""
    body = "<A><B>&#x1;a&#10;&#65;&#x1f;&#xE000;0001</B><C><D>&#31;\ufffe\uffff\x01</D></C></A>"
    document = read_xml(body.encode())
    assert document.text("B") == "\x01a\nA\x1f\ue0000001"
    assert list(document.entries("C", "D")) == [["\x1f\ufffe\uffff\x01"]]


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l19;</a>', id="billion laughs"),
        pytest.param('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', id="file"),
        pytest.param('<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd"><a/>', id="external"),
        pytest.param("<!DOCTYPE a><a/>", id="document type alone"),
        pytest.param("<?xml version='1.0'?><!-- c --><!DOCTYPE a><a/>", id="after a comment"),
        pytest.param("<?p i?><a/>", id="instruction before the root"),
        pytest.param("<a><!DOCTYPE a></a>", id="document type inside"),
        pytest.param("<a>&unknown;</a>", id="unknown entity"),
        pytest.param("<a></a><a></a>", id="two roots"),
        pytest.param("<a></a>text", id="text after the root"),
        pytest.param("<a><b></a>", id="not nested"),
        pytest.param("<a", id="cut in a tag"),
        pytest.param("<a>", id="cut after a tag"),
        pytest.param("<a b='1' b='2'/>", id="two attributes"),
        pytest.param('<a xmlns="}["/>', id="namespace that would be a path"),
        pytest.param("<a>\0</a>", id="NUL"),
        pytest.param("<a>&#0;</a>", id="reference to NUL"),
        pytest.param("<a\x01>x</a\x01>", id="control character in a name"),
        pytest.param("<a>&#xD800;</a>", id="reference to half a character"),
        pytest.param("<a>\ue000&#1;</a>", id="reference to a control character beside the mark"),
        pytest.param("<a>&#1;", id="reference to a control character in a broken document"),
        pytest.param("text", id="text"),
        pytest.param("", id="nothing"),
        pytest.param(" \n ", id="blanks"),
        pytest.param("<a>" * 200_001, id="nested too deep"),
        pytest.param("<a>" + "<b/>" * 200_001 + "</a>", id="too many elements"),
        pytest.param("<a>" + " " * MAX_REPLY + "</a>", id="too long"),
    ],
)
def test_xml_that_is_refused(body: str) -> None:
    with pytest.raises(ProtocolError):
        _ = read_xml(body.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_xml_is_read_as_utf_8_whatever_it_says(encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><a>é</a>'
    with pytest.raises(ProtocolError):
        _ = read_xml(body.encode(encoding))
    assert read_xml(body.encode()).name == "a"


def test_elements_nested_to_the_limit_are_harmless() -> None:
    document = read_xml(b"<a>" * 50_000 + b"</a>" * 50_000)
    assert document.text("Key") == ""
    del document


def test_of_a_repeated_field_the_first_counts_and_no_key_is_lost() -> None:
    gone, failed = delete_outcome(
        deletion("<Deleted><Key>a</Key><Key>b</Key></Deleted>"), ["a", "b"]
    )
    assert gone == ["a"]
    assert list(failed) == ["b"]
