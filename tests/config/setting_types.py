"""The types of settings, as their annotations say."""

from __future__ import annotations

from typing import Any, get_type_hints

from blockyard.config.sections import Section, SettingPath


def types_below(root: type[Section], path: SettingPath = ()) -> dict[SettingPath, Any]:
    """The type of each single setting below `root`."""
    hints = get_type_hints(root)
    found: dict[SettingPath, Any] = {}
    for name, setting in root.settings.items():
        if setting.section:
            found |= types_below(setting.section, (*path, name))
        else:
            found[(*path, name)] = hints[name]
    return found
