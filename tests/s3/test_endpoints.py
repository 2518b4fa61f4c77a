"""Host names of S3 at AWS, held to botocore's rules for every region that it knows."""

from __future__ import annotations

from typing import Any, cast

import botocore.session
import pytest
from botocore.endpoint_provider import EndpointProvider

from blockyard.s3.endpoints import aws_endpoint, is_aws_host

LOADER = cast("Any", botocore.session.get_session()).get_component("data_loader")
PARTITIONS = LOADER.load_data("partitions")
RULES = EndpointProvider(LOADER.load_service_model("s3", "endpoint-rule-set-1"), PARTITIONS)
REGIONS = [
    region
    for partition in PARTITIONS["partitions"]
    for region in partition["regions"]
    if not region.endswith("-global")
]


def resolved(region: str, *, fips: bool, dualstack: bool) -> str:
    return RULES.resolve_endpoint(
        Region=region,
        UseFIPS=fips,
        UseDualStack=dualstack,
        Bucket="bucket",
        ForcePathStyle=True,
        UseGlobalEndpoint=False,
        Accelerate=False,
        DisableMultiRegionAccessPoints=False,
    ).url.removesuffix("/bucket")


def test_there_are_regions_of_every_kind() -> None:
    for region in ("eu-central-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"):
        assert region in REGIONS
    for region in ("us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "us-isof-south-1"):
        assert region in REGIONS


@pytest.mark.parametrize("region", REGIONS)
def test_the_endpoints_are_those_of_botocore(region: str) -> None:
    for fips in (False, True):
        for dualstack in (False, True):
            if fips and region.startswith("cn-"):  # the configuration refuses it
                continue
            ours = aws_endpoint(region, fips=fips, dualstack=dualstack)
            assert ours == resolved(region, fips=fips, dualstack=dualstack)
            assert is_aws_host(ours.removeprefix("https://"))


def test_hosts_of_others() -> None:
    for host in ("amazonaws.com", "s3.amazonaws.com.example", "xamazonaws.com", "localhost", ""):
        assert not is_aws_host(host)
