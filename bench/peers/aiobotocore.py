"""aiobotocore: botocore over aiohttp. Checksums as with boto3, where S3 requires them."""

from __future__ import annotations

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from bench.site import CONNECTIONS, Site


class AsyncClient:
    def __init__(self, site: Site) -> None:
        self.bucket = site.bucket
        self._opening = get_session().create_client(
            "s3",
            endpoint_url=site.url,
            region_name=site.region,
            aws_access_key_id=site.access_key,
            aws_secret_access_key=site.secret_key,
            verify=site.ca_bundle or None,
            config=AioConfig(
                max_pool_connections=CONNECTIONS,
                s3={"addressing_style": "path", "payload_signing_enabled": site.sign_payload},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    async def open(self) -> None:
        self.client = await self._opening.__aenter__()

    async def write(self, key: str, data: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    async def read(self, key: str) -> bytes:
        reply = await self.client.get_object(Bucket=self.bucket, Key=key)
        async with reply["Body"] as body:
            return await body.read()

    async def read_range(self, key: str, offset: int, length: int) -> bytes:
        wanted = f"bytes={offset}-{offset + length - 1}"
        reply = await self.client.get_object(Bucket=self.bucket, Key=key, Range=wanted)
        async with reply["Body"] as body:
            return await body.read()

    async def close(self) -> None:
        await self._opening.__aexit__(None, None, None)
