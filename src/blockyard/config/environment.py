"""Settings from environment variables: blockyard's own, one a setting, and those of AWS.

AWS's key variables are not read here: they belong to its credential chain (`s3/credentials.py`).
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

from collections.abc import Mapping

from blockyard.config.layers import Layer, Setting
from blockyard.config.models import S3Config
from blockyard.config.tree import settings_below

STORE = "BLOCKYARD_STORE"
"""The store that is opened when the program names none: a URL, or the path of a YAML file."""

_PREFIX = "BLOCKYARD_S3_"
_OWN = {"BLOCKYARD_" + "_".join(path).upper(): path for path in settings_below(S3Config, ("s3",))}
_AWS = {
    "AWS_REGION": ("s3", "region"),
    "AWS_DEFAULT_REGION": ("s3", "region"),
    "AWS_ENDPOINT_URL_S3": ("s3", "endpoint"),
    "AWS_ENDPOINT_URL": ("s3", "endpoint"),
    "AWS_USE_FIPS_ENDPOINT": ("s3", "use_fips_endpoint"),
    "AWS_USE_DUALSTACK_ENDPOINT": ("s3", "use_dualstack_endpoint"),
    "AWS_CA_BUNDLE": ("s3", "http", "ca_bundle"),
    "REQUESTS_CA_BUNDLE": ("s3", "http", "ca_bundle"),
}
"""Of two that name the same setting, the first wins. The last is not AWS's own, but its tools read
it."""

_IGNORE_ENDPOINTS = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"


def own_variables(environ: Mapping[str, str]) -> Layer:
    """`BLOCKYARD_S3_BUCKET`, `BLOCKYARD_S3_TIMEOUTS_CONNECT` and so on.

    A name that begins so but is no setting gets a place, too, where validation will refuse it.
    """
    return {
        _OWN.get(name, ("s3", name.removeprefix(_PREFIX).lower())): Setting(value, name)
        for name, value in environ.items()
        if name.startswith(_PREFIX) and value
    }


def aws_variables(environ: Mapping[str, str]) -> Layer:
    """The variables that AWS's own tools read for the region, the endpoint and the trust."""
    layer: Layer = {}
    no_endpoint = environ.get(_IGNORE_ENDPOINTS, "").lower() == "true"
    for name, path in _AWS.items():
        if environ.get(name) and not (no_endpoint and path[-1] == "endpoint"):
            _ = layer.setdefault(path, Setting(environ[name], name))
    return layer
