"""The settings of the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from blockyard.config import values
from blockyard.config.sections import Section, section, setting
from blockyard.config.values import one_of, path_text, size, within
from blockyard.model import MAX_SECONDS, MIB

SMALLEST_DISK = 8 * MIB
"""Least bytes of a cache folder, and of what the stage has to leave of it."""


class CacheDiskConfig(Section, yaml_path="block_store.cache.disk"):
    """A folder that holds what was read, shared by the processes of this machine."""

    path: Path = setting(
        "the path of a folder that nothing else uses, on a local disk", path_text, values.folder
    )
    size: int = setting(
        "a size from 8MiB to 1PiB such as 20GiB (the bytes that the folder may take)",
        within(SMALLEST_DISK, 1024 * MIB * MIB, size),
    )
    stage: int | None = setting(
        "a size from 1MiB such as 5GiB (the bytes of `size` for blocks that are not uploaded yet)",
        within(1 * MIB, 1024 * MIB * MIB, values.size),
        default=None,
    )

    @property
    def stage_size(self) -> int:
        """`stage` in bytes, half of `size` where it is left out."""
        return self.size // 2 if self.stage is None else self.stage


class CacheConfig(Section, yaml_path="block_store.cache"):
    """A cache in front of the store: in the memory of this process, in a folder, or in both."""

    memory: int = setting(
        "a size up to 1TiB such as 256MiB (the bytes of blocks kept in memory, 0 for none)",
        within(0, MIB * MIB, size),
        default=256 * MIB,
    )
    disk: CacheDiskConfig | None = section(CacheDiskConfig, default=None)
    revalidate: float | Literal["never", "always"] = setting(
        "never, always or seconds from 0 to a week (how long a block that was read is given out "
        "without asking the store whether it has changed)",
        values.either(one_of("never", "always"), within(0.0, MAX_SECONDS, values.number)),
        default=60.0,
    )
    mode: Literal["write_through", "write_back"] = setting(
        "write_through (a write has reached the store when it returns) or write_back (it has "
        "reached the folder)",
        one_of("write_through", "write_back"),
        default="write_through",
    )

    def conflicts(self, valid: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if valid.get("memory") == 0 and valid.get("disk", ...) is None:
            yield "memory", "there is no disk either"
        if valid.get("mode") == "write_back" and valid.get("disk", ...) is None:
            yield "mode", "there is no disk to write to"
        disk: object = valid.get("disk")
        if isinstance(disk, CacheDiskConfig):
            yield from self._stage_conflicts(disk, valid.get("mode"))

    @staticmethod
    def _stage_conflicts(disk: CacheDiskConfig, mode: object) -> Iterator[tuple[str, str]]:
        right = vars(disk)  # without settings that are wrong by themselves
        if mode == "write_through" and right.get("stage") is not None:
            yield "disk", "stage: nothing is staged unless the mode is write_back"
        known = {"size", "stage"} <= right.keys()
        if mode == "write_back" and known and disk.size - disk.stage_size < SMALLEST_DISK:
            yield "disk", "stage: 8MiB of size or more have to be left for blocks that are read"
