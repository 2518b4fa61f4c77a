"""The figures that the block store this one is modelled on has published, in MB/s.

Taken by its authors on an Apple M1 Max with Go; S3 was LocalStack. Ranges are of a stored block,
the parallel writes of 64 KiB.
https://github.com/marmos91/dittofs/blob/dc6ff458322662c03bf87b3cdcdb385861597a43/pkg/payload/store/BENCHMARKS.md
"""

from __future__ import annotations

from bench.workloads import KIB, MIB

SOURCE = (
    "https://github.com/marmos91/dittofs/blob/"
    "dc6ff458322662c03bf87b3cdcdb385861597a43/pkg/payload/store/BENCHMARKS.md"
)

ROWS = (
    ("write", KIB),
    ("write", 64 * KIB),
    ("write", MIB),
    ("write", 4 * MIB),
    ("read", KIB),
    ("read", 64 * KIB),
    ("read", MIB),
    ("read", 4 * MIB),
    ("range", KIB),
    ("range", 64 * KIB),
    ("parallel write", 64 * KIB),
)

MB_PER_SECOND = {
    "memory": (
        (7779, 14019, 18291, 38401),
        (8243, 14052, 16213, 36813),
        (8543, 16117),
        (18465,),
    ),
    "file": (
        (5.77, 362.75, 2165, 4173),
        (71.30, 2961, 10219, 10367),
        (71.0, 3072),
        (350.3,),
    ),
    "S3: LocalStack": (
        (0.30, 17.73, 106.66, 165.77),
        (0.31, 16.21, 154.56, 291.75),
        (0.36, 21.28),
        (30.45,),
    ),
}
"""By store: write, read, range, parallel write, each in the order of `ROWS`. Of two ranges of
one size, the mean."""


def published(store: str) -> dict[tuple[str, int], float]:
    """MB/s by work and size."""
    flat = [value for group in MB_PER_SECOND[store] for value in group]
    return dict(zip(ROWS, flat, strict=True))
