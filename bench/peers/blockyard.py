"""blockyard, with its default settings.

The variant "unverified" reads objects that have no checksums beside them, and asks for none.
"""

from __future__ import annotations

from typing import Any

import blockyard
from bench.site import Site


def settings(site: Site) -> dict[str, Any]:
    """As keyword arguments of `open_store`."""
    return {
        "bucket": site.bucket,
        "endpoint": site.url,
        "region": site.region,
        "force_path_style": True,
        "access_key": site.access_key,
        "secret_key": site.secret_key,
        "sign_payload": "always" if site.sign_payload else "never",
        "ca_bundle": site.ca_bundle,
        "verify_ranges": "off" if site.variant == "unverified" else "widen",
    }


class Client:
    def __init__(self, site: Site) -> None:
        self.store = blockyard.open_store(**settings(site))
        self.write = self.store.write_block
        self.read = self.store.read_block
        self.read_range = self.store.read_block_range
        self.copy = self.store.copy_block
        self.exists = self.store.block_exists
        self.write_large = self.store.write_content
        self.read_large = self.store.read_content

    def list_keys(self, prefix: str = "") -> int:
        return len(self.store.list_by_prefix(prefix))

    def delete(self, keys: list[str]) -> int:
        return len(self.store.delete_blocks(keys).deleted)

    def delete_below(self, prefix: str) -> int:
        return len(self.store.delete_by_prefix(prefix).deleted)

    def close(self) -> None:
        self.store.close()


class AsyncClient:
    def __init__(self, site: Site) -> None:
        self._settings = settings(site)

    async def open(self) -> None:
        self.store = await blockyard.open_async_store(**self._settings)
        self.write = self.store.write_block
        self.read = self.store.read_block
        self.read_range = self.store.read_block_range
        self.copy = self.store.copy_block
        self.exists = self.store.block_exists
        self.write_large = self.store.write_content
        self.read_large = self.store.read_content

    async def list_keys(self, prefix: str = "") -> int:
        return len(await self.store.list_by_prefix(prefix))

    async def delete_below(self, prefix: str) -> int:
        return len((await self.store.delete_by_prefix(prefix)).deleted)

    async def close(self) -> None:
        await self.store.close()


class ManyClient:
    def __init__(self, site: Site, in_flight: int) -> None:
        self.store = blockyard.open_store(**settings(site)).with_options(concurrency=in_flight)
        self.write_many = self.store.write_blocks
        self.read_many = self.store.read_blocks
        self.read_ranges = self.store.read_block_ranges

    def close(self) -> None:
        self.store.close()
