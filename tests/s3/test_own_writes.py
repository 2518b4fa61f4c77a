"""A write with `if_absent` whose reply was lost meets its own block, and knows it."""

from __future__ import annotations

import pytest

from blockyard import BlockExistsError, S3Config, StoreConfig
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard_faults import FaultProxy, LoseReply, Match, Script
from servers.endpoint import Endpoint


def through(proxy: FaultProxy, endpoint: Endpoint, bucket: str, key_prefix: str) -> StoreConfig:
    settings = endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
    return StoreConfig(s3=S3Config(**settings))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_write_whose_reply_was_lost_has_succeeded(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([LoseReply()], Match(method="PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        config = through(proxy, moto_endpoint, bucket, key_prefix)
        with open_client(client, config) as opened:
            info = opened.store.write_block("key", b"mine", if_absent=True)
            assert (info.key, info.size) == ("key", 4)
            assert opened.store.read_block("key") == b"mine"
        assert proxy.counts == {"lose_reply": 1}
        assert [seen.method for seen in proxy.requests][-4:] == ["PUT", "PUT", "HEAD", "GET"]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_same_bytes_of_another_write_are_not_its_own(
    client: ClientName, moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([LoseReply()], Match(method="PUT"))
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        config = through(proxy, moto_endpoint, bucket, key_prefix)
        with open_client(client, config) as opened:
            _ = opened.store.write_block("key", b"mine", if_absent=True)
            with pytest.raises(BlockExistsError, match="write_block 'key'"):
                _ = opened.store.write_block("key", b"mine", if_absent=True)
