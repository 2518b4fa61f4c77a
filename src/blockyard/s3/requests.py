"""S3 requests: method, target and headers of each operation.

Targets are built in the canonical form of Signature Version 4 (every byte of a key encoded
once, the query sorted, a bare parameter written `delete=`), so that they are signed as sent.
Nothing here signs or sends.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import md5
from typing import TYPE_CHECKING
from urllib.parse import quote

from blockyard.context import Request
from blockyard.errors import ProtocolError
from blockyard.s3.endpoints import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_DELETED_AT_ONCE = 1000
"""How many keys one `delete_objects` may name."""
_MAX_UPLOADS = 1000

_PLAIN_KEY = re.compile(r"[A-Za-z0-9._~/-]*")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_SENT_AGAIN = ("x-amz-request-payer", "x-amz-expected-", "x-amz-server-side-")
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"


def encode_key(key: str) -> str:
    """`key` as it stands in a path: every byte but `A-Za-z0-9-._~/` percent-encoded.

    Segments `.` and `..` go as they are: S3 takes the path literally, and refuses with 400
    only what would climb out of the bucket.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
    """
    return key if _PLAIN_KEY.fullmatch(key) else quote(key, safe="/")


def xml_safe(key: str) -> bool:
    """Whether `key` may be named in `delete_objects`; others are deleted one by one.

    XML 1.0 can't hold most control characters, and not every server's parser keeps line
    separators, or blanks at the ends: one that trims them would delete another key.
    """
    return not _NOT_IN_XML.search(key) and key == key.strip()


def all_xml_safe(keys: Sequence[str]) -> bool:
    """Whether it is plain that all of `keys` are `xml_safe`: printable ASCII, without a blank."""
    together = "".join(keys)
    return together.isascii() and together.isprintable() and " " not in together


def put_object(
    address: Address,
    key: str,
    body: bytes | memoryview,
    *,
    headers: Mapping[str, str] | None = None,
    if_absent: bool = False,
    if_match: str | None = None,
    bare_etag: bool = False,
) -> Request:
    """Store `body`. https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html

    `headers` are further ones, with lower-case names. With `if_absent` the service answers
    412, or 409 in a race, when there is an object already; with `if_match`, an ETag without
    quotes, when the object has another, and 404 when there is none. Quotes are put around it,
    as RFC 9110 wants it, unless it is to go as a `bare_etag`.
    """
    request = _request(address, "PUT", object_path(address, key), headers)
    _add_conditions(request, if_absent, if_match, bare_etag)
    request.body = body
    return request


def create_upload(address: Address, key: str, headers: Mapping[str, str]) -> Request:
    """Begin an upload in parts, its headers those of the object.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html
    """
    return _request(address, "POST", f"{object_path(address, key)}?uploads=", headers)


def upload_part(
    address: Address,
    key: str,
    upload_id: str,
    number: int,
    body: bytes | memoryview,
    *,
    headers: Mapping[str, str],
) -> Request:
    """Send a part. https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPart.html"""
    where = f"partNumber={number}&uploadId={quote(upload_id, safe='')}"
    request = _request(address, "PUT", f"{object_path(address, key)}?{where}", headers)
    request.body = body
    return request


def copy_part(
    address: Address,
    key: str,
    upload_id: str,
    number: int,
    *,
    source_key: str,
    span: range,
    etag: str,
) -> Request:
    """Have a part copied: the bytes `span` of an object in the bucket, while it has that ETag.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html
    """
    headers = {
        "x-amz-copy-source": _copy_source(address, source_key),
        "x-amz-copy-source-if-match": f'"{etag}"',
        "x-amz-copy-source-range": f"bytes={span.start}-{span.stop - 1}",
    }
    return upload_part(address, key, upload_id, number, b"", headers=headers)


def complete_upload(
    address: Address,
    key: str,
    upload_id: str,
    parts: Iterable[tuple[int, str, str]],
    headers: Mapping[str, str],
    *,
    if_absent: bool = False,
    if_match: str | None = None,
    bare_etag: bool = False,
) -> Request:
    """Make an object of `parts`: number, ETag without quotes, and checksum or "" of each.

    The conditions are those of `put_object`.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
    """
    target = f"{object_path(address, key)}?uploadId={quote(upload_id, safe='')}"
    request = _request(address, "POST", target, headers)
    _add_conditions(request, if_absent, if_match, bare_etag)
    listed = "".join(
        [
            f'<Part><PartNumber>{number}</PartNumber><ETag>"{_escaped(etag)}"</ETag>'
            f"{checksum and f'<ChecksumCRC32C>{checksum}</ChecksumCRC32C>'}</Part>"
            for number, etag, checksum in parts
        ]
    )
    request.headers["content-type"] = "application/xml"
    request.body = (
        f'<CompleteMultipartUpload xmlns="{_XMLNS}">{listed}</CompleteMultipartUpload>'.encode()
    )
    return request


def abort_upload(address: Address, key: str, upload_id: str) -> Request:
    """Give an upload up.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
    """
    target = f"{object_path(address, key)}?uploadId={quote(upload_id, safe='')}"
    return _request(address, "DELETE", target)


def list_uploads(address: Address, prefix: str, after: tuple[str, str] | None) -> Request:
    """Ask for uploads under way, those behind the one of a key and an id, keys URL-encoded.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html
    """
    key_marker, id_marker = after or ("", "")
    parameters = [
        "encoding-type=url",
        f"key-marker={quote(key_marker, safe='')}" if key_marker else "",
        f"max-uploads={_MAX_UPLOADS}",
        f"prefix={quote(prefix, safe='')}" if prefix else "",
        f"upload-id-marker={quote(id_marker, safe='')}" if id_marker else "",
        "uploads=",
    ]
    request = _request(address, "GET", f"{address.path}?{'&'.join(filter(None, parameters))}")
    request.until_close = True
    return request


def get_object(
    address: Address,
    key: str,
    *,
    byte_range: tuple[int, int | None] | None = None,
    suffix: int | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
    checksum: bool = False,
) -> Request:
    """Read an object. https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html

    `byte_range` is the first byte and the last one, inclusive, or None for the object's end;
    `suffix` asks for that many bytes at the end instead, all of a shorter object. `if_match` and
    `if_none_match` are ETags without quotes: the service answers 412 when the object has another
    than the one, 304 when it has the other.
    With `checksum` it says what checksum it keeps, if any, of an object that is read whole.
    """
    headers = {"host": address.host}
    if suffix is not None:
        headers["range"] = f"bytes=-{suffix}"
    elif byte_range is not None:
        first, last = byte_range
        headers["range"] = f"bytes={first}-" if last is None else f"bytes={first}-{last}"
    if if_match is not None:
        headers["if-match"] = _header_value("if-match", f'"{if_match}"')
    if if_none_match is not None:
        headers["if-none-match"] = _header_value("if-none-match", f'"{if_none_match}"')
    if checksum:
        headers["x-amz-checksum-mode"] = "ENABLED"
    return Request(address.origin, "GET", f"{address.root}/{encode_key(key)}", headers)


def head_object(address: Address, key: str, *, checksum: bool = False) -> Request:
    """Ask for an object's headers; with `checksum` also for the one that the service keeps.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
    """
    headers = {"x-amz-checksum-mode": "ENABLED"} if checksum else {}
    return _request(address, "HEAD", object_path(address, key), headers)


def delete_object(
    address: Address, key: str, *, if_match: str | None = None, bare_etag: bool = False
) -> Request:
    """Delete an object. https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObject.html

    With `if_match`, an ETag without quotes, the service answers 412 when the object has another,
    and 404 when there is none; `bare_etag` is `put_object`'s.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html
    """
    request = _request(address, "DELETE", object_path(address, key))
    if if_match is not None:
        request.headers["if-match"] = _etag_value(if_match, bare_etag)
    return request


def copy_object(address: Address, source_key: str, target_key: str) -> Request:
    """Copy an object within the bucket, its metadata included.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
    """
    request = _request(address, "PUT", object_path(address, target_key))
    request.headers["x-amz-copy-source"] = _copy_source(address, source_key)
    return request


def get_tags(address: Address, key: str) -> Request:
    """Ask for an object's tags.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectTagging.html
    """
    request = _request(address, "GET", f"{object_path(address, key)}?tagging=")
    request.until_close = True
    return request


def put_tags(address: Address, key: str, tags: Iterable[tuple[str, str]]) -> Request:
    """Give an object these tags, in place of those it has.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObjectTagging.html
    """
    listed = "".join(
        f"<Tag><Key>{_escaped(name)}</Key><Value>{_escaped(value)}</Value></Tag>"
        for name, value in tags
    )
    body = f'<Tagging xmlns="{_XMLNS}"><TagSet>{listed}</TagSet></Tagging>'.encode()
    request = _request(address, "PUT", f"{object_path(address, key)}?tagging=")
    _add_document(request, body)
    return request


def list_objects(
    address: Address,
    prefix: str,
    *,
    token: str | None,
    max_keys: int,
    delimiter: str = "",
    start_after: str = "",
) -> Request:
    """Ask for one page of a listing, its keys URL-encoded so that XML can carry all of them.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    parameters = [
        f"continuation-token={quote(token, safe='')}" if token is not None else "",
        f"delimiter={quote(delimiter, safe='')}" if delimiter else "",
        "encoding-type=url",
        "list-type=2",
        f"max-keys={max_keys}",
        f"prefix={quote(prefix, safe='')}" if prefix else "",
        f"start-after={quote(start_after, safe='')}" if start_after else "",
    ]
    request = _request(address, "GET", f"{address.path}?{'&'.join(filter(None, parameters))}")
    request.until_close = True  # XML that broke off is no document
    return request


def delete_objects(address: Address, keys: Sequence[str]) -> Request:
    """Delete 1 to `MAX_DELETED_AT_ONCE` objects, each of a key that is `xml_safe`.

    The reply names every key. https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    # no key that is safe holds a line end: all are escaped at once, four times as quickly
    objects = _escaped("\n".join(keys)).replace("\n", "</Key></Object><Object><Key>")
    body = (
        f'<Delete xmlns="{_XMLNS}"><Object><Key>{objects}</Key></Object>'
        "<Quiet>false</Quiet></Delete>"
    ).encode()
    request = _request(address, "POST", f"{address.path}?delete=")
    _add_document(request, body)
    return request


def with_a_body(head: Request) -> Request:
    """A GET of what a HEAD is about, as small as there is: its error response has a body."""
    headers = {
        name: value
        for name, value in head.headers.items()
        if name in {"host", "user-agent"} or name.startswith(_SENT_AGAIN)
    }
    return Request(head.origin, "GET", head.target, {**headers, "range": "bytes=0-0"})


def _request(
    address: Address, method: str, target: str, headers: Mapping[str, str] | None = None
) -> Request:
    request = Request(address.origin, method, target, {"host": address.host})
    for name, value in (headers or {}).items():
        request.headers[name] = _header_value(name, value)
    return request


def _add_document(request: Request, body: bytes) -> None:
    request.headers["content-md5"] = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    request.headers["content-type"] = "application/xml"
    request.body = body


def _add_conditions(
    request: Request, if_absent: bool, if_match: str | None, bare_etag: bool
) -> None:
    if if_absent:
        request.headers["if-none-match"] = "*"
    if if_match is not None:
        request.headers["if-match"] = _etag_value(if_match, bare_etag)


def object_path(address: Address, key: str) -> str:
    """The target of an object's requests."""
    return f"{address.root}/{encode_key(key)}"


def _copy_source(address: Address, key: str) -> str:
    return f"{quote(address.bucket, safe='')}/{encode_key(key)}"  # no / before: for all


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _etag_value(etag: str, bare: bool) -> str:
    return _header_value("if-match", etag if bare else f'"{etag}"')


def _header_value(name: str, value: str) -> str:
    """`value`, which came from the service or another module, unless it could end the header."""
    if not _HEADER_VALUE.fullmatch(value):
        raise ProtocolError(f"header {name}: {value!r} can't be sent, it must be printable ASCII")
    return value
