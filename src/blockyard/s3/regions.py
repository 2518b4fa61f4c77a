"""Host names of S3 at AWS: partitions, FIPS and dual-stack variants, and buckets reached otherwise.

https://docs.aws.amazon.com/general/latest/gr/s3.html
https://docs.aws.amazon.com/sdkref/latest/guide/feature-endpoints.html
"""

from __future__ import annotations

_DOMAINS = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "us-isof-": "csp.hci.ic.gov",
}
"""The domain of each partition but the largest, by how the names of its regions begin."""

_DOMAIN = "amazonaws.com"


def aws_endpoint(region: str, *, fips: bool = False, dualstack: bool = False) -> str:
    """The URL of S3 in `region`: with `fips` that of validated cryptography, with `dualstack` one
    that has IPv6 addresses as well."""
    domains = (domain for begin, domain in _DOMAINS.items() if region.startswith(begin))
    service = "s3-fips" if fips else "s3"
    stack = ".dualstack" if dualstack else ""
    return f"https://{service}{stack}.{region}.{next(domains, _DOMAIN)}"


def is_aws_host(host: str) -> bool:
    """Whether `host` is below a domain of AWS."""
    return any(host.endswith(f".{domain}") for domain in (_DOMAIN, *_DOMAINS.values()))
