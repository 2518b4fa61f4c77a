"""Settings on their way to a `StoreConfig`, as layers from the strongest to the weakest.

A layer maps paths below `StoreConfig` to what one source says. Merged, each fills the gaps that
those before it leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from blockyard.config.fields import Given, Section, SettingPath, settings_below
from blockyard.config.models import S3Config

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
