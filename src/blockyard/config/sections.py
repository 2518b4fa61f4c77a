"""How settings are declared and checked, and what errors say of them.

A `Section` checks all of its settings when it is made, and raises one `ConfigError` for all that
are wrong. Each problem names the setting by its path in YAML, what was expected, what was given
(unless that is or may hold a secret) and where it came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Self, cast, dataclass_transform

from blockyard.config import values
from blockyard.config.showing import HIDDEN, HIDDEN_NAME, closest, shown, shown_name
from blockyard.config.values import Reader
from blockyard.errors import ConfigError
from blockyard.model import MAX_SECONDS

SettingPath = tuple[str, ...]
"""A setting in the tree: `block_store.s3.timeouts.connect` is `("s3", "timeouts", "connect")`."""

_LISTED = 50
_PEER_NAMES = {
    name: ours
    for ours, theirs in {
        "access_key": "aws_access_key_id key username",
        "secret_key": "aws_secret_access_key secret password",
        "session_token": "aws_session_token token",
        "anonymous": "anon no_sign_request skip_signature unsigned",
        "bucket": "bucket_name",
        "ca_bundle": "ca ca_cert ca_certs ca_file cacert cert_check insecure no_verify ssl_verify "
        "tls_verify verify verify_ssl",
        "client_cert": "cert cert_file",
        "client_key": "key_file",
        "concurrency": "max_concurrency max_workers",
        "customer_key": "ssecustomerkey sse_customer_key",
        "encryption": "serversideencryption sse",
        "endpoint": "allow_http endpoint_url host hostname secure ssl tls url use_ssl",
        "force_path_style": "addressing_style path_style s3forcepathstyle use_path_style "
        "virtual_hosted_style_request",
        "key_prefix": "base_path prefix root",
        "kms_key_id": "sse_kms_key_id ssekmskeyid",
        "max_attempts": "attempts max_retries retries retry retry_config total_max_attempts",
        "max_connections": "connections max_pool_connections pool_maxsize pool_size",
        "no_progress": "read_timeout socket_timeout",
        "proxy": "proxies proxy_url",
        "request_payer": "requester_pays requestpayer",
        "tags": "tagging",
    }.items()
    for name in theirs.split()
}
"""Names of our settings in boto3, s3fs, obstore and minio-py, for those that similarity of letters
would not find: `verify` is about TLS, and no integrity check."""


class Secret:
    """A secret text: reprs, logs, errors and tracebacks don't show it; `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return "**********" if self._text else ""

    def __repr__(self) -> str:
        return f"Secret('{self}')"


class Given(NamedTuple):
    """A value for a setting, and its origin for errors; "" where they name the whole source.

    `borrowed`: it came from the environment, and may differ in another process.
    """

    value: object
    origin: str = ""
    borrowed: bool = False


class Setting(NamedTuple):
    """The declaration of one setting.

    expected: what errors say that it may be
    default: MISSING for a required setting; None makes None a valid value
    read, check: see `setting`
    section: the class of a section
    private: not a secret, but errors show no value, since a secret may be given by mistake
    """

    expected: str
    default: object
    read: Reader
    check: Reader | None = None
    section: type[Section] | None = None
    private: bool = False

    @property
    def secret(self) -> bool:
        """Whether the value is a secret."""
        return isinstance(self.default, Secret)

    @property
    def holds_texts(self) -> bool:
        """Whether the value is a mapping of texts, which is one setting, unlike a section."""
        return self.read is values.texts

    @property
    def hidden(self) -> bool:
        """Whether errors hide the value: a secret, a private setting, or a section with one."""
        below = self.section.settings.values() if self.section else ()
        return self.secret or self.private or any(each.hidden for each in below)

    def convert(self, value: Any) -> object:
        """Read and check a value. Raises `ValueError`, whose text never contains the value."""
        if value is None and self.default is None:
            return None
        if self.secret and isinstance(value, Secret):
            value = value.reveal()
        if isinstance(value, str):
            value = values.one_line(str.__str__(value))  # of an enum's member, too, its text
        try:
            value = self.read(value)
        except values.EntryError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError):  # they quote the value
            raise ValueError from None
        value = self.check(value) if self.check else value
        return Secret(value) if self.secret else value


def setting(
    expected: str,
    read: Reader = values.text,
    check: Reader | None = None,
    *,
    private: bool = False,
    **default: Any,
) -> Any:
    """A setting, required unless `default=` is given. Errors quote no value of a `private` one.

    `read` makes a value what the setting holds, or raises anything. `check` returns what was read
    as it will be used, or raises a `ValueError` that says what is wrong with it, never what it is.
    """
    known = Setting(expected, default.get("default", MISSING), read, check, private=private)
    return _field(known)


def section(kind: type[Section], *, default: Any) -> Any:
    """A section within another one."""
    expected = f"a mapping with the settings {', '.join(kind.settings)}"
    return _field(Setting(expected, default, values.instance_of(kind), section=kind))


def whole(low: int, high: int, meaning: str, *, default: int) -> Any:
    """A whole number."""
    expected = f"a whole number from {low} to {high} ({meaning})"
    return setting(expected, values.within(low, high, values.whole), default=default)


def seconds(meaning: str, *, default: float | None, zero: bool = False) -> Any:
    """Seconds, more than 0 (with `zero`, 0 as well) and up to a week."""
    expected = f"seconds{' from 0' if zero else ', more than 0 and up'} to a week ({meaning})"
    low = 0.0 if zero else math.ulp(0.0)
    return setting(expected, values.within(low, MAX_SECONDS, values.number), default=default)


def texts(meaning: str, check: Reader, *, default: None) -> Any:
    """A mapping of texts by name."""
    expected = f"a mapping of texts, or a JSON object of them ({meaning})"
    return setting(expected, values.texts, check, default=default)


def _field(what: Setting) -> Any:
    hashed = False if what.holds_texts else None  # a dict has no hash
    return field(default=what.default, hash=hashed, metadata={"setting": what})


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    field_specifiers=(setting, section, whole, seconds, texts),
)
class Section:
    """A group of settings: a frozen dataclass that refuses unknown names.

    `dataclasses.replace` works, and checks again.
    """

    yaml_path: ClassVar[str]
    settings: ClassVar[dict[str, Setting]]

    def __init_subclass__(cls, *, yaml_path: str) -> None:
        made: Any = dataclass(frozen=True, init=False)(cls)
        cls.yaml_path = yaml_path
        cls.settings = {each.name: each.metadata["setting"] for each in fields(made)}

    def __init__(self, **settings: Any) -> None:
        problems: list[_Problem] = []
        _ = self._fill(settings, problems)
        if problems:
            described = [each.described(type(self)) for each in problems[:_LISTED]]
            if len(problems) > _LISTED:
                described.append(f"and {len(problems) - _LISTED} more problems")
            raise ConfigError("; ".join(described))

    def given(self) -> dict[str, object]:
        """The settings that this was made with, without those that were left out."""
        return {name: getattr(self, name) for name in vars(self)["_given"]}

    def borrowed(self) -> frozenset[str]:
        """The names of those given settings that came from the environment."""
        return vars(self)["_borrowed"]

    def conflicts(self, valid: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Settings that conflict with others, and why; `valid` has the valid ones."""
        return ()

    def _fill(self, settings: Mapping[str, object], problems: list[_Problem]) -> Self:
        """Set the valid settings, and append a problem for each other one."""
        valid = vars(self)
        given = {
            str(name): value if isinstance(value, Given) else Given(value)
            for name, value in settings.items()
        }
        valid["_given"] = frozenset(given)
        valid["_borrowed"] = frozenset(name for name, value in given.items() if value.borrowed)
        for name, known in self.settings.items():
            value = given[name].value if name in given else known.default
            try:
                if name not in given and value is not MISSING:
                    valid[name] = value
                elif known.section and isinstance(value, Mapping):
                    inner = object.__new__(known.section)
                    valid[name] = inner._fill(cast("Mapping[str, object]", value), problems)
                else:
                    valid[name] = known.convert(value)
            except ValueError as error:
                problems.append(_Problem(type(self), name, given.get(name), str(error)))
        problems += [
            _Problem(type(self), name, given[name]) for name in given if name not in self.settings
        ]
        problems += [
            _Problem(type(self), name, given.get(name, Given(None)), reason)
            for name, reason in self.conflicts(valid)
        ]
        return self


class _Problem(NamedTuple):
    section: type[Section]
    name: str
    given: Given | None
    reason: str = ""

    def described(self, root: type[Section]) -> str:
        """The text of the problem; `root` is the section that was to be made."""
        known = self.section.settings.get(self.name)
        path = f"{self.section.yaml_path}.{self.name}"
        if known is None and shown_name(self.name, _names(root)) == HIDDEN_NAME:
            path = f"{self.section.yaml_path}: {HIDDEN_NAME}"
        if self.given and self.given.origin:
            path += f" ({self.given.origin})"
        if known is None:
            return f"{path}: unknown setting{self._advice(root)}"
        if self.given is None:
            return f"{path}: required: {known.expected}"
        value = self.given.value
        got = HIDDEN if known.hidden and value else shown(value)
        because = f" ({self.reason})" if self.reason else ""
        return f"{path}: expected {known.expected}, got {got}{because}"

    def _advice(self, root: type[Section]) -> str:
        """A hint for an unknown name: the closest known one, in its section or below `root`."""
        here = self.section.settings
        paths = {path[-1]: ".".join((root.yaml_path, *path)) for path, _ in walk(root)}
        _, dot, last = self.name.rpartition(".")
        if dot and last in paths:
            return f"; in a URL or an argument it is {last!r}, in YAML {paths[last]}"
        return nearest(self.name, list(here), {name: paths[name] for name in paths.keys() - here})


def walk(root: type[Section], path: SettingPath = ()) -> Iterator[tuple[SettingPath, Setting]]:
    """All sections and settings below `root`, with their paths."""
    for name, known in root.settings.items():
        yield (*path, name), known
        if known.section:
            yield from walk(known.section, (*path, name))


def _names(root: type[Section]) -> set[str]:
    return {path[-1] for path, _ in walk(root)}


def settings_below(root: type[Section], path: SettingPath = ()) -> list[SettingPath]:
    """The paths of the single settings below `root`."""
    return [found for found, known in walk(root, path) if known.section is None]


def nearest(name: str, known: list[str], elsewhere: Mapping[str, str] = {}) -> str:
    """A hint for an unknown `name`: a close known one, here or `elsewhere`; else all known ones."""
    meant = _PEER_NAMES.get(name.lower(), "")
    close = meant if meant in {*known, *elsewhere} else closest(name, [*known, *elsewhere])
    if close is None:
        return f"; expected one of: {', '.join(known)}"
    return f"; did you mean {elsewhere.get(close) or repr(close)}?"
