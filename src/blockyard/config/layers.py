"""Settings on their way to a `StoreConfig`: layers, from the strongest to the weakest.

A layer maps paths below `StoreConfig` to what one source says: keyword arguments, a URL or
YAML file, the environment. Merged, each layer fills the gaps that the ones before it leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from blockyard.config.models import S3Config
from blockyard.config.tree import Path, settings_below


class Setting(NamedTuple):
    """A value, and the environment variable that it came from ("" for every other source)."""

    value: object
    origin: str = ""


Layer = dict[Path, Setting]

_TOGETHER = (
    frozenset({"access_key", "secret_key", "session_token", "anonymous"}),
    frozenset({"client_cert", "client_key"}),
)
"""Settings that mean something only with each other: a layer adds none to those of another."""

_PATHS = {path[-1]: path for path in settings_below(S3Config, ("s3",))}
"""Every setting of an S3 store by its own name, which is unique in all sections."""


def by_own_name(kind: str, settings: Mapping[str, object]) -> Layer:
    """The layer of settings named without their section, as in URLs and keyword arguments.

    A section may be given whole as well. Names that are not known get a place, too, where
    validation will refuse them.
    """
    layer: Layer = {}
    for name, value in settings.items():
        path = _PATHS.get(name, ("s3", name)) if kind == "s3" else (kind, name)
        layer |= flatten(value, path)
    return layer


def flatten(value: object, path: Path = ()) -> Layer:
    """The layer of a nested mapping, or of a model's explicitly given values."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if not isinstance(value, Mapping):
        return {path: Setting(value)}
    layer: Layer = {}
    for name, below in cast("Mapping[object, object]", value).items():
        layer |= flatten(below, (*path, str(name)))
    return layer


def merge(layers: Iterable[Layer]) -> Layer:
    """Each setting from the first layer that has it; an empty text or None is a gap."""
    merged: Layer = {}
    for layer in layers:
        taken = [group for group in _TOGETHER if any(path[-1] in group for path in merged)]
        for path, setting in layer.items():
            if setting.value in (None, "") or any(path[-1] in group for group in taken):
                continue
            _ = merged.setdefault(path, setting)
    return merged


def nest(layer: Layer) -> dict[str, Any]:
    """The nested mapping that validation takes.

    A section that is no mapping stands as it is, to be refused, and hides what is below it.
    """
    root: dict[str, Any] = {}
    for path, setting in layer.items():
        if any(path[:depth] in layer for depth in range(1, len(path))):
            continue
        section = root
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = setting.value
    return root
