"""Storage headers (`PutOptions`, encryption, payer, owner) for each kind of request.

S3 keeps an object's metadata and tags when it copies it, but neither storage class, encryption nor
ACL: a copy sends the store's again. An object encrypted with the caller's own key can be read,
described and copied with that key alone.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerSideEncryptionCustomerKeys.html
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from hashlib import md5
from typing import Any
from urllib.parse import quote, urlencode

from blockyard.config import PutConfig, S3Config
from blockyard.errors import UnsupportedError
from blockyard.put_options import PutOptions

METADATA = "x-amz-meta-"
METADATA_LIMIT = 2048
"""Bytes of names and values that S3 keeps with an object."""
ENCRYPTION = "x-amz-server-side-encryption"
"""By whose keys an object is encrypted, where those are not the caller's own."""

_NAMES = {
    "content_type": "content-type",
    "cache_control": "cache-control",
    "content_disposition": "content-disposition",
    "content_encoding": "content-encoding",
    "content_language": "content-language",
    "tags": "x-amz-tagging",
    "storage_class": "x-amz-storage-class",
    "encryption": ENCRYPTION,
    "kms_key_id": "x-amz-server-side-encryption-aws-kms-key-id",
    "kms_context": "x-amz-server-side-encryption-context",
    "acl": "x-amz-acl",
}
_ENCRYPTED_BY = (ENCRYPTION, "x-amz-server-side-encryption-customer-algorithm")
_SENT_WITH_COPIES = ("storage_class", "encryption", "kms_key_id", "kms_context", "acl")


class ObjectHeaders:
    """The storage headers of one store.

    every: of each request
    read: of a GET or HEAD of an object, besides `every`
    copy: of a CopyObject
    copied, copied_part: of a copy in parts: of its CreateMultipartUpload, of each UploadPartCopy
    """

    def __init__(self, config: S3Config) -> None:
        self.every: dict[str, str] = {}
        if config.request_payer:
            self.every["x-amz-request-payer"] = "requester"
        if config.expected_bucket_owner:
            self.every["x-amz-expected-bucket-owner"] = config.expected_bucket_owner
        self._defaults = defaults = _defaults(config.put)
        own_key = config.put.customer_key.reveal()
        self.read = _customer_key_headers("", own_key)
        self._encryption = config.put.encryption
        self._write = _headers(defaults)
        self.has_metadata = "metadata" in defaults
        """Whether the store's settings say some of every object."""
        kept = {name: value for name, value in defaults.items() if name in _SENT_WITH_COPIES}
        self.copied = _headers(kept)
        self.copied_part = self.read | _customer_key_headers("copy-source-", own_key)
        self.copy = self.copied | self.copied_part

    def write(self, operation: str, key: str, options: PutOptions | None) -> dict[str, str]:
        """The headers of a write: the store's, unless its own options say otherwise.

        Those of `read` go with it as well. Raises `ValueError`, which names both.
        """
        if options is None:
            return self._write
        options.check()
        given, where = options.given(), f"{operation} {key!r}"
        kept = {name: value for name, value in self._defaults.items() if name not in given}
        if "encryption" in given:
            if self.read:
                raise ValueError(f"{where}: options: encryption: the store has a customer_key")
            for name in ("kms_key_id", "kms_context"):  # of another kind
                _ = kept.pop(name, None)
        elif given.keys() & {"kms_key_id", "kms_context"} and "kms" not in self._encryption:
            raise ValueError(f"{where}: options: encryption: expected aws:kms with a key of KMS")
        return _headers(kept | given)

    def check_metadata(
        self,
        operation: str,
        key: str,
        options: PutOptions | None,
        headers: Mapping[str, str],
    ) -> None:
        """Raise `ValueError` for more metadata than S3 keeps; blockyard's own alone always fits."""
        of_its_own = options is not None and bool(options.metadata)
        if not (of_its_own or self.has_metadata):
            return
        size = metadata_size(headers)
        if size > METADATA_LIMIT:
            said = "options: metadata" if of_its_own else "the setting put.metadata"
            raise ValueError(
                f"{operation} {key!r}: {said}: with blockyard's own it has {size} bytes, "
                f"the limit is {METADATA_LIMIT}"
            )


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's own metadata in a reply."""
    own = METADATA + "blockyard-"
    return {
        name.removeprefix(METADATA): value
        for name, value in headers.items()
        if name.startswith(METADATA) and not name.startswith(own)
    }


def metadata_size(headers: Mapping[str, str]) -> int:
    """The bytes of metadata names and values in a request, as S3 counts them."""
    kept = [each for each in headers.items() if each[0].startswith(METADATA)]
    return sum(len(name) - len(METADATA) + len(value) for name, value in kept)


def tagging(tags: Iterable[tuple[str, str]]) -> str:
    """Encode tags for the header, a query string. Spaces are `%20`: Ceph keeps a `+` as it is."""
    return urlencode([*tags], quote_via=quote)


def check_encrypted(where: str, asked: Mapping[str, str], reply_headers: Mapping[str, str]) -> None:
    """Raise `UnsupportedError` unless a reply says that an object is encrypted as was asked for.

    S3 says it in the reply to all that stores one. Some services ignore what they are asked.
    """
    for name in _ENCRYPTED_BY:
        wanted = asked.get(name)
        if wanted is not None and reply_headers.get(name) != wanted:
            error = UnsupportedError(
                f"{where}: the service does not say that it is encrypted: "
                f"its reply has no `{name}: {wanted}`"
            )
            error.of_options = True
            try:
                raise error
            finally:
                del error  # which its traceback refers to


def is_encrypted(reply_headers: Mapping[str, str]) -> bool:
    """Whether a reply says that an object is encrypted by a key that was asked for."""
    return any(name in reply_headers for name in _ENCRYPTED_BY)


def _defaults(put: PutConfig) -> dict[str, Any]:
    """The store's own options, by the fields of `PutOptions`."""
    defaults: dict[str, Any] = {
        "content_type": put.content_type,
        "cache_control": put.cache_control,
        "storage_class": put.storage_class,
        "encryption": put.encryption,
        "kms_key_id": put.kms_key_id,
        "kms_context": put.kms_context,
        "acl": put.acl,
        "metadata": put.metadata,
        "tags": put.tags,
    }
    return {name: value for name, value in defaults.items() if value}


def _headers(options: Mapping[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in options.items():
        if name == "metadata":
            headers |= {f"{METADATA}{key}": text for key, text in value.items()}
        elif name == "tags" and value:
            headers[_NAMES[name]] = tagging(value.items())
        elif name == "kms_context" and value:
            headers[_NAMES[name]] = b64encode(json.dumps(dict(value)).encode()).decode()
        elif value:
            headers[_NAMES[name]] = value
    return headers


def _customer_key_headers(prefix: str, key: str) -> dict[str, str]:
    """The SSE-C headers for a key: the service uses it and does not keep it."""
    if not key:
        return {}
    digest = b64encode(md5(b64decode(key), usedforsecurity=False).digest()).decode()
    name = f"x-amz-{prefix}server-side-encryption-customer-"
    return {f"{name}algorithm": "AES256", f"{name}key": key, f"{name}key-md5": digest}
