"""Endpoints: their URLs, AWS's regions and partitions, and the names and addresses of buckets.

https://docs.aws.amazon.com/general/latest/gr/s3.html
https://docs.aws.amazon.com/sdkref/latest/guide/feature-endpoints.html
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import quote

from blockyard.context import Origin
from blockyard.errors import ConfigError

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]|\.(?!\.)){0,252}")
_PATH = re.compile(r"(/([A-Za-z0-9._~-]|%[0-9A-F]{2})+)*")
_DNS_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
_DOTTED_QUAD = re.compile(r"\d+\.\d+\.\d+\.\d+")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NOT_BUCKETS = {
    "--x-s3": "a directory bucket (S3 Express) has sessions and listings of its own, which are not "
    "supported: use a general purpose bucket",
    "--xa-s3": "an access point of a directory bucket (S3 Express) is not supported: use a general "
    "purpose bucket",
    "--ol-s3": "an Object Lambda access point is not supported: use the bucket behind it",
    "--op-s3": "S3 on Outposts is not supported: use a bucket of a region",
    "--table-s3": "a table bucket holds tables, not blocks: use a general purpose bucket",
    ".mrap": "a multi-Region access point needs another kind of signature (SigV4A), which is not "
    "supported: use one of its buckets",
}
"""Endings that AWS reserves for what is reached in other ways, and what to use instead."""

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
_GOVERNMENT = "us-gov-"
"""How the names of the regions of a partition begin that has the domain of the largest."""
_AWS_S3 = re.compile(
    r"(bucket\.vpce-[\w-]+\.)?s3(-fips|-accelerate|-external-1)?([.-]dualstack)?"
    r"([.-][a-z]+(-[a-z]+)+-\d+)?(\.vpce)?"
)
"""What stands before the domain in the names of S3's endpoints, old ones too."""


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


def service_of(endpoint: str, region: str) -> str:
    """The service at an endpoint, "" for AWS, by one name for all of its names that are known.

    AWS is one service in each of its partitions, where no two buckets have the same name, whatever
    the region and the kind of endpoint. Others are told apart by scheme, host, port and path.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingBucket.html
    """
    (scheme, host, port), path = parse_endpoint(endpoint or aws_endpoint(region))
    host = host.rstrip(".")
    for domain in (_DOMAIN, *_DOMAINS.values()):
        name = host.removesuffix(f".{domain}")
        if name != host and _AWS_S3.fullmatch(name) and port == DEFAULT_PORTS[scheme] and not path:
            return f"AWS, {'us-gov, ' if _GOVERNMENT in name else ''}{domain}"
    if _is_ip(host):
        host = ip_address(host).compressed
    return f"{scheme}://{_host_header(Origin(scheme, host, port))}{path}"


def checked_region(name: str) -> str:
    """Refuse, by `ValueError`, what can't stand in a host name or in a signature's scope."""
    if not _REGION.fullmatch(name):
        raise ValueError("a region has 1 to 63 letters, digits, hyphens and underscores")
    return name


def bucket_problem(name: str, endpoint: str) -> str:
    """Why `name` is no bucket at `endpoint`, by the rules of AWS or the older, wider ones of other
    services; "" where it may be one.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    host = endpoint.partition("://")[2].partition("/")[0].partition(":")[0]
    if name.startswith("arn:"):
        return (
            "an ARN is not supported: use the name of the bucket, or the alias of an access point, "
            "which ends in -s3alias"
        )
    if endpoint == "" or is_aws_host(host):
        for ending, reason in _NOT_BUCKETS.items():
            if name.endswith(ending):
                return reason
    if endpoint and not _BUCKET.fullmatch(name):
        return (
            "a name has 3 to 255 letters, digits, dots, hyphens and underscores, "
            "and begins with a letter or digit"
        )
    if endpoint == "" and not _DNS_BUCKET.fullmatch(name):
        return (
            "at AWS a name has 3 to 63 lower-case letters, digits, single dots and hyphens, "
            "and begins and ends with a letter or digit"
        )
    if endpoint == "" and _DOTTED_QUAD.fullmatch(name):
        return "at AWS a name can't look like an IP address"
    return ""


class Address(NamedTuple):
    """Where a bucket is.

    `host` is the Host header; `root` is what comes before the `/` of a key in the path:
    "/bucket" in path style, "" in virtual-hosted style, where `host` begins with the bucket.
    """

    origin: Origin
    host: str
    root: str
    bucket: str

    @property
    def path(self) -> str:
        """The path of the bucket itself."""
        return self.root or "/"


def bucket_address(
    endpoint: str,
    region: str,
    bucket: str,
    *,
    path_style: bool,
    fips: bool = False,
    dualstack: bool = False,
) -> Address:
    """The address of `bucket` at `endpoint`: a URL, `host:port` (meaning https) or "" for AWS.

    Virtual-hosted style, as AWS wants it, unless `path_style` is set or nothing else can
    work: the endpoint is an IP address or a single label such as `localhost`, under which no
    bucket has a name; it has a path; the bucket's name is not a host name; or it holds a dot,
    which a wildcard certificate does not cover. `fips` and `dualstack` choose among AWS's own
    endpoints. Raises `ConfigError` for an endpoint that is no URL.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html
    """
    url = endpoint or aws_endpoint(region, fips=fips, dualstack=dualstack)
    try:
        origin, root = parse_endpoint(url)
    except ValueError as error:
        raise ConfigError(
            f"endpoint: expected a URL such as https://s3.example.com:9000: {error}"
        ) from None
    if path_style or root or not _can_name_a_host(bucket, origin):
        root += "/" + quote(bucket, safe="")
    else:
        origin = Origin(origin.scheme, f"{bucket}.{origin.host}", origin.port)
    return Address(origin, _host_header(origin), root, bucket)


def parse_endpoint(text: str) -> tuple[Origin, str]:
    """The origin and the path of `http://HOST[:PORT][/PATH]`, `https://...`, or a bare `HOST...`.

    A bare one means https. An IPv6 address stands in brackets (RFC 3986, 3.2.2). Some services live
    below a path, which is sent and signed as it stands. Raises `ValueError`, which says what is
    wrong without the text: that may hold a password.
    """
    scheme, separator, location = text.partition("://")
    if not separator:
        scheme, location = "https", text
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError("the scheme is neither http nor https")
    if "@" in location:
        raise ValueError("credentials do not belong here: use access_key and secret_key")
    location, slash, path = location.partition("/")
    host, port = parse_location(location)
    path = (slash + path).rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(
            "the path may have segments of letters, digits, '-', '.', '_', '~' and percent-encoded "
            "bytes in upper case, but not '.' or '..' alone"
        )
    return Origin(scheme, host.lower(), DEFAULT_PORTS[scheme] if port is None else port), path


def normal_endpoint(text: str) -> str:
    """The endpoint as a URL with its scheme, in lower case but for its path; "", AWS, stays.

    Raises `ValueError`, as `parse_endpoint` does.
    """
    if text == "":
        return ""
    _, path = parse_endpoint(text)
    scheme, separator, location = text.partition("://")
    if not separator:
        scheme, location = "https", text
    return f"{scheme}://{location.partition('/')[0]}".lower() + path


def can_be_overheard(endpoint: str) -> bool:
    """Whether requests go unencrypted to an endpoint, "" for AWS, that is not on this machine."""
    if endpoint == "":
        return False
    (scheme, host, _), _ = parse_endpoint(endpoint)
    here = host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
    return scheme == "http" and not here


def parse_location(location: str) -> tuple[str, int | None]:
    """The host, without brackets, and the port of `HOST` or `HOST:PORT`. Raises `ValueError`."""
    if location.startswith("["):
        host, bracket, rest = location[1:].partition("]")
        if not bracket or not _is_ipv6(host):
            raise ValueError("the brackets do not hold an IPv6 address")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = location.partition(":")
        if not _HOST.fullmatch(host):
            raise ValueError("only a host name and a port may follow the scheme")
    if not colon:
        return host, None
    if not (colon == ":" and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError("the port is not a number from 1 to 65535")
    return host, int(port)


def _can_name_a_host(bucket: str, origin: Origin) -> bool:
    if "." in bucket and origin.scheme == "https":
        return False
    host = origin.host.rstrip(".")
    return bool(_DNS_BUCKET.fullmatch(bucket)) and "." in host and not _is_ip(host)


def _host_header(origin: Origin) -> str:
    """The name without the dot that ends it where it is absolute: that is for DNS alone."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host.rstrip(".")
    return host if origin.port == DEFAULT_PORTS[origin.scheme] else f"{host}:{origin.port}"


def _is_ip(host: str) -> bool:
    try:
        _ = ip_address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except ValueError:
        return False
