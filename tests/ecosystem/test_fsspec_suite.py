"""The file systems pass the tests that fsspec publishes for its own, over each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.tests import abstract

import blockyard
from blockyard.fsspec import BlockyardContentFileSystem, BlockyardFileSystem
from servers.endpoint import Endpoint


class _Suite(
    abstract.AbstractFixtures,
    abstract.AbstractCopyTests,
    abstract.AbstractGetTests,
    abstract.AbstractOpenTests,
    abstract.AbstractPipeTests,
    abstract.AbstractPutTests,
):
    @pytest.fixture
    def client(self) -> Iterator[blockyard.BlockStore]:
        with blockyard.open_store("memory://") as client:
            yield client

    @pytest.fixture
    def fs(self, client: blockyard.BlockStore) -> Any:
        return BlockyardFileSystem(store=client)

    @pytest.fixture
    def fs_path(self) -> str:
        return "folder"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestMemory(_Suite):
    """Over `memory://`."""


class TestContents(_Suite):
    """Contents over `memory://`."""

    @pytest.fixture
    def fs(self, client: blockyard.BlockStore) -> Any:
        return BlockyardContentFileSystem(store=client)


class TestCache(_Suite):
    """With a cache in front."""

    @pytest.fixture
    def client(self) -> Iterator[blockyard.BlockStore]:
        with blockyard.open_store("memory://", cache={"memory": "8MiB"}) as client:
            yield client


class _Buckets(_Suite):
    """Over a service, in a bucket of it."""

    @pytest.fixture
    def endpoint(self) -> Endpoint:
        raise NotImplementedError

    @pytest.fixture
    def fs(self, endpoint: Endpoint) -> Any:
        return BlockyardFileSystem(
            endpoint_url=endpoint.url,
            region=endpoint.region,
            force_path_style=True,
            access_key=endpoint.access_key,
            secret_key=endpoint.secret_key,
        )

    @pytest.fixture
    def fs_path(self, bucket: str, key_prefix: str) -> str:
        return f"{bucket}/{key_prefix}folder"


@pytest.mark.thorough
class TestMoto(_Buckets):
    """Over moto."""

    @pytest.fixture
    def endpoint(self, moto_endpoint: Endpoint) -> Endpoint:
        return moto_endpoint


class TestCeph(_Buckets):
    """Over Ceph."""

    @pytest.fixture
    def endpoint(self, ceph_endpoint: Endpoint) -> Endpoint:
        return ceph_endpoint
