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
        if self.missing:
            for together in self._missing_together():
                layer |= _found(together, layers_of_environment(environ))
        return as_config(layer)

    def _missing_together(self) -> Iterable[set[SettingPath]]:
        """What is missing, in sets of what belongs together."""
        sets: dict[object, set[SettingPath]] = {}
        for path in self.missing:
            group = next((group for group in TOGETHER if path[-1] in group), path)
            sets.setdefault(group, set()).add(path)
        return sets.values()

    def __repr__(self) -> str:
        return f"Portable({len(self.settings)} settings)"  # some of them secret


def _found(missing: set[SettingPath], layers: Iterable[Layer]) -> Layer:
    """Settings that belong together, as one place of the environment has them."""
    places = {path[:-1] for path in missing}
    names = {path[-1] for path in missing}
    for group in TOGETHER:
        names |= group if group & names else set()
    wanted = {(*place, name) for place in places for name in names}
    for layer in layers:
        if layer.keys() >= {path for path in missing if path[-1] != "session_token"}:
            return {path: layer[path] for path in wanted & layer.keys()}
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
    given = section.given()
    left = {name for name in section.borrowed() if section.settings[name].secret and given[name]}
    for group in TOGETHER:
        if group & left:
            left |= group & given.keys()
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
