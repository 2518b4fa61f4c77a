"""Loading a `StoreConfig` from keyword arguments, a URL, a file and the environment.

A layer maps paths below `StoreConfig` to what one source says. Merged from the strongest to the
weakest, each fills the gaps that those before it leave. A store URL is
`s3://BUCKET/KEY_PREFIX?name=value&...`, `file:///FOLDER` or `memory://`: percent-encoding is undone
in the key prefix, the folder and the values, and a `+` is itself. Errors never quote a value of a
URL, which may carry secrets.

AWS's key variables are not read here: they belong to its credential chain (`s3/credentials.py`).
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote

from blockyard.config.fields import Given, Section, SettingPath, settings_below, shown
from blockyard.config.models import S3Config, StoreConfig
from blockyard.errors import ConfigError

Layer = dict[SettingPath, Given]

_TOGETHER = (
    frozenset({"access_key", "secret_key", "session_token", "anonymous"}),
    frozenset({"client_cert", "client_key"}),
)
"""Settings that mean something only with each other: a layer adds none to those of another."""

_PATHS = {path[-1]: path for path in settings_below(S3Config, ("s3",))}
"""Every setting of an S3 store by its own name, which is unique in all sections."""


def by_own_name(kind: str, settings: Mapping[str, object], origin: str = "") -> Layer:
    """The layer of settings named without their section, as in URLs and keyword arguments.

    A section may be given whole as well. Names that are not known get a place, too, where
    they will be refused.
    """
    layer: Layer = {}
    for name, value in settings.items():
        path = _PATHS.get(name, ("s3", name)) if kind == "s3" else (kind, name)
        layer |= flatten(value, path, origin)
    return layer


def flatten(value: object, path: SettingPath = (), origin: str = "") -> Layer:
    """The layer of a nested mapping, or of a section's explicitly given values."""
    if isinstance(value, Section):
        value = value.given()
    if not isinstance(value, Mapping):
        return {path: Given(value, origin)}
    layer: Layer = {}
    for name, below in cast("Mapping[object, object]", value).items():
        layer |= flatten(below, (*path, str(name)), origin)
    return layer


def merge(layers: Iterable[Layer]) -> Layer:
    """Each setting from the first layer that has it; an empty text or None is a gap."""
    merged: Layer = {}
    for layer in layers:
        taken = [group for group in _TOGETHER if any(path[-1] in group for path in merged)]
        for path, given in layer.items():
            if given.value not in (None, "") and not any(path[-1] in group for group in taken):
                _ = merged.setdefault(path, given)
    return merged


def nest(layer: Layer) -> dict[str, Any]:
    """The nested mapping that a `StoreConfig` is made of.

    A section that is no mapping stands as it is, to be refused, and hides what is below it.
    """
    root: dict[str, Any] = {}
    for path, given in layer.items():
        if any(path[:depth] in layer for depth in range(1, len(path))):
            continue
        section = root
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = given
    return root


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


_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def read_url(url: str) -> Layer:
    """The settings that `url` gives. Raises `ConfigError` when it is not a store URL."""
    scheme, _, rest = url.partition("://")
    match scheme.lower():
        case "s3":
            return _read_s3(rest)
        case "file":
            return _read_file(rest)
        case "memory":
            return _read_memory(rest)
        case "http" | "https":
            raise ConfigError(
                f"store URL: expected s3://BUCKET?endpoint={scheme}://HOST:PORT for a service, "
                f"got an {scheme} URL"
            )
        case other:
            raise ConfigError(
                f"store URL: expected s3://, file:// or memory://, got the scheme {shown(other)}"
            )


def _read_s3(rest: str) -> Layer:
    location, _, query = rest.partition("?")
    bucket, _, key_prefix = location.partition("/")
    if "@" in bucket:
        raise ConfigError(
            "store URL: expected s3://BUCKET, got credentials before the bucket; "
            "they can be given as ?access_key=...&secret_key=..."
        )
    place = by_own_name(
        "s3", {"bucket": bucket, "key_prefix": _decode("the key prefix", key_prefix)}
    )
    layer = {path: setting for path, setting in place.items() if setting.value}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError("store URL: expected name=value after '?' and '&', got no '='")
        for path, setting in by_own_name("s3", {name: _decode(shown(name), value)}).items():
            if path in layer:
                raise ConfigError(f"store URL: {name} is given twice")
            layer[path] = setting
    return {("type",): Given("s3"), **layer}


def _read_file(rest: str) -> Layer:
    if not rest.startswith("/") or "?" in rest:
        raise ConfigError(
            "store URL: expected file:///ABSOLUTE/FOLDER with three slashes and no parameters "
            "(%3F stands for a question mark in the name)"
        )
    return {
        ("type",): Given("file"),
        ("file", "path"): Given(_decode("the folder", rest)),
    }


def _read_memory(rest: str) -> Layer:
    if rest:
        raise ConfigError("store URL: expected memory:// and nothing more")
    return {("type",): Given("memory")}


def _decode(what: str, text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise ConfigError(
            f"store URL: {what}: expected two hexadecimal digits after each %; "
            "a percent sign itself is %25"
        )
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ConfigError(
            f"store URL: {what}: expected UTF-8 behind the percent-encoding"
        ) from None
