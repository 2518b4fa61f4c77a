"""YAML files: the top key `block_store`, plain data only.

Every scalar but null is read as the text that stands there and converted by the setting it is
for, so `region: no` and `access_key: 0123` are what they look like. Tags have no effect;
aliases, deep nesting and repeated keys are refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Any, cast

import yaml

from blockyard.config.layers import Layer, flatten
from blockyard.config.problems import nearest
from blockyard.errors import ConfigError

TOP_KEY = "block_store"
_MAX_BYTES = 64 * 1024  # a hostile file of this size still parses in well under a second
_MAX_DEPTH = 16
_NULL = "tag:yaml.org,2002:null"


def read_yaml(path: str) -> Layer:
    """The settings in the file at `path`.

    Raises `ConfigError` when it can't be read, is not YAML, or is not a mapping with the one
    key `block_store`.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(
            f"{path!r}: expected a store URL (s3://, file://, memory://) or the path of a YAML "
            f"file, which can't be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path}: expected a YAML file of at most {_MAX_BYTES} bytes")
    return _settings(path, _parse(path, text))


def _open_regular(path: str, flags: int) -> int:
    """Open a file that is one: a pipe would be waited for, and a device has no end."""
    file = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("it is no regular file")
    return file


def _parse(path: str, text: bytes) -> object:
    try:
        _check_shape(yaml.parse(text, yaml.BaseLoader))
        return yaml.load(text, _PlainLoader)  # noqa: S506 - builds less than SafeLoader does
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: expected YAML, got an error{line}: {error.problem}") from None
    except yaml.YAMLError:  # it quotes what it could not decode
        raise ConfigError(f"{path}: expected YAML in UTF-8 or UTF-16") from None


def _check_shape(events: Iterable[yaml.Event]) -> None:
    """Refuse what could make a small file into a large or endless value."""
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not supported", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _refused("nested too deeply", event.start_mark)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _settings(path: str, content: object) -> Layer:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {TOP_KEY}: expected a mapping with the key {TOP_KEY}")
    top = cast("dict[str, object]", content)
    for name in top:
        if name != TOP_KEY:
            raise ConfigError(f"{path}: {name[:60]!r}: unknown{nearest(name, [TOP_KEY])}")
    if not isinstance(top.get(TOP_KEY), dict):
        raise ConfigError(f"{path}: {TOP_KEY}: expected a mapping with the store's settings")
    return flatten(top[TOP_KEY])


class _PlainLoader(yaml.BaseLoader):
    """Texts, lists, mappings and null."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _NULL:
                raise _refused("a key must be a plain word", key.start_mark)
            if key.value in seen:
                raise _refused("a key is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _null(_loader: _PlainLoader, _node: yaml.Node) -> None:
    return None


_PlainLoader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType] - no types there
    _NULL, re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_PlainLoader.add_constructor(_NULL, _null)
