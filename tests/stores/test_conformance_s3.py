"""The conformance suite over S3, on every server there is."""

import uuid
from collections.abc import Iterator

import pytest

from blockyard import S3Config, StoreConfig, open_store
from blockyard.testing.capabilities import SERVICES
from blockyard.testing.clients import Client, open_client
from blockyard.testing.conformance import DeadlineTests, DurabilityTests, StoreConformance
from blockyard.testing.suite.copies import CopyTests
from blockyard.testing.suite.deletes import DeleteTests
from blockyard.testing.suite.listing import ListingTests
from servers.endpoint import Endpoint, create_bucket


def emptied_afterwards(config: StoreConfig) -> Iterator[StoreConfig]:
    yield config
    with open_store(config) as store:
        assert store.delete_by_prefix("", literal=True).failed == {}


class S3Conformance(StoreConformance, DurabilityTests, DeadlineTests):
    """Over a whole bucket, with no prefix, so that keys may be as long as S3 allows."""

    @pytest.fixture
    def source(self, endpoint: Endpoint, cleared_bucket: str) -> Iterator[StoreConfig]:
        config = StoreConfig(s3=S3Config(**endpoint.s3_settings(cleared_bucket)))
        yield from emptied_afterwards(config)


class TestMoto(S3Conformance):
    """By the asyncio client in CI only: the bucket in memory of the campaign answers both."""

    lacks = SERVICES["moto 5"]

    @pytest.fixture(params=["blocking", pytest.param("asyncio", marks=pytest.mark.thorough)])
    def client(self, request: pytest.FixtureRequest, source: StoreConfig) -> Iterator[Client]:
        with open_client(request.param, source) as client:
            yield client

    @pytest.fixture
    def endpoint(self, moto_endpoint: Endpoint) -> Endpoint:
        return moto_endpoint


@pytest.mark.thorough
class TestMotoBelowAPrefix(ListingTests, DeleteTests, CopyTests):
    """The operations that take a prefix off, or put one on, in more places than one."""

    test_several_pages = None  # a thousand writes, for what one page shows of a prefix

    @pytest.fixture
    def source(
        self, moto_endpoint: Endpoint, bucket: str, key_prefix: str
    ) -> Iterator[StoreConfig]:
        config = StoreConfig(s3=S3Config(**moto_endpoint.s3_settings(bucket, key_prefix)))
        yield from emptied_afterwards(config)


class TestLocalStack(S3Conformance):
    lacks = SERVICES["LocalStack 4.13"]

    @pytest.fixture
    def endpoint(self, localstack_endpoint: Endpoint) -> Endpoint:
        return localstack_endpoint


class TestCeph(S3Conformance):
    lacks = SERVICES["Ceph 16.2"]

    @pytest.fixture
    def endpoint(self, ceph_endpoint: Endpoint) -> Endpoint:
        return ceph_endpoint


class TestMiniStack(S3Conformance):
    lacks = SERVICES["MiniStack 1.5"]

    @pytest.fixture
    def endpoint(self, ministack_endpoint: Endpoint) -> Endpoint:
        return ministack_endpoint


class TestRclone(S3Conformance):
    lacks = SERVICES["rclone 1.75"]

    @pytest.fixture
    def endpoint(self, rclone_endpoint: Endpoint) -> Endpoint:
        return rclone_endpoint

    @pytest.fixture
    def source(self, endpoint: Endpoint) -> StoreConfig:
        """A bucket for each test: what rclone keeps of a key that is no path may not go away."""
        bucket = f"blockyard-{uuid.uuid4()}"
        create_bucket(endpoint, bucket)
        return StoreConfig(s3=S3Config(**endpoint.s3_settings(bucket), max_attempts=2))
