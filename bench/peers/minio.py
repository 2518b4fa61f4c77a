"""minio-py, with a urllib3 pool as large as the others'. It signs bodies on plain HTTP only."""

from __future__ import annotations

import io

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject

from bench.site import CONNECTIONS, Site

ONE_PART = 16 * 1024 * 1024
"""Beyond 5 MiB it would upload in parts by itself, which is other work."""


class Client:
    def __init__(self, site: Site) -> None:
        pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            timeout=urllib3.Timeout(connect=5, read=30),
            retries=urllib3.Retry(
                total=5, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]
            ),
            cert_reqs="CERT_REQUIRED",
            ca_certs=site.ca_bundle or None,
        )
        self.client = Minio(
            site.authority,
            access_key=site.access_key,
            secret_key=site.secret_key,
            region=site.region,
            secure=site.tls,
            http_client=pool,
        )
        self.bucket = site.bucket

    def write(self, key: str, data: bytes) -> None:
        body = io.BytesIO(data)
        self.client.put_object(self.bucket, key, body, len(data), part_size=ONE_PART)

    def read(self, key: str) -> bytes:
        return self._body(key, 0, 0)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self._body(key, offset, length)

    def list_keys(self) -> int:
        found = self.client.list_objects(self.bucket, recursive=True)
        return len([each.object_name for each in found])

    def delete(self, keys: list[str]) -> int:
        errors = self.client.remove_objects(self.bucket, (DeleteObject(key) for key in keys))
        return len(keys) - len(list(errors))

    def copy(self, source: str, target: str) -> None:
        self.client.copy_object(self.bucket, target, CopySource(self.bucket, source))

    def close(self) -> None:
        self.client._http.clear()

    def _body(self, key: str, offset: int, length: int) -> bytes:
        reply = self.client.get_object(self.bucket, key, offset=offset, length=length)
        try:
            return reply.data
        finally:
            reply.close()
            reply.release_conn()
