"""docs/BENCHMARKS.md and its plots, from the saved results of the last full run.

The words are in template.md, and what there is to say about losses in notes.toml.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from bench.ecosystem import comparing as ecosystem
from bench.fleet import REPOSITORY
from bench.losses import loss_lines
from bench.path import comparing
from bench.published import ROWS, SOURCE, published
from bench.run import FULL, RESULTS
from bench.samples import Samples, cpu_per_operation, rate, samples_from_json
from bench.tables import (
    Rows,
    as_markdown,
    cpu_rows,
    memory_rows,
    process_rows,
    ratio_rows,
    startup_rows,
    workload_rows,
)
from bench.workloads import SIZES, all_workloads, size_name

_HERE = Path(__file__).parent
_DOCS = REPOSITORY / "docs"


class Saved(NamedTuple):
    """The results of one run, and the file that they are in."""

    results: dict[str, Any]
    source: str

    @classmethod
    def latest(cls, kind: str) -> Saved | None:
        """Those of the last run of its kind."""
        path = max(RESULTS.glob(f"*-{kind}.json"), default=None)
        if path is None:
            return None
        return cls(json.loads(path.read_text()), str(path.relative_to(REPOSITORY)))


def main() -> int:
    full, over_path, within = map(Saved.latest, ("full", "path", "ecosystem"))
    if full is None or over_path is None or within is None:
        kinds = "no full run, none over a path, or none under Zarr and fsspec"
        print(f"error: bench/results holds {kinds}", file=sys.stderr)
        return 1
    _draw(full.results, _DOCS / "benchmarks")
    target = _DOCS / "BENCHMARKS.md"
    _ = target.write_text(page(full, over_path, within))
    sources = ", ".join(each.source for each in (full, over_path, within))
    print(f"wrote {target.relative_to(REPOSITORY)} from {sources}")
    return 0


def page(full: Saved, over_path: Saved, within: Saved) -> str:
    """The page in Markdown, from a full run, one over a network path, one under Zarr and fsspec."""
    results = full.results
    samples = samples_from_json(results["samples"])
    notes = tomllib.loads((_HERE / "notes.toml").read_text())
    return Template((_HERE / "template.md").read_text()).substitute(
        source=full.source,
        minutes=f"{results['minutes']:.0f}",
        machine=_machine(results),
        clients=", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + ".",
        ratios=as_markdown(ratio_rows(samples)),
        cpu=as_markdown(cpu_rows(samples)),
        losses="\n".join(loss_lines(results, samples, notes)),
        headline_rounds=FULL.headline.rounds,
        headline_seconds=FULL.headline.seconds,
        grid_rounds=FULL.grid.rounds,
        grid_seconds=FULL.grid.seconds,
        ranges=_sections(samples, "ranges"),
        blocks="\n\n".join(
            _by_size(samples, work, flight) for work in ("read", "write") for flight in (1, 8, 32)
        ),
        variants=_sections(samples, "TLS", "unsigned"),
        services=_sections(samples, "keys", "copy"),
        safety=as_markdown(_safety_rows(samples)),
        memory_total=f"{results['memory']['bytes'] / 2**30:g}",
        memory=as_markdown(memory_rows(results["memory"])),
        startup=as_markdown(startup_rows(results["startup"])),
        processes=as_markdown(process_rows(results["processes"])),
        path_source=over_path.source,
        path_conditions=_path_conditions(over_path.results),
        path_tables=_path_tables(samples_from_json(over_path.results["samples"])),
        within_source=within.source,
        within_conditions=_within_conditions(within.results),
        within_chunks=as_markdown(
            ecosystem.chunk_rows(samples_from_json(within.results["samples"]))
        ),
        within_size=f"{within.results['upload_bytes'] / 2**30:g} GiB",
        within_uploads=as_markdown(
            ecosystem.upload_rows(
                ecosystem.uploads_from_json(within.results["uploads"]),
                within.results["upload_bytes"],
            )
        ),
        original=SOURCE,
        originals=as_markdown(_original_rows(results["stores"])),
    )


def _draw(results: dict[str, Any], folder: Path) -> None:
    from bench import plots  # matplotlib is there only where the benchmark is

    samples = samples_from_json(results["samples"])
    plots.promises(samples, folder / "promises.png")
    plots.ranges(samples, folder / "ranges.png")
    plots.blocks(samples, folder / "blocks.png")
    plots.cpu(samples, folder / "cpu.png")
    plots.several(results["processes"], folder / "processes.png")
    plots.originals(results["stores"], folder / "originals.png")


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"{results['date']}, commit {results['commit']}: {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory']}, {machine['system']}, Linux "
        f"{machine['kernel']}, Python {machine['python']}, nginx {machine['nginx']}, wrk "
        f"{machine['wrk']}. Other programs used {results['others']:g} of the cores meanwhile."
    )


def _path_conditions(over_path: dict[str, Any]) -> str:
    machine = over_path["machine"]
    return (
        f"{over_path['date']}, commit {over_path['commit']}, {over_path['rounds']} rounds, "
        f"{over_path['minutes']:.0f} minutes: {machine['cores']} cores of {machine['processor']}, "
        f"Linux {machine['kernel']}, TCP with {over_path['congestion']}, Python "
        f"{machine['python']}. Other programs used {over_path['others']:g} of the cores meanwhile."
    )


def _within_conditions(within: dict[str, Any]) -> str:
    machine, versions = within["machine"], within["versions"]
    return (
        f"{within['date']}, commit {within['commit']}, {within['rounds']} rounds of chunks and "
        f"{within['upload_rounds']} of uploads: {machine['cores']} cores of "
        f"{machine['processor']}, Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + f". Other programs used {within['others']:g} of the cores meanwhile."
    )


def _path_tables(samples: Samples) -> str:
    return "\n\n".join(
        f"### {title}\n\n{as_markdown(rows)}" for title, rows in comparing.tables(samples)
    )


def _sections(samples: Samples, *parts: str) -> str:
    """A table for each workload whose name holds one of `parts`, each once."""
    return "\n\n".join(
        f"### {workload.name}\n\n{as_markdown(workload_rows(workload, samples))}"
        for workload in all_workloads()
        if workload.name in samples
        and any(part in workload.name for part in parts)
        # TLS has a section of its own
        and ("TLS" in parts or "TLS" not in workload.name)
    )


def _by_size(samples: Samples, work: str, in_flight: int) -> str:
    """Clients down, sizes across."""
    flight = "one at a time" if in_flight == 1 else f"{in_flight} in flight"
    names = {size: f"{work} {size_name(size)}, {flight}" for size in SIZES}
    sizes = [size for size in SIZES if names[size] in samples]
    contenders = dict.fromkeys(who for size in sizes for who in samples[names[size]])
    rows: Rows = [["MB/s", *(size_name(size) for size in sizes)]]
    for contender in contenders:
        taken = [(size, samples[names[size]].get(contender)) for size in sizes]
        cells = [f"{rate(each) * size / 1e6:,.1f}" if each else "" for size, each in taken]
        rows.append([contender, *cells])
    return f"### {work.title()}, {flight}\n\n{as_markdown(rows)}"


def _safety_rows(samples: Samples) -> Rows:
    """What verifying every read costs: against the same reads without."""
    rows: Rows = [["work", "verified", "unverified", "cost in time", "cost in CPU"]]
    for name, taken in samples.items():
        for contender, without in taken.items():
            checked = taken.get(contender.replace("/unverified", ""))
            if "/unverified" not in contender or not without or not checked:
                continue
            time = rate(without) / rate(checked) - 1
            cpu = cpu_per_operation(checked) / cpu_per_operation(without) - 1
            figures = f"{rate(checked):,.0f} op/s", f"{rate(without):,.0f} op/s"
            rows.append([name, *figures, f"{time:+.0%}", f"{cpu:+.0%}"])
    return rows


def _original_rows(stores: dict[str, list[dict[str, Any]]]) -> Rows:
    """The published table, with ours beside it."""
    ours = {
        name: {(row["work"], row["size"]): row["bytes_per_second"] / 1e6 for row in rows}
        for name, rows in stores.items()
    }
    compared = ("memory", "file", "S3: LocalStack")
    further = [name for name in ours if name not in compared]
    heading = [f"{name}, {whose}" for name in compared for whose in ("original", "ours")]
    rows: Rows = [["MB/s", *heading, *(f"{name}, ours" for name in further)]]
    for row in ROWS:
        line = [f"{row[0]} {size_name(row[1])}"]
        for store in compared:
            line += [_figure(published(store)[row]), _figure(ours.get(store, {}).get(row))]
        rows.append(line + [_figure(ours[name].get(row)) for name in further])
    return rows


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
