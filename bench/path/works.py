"""What is measured over a path: the paths, the works, and who takes part in each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.workloads import KIB, MIB

PEERS = ("blockyard", "obstore", "boto3")
RATE = 1000
"""Megabits per second, each way."""
ALONE = ("blockyard", "blockyard asyncio", "obstore", "boto3")
TOGETHER = ("blockyard many", "blockyard asyncio", "obstore asyncio", "boto3 threads")

BLOCK = 4 * MIB
LARGE = 64 * MIB
SMALL = 16 * KIB
LISTED = 1000
"""Keys below the prefix that is listed, and below the one that is deleted."""

Operation = Literal[
    "range", "read", "write", "read_large", "write_large", "list_keys", "delete_below", "copy",
    "exists",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """A path: its round trip in milliseconds, and the percentage of packets that it loses."""

    rtt: float
    loss: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.rtt:g} ms" + (f", {self.loss:g} % lost" if self.loss else "")


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work: `size` bytes an operation, `in_flight` at once.

    `once` marks what is done a single time to a sample, because it is long or needs preparing.
    """

    name: str
    operation: Operation
    size: int = 0
    in_flight: int = 1
    once: bool = False

    @property
    def contenders(self) -> tuple[str, ...]:
        return ALONE if self.in_flight == 1 else TOGETHER

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


CONDITIONS = (
    Condition(1),
    Condition(10),
    Condition(30),
    Condition(100),
    Condition(30, loss=0.1),
)
WORKS = (
    Work("16 KiB range, one at a time", "range", SMALL),
    Work("16 KiB ranges, 32 in flight", "range", SMALL, 32),
    Work("read 4 MiB, one at a time", "read", BLOCK),
    Work("read 4 MiB, 8 in flight", "read", BLOCK, 8),
    Work("write 4 MiB, one at a time", "write", BLOCK),
    Work("write 4 MiB, 8 in flight", "write", BLOCK, 8),
    Work("read a content of 64 MiB", "read_large", LARGE, once=True),
    Work("write a content of 64 MiB", "write_large", LARGE, once=True),
    Work("read a content of 16 KiB", "read_large", SMALL),
    Work("write a content of 16 KiB", "write_large", SMALL),
    Work(f"list {LISTED:,} keys", "list_keys"),
    Work(f"delete {LISTED:,} keys by prefix", "delete_below", once=True),
    Work("copy a block", "copy"),
    Work("look for an absent key", "exists"),
)


def works_over(condition: Condition) -> list[Work]:
    """All of them; where packets are lost, those that move many, one at a time.

    (Several at once there are as slow, and would take a third of the run.)
    """
    moving = [work for work in WORKS if work.size >= BLOCK and work.in_flight == 1]
    return moving if condition.loss else list(WORKS)
