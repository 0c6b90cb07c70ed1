"""The JSON document: everything that a run found, versioned; the page and the plots are made from it alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import floor, goals, stats
from bench.goals import OURS
from bench.stats import Runs

VERSION = 2
TCP = "perdure, TCP"
RATIO_KEYS = ("iops", "p50_us", "p99_us")
Document = dict[str, Any]


def assemble(
    *,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    targets: Mapping[str, str],
    skipped: Mapping[str, str],
    runs: Runs,
    memory: Mapping[str, Mapping[str, int]],
    floors: Sequence[floor.Costs],
    scaling: Mapping[str, Any],
) -> Document:
    """The whole document. `targets` is what each is, `floors` the costs of the steps, one a round."""
    totals = [floor.totals(costs, machine["cores"]) for costs in floors]
    found: Document = {
        "version": VERSION,
        "machine": machine,
        "settings": settings,
        "targets": targets,
        "skipped": skipped,
        "medians": medians(runs),
        "ratios": ratios(runs),
        "memory_bytes": memory,
        "floor": {"steps_us": floor.medians(floors), "rounds": totals, "medians": stats.medians(totals)}
        if floors
        else {},
        "scaling": scaling,
        "runs": runs,
    }
    measured = goals.Measured(
        runs=runs,
        floors=totals,
        rebuilds=scaling.get("repairs", []),
        mounts_s={round(one["size_bytes"]): max(one["clean_s"], one["killed_s"]) for one in scaling.get("mounts", [])},
        wire_bytes=wire_bytes(runs),
        memory_bytes=scaling.get("memory", {}).get("loaded_bytes"),
        skipped=skipped,
    )
    return {**found, "goals": goals.entries(measured)}


def _floor(floors: Sequence[floor.Costs], totals: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    if not floors:
        return {}
    return {"steps_us": floor.medians(floors), "rounds": totals, "medians": stats.medians(totals)}


def medians(runs: Runs) -> dict[str, dict[str, dict[str, float]]]:
    """By work and target; a target that never did the work has none."""
    all_of = {work: {name: stats.medians(some) for name, some in by.items()} for work, by in runs.items()}
    return {work: {name: one for name, one in by.items() if one} for work, by in all_of.items()}


def ratios(runs: Runs) -> dict[str, dict[str, dict[str, float]]]:
    """The array over each other target, by work and value, the median of ratios within rounds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for work, by_target in runs.items():
        ours = next((name for name in by_target if name.startswith(OURS)), None)
        for name in by_target:
            if ours is None or name == ours:
                continue
            each = {key: stats.ratio(runs, work, ours, name, key) for key in RATIO_KEYS}
            found.setdefault(work, {})[name] = {key: value for key, value in each.items() if value is not None}
    return found


def wire_bytes(runs: Runs) -> dict[str, float]:
    """For each durable write of the array, by work: its disks are at TCP ports for that."""
    each = {work: stats.median(runs, work, TCP, "wire_bytes") for work in runs}
    return {work: value for work, value in each.items() if value is not None}
