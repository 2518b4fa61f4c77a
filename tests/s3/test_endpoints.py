"""Host names of S3 at AWS, held to botocore's rules for every region that it knows."""

from __future__ import annotations

from typing import Any, cast

import botocore.session
import pytest
from botocore.endpoint_provider import EndpointProvider

from blockyard.s3.endpoints import aws_endpoint, is_aws_host, service_of

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


@pytest.mark.parametrize("region", REGIONS)
def test_amazon_is_one_service_in_each_partition(region: str) -> None:
    """By whichever of its endpoints, in whichever region of the partition."""
    partition = next(each for each in PARTITIONS["partitions"] if region in each["regions"])
    same = {service_of("", other) for other in partition["regions"] if "-global" not in other}
    for fips in (False, True):
        for dualstack in (False, True):
            same.add(service_of(aws_endpoint(region, fips=fips, dualstack=dualstack), "x"))
    same.add(service_of(f"http://s3-{region}.{partition['outputs']['dnsSuffix']}", "x"))
    assert len(same) == 1


def test_partitions_are_services_of_their_own() -> None:
    of_each = {service_of("", next(iter(each["regions"]))) for each in PARTITIONS["partitions"]}
    assert len(of_each) == len(PARTITIONS["partitions"])


@pytest.mark.parametrize(
    "host",
    [
        "s3.amazonaws.com",
        "S3.AmazonAWS.com.:443",
        "s3-accelerate.amazonaws.com",
        "s3-accelerate.dualstack.amazonaws.com",
        "s3-external-1.amazonaws.com",
        "bucket.vpce-0a1b2c3d-4e5f.s3.us-east-1.vpce.amazonaws.com",
    ],
)
def test_other_names_of_amazon(host: str) -> None:
    assert service_of(host, "x") == service_of("", "us-east-1")


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://ec2-1-2-3-4.compute-1.amazonaws.com",
        "https://minio-1.eu-west-1.elb.amazonaws.com",
        "https://s3.amazonaws.com:9000",
        "https://s3.amazonaws.com/minio",
        "https://s3-outposts.us-east-1.amazonaws.com",
        "https://s3.us-east-1.amazonaws.com.example.com",
    ],
)
def test_what_runs_at_amazon_is_not_amazons(endpoint: str) -> None:
    assert service_of(endpoint, "us-east-1") == endpoint


@pytest.mark.parametrize(
    ("endpoint", "other"),
    [
        ("https://s3.example.com", "HTTPS://S3.Example.COM.:443/"),
        ("http://minio:80", "http://minio"),
        ("minio", "https://minio:443"),
        ("http://[::1]:9000", "http://[0:0:0:0:0:0:0:1]:9000"),
        ("http://minio/Storage", "http://minio:80/Storage/"),
    ],
)
def test_a_service_has_one_name(endpoint: str, other: str) -> None:
    assert service_of(endpoint, "a") == service_of(other, "b")


def test_services_that_may_be_others() -> None:
    endpoints = ["http://h", "https://h", "http://h:81", "http://h/a", "http://h/A", "http://i", ""]
    assert len({service_of(each, "us-east-1") for each in endpoints}) == len(endpoints)
