"""The plots of docs/BENCHMARKS.md. Every axis of a rate or a time begins at zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import AutoLocator, FuncFormatter, MaxNLocator, ScalarFormatter

from bench.published import ROWS, published
from bench.samples import Samples, cpu_per_operation, rate
from bench.targets import Outcome, outcomes
from bench.workloads import LIMIT, MIB, SIZES, size_name, split_contender

mpl.use("Agg")
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
    }
)

_ORIGINAL = "the original, published"
_COLOURS = {
    "blockyard": "#0b6e4f",
    "obstore": "#d1495b",
    "awscrt": "#e08e45",
    "minio": "#7a6c9d",
    "boto3": "#30638e",
    "aiobotocore": "#7fb2d9",
    "s3fs": "#8d8d8d",
    LIMIT: "#dddddd",
    _ORIGINAL: "#c9c9c9",
}
_MODES = {
    "": "",
    "many": " (many at once)",
    "asyncio": " (asyncio)",
    "threads": " (threads)",
    "held": " (threads, held)",
}


def ranges(samples: Samples, path: Path) -> None:
    """Operations per second of 16 KiB ranges."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for ax, name in zip(
        axes, ("16 KiB ranges, one at a time", "16 KiB ranges, 32 in flight"), strict=True
    ):
        figures = {who: rate(taken) for who, taken in samples[name].items() if taken}
        _bars(ax, figures, name, "ranges per second", least=False)
    _save(figure, path)


def cpu(samples: Samples, path: Path) -> None:
    """CPU time of one operation."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2))
    names = (
        "16 KiB ranges, 32 in flight",
        "read 4 MiB, one at a time",
        "write 4 MiB, one at a time",
    )
    for ax, name in zip(axes, names, strict=True):
        figures = {
            who: cpu_per_operation(taken) * 1e6
            for who, taken in samples[name].items()
            if taken and who != LIMIT
        }
        unit = "CPU µs an operation (less is better)"
        _bars(ax, figures, name, unit, least=True)
    _save(figure, path)


def blocks(samples: Samples, path: Path) -> None:
    """Throughput by block size, each client in its fastest mode."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), sharex=True)
    for row, work in zip(axes, ("read", "write"), strict=True):
        for ax, flight in zip(row, ("one at a time", "32 in flight"), strict=True):
            _lines(ax, samples, work, flight)
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=8, frameon=False)
    _save(figure, path)


def _lines(ax: Axes, samples: Samples, work: str, flight: str) -> None:
    by_client: dict[str, dict[int, float]] = {}
    for size in SIZES:
        taken = samples.get(f"{work} {size_name(size)}, {flight}", {})
        for contender, each in taken.items():
            peer, _, variant = split_contender(contender) if contender != LIMIT else (LIMIT, "", "")
            if each and variant in {"default", ""}:
                fastest = by_client.setdefault(peer, {})
                fastest[size] = max(fastest.get(size, 0), rate(each) * size / 1e6)
    places = range(len(SIZES))
    for client, colour in _COLOURS.items():
        found = by_client.get(client)
        if found:
            ax.plot(
                places,
                [found.get(size, float("nan")) for size in SIZES],
                color="#999999" if client == LIMIT else colour,
                linestyle="--" if client == LIMIT else "-",
                linewidth=2.6 if client == "blockyard" else 1.5,
                marker="o",
                markersize=4,
                label="wrk (the limit)" if client == LIMIT else client,
                zorder=3 if client == "blockyard" else 2,
            )
    ax.set_xticks(places, [size_name(size) for size in SIZES])
    ax.set_ylim(bottom=0)
    ax.set_title(f"{work}, {flight}")
    ax.set_ylabel("MB/s")
    ax.grid(axis="y", color="#eeeeee")


def promises(samples: Samples, path: Path) -> None:
    """Each ratio as a part of what was promised."""
    found = [each for each in outcomes(samples) if isinstance(each, Outcome)][::-1]
    figure, ax = plt.subplots(figsize=(11, 0.32 * len(found) + 1))
    parts = [each.ratio / each.target.at_least for each in found]
    colours = ["#0b6e4f" if each.held else "#d1495b" for each in found]
    places = range(len(found))
    ax.barh(places, parts, color=colours, height=0.7)
    ax.axvline(1, color="#333333", linewidth=1)
    for place, each, part in zip(places, found, parts, strict=True):
        text = f" {each.ratio:.2f}x of {each.target.at_least:g}x"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(part, place, text, va="center", fontsize=8, bbox=box)
    labels = [f"{each.target.workload}: {each.ours} / {each.against}" for each in found]
    ax.set_yticks(places, labels, fontsize=8)
    ax.set_xlim(0, max(parts) * 1.15)
    ax.set_ylim(-0.7, len(found) - 0.3)
    ax.set_title("Measured ratio as a part of the promised one (1 and more: kept)")
    _save(figure, path)


def originals(stores: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Our stores beside the published figures of the original."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.2))
    for ax, store in zip(axes, ("memory", "file", "S3: LocalStack"), strict=True):
        theirs, ours = published(store), _by_row(stores.get(store, []))
        most = 1.6 * max(theirs.values())
        _paired_bars(ax, -0.2, [ours.get(row, 0) for row in ROWS], most, "blockyard")
        _paired_bars(ax, 0.2, list(theirs.values()), most, _ORIGINAL)
        ax.set_yticks(range(len(ROWS)), [f"{work} {size_name(size)}" for work, size in ROWS])
        ax.invert_yaxis()
        ax.set_xlim(0, most)
        ax.set_xlabel("MB/s")
        ax.set_title(store)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _save(figure, path)


def _paired_bars(ax: Axes, shift: float, values: list[float], most: float, label: str) -> None:
    """One of two series; what does not fit on the axis says so."""
    places = [place + shift for place in range(len(values))]
    ax.barh(places, values, 0.4, color=_COLOURS[label], label=label)
    for place, value in zip(places, values, strict=True):
        figure = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        if value > 0.85 * most:
            beyond = " (beyond the axis)" if value > most else ""
            at, text, side, ink = min(value, most), f"{figure}{beyond} ", "right", "white"
        else:
            at, text, side, ink = value, f" {figure}", "left", "black"
        ax.text(at, place, text, va="center", ha=side, fontsize=8, color=ink)


def _by_row(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(row["work"], row["size"]): row["bytes_per_second"] / 1e6 for row in rows}


def several(measured: list[dict[str, Any]], path: Path) -> None:
    """Throughput of one, two and four processes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for ax, name in zip(axes, dict.fromkeys(each["workload"] for each in measured), strict=True):
        rows = [each for each in measured if each["workload"] == name]
        scale, unit = (1.0, "op/s") if "range" in name else (4 * MIB / 1e6, "MB/s")
        for number, contender in enumerate(dict.fromkeys(each["contender"] for each in rows)):
            mine = [each for each in rows if each["contender"] == contender]
            places = [at + (number - 0.5) * 0.38 for at in range(len(mine))]
            bars = ax.bar(
                places,
                [each["rate"] * scale for each in mine],
                width=0.36,
                color=_COLOURS[contender.partition(" ")[0]],
                label=contender,
            )
            ax.bar_label(bars, fmt="{:,.0f}", fontsize=8)
        counts = dict.fromkeys(each["processes"] for each in rows)
        ax.set_xticks(range(len(counts)), list(map(str, counts)))
        ax.set_xlabel("processes")
        ax.set_ylabel(unit)
        ax.set_title(name)
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    for ax in axes:
        ax.set_ylim(0, ax.get_ylim()[1] * 1.2)
    _save(figure, path)


def _bars(ax: Axes, figures: dict[str, float], title: str, unit: str, *, least: bool) -> None:
    """Horizontal bars, the best on top: the least or the most."""
    found = sorted(figures.items(), key=lambda pair: pair[1], reverse=least)
    names = [name for name, _ in found]
    bars = ax.barh(
        range(len(found)),
        [value for _, value in found],
        color=[_COLOURS[name.partition(" ")[0].partition("/")[0]] for name in names],
        hatch=["//" if "/" in name else "" for name in names],
        edgecolor="white",
    )
    ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    ax.set_yticks(range(len(found)), [_label(name) for name in names])
    ax.set_xlim(0, max(figures.values()) * 1.15)
    ax.set_title(title)
    ax.set_xlabel(unit)


def _label(contender: str) -> str:
    if contender == LIMIT:
        return "wrk (the limit)"
    name, _, mode = contender.partition(" ")
    return name.replace("/", ", ") + _MODES[mode]


def _save(figure: Any, path: Path) -> None:
    for ax in figure.axes:
        if isinstance(ax.xaxis.get_major_locator(), AutoLocator):
            ax.xaxis.set_major_locator(MaxNLocator(5))
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
