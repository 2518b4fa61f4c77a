"""YAML files: the top key `block_store`, plain data only.

Every scalar but null is read as the text that stands there and converted by the setting it is
for, so `region: no` and `access_key: 0123` are what they look like. Tags have no effect;
aliases, deep nesting and repeated keys are refused.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from typing import Any

import yaml

from blockyard.config import StoreConfig
from blockyard.config.sections import Given, SettingPath, nearest
from blockyard.config.showing import HIDDEN_NAME, shown, shown_name, without_quotations
from blockyard.errors import ConfigError
from blockyard.user_code import pass_on_foreign

TOP_KEY = "block_store"
_MAX_BYTES = 64 * 1024  # a hostile file of this size still parses in well under a second
_MAX_DEPTH = 16
_NULL = {"", "~", "null", "Null", "NULL"}
_LIKE_A_URL = re.compile(r"[a-z][a-z0-9+.-]*:/|(s3|file|memory|https?)(:|//)|[^?]*[?].*=", re.I)


def read_yaml(path: str) -> dict[SettingPath, Given]:
    """The settings in the file at `path`, each with its line.

    Raises `ConfigError` when it can't be read, is not YAML, or is not a mapping with the one
    key `block_store`.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, OSError):
            pass_on_foreign(error)
        problem = f"can't be read: {getattr(error, 'strerror', None) or error}"
        if _LIKE_A_URL.match(path):
            problem = "this is not: a URL has '://', of which a Path would leave ':/'"
        raise ConfigError(
            f"{shown(path)}: expected a store URL (s3://, file://, memory://) or the path of a "
            f"YAML file, which {problem}"
        ) from None
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path}: expected a YAML file of at most {_MAX_BYTES} bytes")
    try:
        _refuse_what_grows(text)
        root = yaml.compose(text, yaml.BaseLoader)
        top = _entries(root) if isinstance(root, yaml.MappingNode) else {}
        for name in top.keys() - {TOP_KEY}:
            told = shown_name(name, [TOP_KEY, *StoreConfig.settings])
            told = told if told == HIDDEN_NAME else repr(told)
            if name in StoreConfig.settings:
                raise ConfigError(f"{path}: {told}: expected below {TOP_KEY}, and indented")
            raise ConfigError(f"{path}: {told}: unknown{nearest(name, [TOP_KEY])}")
        if not isinstance(top.get(TOP_KEY), yaml.MappingNode):
            inside = "the store's settings" if top else f"the key {TOP_KEY}"
            raise ConfigError(f"{path}: {TOP_KEY}: expected a mapping with {inside}")
        return _flat(top[TOP_KEY])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" at line {mark.line + 1}" if mark else ""
        told = without_quotations(error.problem or "")
        raise ConfigError(f"{path}: expected YAML, got an error{line}: {told}") from None
    except yaml.reader.ReaderError as error:  # it quotes what it could not decode
        if error.encoding != "unicode":
            raise ConfigError(f"{path}: expected YAML in UTF-8 or UTF-16") from None
        raise ConfigError(
            f"{path}: expected YAML, got a control character, U+{error.character:04X}, at line "
            f"{_line_of(text, error.position)}"
        ) from None


def _line_of(text: bytes, position: int) -> int:
    """The line of a character of a text that the parser could decode."""
    utf16 = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return text.decode("utf-16" if utf16 else "utf-8")[:position].count("\n") + 1


def _open_regular(path: str, flags: int) -> int:
    """Open a file that is one: a pipe would be waited for, and a device has no end."""
    file = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("it is no regular file")
    return file


def _refuse_what_grows(text: bytes) -> None:
    """Refuse what could make a small file into a large or endless value."""
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not supported", event)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _refused("nested too deeply", event)


def _flat(node: yaml.Node, path: SettingPath = ()) -> dict[SettingPath, Given]:
    if not isinstance(node, yaml.MappingNode):
        null = isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULL
        return {path: Given(None if null else node.value, f"line {node.start_mark.line + 1}")}
    settings = {path: Given({}, f"line {node.start_mark.line + 1}")} if path else {}
    for name, below in _entries(node).items():
        settings |= _flat(below, (*path, name))
    return settings


def _entries(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in _NULL:
            raise _refused("a key must be a plain word", key)
        if key.value in entries:
            raise _refused("a key is given twice", key)
        entries[key.value] = value
    return entries


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
