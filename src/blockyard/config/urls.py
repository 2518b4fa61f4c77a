"""Store URLs: `s3://BUCKET/KEY_PREFIX?name=value&...`, `file:///FOLDER`, `memory://`.

Percent-encoding is undone in the key prefix, the folder and the values; a `+` is itself. Errors
never quote a value: a URL may carry secrets.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from blockyard.config.fields import Given, shown
from blockyard.config.layers import Layer, by_own_name
from blockyard.errors import ConfigError

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
