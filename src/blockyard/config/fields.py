"""Sections of settings: how values are converted and checked, and what errors say.

A `Section` checks all of its fields when it is made, and raises one `ConfigError` for all that are
wrong. Each problem names the setting by its path in YAML, what was expected, what was given (unless
that is or may hold a secret) and where it came from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from operator import index
from pathlib import Path
from types import NoneType
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from blockyard.config.checks import check_one_line
from blockyard.errors import ConfigError
from blockyard.model import MAX_SECONDS

Kind = TypeVar("Kind")
SettingPath = tuple[str, ...]
"""A setting in the tree: `block_store.s3.timeouts.connect` is `("s3", "timeouts", "connect")`."""

_SHOWN_CHARACTERS = 60
_SHOWN_BITS = 64
_LISTED = 50
_HIDDEN = "a value that is not shown"
_FLAGS = dict.fromkeys(["true", "t", "yes", "y", "on", "1"], True) | dict.fromkeys(
    ["false", "f", "no", "n", "off", "0"], False
)


class Secret:
    """Text that no repr, log, error or traceback shows; `reveal` returns it."""

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
    """A value for a setting, and where it came from; "" where the whole source is named."""

    value: object
    origin: str = ""


class Setting(NamedTuple):
    """What a field may be; `kind` is its type."""

    kind: Any
    optional: bool
    default: object
    read: Callable[[Any], object]
    expected: str = ""
    low: float = -math.inf
    high: float = math.inf
    check: Callable[[Any], object] | None = None

    @property
    def section(self) -> type[Section] | None:
        """The type where it is a section; None for a single setting."""
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, Section) else None

    def form(self) -> str:
        """What errors say that a value has to be."""
        return self.expected or f"a mapping with the settings {', '.join(self.kind.settings)}"

    def convert(self, value: object) -> object:
        """The value as it will be used. Raises `ValueError`, whose text is never the value's."""
        if value is None and self.optional:
            return None
        if self.kind is Secret and isinstance(value, Secret):
            value = value.reveal()
        if isinstance(value, str):
            value = check_one_line(str.__str__(value))  # of an enum's member, too, its text
        try:
            value = self.read(value)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # they quote the value
            raise ValueError from None
        if isinstance(value, int | float) and not self.low <= value <= self.high:  # NaN is neither
            raise ValueError
        value = self.check(value) if self.check else value
        return Secret(cast("str", value)) if self.kind is Secret else value


def setting(expected: str, *, default: Any = MISSING, **how: Any) -> Any:
    """A field of a section, which is required when it has no default.

    Numbers are from `low` to `high`. `read` converts a value (or raises anything) where the type
    alone does not say how. `check` returns what was converted as it will be used, or raises a
    `ValueError` that says what is wrong with it, never what it is.
    """
    return field(default=default, metadata={"expected": expected, **how})


def whole(low: int, high: int, meaning: str, *, default: int) -> Any:
    """A whole number."""
    expected = f"a whole number from {low} to {high} ({meaning})"
    return setting(expected, default=default, low=low, high=high)


def seconds(meaning: str, *, default: float | None, zero: bool = False) -> Any:
    """Seconds, more than 0 (or, with `zero`, from there) and up to a week."""
    expected = f"seconds{' from 0' if zero else ', more than 0 and up'} to a week ({meaning})"
    return setting(expected, default=default, low=0.0 if zero else math.ulp(0.0), high=MAX_SECONDS)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(setting, whole, seconds)
)
class Section:
    """Settings that stand together: a frozen dataclass, closed to unknown names.

    `dataclasses.replace` makes another one, checked as the first.
    """

    yaml_path: ClassVar[SettingPath]
    settings: ClassVar[dict[str, Setting]]

    def __init_subclass__(cls) -> None:
        made: Any = dataclass(frozen=True, init=False)(cls)
        hints = get_type_hints(cls)
        cls.settings = {}
        for each in fields(made):
            kinds = get_args(hints[each.name])
            optional = NoneType in kinds
            kind = kinds[0] if optional else hints[each.name]
            how: dict[str, Any] = {"read": _reader(kind), **each.metadata}
            cls.settings[each.name] = Setting(kind, optional, each.default, **how)

    def __init__(self, **settings: Any) -> None:
        problems: list[_Problem] = []
        _ = self._fill(settings, problems)
        if problems:
            told = [each.told(type(self)) for each in problems[:_LISTED]]
            if len(problems) > _LISTED:
                told.append(f"and {len(problems) - _LISTED} more problems")
            raise ConfigError("; ".join(told))

    def given(self) -> dict[str, object]:
        """The settings that this was made with, without those that were left out."""
        return {name: getattr(self, name) for name in vars(self)["_given"]}

    def conflicts(self, valid: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Fields that are wrong beside others, and why or ""; `valid` has those that are right."""
        return ()

    def _fill(self, settings: Mapping[str, object], problems: list[_Problem]) -> Self:
        """Set the fields that are right, and list what is wrong."""
        valid = vars(self)
        given = {
            str(name): value if isinstance(value, Given) else Given(value)
            for name, value in settings.items()
        }
        for name, known in self.settings.items():
            if name not in given:
                if known.default is MISSING:
                    problems.append(_Problem(type(self), name))
                else:
                    valid[name] = known.default
                continue
            value = given[name].value
            try:
                if known.section and isinstance(value, Mapping):
                    inner = object.__new__(known.section)
                    valid[name] = inner._fill(cast("Mapping[str, object]", value), problems)
                else:
                    valid[name] = known.convert(value)
            except ValueError as error:
                problems.append(_Problem(type(self), name, given[name], str(error)))
        unknown = [name for name in given if name not in self.settings]
        problems += [_Problem(type(self), name, given[name]) for name in unknown]
        for name, reason in self.conflicts(valid):
            if reason:
                problems.append(_Problem(type(self), name, given.get(name, Given(None)), reason))
        valid["_given"] = frozenset(given)
        return self


class _Problem(NamedTuple):
    section: type[Section]
    name: str
    given: Given | None = None
    reason: str = ""

    def told(self, root: type[Section]) -> str:
        """The problem in words; `root` is the section that was to be made."""
        path = ".".join((*self.section.yaml_path, self.name))
        if self.given and self.given.origin:
            path += f" ({self.given.origin})"
        known = self.section.settings.get(self.name)
        if known is None:
            return f"{path[:200]}: unknown setting{self._advice(root)}"
        if self.given is None:
            return f"{path}: required: {known.form()}"
        value = self.given.value
        got = _HIDDEN if known.kind is Secret and value else shown(value)
        because = f" ({self.reason})" if self.reason else ""
        return f"{path}: expected {known.form()}, got {got}{because}"

    def _advice(self, root: type[Section]) -> str:
        """The known name that is nearest to an unknown one: in its section, else below `root`."""
        here = list(self.section.settings)
        paths = {path[-1]: ".".join((*root.yaml_path, *path)) for path, _ in walk(root)}
        close = _close(self.name, [*here, *paths])
        if close and close not in here:
            return f"; did you mean {paths[close]}?"
        return nearest(self.name, here)


def walk(section: type[Section], path: SettingPath = ()) -> Iterator[tuple[SettingPath, Setting]]:
    """Every field below `section`, with its path: sections and what is in them."""
    for name, known in section.settings.items():
        yield (*path, name), known
        if known.section:
            yield from walk(known.section, (*path, name))


def settings_below(section: type[Section], path: SettingPath = ()) -> list[SettingPath]:
    """The paths of the single settings below `section`."""
    return [found for found, known in walk(section, path) if known.section is None]


def shown(value: object) -> str:
    """`value` in an error: short, and not at all where it may hold a secret, as URLs do."""
    if value is None or (isinstance(value, str) and value == ""):
        return "nothing"
    if isinstance(value, str):
        if "@" in value or "?" in value:
            return _HIDDEN
        return repr(value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "...")
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _SHOWN_BITS):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def nearest(name: str, known: list[str]) -> str:
    """ "; did you mean ...?" when one of `known` is close to `name`, else what is known."""
    close = _close(name, known)
    return f"; did you mean {close!r}?" if close else f"; expected one of: {', '.join(known)}"


def _close(name: str, known: list[str]) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415 - for errors alone

    return next(iter(get_close_matches(name[:_SHOWN_CHARACTERS], known, n=1)), None)


def _reader(kind: Any) -> Callable[[Any], object]:
    """What makes a value a `kind`, or raises anything."""
    if get_origin(kind) is Literal:
        return lambda value: get_args(kind)[get_args(kind).index(value)]
    return _READERS.get(kind, partial(_instance, kind))


def _instance(kind: type[Kind], value: object) -> Kind:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _path(value: str | os.PathLike[str]) -> str:
    return _instance(str, os.fspath(value))


def _flag(value: object) -> bool:
    return _FLAGS[str(value).lower() if isinstance(value, bool | int | str) else ""]


def _number(value: Any) -> float:
    """Numbers of all libraries, and text; but never True, which is a flag, nor b"3"."""
    if isinstance(value, bool | bytes | bytearray | memoryview):
        raise TypeError
    return float(value)


def read_whole(value: Any) -> int:
    """As `_number`, for what is a whole number. Raises `TypeError`, `ValueError` and others."""
    if isinstance(value, str):
        return int(value.strip().removesuffix(".0"))
    if hasattr(value, "__index__") and not isinstance(value, bool):
        return index(value)
    number = int(_number(value))
    if number != value:
        raise ValueError
    return number


_READERS: dict[Any, Callable[[Any], object]] = {
    bool: _flag,
    float: _number,
    int: read_whole,
    Path: _path,
    Secret: partial(_instance, str),
}
