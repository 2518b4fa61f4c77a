"""What a started server is to its users: where it is, and the keys that open it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import boto3.session
from botocore.config import Config

if TYPE_CHECKING:
    from servers.process import Process


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An S3 endpoint that is up.

    `processes` names the parts that a test may kill and start again; it is empty when the
    endpoint was started by somebody else. `ca_bundle` is the file that a TLS client must trust.
    """

    kind: str
    url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    processes: Mapping[str, Process] = field(default_factory=dict[str, "Process"], repr=False)
    ca_bundle: str = ""

    def s3_settings(self, bucket: str, key_prefix: str = "") -> dict[str, Any]:
        """The fields of blockyard's S3 configuration for a bucket here, path style."""
        settings: dict[str, Any] = {
            "bucket": bucket,
            "region": self.region,
            "endpoint": self.url,
            "key_prefix": key_prefix,
            "force_path_style": True,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }
        if self.ca_bundle:
            settings["http"] = {"ca_bundle": self.ca_bundle}
        return settings

    def store_url(self, bucket: str, key_prefix: str = "") -> str:
        """The URL that opens a bucket here, once the keys are in the environment."""
        options = {"endpoint": self.url, "region": self.region, "force_path_style": "true"}
        return f"s3://{bucket}/{key_prefix}?{urlencode(options, safe=':/')}"


def boto3_client(endpoint: Endpoint, service: str = "s3") -> Any:
    """A boto3 client of the endpoint: for what blockyard does not do, and as its judge."""
    settings = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        # Checksum trailers, boto3's default, are refused by servers older than they are.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session: Any = boto3.session.Session()
    return session.client(
        service,
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        verify=endpoint.ca_bundle or None,
        config=settings,
    )


def create_bucket(endpoint: Endpoint, bucket: str) -> None:
    """Make a bucket, which no blockyard operation does."""
    client = boto3_client(endpoint)
    try:
        client.create_bucket(Bucket=bucket)
    finally:
        client.close()
