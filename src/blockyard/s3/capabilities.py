"""What the service behind one store was found to have, and to lack.

Learnt from its replies, kept while the store is open. Threads share it without a lock: each
field is swapped whole, and a race costs no more than finding out twice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from blockyard.errors import S3Error

_HEADER_REFUSED = frozenset({"InvalidArgument", "InvalidRequest", "NotImplemented"})
_log = logging.getLogger("blockyard.s3")
_LACKING = frozenset({"NotImplemented", "MethodNotAllowed"})


@dataclass(slots=True)
class Capabilities:
    """One store's service. None: not known yet.

    `answered`: the endpoint ever sent a reply. `bucket_found`: a reply proved that the bucket
    is there. `upload_checksum`, `checksum_mode`: it takes `x-amz-checksum-crc32c` with a write,
    `x-amz-checksum-mode` with a read. `delete_objects`, `copies`: it has DeleteObjects,
    CopyObject. `conditional_writes`, `matching_writes`: it holds a write with `If-None-Match: *`,
    with `If-Match`, to that, and does not just accept the header. `bare_etags`: it takes the ETag
    of `If-Match` with a write as it stands, quotes and all, as Ceph up to 19 does.
    """

    answered: bool = False
    bucket_found: bool = False
    upload_checksum: bool = True
    checksum_mode: bool | None = None
    delete_objects: bool | None = None
    copies: bool | None = None
    conditional_writes: bool | None = None
    matching_writes: bool | None = None
    bare_etags: bool = False

    def __setattr__(self, name: str, value: bool | None) -> None:
        before = getattr(self, name, value)
        object.__setattr__(self, name, value)
        if before != value and value is (name == "bare_etags"):  # and not as it should be
            _log.info("learnt of the service: %s is %s", name, value)

    @classmethod
    def of_aws(cls) -> Capabilities:
        """Those that AWS documents."""
        return cls(
            checksum_mode=True,
            delete_objects=True,
            copies=True,
            conditional_writes=True,
            matching_writes=True,
        )


def lacking(error: S3Error) -> bool:
    """Whether the service refused the request since it has no such operation."""
    return error.status in {405, 501} or error.code in _LACKING


def refuses_a_header(error: S3Error) -> bool:
    """Whether the service may have refused the request for a header that it does not know."""
    return error.status == 501 or error.code in _HEADER_REFUSED
