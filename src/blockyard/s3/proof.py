"""What a success has to show before it is believed.

A proxy, a login page, a console port or a web server answers `200` to anything. The reply of an
S3 service to a write, and to a read or HEAD of an object, holds an ETag; that to a delete is
empty. Everything else that S3 answers is XML, which `responses.py` reads.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockyard.errors import NotS3Error

if TYPE_CHECKING:
    from blockyard.context import Response

_ACCEPTED = 202
"""Taken in, but not done: RFC 9110, section 15.3.3."""
_CREATED = 201
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")
_SNIFFED = 64


def check_stored(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a PUT shows that the object was stored."""
    if not _has_etag(reply):
        raise _not_s3(reply, "the reply to a write has no ETag", " If so: write_proof: head")
    if reply.status == _ACCEPTED:
        raise _not_s3(reply, "the reply does not say that the write is done")
    if reply.status != _CREATED and is_page(reply):  # WebDAV servers send a page with their 201
        raise _not_s3(reply, "the reply to a write is a web page")


def check_taken(reply: Response) -> None:
    """`check_stored` for a service that sends no ETag: the reply is empty, at least."""
    if reply.status == _ACCEPTED or (reply.status != _CREATED and reply.body):
        raise _not_s3(reply, "the reply to a write is not empty")


def check_object(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a GET or HEAD is about an object."""
    if not _has_etag(reply):
        raise _not_s3(reply, "the reply has no ETag")


def check_deleted(reply: Response) -> None:
    """Raise `NotS3Error` unless the reply to a DELETE shows that the object is gone."""
    if reply.status not in {200, 204} or is_page(reply):
        raise _not_s3(reply, "the reply to a delete is not that of a service that deleted")


def check_page(reply: Response) -> None:
    """Raise `NotS3Error` for a web page where S3 answers with XML."""
    if is_page(reply):
        raise _not_s3(reply, "the reply is a web page")


def is_page(reply: Response) -> bool:
    """Whether the reply holds a web page."""
    if not reply.body:
        return False
    start = reply.body[:_SNIFFED].lstrip().lower()
    return start.startswith(_HTML) or "html" in reply.headers.get("content-type", "").lower()


def _has_etag(reply: Response) -> bool:
    return reply.headers.get("etag", "") not in {"", '""'}


def _not_s3(reply: Response, what: str, unless: str = "") -> NotS3Error:
    kind = reply.headers.get("content-type", "")
    told = f" of type {kind[:60]!r}" if kind else ""
    return NotS3Error(f"{what} ({reply.status}{told}): is this an S3 endpoint?{unless}")
