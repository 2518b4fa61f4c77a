"""Paths, URLs, and the settings in them.

A path is `BUCKET/KEY`, and every character of it is the key's own. A URL has the protocol in front,
and may end with `?name=value&...`. A question mark that begins no settings is part of the path (a
glob, for fsspec); one that would is written `%3F` in a URL, and that text itself `%253F`. Nothing
else is decoded, as in fsspec's other file systems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from blockyard.config import S3Config
from blockyard.config.sections import nearest, walk
from blockyard.config.showing import shown_name
from blockyard.errors import ConfigError

ALIASES = {
    "anon": "anonymous",
    "endpoint_url": "endpoint",
    "key": "access_key",
    "secret": "secret_key",
    "token": "session_token",
}
"""What other file systems call some of the settings."""

_PLACE = ("bucket", "key_prefix")
_SETTINGS = {
    path[-1]: known
    for path, known in walk(S3Config)
    if known.section is None and path[-1] not in _PLACE
}
_OURS = {name for name, known in _SETTINGS.items() if known.secret} | {"access_key"}
SECRET = _OURS | {name for name, ours in ALIASES.items() if ours in _OURS}
_KNOWN = [*_SETTINGS, *(name for name in ALIASES if name not in SECRET)]
"""What may begin the settings of a URL: `?key=1` may well be a path's own."""

_URL = re.compile(r"blockyard(\+content)?://")
_QUESTION_MARK = re.compile(r"%((?:25)*)(3F)", re.IGNORECASE)
_ESCAPED = re.compile(r"%((?:25)*3F)", re.IGNORECASE)


def path_of(url: str, protocol: str) -> str:
    """The path that a URL, or a path, stands for: without a slash at its end."""
    begin = f"{protocol}://"
    if url.startswith(begin):
        place, _ = _split(url.removeprefix(begin))
        url = _QUESTION_MARK.sub(_unescaped, place)
    return url.rstrip("/")


def url_of(path: str, protocol: str) -> str:
    """The URL of a path: `path_of` gives the path again."""
    escaped = _ESCAPED.sub(r"%25\1", path).replace("?", "%3F")
    return f"{protocol}://{escaped}"


def settings_of(url: str) -> dict[str, str]:
    """The settings at the end of a URL, none of a path. Raises `ConfigError`: quotes no value."""
    settings: dict[str, str] = {}
    if not _URL.match(url):
        return settings
    for name, value in _split(url)[1]:
        if name in SECRET:
            raise ConfigError(
                f"URL: {name}: expected in storage_options or the environment: URLs are logged"
            )
        if name not in _KNOWN:
            named = shown_name(name, _KNOWN)
            raise ConfigError(f"URL: there is no setting {named!r}{nearest(name, _KNOWN)}")
        if name in settings:
            raise ConfigError(f"URL: {name} is given twice")
        settings[name] = unquote(value)
    return settings


def named_as_ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """Storage options as settings of `open_store`. Raises `ConfigError`."""
    settings: dict[str, Any] = {}
    for name, value in options.items():
        if name in _PLACE:
            raise ConfigError(f"{name}: expected in the path, which is BUCKET/KEY")
        own = ALIASES.get(name, name)
        if own in settings:
            alias = next(each for each in options if ALIASES.get(each) == own)
            raise ConfigError(f"{own} is given twice, once as {alias}")
        settings[own] = value
    return settings


def _split(url: str) -> tuple[str, list[tuple[str, str]]]:
    """A URL without its settings, and these: none where no name behind the `?` is known."""
    place, mark, query = url.rpartition("?")
    if not mark:
        return url, []
    pairs = [pair.partition("=") for pair in query.split("&")]
    if not any(equals and name in _KNOWN for name, equals, _ in pairs):
        return url, []
    return place, [(name, value) for name, _, value in pairs]


def _unescaped(match: re.Match[str]) -> str:
    return f"%{match[1][2:]}{match[2]}" if match[1] else "?"
