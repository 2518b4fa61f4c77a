"""From what a program, a file and the environment say to one checked `StoreConfig`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import ValidationError

from blockyard.config.environment import STORE, aws_variables, own_variables
from blockyard.config.layers import Layer, Setting, by_own_name, flatten, merge, nest
from blockyard.config.models import StoreConfig
from blockyard.config.problems import config_error
from blockyard.config.urls import read_url
from blockyard.errors import ConfigError

Source = str | os.PathLike[str] | StoreConfig | None


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
    kind = str(base.get(("type",), Setting("s3")).value)
    if kind == "memory" and settings:
        raise ConfigError(f"a memory store has no settings, got {', '.join(settings)}")
    layers = [by_own_name(kind, settings), base]
    if kind == "s3" and not isinstance(source, StoreConfig):
        layers += [own_variables(environ), aws_variables(environ)]
    merged = merge(layers)
    if not where and ("s3", "bucket") not in merged:
        raise ConfigError(
            "no store is named: pass a URL (s3://, file://, memory://), the path of a YAML "
            f"file or a StoreConfig, or set {STORE}"
        )
    return _validated(merged, where)


def _read(source: Source, environ: Mapping[str, str]) -> tuple[Layer, str]:
    """The layer of the source, and what errors call it; nothing when no source is named."""
    if isinstance(source, StoreConfig):
        return flatten(source), "StoreConfig"
    if source is None:
        named = environ.get(STORE, "")
        return _read_named(named, f"{STORE}: ") if named else ({}, "")
    return _read_named(os.fsdecode(source), "")


def _read_named(name: str, label: str) -> tuple[Layer, str]:
    if "://" in name:
        return read_url(name), f"{label}store URL"
    from blockyard.config.yaml_file import read_yaml  # noqa: PLC0415 - only files need yaml

    return read_yaml(os.path.expanduser(name)), f"{label}{name}"


def _validated(layer: Layer, where: str) -> StoreConfig:
    origins = {path: setting.origin for path, setting in layer.items() if setting.origin}
    try:
        return StoreConfig.model_validate(nest(layer))
    except ValidationError as invalid:
        error = config_error(
            invalid, StoreConfig, StoreConfig.yaml_path, where=where, origins=origins
        )
    raise error  # outside the handler: pydantic's error holds the values, secrets too
