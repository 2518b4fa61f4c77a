"""Checksums that travel with a block, so that any server gives back verified bytes.

S3 has no checksum for a range, and many servers keep none at all. Every block is therefore
stored with a running CRC32C (RFC 3720, appendix B.4) in user metadata, which every server keeps,
returns with a ranged read too, and carries over on a copy: at the end of each page, the checksum of
the block up to there. One pass over the block gives them all, the last is that of the whole block,
and any run of pages is verified by one call, which leads from the checksum before it to the one at
its end. The object's bytes are stored as they are. The page size is at least 16 KiB, and so that a
block has at most 256 pages: 1 KiB of checksums, within S3's 2 KiB of metadata, in values of at most
256 bytes.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html

A block that another program wrote is verified against the checksum the service keeps, if any.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import md5, sha1, sha256
from typing import NamedTuple

from blockyard.crc32c import crc32c
from blockyard.model import KIB, MAX_BLOCK_SIZE, PageSums

SMALLEST_PAGE = 16 * KIB
"""The page size of blocks of up to 4 MiB, in bytes."""
MOST_PAGES = 256
CHECKSUM = "x-amz-checksum-crc32c"
"""The header by which a service may verify the body of a write."""
CHECKSUM_TYPE = "x-amz-checksum-type"
FULL_OBJECT = "FULL_OBJECT"
"""The type of a checksum of all bytes, as opposed to a composite of those of the parts."""
_CRC32C = re.compile(r"[A-Za-z0-9+/]{6}==")
PAGE_CHECKSUMS = "x-amz-meta-blockyard-sums"
"""What a block was stored with: the format, its size, that of its pages, and its CRC32C."""
_EDGES = "x-amz-meta-blockyard-pages-"
"""The checksums up to the end of each page but the last, in several headers."""
_EDGES_A_VALUE = 48  # 192 bytes, which are 256 in base64
_PLACES = [
    (slice(first * 4, first * 4 + 8), slice(skipped, skipped + 4))
    for first, skipped in (divmod(place * 4, 3) for place in range(_EDGES_A_VALUE))
]
"""Which letters of a value hold each checksum, three bytes in four of base64, and where in them."""
_FORMAT = "2"
_STATED = re.compile(rf"{_FORMAT} (\d{{1,19}}) (\d{{1,19}}) ([0-9a-f]{{8}})")


class Mismatch(NamedTuple):
    """Bytes that are not what was stored: `page` is None for the block as a whole."""

    page: int | None
    stored: str
    found: str

    def __str__(self) -> str:
        where = "the block" if self.page is None else f"page {self.page}"
        return f"{where}: the checksum stored is {self.stored}, that of the bytes {self.found}"


def page_size(size: int) -> int:
    """The page size in bytes of a block of `size` bytes: a power of two."""
    page = SMALLEST_PAGE
    while page * MOST_PAGES < size:
        page *= 2
    return page


def running_checksums(data: bytes | memoryview) -> list[int]:
    """The CRC32C of a block up to the end of each of its pages; one at least."""
    view = memoryview(data)
    page = page_size(len(view))
    running, sums = 0, list[int]()
    for start in range(0, max(1, len(view)), page):
        running = crc32c(view[start : start + page], running)
        sums.append(running)
    return sums


def upload_headers(data: bytes | memoryview) -> dict[str, str]:
    """The headers that a block is stored with: its page checksums, and one for the server."""
    size, page = len(data), page_size(len(data))
    *edges, whole = running_checksums(data)
    headers = {
        CHECKSUM: _base64(whole.to_bytes(4, "big")),
        PAGE_CHECKSUMS: f"{_FORMAT} {size} {page} {whole:08x}",
    }
    for index in range(0, len(edges), _EDGES_A_VALUE):
        part = edges[index : index + _EDGES_A_VALUE]
        packed = struct.pack(f">{len(part)}I", *part)
        headers[f"{_EDGES}{index // _EDGES_A_VALUE}"] = _base64(packed)
    return headers


class PageChecksums(NamedTuple):
    """The checksums a block was stored with; those at the edges of pages stay in the headers.

    All sizes in bytes.
    """

    size: int
    page_size: int
    whole: int

    @property
    def name(self) -> str:
        """What `verify_block` reports as the kind of checksum."""
        return "page checksums"

    @property
    def block_crc32c(self) -> int:
        """The CRC32C of the whole block."""
        return self.whole

    @staticmethod
    def stated(headers: Mapping[str, str]) -> bool:
        """Whether the headers have page checksums, valid or not."""
        return PAGE_CHECKSUMS in headers

    @staticmethod
    def of(headers: Mapping[str, str]) -> PageChecksums | None:
        """Parse the page checksums in reply headers; None for a block stored without any.

        Raises `ValueError` for damaged ones.
        """
        stated = headers.get(PAGE_CHECKSUMS)
        return None if stated is None else _parsed(stated)

    def check_size(self, size: int) -> None:
        """Raise `ValueError` when the object has another size than the block had."""
        if size != self.size:
            raise ValueError(f"the block was stored with {self.size} bytes and has {size}")

    def cover(self, offset: int, length: int | None, first: int, got: int) -> bool:
        """Whether the bytes requested lie on pages wholly within the `got` bytes from `first`."""
        page = self.page_size
        end = self.size if length is None else min(offset + length, self.size)
        last_page_end = min(-(-end // page) * page, self.size)
        return offset - offset % page >= first and last_page_end <= first + got

    def up_to(self, edge: int, headers: Mapping[str, str]) -> int:
        """The CRC32C of the first `edge` bytes: the end of a page, or of the block.

        Raises `ValueError` when it is damaged or missing.
        """
        if edge == 0:
            return 0
        if edge == self.size:
            return self.whole
        value, place = divmod(edge // self.page_size - 1, _EDGES_A_VALUE)
        letters, four = _PLACES[place]
        packed = a2b_base64(headers.get(f"{_EDGES}{value}", "")[letters], strict_mode=True)[four]
        if len(packed) < 4:
            raise ValueError(f"the stored checksum of the first {edge} bytes is missing")
        return int.from_bytes(packed, "big")

    def all(self, headers: Mapping[str, str]) -> PageSums | None:
        """The checksums of all pages; None where headers are missing or damaged."""
        edges = max(0, -(-self.size // self.page_size) - 1)
        values = range(-(-edges // _EDGES_A_VALUE))
        try:
            packed = b"".join(a2b_base64(headers.get(f"{_EDGES}{n}", "")) for n in values)
        except ValueError:
            return None
        if len(packed) != edges * 4:
            return None
        return PageSums(self.page_size, packed + self.whole.to_bytes(4, "big"))

    def mismatch(
        self,
        body: memoryview,
        first: int,
        headers: Mapping[str, str],
        crc32c_of_body: int | None = None,
    ) -> Mismatch | None:
        """Verify `body`, the bytes of the block from `first` on; return the first wrong page.

        Only pages that lie wholly within `body` are verified, all in one CRC32C call;
        `crc32c_of_body`, if given, saves that call for a whole block. Raises `ValueError` for
        damaged checksums.
        """
        size, page, whole = self
        begin, end = -(-first // page) * page, first + len(body)
        if end != size:
            end -= end % page
        if begin >= end:
            return None
        if crc32c_of_body is None or len(body) != size:
            before = self.up_to(begin, headers) if begin else 0
            crc32c_of_body = crc32c(body[begin - first : end - first], before)
        if crc32c_of_body == (whole if end == size else self.up_to(end, headers)):
            return None
        return self._first_wrong(body, first, range(begin, end, page), headers)

    def _first_wrong(
        self, body: memoryview, first: int, pages: range, headers: Mapping[str, str]
    ) -> Mismatch:
        """Find the page whose bytes do not lead from the checksum before it to the one after it."""
        for begin in pages:
            end = min(begin + self.page_size, self.size)
            found = crc32c(body[begin - first : end - first], self.up_to(begin, headers))
            stored = self.up_to(end, headers)
            if found != stored:
                return Mismatch(begin // self.page_size, f"{stored:08x}", f"{found:08x}")
        return Mismatch(None, f"{self.whole:08x}", f"{crc32c(body):08x}")


@lru_cache(maxsize=4096)
def _parsed(stated: str) -> PageChecksums:
    """Parse the checksum header that `upload_headers` wrote; cached, as every range repeats it."""
    match = _STATED.fullmatch(stated)
    if match is not None:
        size, page, whole = int(match[1]), int(match[2]), int(match[3], 16)
        if size <= MAX_BLOCK_SIZE and page == page_size(size) and (size > 0 or whole == 0):
            return PageChecksums(size, page, whole)
    raise ValueError(
        f"the stored checksums are damaged, or not of format {_FORMAT}: {stated[:80]!r}"
    )


class ServiceChecksum(NamedTuple):
    """A checksum of a whole object that the service keeps; `name` is its kind."""

    name: str
    stored: str
    compute: Callable[[memoryview], str]

    @property
    def block_crc32c(self) -> None:
        """None: it may be another kind of checksum."""
        return None

    def mismatch(self, body: memoryview) -> Mismatch | None:
        """Verify all bytes of the object; None where they match."""
        found = self.compute(body)
        return None if found == self.stored else Mismatch(None, f"{self.name} {self.stored}", found)


def service_checksum(headers: Mapping[str, str]) -> ServiceChecksum | None:
    """The full-object checksum in reply headers, if there is one of a kind that we can compute.

    A value with `-` in it is a composite of the checksums of the parts of a multipart upload.
    """
    for name, compute in _CHECKSUMS.items():
        stored = headers.get(name)
        if stored is not None and "-" not in stored:
            return ServiceChecksum(name, stored, compute)
    return None


def crc32c_of_all(headers: Mapping[str, str]) -> int | None:
    """The full-object CRC32C in reply headers, if there is one."""
    stored = headers.get(CHECKSUM, "")
    if headers.get(CHECKSUM_TYPE, FULL_OBJECT) != FULL_OBJECT or not _CRC32C.fullmatch(stored):
        return None
    return int.from_bytes(a2b_base64(stored), "big")


def service_checksum_or_etag(headers: Mapping[str, str]) -> ServiceChecksum | None:
    """`service_checksum`; else the ETag, where that is the MD5 of the bytes.

    It is not for objects uploaded in parts, or encrypted with KMS or customer keys.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    etag = _MD5.fullmatch(headers.get("etag", ""))
    encrypted = headers.get(_ENCRYPTION, "").startswith("aws:kms") or _CUSTOMER_KEY in headers
    if etag is None or encrypted:
        return service_checksum(headers)
    return service_checksum(headers) or ServiceChecksum("ETag", etag[1], _md5)


def _md5(body: memoryview) -> str:
    return md5(body, usedforsecurity=False).hexdigest()


_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_ENCRYPTION = "x-amz-server-side-encryption"
_CUSTOMER_KEY = "x-amz-server-side-encryption-customer-algorithm"
_CHECKSUMS: dict[str, Callable[[memoryview], str]] = {
    CHECKSUM: lambda body: _base64(crc32c(body).to_bytes(4, "big")),
    "x-amz-checksum-crc32": lambda body: _base64(zlib.crc32(body).to_bytes(4, "big")),
    "x-amz-checksum-sha256": lambda body: _base64(sha256(body).digest()),
    "x-amz-checksum-sha1": lambda body: _base64(sha1(body, usedforsecurity=False).digest()),
}


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()
