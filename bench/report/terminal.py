"""The short form for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bench.document import Document
from bench.report.figures import MARKS, check_line, number, times
from bench.work.table import ALL


def lines(document: Document) -> Iterator[str]:
    """Work by work, then sizes, the floor, the goals, and what was skipped."""
    for work, by_target in document["medians"].items():
        yield f"\n{ALL[work].title}"
        for name, one in by_target.items():
            speed = f"{one['iops']:9.0f} op/s" + (f" {one['mib_s']:8.1f} MiB/s" if ALL[work].block_bytes else "")
            ratio = document["ratios"].get(work, {}).get(name, {}).get("iops")
            latency = f"p50 {one['p50_us']:8.0f} us   p99 {one['p99_us']:8.0f} us"
            yield f"  {name:24}{speed}   {latency}" + ("" if ratio is None else f"   perdure is {times(ratio)}")
    for kind, found in document["scaling"].items():
        for one in found if isinstance(found, list) else [found] * bool(found):
            yield f"\n{kind}: " + ", ".join(f"{key} {number(value)}" for key, value in one.items())
    if document["floor"]:
        yield "\nfloor: " + ", ".join(f"{key} {number(value)}" for key, value in document["floor"]["medians"].items())
    yield "\ngoals"
    for name, entry in document["goals"].items():
        yield f"  {MARKS[entry['met']]} {name:24}" + "; ".join(map(check_line, entry["checks"]))
    for name, why in document["skipped"].items():
        yield f"SKIPPED: {name}: {why}"
