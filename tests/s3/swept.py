"""A bucket in memory with all that blocks and objects take, or lacking something, and a proxy that
breaks one request of an operation: what a sweep over requests is made of."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from blockyard import S3Config, StoreConfig
from blockyard.testing.messages import Head, Message
from blockyard_faults import Fault, FaultProxy, SeenRequest
from blockyard_faults.campaign import bucket as campaign
from blockyard_faults.campaign.bucket import DictBucket

Lacking = Literal["nothing", "conditions", "etags", "batches", "copies", "tags"]
LARGEST_COPY = 2_500
"""Bytes of the largest object that a CopyObject copies here."""
_SPAN = re.compile(r"bytes=(\d+)-(\d+)")
_TAG = re.compile(rb"<Key>(.*?)</Key><Value>(.*?)</Value>")

# pyright: reportPrivateUsage=false


class SweptBucket(DictBucket):
    """A `DictBucket` that knows tags and copies in parts as well, but not what it is `lacking`.

    Without "conditions" these are ignored, as are the "tags" that an upload begins with; without
    "etags" the reply to a write has none.
    """

    def __init__(self, lacking: Lacking) -> None:
        super().__init__()
        self.lacking: Lacking = lacking
        self.tags: dict[str, str] = {}

    @property
    def blocks(self) -> dict[str, bytes]:
        """What is stored."""
        return {key: stored.data for key, stored in self.objects.items()}

    @property
    def uploads(self) -> list[str]:
        """The keys of uploads that were neither completed nor given up."""
        return [upload.key for upload in self._uploads.values()]

    def begin_upload(self, key: str) -> None:
        """As one that was killed leaves it."""
        self._uploads[key] = campaign._Upload(key, {}, "2020-01-01T00:00:00.000Z")

    def empty(self) -> None:
        """Forget all there is."""
        self.objects.clear()
        self.tags.clear()
        self._uploads.clear()

    def answer(self, request: Message) -> campaign._Reply:
        head = request.head
        url = urlsplit(head.target)
        key = unquote(url.path).removeprefix("/").partition("/")[2]
        query = parse_qs(url.query, keep_blank_values=True)
        if "tagging" in query:
            return self._tagging(key, request)
        if head.get("x-amz-copy-source"):
            refused = self._copied(query, head)
            if refused is not None:
                return refused
        if "delete" in query and self.lacking == "batches":
            return campaign._error(501, "NotImplemented")
        reply = super().answer(request)
        if "uploads" in query and head.method == "POST" and self.lacking == "tags":
            return reply
        if head.method in {"PUT", "POST"} and head.get("x-amz-tagging"):
            self.tags[key] = head.get("x-amz-tagging")
        if self.lacking == "etags" and head.method == "PUT" and not query and not reply.body:
            return campaign._Reply(reply.status)
        return reply

    def _other(self, key: str, head: Head) -> campaign._Reply | None:
        return None if self.lacking == "conditions" else super()._other(key, head)

    def _tagging(self, key: str, request: Message) -> campaign._Reply:
        if request.head.method == "PUT":
            pairs = _TAG.findall(request.body)
            self.tags[key] = "&".join(f"{name.decode()}={value.decode()}" for name, value in pairs)
            return campaign._Reply(200)
        pairs = [pair.split("=") for pair in self.tags.get(key, "").split("&") if pair]
        told = [f"<Tag><Key>{name}</Key><Value>{value}</Value></Tag>" for name, value in pairs]
        return campaign._xml("Tagging", f"<TagSet>{''.join(told)}</TagSet>")

    def _copied(self, query: dict[str, list[str]], head: Head) -> campaign._Reply | None:
        """The reply to a copy that is refused, or of a part."""
        source = unquote(head.get("x-amz-copy-source")).partition("/")[2]
        data = self.blocks.get(source, b"")
        span = _SPAN.fullmatch(head.get("x-amz-copy-source-range"))
        if span is not None:
            part = data[int(span[1]) : int(span[2]) + 1]
            upload = self._uploads.get(query["uploadId"][0])
            if upload is None:  # a request that was cut off may come after the end
                return campaign._error(404, "NoSuchUpload")
            upload.parts[int(query["partNumber"][0])] = part
            etag = campaign._md5(part).hex()
            return campaign._xml("CopyPartResult", f'<ETag>"{etag}"</ETag>')
        if self.lacking == "copies":
            return campaign._error(501, "NotImplemented")
        return campaign._error(400, "InvalidRequest") if len(data) > LARGEST_COPY else None


class Service:
    """A bucket behind a proxy; `broken` is the request that meets `fault`, counted from 1."""

    def __init__(self, bucket: SweptBucket) -> None:
        self.bucket: SweptBucket = bucket
        self.url = ""
        self.fault: Fault | None = None
        self.broken = 0
        self.requests: list[SeenRequest] = []

    def begin(self, fault: Fault | None, broken: int = 0) -> None:
        """Count requests anew."""
        self.fault, self.broken = fault, broken
        self.requests = []

    @property
    def broken_method(self) -> str:
        """The method of the request that met the fault, "" for none."""
        return self.requests[self.broken - 1].method if len(self.requests) >= self.broken else ""

    def plan(self, request: SeenRequest) -> Fault | None:
        self.requests.append(request)
        return self.fault if len(self.requests) == self.broken else None

    def config(self, url: str) -> StoreConfig:
        """For a client each of whose requests may fail but once."""
        return StoreConfig(
            s3=S3Config(
                bucket="bucket",
                endpoint=url,
                force_path_style=True,
                access_key="some",
                secret_key="thing",
                max_attempts=1,
                write_proof="head" if self.bucket.lacking == "etags" else "etag",
            )
        )


@contextmanager
def service(lacking: Lacking) -> Generator[Service]:
    with SweptBucket(lacking) as bucket:
        swept = Service(bucket)
        with FaultProxy(bucket.url, swept.plan) as proxy:
            swept.url = proxy.url
            yield swept
