"""boto3. Its checksums are asked for only where S3 requires them, as the other clients do.

The variant "defaults" leaves that to boto3, which then adds a CRC32 to what it writes.
"""

from __future__ import annotations

import io
from typing import Any

import boto3
from botocore.config import Config

from bench.site import CONNECTIONS, Site


def open_client(site: Site) -> Any:
    options: dict[str, Any] = {
        "max_pool_connections": CONNECTIONS,
        "s3": {"addressing_style": "path", "payload_signing_enabled": site.sign_payload},
    }
    if site.variant == "default":
        options["request_checksum_calculation"] = "when_required"
        options["response_checksum_validation"] = "when_required"
    return boto3.client(
        "s3",
        endpoint_url=site.url,
        region_name=site.region,
        aws_access_key_id=site.access_key,
        aws_secret_access_key=site.secret_key,
        verify=site.ca_bundle or None,
        config=Config(**options),
    )


class Client:
    def __init__(self, site: Site) -> None:
        self.client = open_client(site)
        self.bucket = site.bucket

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        wanted = f"bytes={offset}-{offset + length - 1}"
        return self.client.get_object(Bucket=self.bucket, Key=key, Range=wanted)["Body"].read()

    def write_large(self, key: str, data: bytes) -> None:
        self.client.upload_fileobj(io.BytesIO(data), self.bucket, key)

    def read_large(self, key: str) -> memoryview:
        target = io.BytesIO()
        self.client.download_fileobj(self.bucket, key, target)
        return target.getbuffer()

    def exists(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=key)
        except self.client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            return False
        return True

    def list_keys(self, prefix: str = "") -> int:
        return len(self._keys(prefix))

    def delete_below(self, prefix: str) -> int:
        return self.delete(self._keys(prefix))

    def delete(self, keys: list[str]) -> int:
        deleted = 0
        for first in range(0, len(keys), 1000):
            batch = {"Objects": [{"Key": key} for key in keys[first : first + 1000]]}
            reply = self.client.delete_objects(Bucket=self.bucket, Delete=batch)
            deleted += len(reply["Deleted"])
        return deleted

    def copy(self, source: str, target: str) -> None:
        where = {"Bucket": self.bucket, "Key": source}
        self.client.copy_object(Bucket=self.bucket, Key=target, CopySource=where)

    def close(self) -> None:
        self.client.close()

    def _keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return [found["Key"] for page in pages for found in page.get("Contents", ())]
