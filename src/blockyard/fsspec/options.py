"""Storage options: told apart by fsspec, and written down for other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from blockyard.config import StoreConfig
from blockyard.config.sections import Secret, Section, walk
from blockyard.fsspec.urls import ALIASES, SECRET

_OWN = {
    "store", "asynchronous", "batch_size", "use_listings_cache", "listings_expiry_time",
}  # fmt: skip
"""What a file system takes beside settings."""
_NO_SECRET = ({path[-1] for path, _ in walk(StoreConfig)} | _OWN | ALIASES.keys()) - SECRET


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in texts, numbers and mappings.

    fsspec takes those of equal `repr` for equal, and all secrets have that.
    """
    return {name: _plain(value) for name, value in options.items()}


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain options that are known to hold no secret: neither they nor the URLs among them."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _NO_SECRET or _has_credentials(value):
            continue
        if isinstance(value, Mapping):
            kept[name] = without_secrets(cast("Mapping[str, Any]", value))
        elif name == "store" and isinstance(value, str):
            kept[name] = _url_without_secrets(value)
        else:
            kept[name] = value
    return kept


def _plain(value: object) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Section) and not isinstance(value, StoreConfig):
        value = value.given()
    return plain(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def _url_without_secrets(url: str) -> str:
    """The URL of a store without the settings that may hold secrets."""
    place, _, query = url.partition("?")
    kept: list[str] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name in _NO_SECRET and not _has_credentials(unquote(value)):
            kept.append(pair)
    return "?".join(filter(None, (place, "&".join(kept))))


def _has_credentials(value: object) -> bool:
    """Whether it is a URL that names a user: none of those that are taken does."""
    if not isinstance(value, str) or "@" not in value:
        return False
    return "@" in urlsplit(value if "://" in value else f"//{value}").netloc
