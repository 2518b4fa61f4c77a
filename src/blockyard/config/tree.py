"""The settings as a tree: sections, the fields in them, and the path to each.

A path is written as in YAML: `block_store.s3.timeouts.connect` is
`("s3", "timeouts", "connect")` below `StoreConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Path = tuple[str, ...]


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, or None for a single setting."""
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


def walk(model: type[BaseModel], path: Path = ()) -> Iterator[tuple[Path, FieldInfo]]:
    """Every field below `model`, sections and what is in them, each with its path."""
    for name, field in model.model_fields.items():
        yield (*path, name), field
        section = section_of(field)
        if section is not None:
            yield from walk(section, (*path, name))


def settings_below(model: type[BaseModel], path: Path = ()) -> list[Path]:
    """The paths of the single settings below `model`."""
    return [found for found, field in walk(model, path) if section_of(field) is None]
