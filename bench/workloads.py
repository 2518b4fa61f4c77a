"""What is measured: the workloads, and who takes part in each.

A contender is a client in one way of using it: "obstore" one call after the other, "obstore
asyncio" that many tasks, "obstore threads" that many threads, "obstore held" those as well, which
keep the results of a batch until all are there, as "blockyard many" does, its own bulk calls.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

KIB = 1024
MIB = 1024 * KIB

SIZES = (KIB, 64 * KIB, MIB, 4 * MIB, 8 * MIB)
CHUNKS = (16 * KIB, 256 * KIB)
"""Sizes of what is read through Zarr and fsspec, `CHUNKED` of them at once."""
CHUNKED = 128
RANGES = (KIB, 16 * KIB, 64 * KIB)
RANGED_BLOCK = 4 * MIB

Operation = Literal["write", "read", "range", "list", "delete", "copy"]
Mode = Literal["plain", "threads", "held", "asyncio", "many"]

LISTED = 100_000
DELETED = 10_000

ALONE = (
    "blockyard",
    "blockyard asyncio",
    "obstore",
    "awscrt",
    "minio",
    "boto3",
    "aiobotocore asyncio",
    "s3fs",
)
"""Contenders where one request is in flight."""
TOGETHER = (
    "blockyard many",
    "blockyard asyncio",
    "blockyard threads",
    "obstore asyncio",
    "obstore threads",
    "awscrt threads",
    "minio threads",
    "boto3 threads",
    "aiobotocore asyncio",
    "s3fs many",
)
"""Contenders where several are."""
LIMIT = "wrk"
"""The limit: one thread in C, which reads replies and throws them away."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work; `size` is the bytes of one operation, `in_flight` how many at once.

    `headline` marks what a ratio is promised for; ranges begin at a multiple of their size
    unless they are not `aligned`.
    """

    name: str
    operation: Operation
    contenders: tuple[str, ...]
    size: int = 0
    in_flight: int = 1
    tls: bool = False
    sign_payload: bool = True
    headline: bool = False
    aligned: bool = True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def endpoint(self) -> str:
        """Which of the harness's servers it runs against."""
        if self.operation in {"list", "delete", "copy"}:
            return "pages"
        return "nginx-tls" if self.tls else "nginx"


def is_ours(contender: str) -> bool:
    """Whether it is blockyard as it comes."""
    return split_contender(contender)[::2] == ("blockyard", "default")


def is_peer(contender: str) -> bool:
    """Whether it is another client as it is measured everywhere, not a variant, not the limit."""
    peer, _, variant = split_contender(contender)
    return peer not in {"blockyard", LIMIT} and variant == "default"


def split_contender(contender: str) -> tuple[str, Mode, str]:
    """The peer, the mode and the variant of a name such as `boto3/defaults threads`."""
    peer, _, mode = contender.partition(" ")
    peer, _, variant = peer.partition("/")
    match mode:
        case "":
            return peer, "plain", variant or "default"
        case "threads" | "held" | "asyncio" | "many":
            return peer, mode, variant or "default"
        case _:
            raise ValueError(f"contender {contender!r} has no mode {mode!r}")


def size_name(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def all_workloads() -> list[Workload]:
    """Every workload of a full run."""
    return [*_blocks(), *_ranges(), *_tls_and_unsigned(), *_services()]


def _blocks() -> list[Workload]:
    found: list[Workload] = []
    for operation in ("write", "read"):
        for size in SIZES:
            for in_flight in (1, 8, 32):
                if in_flight == 8 and size not in {MIB, 4 * MIB}:
                    continue
                headline = size == 4 * MIB and in_flight in {1, 8}
                headline = headline or (size == KIB and in_flight == 32)
                found.append(_of_blocks(operation, size, in_flight, headline=headline))
    return found


def _ranges() -> list[Workload]:
    found = [
        _of_blocks("range", size, in_flight, headline=size == 16 * KIB and in_flight != 8)
        for size in RANGES
        for in_flight in (1, 8, 32)
        if in_flight != 8 or size == 16 * KIB
    ]
    for in_flight in (1, 32):
        aligned = _of_blocks("range", 16 * KIB, in_flight, headline=False)
        found.append(replace(aligned, name=aligned.name + ", at any offset", aligned=False))
    return found


def _of_blocks(operation: Operation, size: int, in_flight: int, *, headline: bool) -> Workload:
    contenders = ALONE if in_flight == 1 else TOGETHER
    if operation == "read" and size == 4 * MIB and in_flight > 1:
        contenders = (*contenders, "obstore held")
    if operation == "write" and size == 4 * MIB and in_flight == 1:
        contenders = (*contenders, "boto3/defaults")
    if operation != "write" and size in {16 * KIB, 4 * MIB} and in_flight in {1, 32}:
        mode = "" if in_flight == 1 else " many"
        contenders = (*contenders, f"blockyard/unverified{mode}")
    return Workload(
        name=_name(operation, size, in_flight),
        operation=operation,
        contenders=(*contenders, LIMIT),
        size=size,
        in_flight=in_flight,
        headline=headline,
    )


def _tls_and_unsigned() -> list[Workload]:
    """Signed bodies on plain HTTP are what `_blocks` measures."""
    size = 4 * MIB
    # minio-py has no such setting on plain HTTP.
    unsigned = tuple(name for name in ALONE if name != "minio")
    together = tuple(name for name in TOGETHER if name != "minio threads")
    of_4_mib = {"size": size, "sign_payload": False}
    return [
        Workload(
            _name("read", size, 1) + ", TLS", "read", (*ALONE, LIMIT), size, 1, True, False, True
        ),
        Workload(
            _name("range", 16 * KIB, 1) + ", TLS",
            "range",
            (*ALONE, LIMIT),
            16 * KIB,
            1,
            True,
            False,
        ),
        Workload(_name("write", size, 1) + ", TLS", "write", (*ALONE, LIMIT), **of_4_mib, tls=True),
        Workload(_name("write", size, 1) + ", unsigned", "write", (*unsigned, LIMIT), **of_4_mib),
        Workload(
            _name("write", size, 8) + ", unsigned",
            "write",
            (*together, LIMIT),
            **of_4_mib,
            in_flight=8,
        ),
    ]


def _services() -> list[Workload]:
    able = ("blockyard", "obstore", "minio", "boto3")
    return [
        Workload(f"list {LISTED:,} keys", "list", (*able, "s3fs"), headline=True),
        Workload(f"delete {DELETED:,} keys", "delete", able, headline=True),
        Workload("copy, one at a time", "copy", able, headline=True),
    ]


def _name(operation: Operation, size: int, in_flight: int) -> str:
    what = f"{size_name(size)} ranges" if operation == "range" else f"{operation} {size_name(size)}"
    return f"{what}, one at a time" if in_flight == 1 else f"{what}, {in_flight} in flight"
