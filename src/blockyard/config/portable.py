"""A configuration on its way to another process, in a pickle.

What was given goes along as it is. What is secret goes along only if the program gave it, in
a URL, a file or by an argument: what came from the environment is taken from the environment of
the process that opens the store anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from blockyard.config import StoreConfig
from blockyard.config.loading import TOGETHER, Layer, as_config, layers_of_environment
from blockyard.config.sections import Given, Secret, Section, SettingPath
from blockyard.errors import ConfigError


class Portable(NamedTuple):
    """The settings that go along, and those that are looked for in the environment."""

    settings: tuple[tuple[SettingPath, object], ...]
    missing: tuple[SettingPath, ...] = ()

    def load(self, environ: Mapping[str, str]) -> StoreConfig:
        """The configuration again. Raises `ConfigError`."""
        layer: Layer = {path: Given(value, "from a pickle") for path, value in self.settings}
        missing = set(self.missing)
        for place, names in dict.fromkeys((path[:-1], _group(path[-1])) for path in self.missing):
            group = {(*place, name) for name in names}
            layer |= _found(group & missing, group, layers_of_environment(environ))
        return as_config(layer)

    def __repr__(self) -> str:
        return f"Portable({len(self.settings)} settings)"  # some of them secret


def _group(name: str) -> frozenset[str]:
    """The settings that mean something only with `name`, itself included."""
    return next((group for group in TOGETHER if name in group), frozenset({name}))


def _found(missing: set[SettingPath], group: set[SettingPath], layers: Iterable[Layer]) -> Layer:
    """The settings of a group, as one place of the environment has them: a token or none."""
    needed = {path for path in missing if path[-1] != "session_token"}
    for layer in layers:
        if layer.keys() >= needed:
            return {path: layer[path] for path in group & layer.keys()}
    variables = ", ".join("BLOCKYARD_" + "_".join(path).upper() for path in sorted(missing))
    raise ConfigError(
        f"{variables}: expected in the environment, as in the process that pickled this store: "
        "secrets that come from there are not pickled"
    )


def portable(config: StoreConfig) -> Portable:
    """`config` for a pickle, without the sections of other types of stores."""
    settings: list[tuple[SettingPath, object]] = [(("type",), config.type)]
    missing: list[SettingPath] = []
    if config.selected is not None:
        _collect(config.selected, (config.type,), settings, missing)
    if config.cache is not None:
        _collect(config.cache, ("cache",), settings, missing)
    return Portable(tuple(settings), tuple(missing))


def _collect(
    section: Section,
    path: SettingPath,
    settings: list[tuple[SettingPath, object]],
    missing: list[SettingPath],
) -> None:
    settings.append((path, {}))
    given = section.given()
    secret = {name for name in section.borrowed() if section.settings[name].secret and given[name]}
    left = {other for name in secret for other in _group(name) & given.keys()}
    for name, value in sorted(given.items()):
        if isinstance(value, Section):
            _collect(value, (*path, name), settings, missing)
        elif name in left:
            missing.append((*path, name))
        else:
            settings.append(((*path, name), _plain(value)))


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    return str(value) if isinstance(value, Path) else value
