"""From pydantic's errors to one `ConfigError` that a user can act on.

Each problem names its field by the full path, says what was expected (the field's own
description) and what was got, unless that is or may hold a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from blockyard.config.tree import Path, section_of, walk
from blockyard.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, ValidationError

_SHOWN_CHARACTERS = 60
_SHOWN_BITS = 64
_LISTED = 50
_HIDDEN = "a value that is not shown"


def config_error(
    error: ValidationError,
    model: type[BaseModel],
    path: Path,
    *,
    where: str = "",
    origins: Mapping[Path, str] | None = None,
) -> ConfigError:
    """All problems of `error` in one message; of a hostile number, the first ones.

    `path` leads to `model`; `where` names the file or URL that was read; `origins` says which
    environment variable a value came from, by its path below `model`.
    """
    fields = dict(walk(model))
    details = error.errors(include_url=False)
    problems = [_problem(detail, path, fields, origins or {}) for detail in details[:_LISTED]]
    if len(details) > _LISTED:
        problems.append(f"and {len(details) - _LISTED} more problems")
    return ConfigError((f"{where}: " if where else "") + "; ".join(problems))


def shown(value: object) -> str:
    """`value` for a message: short, and not at all where it may carry a secret, as URLs do."""
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
    close = difflib.get_close_matches(name[:_SHOWN_CHARACTERS], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of: {', '.join(known)}"


def _problem(
    detail: ErrorDetails, root: Path, fields: Mapping[Path, FieldInfo], origins: Mapping[Path, str]
) -> str:
    path = tuple(str(part) for part in detail["loc"])
    name = ".".join((*root, *path))
    if path in origins:
        name += f" (from {origins[path]})"
    if detail["type"] == "extra_forbidden":
        return f"{name[:200]}: unknown setting{_suggestion(path, root, fields)}"
    field = fields[path]
    expected = _expected(field)
    if detail["type"] == "missing":
        return f"{name}: required: {expected}"
    secret = field.annotation is SecretStr
    got = _HIDDEN if secret and detail["input"] else shown(detail["input"])
    return f"{name}: expected {expected}, got {got}{_reason(detail)}"


def _expected(field: FieldInfo) -> str:
    section = section_of(field)
    if section is not None:
        return f"a mapping with the settings {', '.join(section.model_fields)}"
    return field.description or "a setting"


def _reason(detail: ErrorDetails) -> str:
    """What one of our own checks found; pydantic's own reasons are in the description."""
    context: dict[str, Any] = detail.get("ctx", {})
    return f" ({context['error']})" if detail["type"] == "value_error" else ""


def _suggestion(path: Path, root: Path, fields: Mapping[Path, FieldInfo]) -> str:
    """The nearest known field: at this place first, then anywhere below."""
    here = [found[-1] for found in fields if found[:-1] == path[:-1]]
    by_name = {found[-1]: ".".join((*root, *found)) for found in fields}
    anywhere = difflib.get_close_matches(path[-1][:_SHOWN_CHARACTERS], [*here, *by_name], n=1)
    if anywhere and anywhere[0] not in here:
        return f"; did you mean {by_name[anywhere[0]]}?"
    return nearest(path[-1], here)
