"""The plots of the page, as SVG: the same document gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.document import Document
from bench.work.table import DEPTHS

STYLE: Any = {
    "svg.hashsalt": "perdure",  # ids of elements, which are random otherwise
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLORS = ("#0b6e4f", "#c1121f", "#3a5a9b", "#e09f3e", "#7b5ea7", "#6c757d", "#2a9d8f", "#9c6644", "#bc4b8a", "#444444")
BY_DEPTH = {"durable-write": "4 KiB random write + fsync", "write": "4 KiB random write", "read": "4 KiB random read"}
LATENCY = ("durable-write-1", "read-1")
Draw = Callable[[Figure, Document], bool]
"""Draws on a figure; False when there is nothing to draw."""


def write(document: Document, folder: Path) -> list[str]:
    """Write every plot for which there is something; the names of the files. Others of ours there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [name for name, (draw, size) in PLOTS.items() if _write(document, draw, size, folder / name)]
    for old in folder.glob("*.svg"):
        if old.name not in made:
            old.unlink()
    return made


def _write(document: Document, draw: Draw, size: tuple[float, float], path: Path) -> bool:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        if not draw(figure, document):
            return False
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    text = path.read_text()
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    return True


def color(document: Document, target: str) -> str:
    """A target has one colour in all plots."""
    return COLORS[list(document["targets"]).index(target) % len(COLORS)]


# By depth -------------------------------------------------------------------------------------------------


def iops_by_depth(figure: Figure, document: Document) -> bool:
    """Three plots side by side, both axes logarithmic."""
    axes = figure.subplots(1, len(BY_DEPTH), sharey=True)
    drawn = [_by_depth(axis, document, kind, title) for axis, (kind, title) in zip(axes, BY_DEPTH.items(), strict=True)]
    axes[0].set_ylabel("operations a second")
    found: dict[str, Any] = {}
    for axis in axes:
        found |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False)
    return any(drawn)


def _by_depth(axis: Axes, document: Document, kind: str, title: str) -> bool:
    lines = {name: _points(document, kind, name) for name in document["targets"]}
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:  # no logarithm of nothing
        axis.set_axis_off()
        return False
    for name, points in lines.items():
        width = 2.4 if name == "perdure" else 1.2
        axis.plot(*zip(*points, strict=True), marker="o", ms=3, lw=width, label=name, color=color(document, name))
    axis.set(title=title, xlabel="depth", xscale="log", yscale="log")
    axis.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    axis.minorticks_off()
    return True


def _points(document: Document, kind: str, target: str) -> list[tuple[int, float]]:
    found = ((depth, document["medians"].get(f"{kind}-{depth}", {}).get(target)) for depth in DEPTHS)
    return [(depth, one["iops"]) for depth, one in found if one]


# Bars -----------------------------------------------------------------------------------------------------


def latency(figure: Figure, document: Document) -> bool:
    """p50 and p99 at depth 1, each target a pair of bars."""
    axes = figure.subplots(1, len(LATENCY))
    for axis, work in zip(axes, LATENCY, strict=True):
        rows = document["medians"].get(work, {})
        if not rows:
            axis.set_axis_off()
            continue
        places = range(len(rows))
        for key, shift, alpha in (("p50_us", -0.2, 1.0), ("p99_us", 0.2, 0.45)):
            widths = [one[key] for one in rows.values()]
            colors = [color(document, name) for name in rows]
            axis.barh([at + shift for at in places], widths, 0.38, color=colors, alpha=alpha)
        axis.set_yticks(list(places), list(rows))
        axis.invert_yaxis()
        axis.set(xscale="log", title=f"{work}: p50 (dark) and p99 (light)", xlabel="microseconds")
    return any(document["medians"].get(work) for work in LATENCY)


# By size --------------------------------------------------------------------------------------------------


def by_size(figure: Figure, document: Document) -> bool:
    """Mount time, and the speed of reading, scrubbing and rebuilding."""
    scaling: Mapping[str, Sequence[Mapping[str, float]]] = document["scaling"]
    left, right = figure.subplots(1, 2)
    mounts, repairs = scaling.get("mounts", ()), scaling.get("repairs", ())
    _against_size(left, mounts, {"clean_s": "after a clean stop", "killed_s": "after kill -9"})
    left.set(title="mount", ylabel="seconds", ylim=(0, None))
    names = {"sequential_read_mib_s": "sequential read", "scrub_mib_s": "scrub", "rebuild_mib_s": "rebuild of one disk"}
    _against_size(right, repairs, names)
    right.set(title="whole array", ylabel="MiB of the array a second", ylim=(0, None))
    return bool(mounts or repairs)


def _against_size(axis: Axes, rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> None:
    if not rows:
        axis.set_axis_off()
        return
    sizes = [row["size_bytes"] / (1 << 20) for row in rows]
    for (key, name), shade in zip(names.items(), COLORS, strict=False):
        axis.plot(sizes, [row[key] for row in rows], marker="o", ms=4, label=name, color=shade)
    axis.set(xscale="log", xlabel="size of the array, MiB")
    axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axis.minorticks_off()
    axis.legend(frameon=False)


PLOTS: dict[str, tuple[Draw, tuple[float, float]]] = {
    "iops.svg": (iops_by_depth, (10, 4.4)),
    "latency.svg": (latency, (10, 3.6)),
    "size.svg": (by_size, (9, 3.4)),
}
