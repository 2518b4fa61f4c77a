"""Where settings come from. The strongest first; each fills the gaps that those before it leave:

1. keyword arguments of `open_store` and `open_async_store`;
2. the source given to them (a URL, a YAML file), or the one that `BLOCKYARD_STORE` names;
3. `BLOCKYARD_S3_BUCKET`, `BLOCKYARD_S3_TIMEOUTS_CONNECT` and so on, one for each setting;
4. AWS's variables for the region, the endpoint and the trust. Those of its keys belong to its
   credential chain (`s3/credentials.py`);
5. the defaults in `blockyard.config`.

An empty text or None is a gap, and so is an empty section, unless all that is in it has a default.
A `StoreConfig` is complete: the environment adds nothing to it. What errors show of all these is in
`showing.py`: they may carry secrets.
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING
from typing import Any, cast
from urllib.parse import unquote, unquote_to_bytes

from blockyard.config import S3Config, StoreConfig
from blockyard.config.sections import Given, Section, SettingPath, settings_below, walk
from blockyard.config.showing import HIDDEN, shown_name
from blockyard.errors import ConfigError

Source = str | os.PathLike[str] | StoreConfig | None
Layer = dict[SettingPath, Given]
"""What one source says, by the paths of settings below `StoreConfig`.

An empty mapping says that a section is given, whether anything stands below it or not.
"""

STORE = "BLOCKYARD_STORE"
"""The store that is opened when the program names none: a URL, or the path of a YAML file."""

_S3_SETTINGS = settings_below(S3Config, ("s3",))
_BY_OWN_NAME = {path[-1]: path for path in _S3_SETTINGS}
"""Every setting of an S3 store by its own name, which is unique in all sections."""

_NOT_BY_DEFAULT = {
    path
    for path, known in walk(StoreConfig)
    if known.section and any(each.default is MISSING for each in known.section.settings.values())
}
"""Sections with settings that are required: an empty one is a gap."""

_OF_TEXTS = {path for path, known in walk(StoreConfig) if known.holds_texts}
"""Settings that are mappings: each is taken whole, from one place."""

_OF_VIEWS = {"concurrency", "deadline"}
"""What `with_options` sets, of a store of any type."""

TOGETHER = (
    frozenset({"access_key", "secret_key", "session_token", "anonymous", "profile"}),
    frozenset({"client_cert", "client_key"}),
)
"""Settings that mean something only with each other: a layer adds none to those of another."""

_PREFIX = "BLOCKYARD_S3_"
_AWS = {
    "AWS_REGION": ("s3", "region"),
    "AWS_DEFAULT_REGION": ("s3", "region"),
    "AWS_ENDPOINT_URL_S3": ("s3", "endpoint"),
    "AWS_ENDPOINT_URL": ("s3", "endpoint"),
    "AWS_USE_FIPS_ENDPOINT": ("s3", "use_fips_endpoint"),
    "AWS_USE_DUALSTACK_ENDPOINT": ("s3", "use_dualstack_endpoint"),
    "AWS_CA_BUNDLE": ("s3", "http", "ca_bundle"),
    "REQUESTS_CA_BUNDLE": ("s3", "http", "ca_bundle"),  # not AWS's own, but its tools read it
}
"""Of two that name the same setting, the first wins."""

_NAMED = _AWS | {"BLOCKYARD_" + "_".join(path).upper(): path for path in _S3_SETTINGS}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,9}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def load_config(
    source: Source, settings: Mapping[str, object], environ: Mapping[str, str]
) -> StoreConfig:
    """The configuration of the store that `source` names; `settings` win over what it says.

    Raises `ConfigError`.
    """
    if isinstance(source, StoreConfig) and not settings:
        return source
    try:
        base, where = _read(source, environ)
    except ConfigError as error:
        raise ConfigError(str(error) if source is not None else f"{STORE}: {error}") from None
    kind = str(base.get(("type",), Given("s3")).value)
    if not isinstance(source, StoreConfig):
        _refuse_variables(kind, environ)
    _refuse_settings(kind, settings)
    layers = [_by_own_name(kind, settings, "from an argument"), base]
    if kind == "s3" and not isinstance(source, StoreConfig):
        layers.append(environment_layer(environ))
    merged = _merge(layers)
    if not where and ("s3", "bucket") not in merged:
        raise ConfigError(
            "no store is named: pass a URL (s3://, file://, memory://), the path of a YAML "
            f"file or a StoreConfig, or set {STORE}"
        )
    if _is_of_untold_type(merged):
        raise ConfigError(
            f"{where}: block_store.type: expected file, for what stands below block_store.file: "
            "it is s3 where nothing is said"
        )
    if where.endswith("URL") and kind == "s3" and not any(path[0] == "s3" for path in merged):
        raise ConfigError(f"{where}: expected a bucket, s3://BUCKET/KEY_PREFIX")
    try:
        return as_config(merged)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def _is_of_untold_type(merged: Layer) -> bool:
    """Whether a folder is described, and neither a bucket nor which of the two is meant."""
    named = ("type",) in merged or ("s3", "bucket") in merged
    return not named and any(path[0] == "file" for path in merged)


def _refuse_settings(kind: str, settings: Mapping[str, object]) -> None:
    """Refuse arguments that a store of this type has no setting for."""
    own = {"memory": {"cache"}, "file": settings.keys() - _OF_VIEWS}.get(kind, settings.keys())
    others = [name for name in settings if name not in own]
    if not others:
        return
    hint = "; with_options sets it" if _OF_VIEWS.issuperset(others) else ""
    what = "no settings but cache" if kind == "memory" else "no such setting"
    raise ConfigError(f"a {kind} store has {what}, got {names_of(others)}{hint}")


def names_of(settings: Iterable[str]) -> str:
    """The names of settings in an error."""
    return ", ".join(shown_name(name, _BY_OWN_NAME) for name in settings)


def as_config(layer: Layer) -> StoreConfig:
    """The configuration that consists of `layer`. Raises `ConfigError`."""
    return StoreConfig(**_nest(layer))


def layers_of_environment(environ: Mapping[str, str]) -> Iterator[Layer]:
    """What the environment says by itself: of the store it names, and of any. The first wins."""
    with suppress(ConfigError):  # that may be a store of somebody else's
        yield _read(None, environ)[0]
    yield environment_layer(environ)


def _by_own_name(kind: str, settings: Mapping[str, object], origin: str = "") -> Layer:
    """The layer of settings named without their section, as in URLs and keyword arguments.

    A section may be given whole as well. Names that are not known get a place, too, where
    they will be refused.
    """
    layer: Layer = {}
    for name, value in settings.items():
        path = _BY_OWN_NAME.get(name, ("s3", name)) if kind == "s3" else (kind, name)
        path = ("cache",) if name == "cache" else path
        layer |= _flat(value, path, origin)
    return layer


def _flat(value: object, path: SettingPath = (), origin: str = "") -> Layer:
    """The layer of a nested mapping, or of a section's explicitly given values."""
    if isinstance(value, Section):
        borrowed = value.borrowed()
        value = {
            name: Given(given, origin, borrowed=name in borrowed)
            for name, given in value.given().items()
        }
    if isinstance(value, Given):
        below: object = value.value
        return _flat(below, path, origin) if isinstance(below, Section) else {path: value}
    if not isinstance(value, Mapping) or path in _OF_TEXTS:
        return {path: Given(value, origin)}
    layer: Layer = {path: Given({}, origin)} if path else {}
    for name, below in cast("Mapping[object, object]", value).items():
        layer |= _flat(below, (*path, str(name)), origin)
    return layer


def _whole(layer: Layer) -> Layer:
    """The layer of a file, with each mapping that is one setting in one piece."""
    whole: Layer = {}
    for path, given in layer.items():
        above = next((path[:end] for end in range(len(path)) if path[:end] in _OF_TEXTS), None)
        if above is None:
            if path not in _OF_TEXTS or given.value != {}:
                whole[path] = given
            continue
        mapping = cast("dict[str, object]", whole.setdefault(above, given._replace(value={})).value)
        name, *below = path[len(above) :]
        mapping[name] = below or given.value  # what has more below it is refused, being no text
    return whole


def _merge(layers: Iterable[Layer]) -> Layer:
    """Each setting from the first layer that has it."""
    merged: Layer = {}
    for layer in layers:
        taken = [group for group in TOGETHER if any(path[-1] in group for path in merged)]
        for path, given in layer.items():
            if _is_gap(path, given) or any(path[-1] in group for group in taken):
                continue
            if path not in merged or _opens(path, merged[path]):
                merged[path] = given
    return merged


def _is_gap(path: SettingPath, given: Given) -> bool:
    return given.value in (None, "") or (path in _NOT_BY_DEFAULT and _opens(path, given))


def _opens(path: SettingPath, given: Given) -> bool:
    """Whether it says no more than that a section is given."""
    is_section = isinstance(given.value, Mapping) and path not in _OF_TEXTS
    return is_section and not cast("Mapping[object, object]", given.value)


def _nest(layer: Layer) -> dict[str, Any]:
    """The nested mapping that a `StoreConfig` is made of.

    A section that is no mapping stands as it is, to be refused, and hides what is below it.
    """
    root: dict[str, Any] = {}
    for path, given in layer.items():
        above = [path[:depth] for depth in range(1, len(path)) if path[:depth] in layer]
        if not all(_opens(each, layer[each]) for each in above):
            continue
        section = root
        for name in path[:-1]:
            section = section.setdefault(name, {})
        if _opens(path, given):
            _ = section.setdefault(path[-1], {})
        else:
            section[path[-1]] = given
    return root


def _refuse_variables(kind: str, environ: Mapping[str, str]) -> None:
    """Refuse variables for settings that are not taken from the environment."""
    without = ("BLOCKYARD_CACHE_", "BLOCKYARD_FILE_") if kind == "file" else ("BLOCKYARD_CACHE_",)
    found = sorted(name for name in environ if name.startswith(without) and environ[name])
    if found:
        raise ConfigError(
            f"{', '.join(found)}: unknown; the settings of cache and file are given in a YAML file "
            "or by arguments, and those of s3 alone by variables too"
        )


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """What the environment says: blockyard's own variables, which win, and AWS's.

    One of ours that is no setting gets a place, too, where it will be refused.
    """
    names = [name for name in environ if name.startswith(_PREFIX)] + list(_AWS)
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        names = [name for name in names if not name.startswith("AWS_ENDPOINT_URL")]
    layer: Layer = {}
    for name in names:
        path = _NAMED.get(name, ("s3", name.removeprefix(_PREFIX).lower()))
        if environ.get(name):
            given = Given(environ[name], f"from {name}", borrowed=True)
            _ = layer.setdefault(path, given)
    return layer


def _read(source: Source, environ: Mapping[str, str]) -> tuple[Layer, str]:
    """The layer of the source, and what errors call it; nothing when no source is named."""
    if isinstance(source, StoreConfig):
        return _flat(source), "StoreConfig"
    name = environ.get(STORE, "") if source is None else os.fsdecode(source)
    if source is None and not name:
        return {}, ""
    label = f"{STORE}: " if source is None else ""
    if "://" in name:
        try:
            layer, where = _read_url(name), f"{label}store URL"
        except ValueError as error:
            raise ConfigError(f"store URL: {error}") from None
    else:
        from blockyard.config.yaml_file import read_yaml  # noqa: PLC0415 - only files need yaml

        layer, where = _whole(read_yaml(os.path.expanduser(name))), f"{label}{name}"
    if source is None:
        layer = {path: given._replace(borrowed=True) for path, given in layer.items()}
    return layer, where


def _read_url(url: str) -> Layer:
    """`s3://BUCKET/KEY_PREFIX?name=value&...`, `file:///FOLDER` or `memory://`.

    Percent-encoding is undone in the key prefix, the folder and the values; a `+` is itself.
    Raises `ValueError`.
    """
    scheme, _, rest = url.partition("://")
    match scheme.lower():
        case "s3":
            return {("type",): Given("s3"), ("s3",): Given({}), **_read_s3(rest)}
        case "file":
            if not rest.startswith("/") or "?" in rest:
                raise ValueError(
                    "expected file:///ABSOLUTE/FOLDER with three slashes and no parameters "
                    "(%3F stands for a question mark in the name)"
                )
            return {("type",): Given("file"), ("file", "path"): Given(_folder(rest))}
        case "memory":
            if rest:
                raise ValueError("expected memory:// and nothing more")
            return {("type",): Given("memory")}
        case "http" | "https":
            raise ValueError(
                f"expected s3://BUCKET?endpoint={scheme}://HOST:PORT for a service, "
                f"got an {scheme} URL"
            )
        case other:
            got = repr(other) if _SCHEME.fullmatch(other) else HIDDEN if other else "nothing"
            raise ValueError(f"expected s3://, file:// or memory://, got the scheme {got}")


def _read_s3(rest: str) -> Layer:
    location, _, query = rest.partition("?")
    bucket, _, key_prefix = location.partition("/")
    if "@" in bucket or (":" in bucket and "@" in location):  # a secret may have slashes
        raise ValueError(
            "expected s3://BUCKET, got credentials before the bucket; "
            "they can be given as ?access_key=...&secret_key=..."
        )
    place = {"bucket": bucket, "key_prefix": _decode("the key prefix", key_prefix)}
    settings: dict[str, object] = {name: value for name, value in place.items() if value}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError("expected name=value after '?' and '&', got no '='")
        if name in settings:
            raise ValueError(f"{names_of([name])} is given twice")
        settings[name] = _decode(names_of([name]), value)
    return _by_own_name("s3", settings)


def _folder(text: str) -> str:
    """The folder of a URL as `Path.as_uri` writes it: its bytes need not be UTF-8."""
    _check_percent("the folder", text)
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(text)))
    except UnicodeEncodeError as error:
        raise ValueError(f"the folder: it can't be written as a path: {error.reason}") from None


def _decode(what: str, text: str) -> str:
    _check_percent(what, text)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{what}: expected UTF-8 behind the percent-encoding") from None


def _check_percent(what: str, text: str) -> None:
    if _BAD_PERCENT.search(text):
        raise ValueError(
            f"{what}: expected two hexadecimal digits after each %; a percent sign itself is %25"
        )
