"""s3fs: the fsspec file system over aiobotocore, by its blocking methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import s3fs

from bench.site import CONNECTIONS, Site


def open_filesystem(site: Site, **options: Any) -> s3fs.S3FileSystem:
    client: dict[str, Any] = {"region_name": site.region}
    if site.ca_bundle:
        client["verify"] = site.ca_bundle
    return s3fs.S3FileSystem(
        endpoint_url=site.url,
        key=site.access_key,
        secret=site.secret_key,
        client_kwargs=client,
        config_kwargs={
            "max_pool_connections": CONNECTIONS,
            "s3": {"addressing_style": "path", "payload_signing_enabled": site.sign_payload},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        **options,
    )


class Client:
    def __init__(self, site: Site) -> None:
        self.files = open_filesystem(site)
        self.root = site.bucket + "/"

    def write(self, key: str, data: bytes) -> None:
        self.files.pipe_file(self.root + key, data)

    def read(self, key: str) -> bytes:
        return self.files.cat_file(self.root + key)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self.files.cat_file(self.root + key, start=offset, end=offset + length)

    def list_keys(self) -> int:
        return len(self.files.find(self.root))

    def close(self) -> None:
        self.files.close_session(self.files.loop, self.files.s3)


class ManyClient:
    def __init__(self, site: Site, in_flight: int) -> None:
        self.files = open_filesystem(site)
        self.root = site.bucket + "/"
        self.in_flight = in_flight

    def write_many(self, blocks: Iterable[tuple[str, bytes]]) -> None:
        named = {self.root + key: data for key, data in blocks}
        self.files.pipe(named, batch_size=self.in_flight)

    def read_many(self, keys: Iterable[str]) -> list[bytes]:
        paths = [self.root + key for key in keys]
        found = self.files.cat(paths, batch_size=self.in_flight)
        return [found[path] for path in paths]

    def read_ranges(self, ranges: Iterable[tuple[str, int, int]]) -> list[bytes]:
        keys, starts, lengths = zip(*ranges, strict=True)
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        paths = [self.root + key for key in keys]
        return self.files.cat_ranges(paths, list(starts), ends, batch_size=self.in_flight)

    def close(self) -> None:
        self.files.close_session(self.files.loop, self.files.s3)
