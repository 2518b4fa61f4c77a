"""The samples of a run, and what is computed from them."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.driving import Sample

Samples = dict[str, dict[str, list[Sample]]]
"""By workload and contender, one sample a round; none for a contender that failed."""


def rate(samples: list[Sample]) -> float:
    """Operations per second: the median of the rounds."""
    return median(sample.operations / sample.seconds for sample in samples)


def spread(samples: list[Sample]) -> float:
    """Half the distance between the fastest round and the slowest, as a part of the median."""
    rates = [sample.operations / sample.seconds for sample in samples]
    return (max(rates) - min(rates)) / 2 / median(rates)


def cpu_per_operation(samples: list[Sample]) -> float:
    """CPU seconds of the client's process for one operation: the median of the rounds."""
    return median(sample.cpu / sample.operations for sample in samples)


def samples_as_json(samples: Samples) -> dict[str, Any]:
    """Compact: three numbers a sample."""
    return {
        workload: {
            contender: [
                [each.operations, round(each.seconds, 6), round(each.cpu, 6)] for each in taken
            ]
            for contender, taken in by_contender.items()
        }
        for workload, by_contender in samples.items()
    }


def samples_from_json(saved: dict[str, Any]) -> Samples:
    return {
        workload: {
            contender: [Sample(*each) for each in taken]
            for contender, taken in by_contender.items()
        }
        for workload, by_contender in saved.items()
    }
