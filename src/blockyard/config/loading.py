"""From what a program, a file and the environment say to one checked `StoreConfig`.

AWS's key variables are not read here: they belong to its credential chain (`s3/credentials.py`).
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from blockyard.config.fields import Given, settings_below
from blockyard.config.layers import Layer, by_own_name, flatten, merge, nest
from blockyard.config.models import S3Config, StoreConfig
from blockyard.config.urls import read_url
from blockyard.errors import ConfigError

Source = str | os.PathLike[str] | StoreConfig | None

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


def load_config(
    source: Source, settings: Mapping[str, object], environ: Mapping[str, str]
) -> StoreConfig:
    """The configuration of the store that `source` names; `settings` win over what it says.

    For a store of type s3 the environment fills what both leave open, unless `source` is a
    `StoreConfig`, which is complete as it is. Raises `ConfigError`.
    """
    if isinstance(source, StoreConfig) and not settings:
        return source
    base, where = _read(source, environ)
    kind = str(base.get(("type",), Given("s3")).value)
    if kind == "memory" and settings:
        raise ConfigError(f"a memory store has no settings, got {', '.join(settings)}")
    layers = [by_own_name(kind, settings, "from an argument"), base]
    if kind == "s3" and not isinstance(source, StoreConfig):
        layers += [own_variables(environ), _aws_variables(environ)]
    merged = merge(layers)
    if not where and ("s3", "bucket") not in merged:
        raise ConfigError(
            "no store is named: pass a URL (s3://, file://, memory://), the path of a YAML "
            f"file or a StoreConfig, or set {STORE}"
        )
    try:
        return StoreConfig(**nest(merged))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def own_variables(environ: Mapping[str, str]) -> Layer:
    """`BLOCKYARD_S3_BUCKET`, `BLOCKYARD_S3_TIMEOUTS_CONNECT` and so on.

    A name that begins so but is no setting gets a place, too, where it will be refused.
    """
    return {
        _OWN.get(name, ("s3", name.removeprefix(_PREFIX).lower())): Given(value, f"from {name}")
        for name, value in environ.items()
        if name.startswith(_PREFIX) and value
    }


def _aws_variables(environ: Mapping[str, str]) -> Layer:
    """The variables that AWS's own tools read for the region, the endpoint and the trust."""
    layer: Layer = {}
    no_endpoint = environ.get(_IGNORE_ENDPOINTS, "").lower() == "true"
    for name, path in _AWS.items():
        if environ.get(name) and not (no_endpoint and path[-1] == "endpoint"):
            _ = layer.setdefault(path, Given(environ[name], f"from {name}"))
    return layer


def _read(source: Source, environ: Mapping[str, str]) -> tuple[Layer, str]:
    """The layer of the source, and what errors call it; nothing when no source is named."""
    if isinstance(source, StoreConfig):
        return flatten(source), "StoreConfig"
    name = environ.get(STORE, "") if source is None else os.fsdecode(source)
    if source is None and not name:
        return {}, ""
    label = f"{STORE}: " if source is None else ""
    if "://" in name:
        return read_url(name), f"{label}store URL"
    from blockyard.config.yaml_file import read_yaml  # noqa: PLC0415 - only files need yaml

    return read_yaml(os.path.expanduser(name)), f"{label}{name}"
