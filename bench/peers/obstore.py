"""obstore: Python over the Rust crate object_store.

Its `Bytes` are taken as they are, without the copy that turns them into Python's `bytes`.
"""

from __future__ import annotations

from pathlib import Path

import obstore
from obstore.store import S3Store

from bench.site import Site


def open_store(site: Site) -> S3Store:
    options = {"allow_http": True}
    if site.ca_bundle:
        options["root_certificate"] = Path(site.ca_bundle).read_bytes()
    return S3Store(
        site.bucket,
        endpoint=site.url,
        region=site.region,
        access_key_id=site.access_key,
        secret_access_key=site.secret_key,
        virtual_hosted_style_request=False,
        unsigned_payload=not site.sign_payload,
        client_options=options,
    )


class Client:
    def __init__(self, site: Site) -> None:
        self.store = open_store(site)

    def write(self, key: str, data: bytes) -> None:
        # Beyond 5 MiB it would upload in parts by itself, which is other work.
        obstore.put(self.store, key, data, use_multipart=False)

    def read(self, key: str) -> obstore.Bytes:
        return obstore.get(self.store, key).bytes()

    def read_range(self, key: str, offset: int, length: int) -> obstore.Bytes:
        return obstore.get_range(self.store, key, start=offset, length=length)

    def write_large(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data)

    def read_large(self, key: str) -> obstore.Bytes:
        return obstore.get(self.store, key).bytes()

    def exists(self, key: str) -> bool:
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True

    def list_keys(self, prefix: str = "") -> int:
        return len(self._keys(prefix))

    def delete(self, keys: list[str]) -> int:
        obstore.delete(self.store, keys)
        return len(keys)

    def delete_below(self, prefix: str) -> int:
        return self.delete(self._keys(prefix))

    def copy(self, source: str, target: str) -> None:
        obstore.copy(self.store, source, target)

    def close(self) -> None:
        del self.store

    def _keys(self, prefix: str) -> list[str]:
        pages = obstore.list(self.store, prefix or None, chunk_size=1000)
        return [found["path"] for page in pages for found in page]


class AsyncClient:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def open(self) -> None:
        self.store = open_store(self._site)

    async def write(self, key: str, data: bytes) -> None:
        await obstore.put_async(self.store, key, data, use_multipart=False)

    async def read(self, key: str) -> obstore.Bytes:
        return await (await obstore.get_async(self.store, key)).bytes_async()

    async def read_range(self, key: str, offset: int, length: int) -> obstore.Bytes:
        return await obstore.get_range_async(self.store, key, start=offset, length=length)

    async def close(self) -> None:
        del self.store
