"""The conformance suite over S3, on every server there is."""

from collections.abc import Iterator

import pytest

from blockyard import BlockStore, S3Config, ServerError, StoreConfig, open_store
from blockyard.testing.conformance import DeadlineTests, DurabilityTests, StoreConformance
from blockyard.testing.samples import ODD_KEYS
from blockyard.testing.suite.copies import CopyTests
from blockyard.testing.suite.deletes import DeleteTests
from blockyard.testing.suite.listing import ListingTests
from servers.endpoint import Endpoint

_HELD_BY_LOCALSTACK = {name: key for name, key in ODD_KEYS.items() if name != "only slashes"}


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
    @pytest.fixture
    def endpoint(self, moto_endpoint: Endpoint) -> Endpoint:
        return moto_endpoint


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
    """LocalStack 4.13 takes a key of nothing but slashes for no key, from any client."""

    @pytest.fixture
    def endpoint(self, localstack_endpoint: Endpoint) -> Endpoint:
        return localstack_endpoint

    @pytest.mark.parametrize("key", _HELD_BY_LOCALSTACK.values(), ids=_HELD_BY_LOCALSTACK)
    def test_a_key_survives_every_method(self, store: BlockStore, key: str) -> None:
        super().test_a_key_survives_every_method(store, key)

    def test_all_of_them_side_by_side(self, store: BlockStore) -> None:
        with pytest.MonkeyPatch.context() as samples:
            samples.delitem(ODD_KEYS, "only slashes")
            super().test_all_of_them_side_by_side(store)

    def test_only_slashes(self, source: StoreConfig) -> None:
        with open_store(source, max_retries=1) as store, pytest.raises(ServerError):
            _ = store.write_block(ODD_KEYS["only slashes"], b"block")


class TestCeph(S3Conformance):
    @pytest.fixture
    def endpoint(self, ceph_endpoint: Endpoint) -> Endpoint:
        return ceph_endpoint
