"""The page's sections of figures: each takes the document and gives lines, none when it has nothing to show. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.document import TCP, Document
from bench.goals import IDEAL_WIRE_BYTES, OURS
from bench.report.figures import MARKS, bound, mib, number, table, times
from bench.work.table import ALL, COMMITS, DEPTHS, GOAL_DEPTHS

KINDS = {
    "durable-write": "4 KiB random write + fsync",
    "write": "4 KiB random write",
    "read": "4 KiB random read",
}
OTHERS = ("sequential-write", "sequential-read", "mixed-32")
ROLES = ("main", "disks", "platform", "client")
Lines = list[str]


def goals(document: Document, why: str) -> Lines:
    """Every goal, a row for each of its checks. `why` says where the reasons of missed ones are."""
    rows = []
    for entry in document["goals"].values():
        for check in entry["checks"]:
            measured = f"{number(check['value'])} {check['unit']}" if check["value"] is not None else "-"
            peer = f"{check['peer_name']} {number(check['peer'])}" if check["peer"] is not None else check["peer_name"]
            ratio = f"{times(check['ratio'])} ({bound(check)})"
            rows.append((f"{MARKS[check['met']]} {entry['work']}", check["what"], entry["goal"], measured, peer, ratio))
    met = sum(entry["met"] is True for entry in document["goals"].values())
    unknown = [(name, entry["reason"]) for name, entry in document["goals"].items() if entry["met"] is None]
    lines = ["## Goals", "", f"{met} of {len(document['goals'])} are met. {why}".rstrip(), ""]
    lines += _texts(("work", "check", "at least", "measured", "beside", "ratio"), rows)
    return lines + [f"- `{name}` is unknown: {reason}." for name, reason in unknown]


def _texts(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


# Blocks ---------------------------------------------------------------------------------------------------


def blocks(document: Document, iops_plot: Lines, latency_plot: Lines) -> Lines:
    """Random work by depth, then the rest."""
    lines = ["## Blocks", "", *iops_plot, *latency_plot]
    for kind, title in KINDS.items():
        lines += _by_depth(document, kind, title)
    for work in OTHERS:
        if found := _one(document, work):
            lines += [f"### {ALL[work].title}", "", *found]
    return lines


def _by_depth(document: Document, kind: str, title: str) -> Lines:
    depths = [depth for depth in DEPTHS if document["medians"].get(f"{kind}-{depth}")]
    if not depths:
        return []
    names = [name for name in document["targets"] if any(_median(document, f"{kind}-{d}", name) for d in depths)]
    heads = ["target", *(f"depth {depth}" for depth in depths)]
    speeds = [[name, *(_speed(document, f"{kind}-{depth}", name) for depth in depths)] for name in names]
    waits = [[name, *(_latency(document, f"{kind}-{depth}", name) for depth in depths)] for name in names]
    lines = [
        f"### {title}",
        "",
        "Operations a second, and how many times as fast Perdure is:",
        "",
        *table(heads, speeds),
    ]
    lines += ["p50 / p99, microseconds:", "", *table(heads, waits)]
    for depth in GOAL_DEPTHS:
        if rows := _costs(document, f"{kind}-{depth}"):
            lines += [f"What one operation costs at depth {depth}:", "", *rows]
    return lines


def _median(document: Document, work: str, target: str) -> dict[str, float]:
    found: dict[str, float] = document["medians"].get(work, {}).get(target, {})
    return found


def _ratio(document: Document, work: str, target: str, key: str = "iops") -> float | None:
    found: float | None = document["ratios"].get(work, {}).get(target, {}).get(key)
    return found


def _speed(document: Document, work: str, target: str) -> str:
    one, ratio = _median(document, work, target), _ratio(document, work, target)
    return number(one.get("iops")) + (f" ({times(ratio)})" if ratio is not None else "")


def _latency(document: Document, work: str, target: str) -> str:
    one = _median(document, work, target)
    return f"{number(one['p50_us'])} / {number(one['p99_us'])}" if one else "-"


def _costs(document: Document, work: str) -> Lines:
    rows = []
    for name, one in document["medians"].get(work, {}).items():
        parts = [number(one.get(f"cpu_us.{role}")) for role in ROLES]
        whole = sum(value for key, value in one.items() if key.startswith("cpu_us."))
        rows.append((name, *parts, number(whole), number(one.get("wire_bytes"))))
    return table(("target", *(f"{role}, us" for role in ROLES), "all, us", "bytes on the wire"), rows)


def _one(document: Document, work: str) -> Lines:
    rows = []
    for name, one in document["medians"].get(work, {}).items():
        speed = number(one["mib_s"]) if ALL[work].block_bytes else number(one["iops"])
        ratio = times(_ratio(document, work, name))
        cpu = number(sum(value for key, value in one.items() if key.startswith("cpu_us.")))
        rows.append((name, speed, ratio, number(one["p50_us"]), number(one["p99_us"]), cpu))
    unit = "MiB/s" if ALL[work].block_bytes else "commits a second"
    return table(("target", unit, "perdure is", "p50, us", "p99, us", "processor time of one, us"), rows)


# Modes and databases --------------------------------------------------------------------------------------


def modes(document: Document) -> Lines:
    """The array's own modes beside its plain one."""
    names = [name for name in document["targets"] if name.startswith(f"{OURS},") and "ext4" not in name]
    works = [work for work in ("durable-write-1", "durable-write-32", "write-32", "read-1", "read-32") if work in ALL]
    works = [work for work in works if any(_median(document, work, name) for name in names)]
    if not works:
        return []
    rows = [[name, *(_mode(document, work, name) for work in works)] for name in (OURS, *names)]
    text = "Operations a second, p50 in microseconds. What each mode is, is in the table of targets."
    return ["## Evidence: when, and how long it takes", "", text, "", *table(["mode", *works], rows)]


def _mode(document: Document, work: str, target: str) -> str:
    one = _median(document, work, target)
    return f"{number(one['iops'])}, {number(one['p50_us'])} us" if one else "-"


def commits(document: Document) -> Lines:
    """Of the databases, one table each."""
    lines: Lines = []
    for work in COMMITS:
        if found := _one(document, work.name):
            lines += [f"### {work.title}", "", *found]
    return ["## Databases", "", *lines] if lines else []


# Sizes ----------------------------------------------------------------------------------------------------


def sizes(document: Document, plot: Lines) -> Lines:
    """Mounts, and what reads the whole array."""
    scaling = document["scaling"]
    mounts = [(mib(one["size_bytes"]), *map(number, _mount(one))) for one in scaling.get("mounts", ())]
    repairs = [(mib(one["size_bytes"]), *map(number, _repair(one))) for one in scaling.get("repairs", ())]
    if not mounts and not repairs:
        return []
    lines = ["## Size", "", *plot]
    lines += table(
        ("array, MiB", "mount after a clean stop, s", "after kill -9, s", "the whole `perdure up`, s"), mounts
    )
    heads = ("array, MiB", "sequential read, MiB/s", "scrub, MiB/s", "rebuild, MiB/s", "rebuild over read")
    return lines + table(heads, repairs)


def _mount(one: dict[str, float]) -> tuple[float, ...]:
    return one["clean_s"], one["killed_s"], one["up_s"]


def _repair(one: dict[str, float]) -> tuple[float, ...]:
    read, scrub, rebuild = one["sequential_read_mib_s"], one["scrub_mib_s"], one["rebuild_mib_s"]
    return read, scrub, rebuild, rebuild / read


def wire(document: Document) -> Lines:
    """Bytes between the parts of a target for each operation."""
    rows = []
    for work, by_target in document["medians"].items():
        if not ALL[work].goal or ALL[work].sequential:
            continue
        for name, one in by_target.items():
            if "wire_bytes" in one:
                factor = one["wire_bytes"] / IDEAL_WIRE_BYTES if ALL[work].access == "write" else None
                rows.append((f"{ALL[work].title}: {name}", number(one["wire_bytes"]), times(factor)))
    text = f"n/k of 4 KiB is {IDEAL_WIRE_BYTES:,.0f} bytes. Both ways, all disks, evidence included (*{TCP}*)."
    return ["## Bytes on the wire", "", text, "", *table(("work", "bytes", "over n/k"), rows)] if rows else []


def memory(document: Document) -> Lines:
    """Resident memory by role, and the main program's of a large array."""
    rows = [
        (name, *(mib(roles.get(role)) for role in ("main", "disks", "platform")))
        for name, roles in document["memory_bytes"].items()
    ]
    if not rows:
        return []
    lines = ["## Memory", "", "Resident at the end of the run, MiB, all processes of a role together:", ""]
    lines += table(("target", "main", "disks", "platform"), rows)
    if large := document["scaling"].get("memory"):
        part = 100 * large["loaded_bytes"] / large["size_bytes"]
        lines += [
            f"The main program of an array of {mib(large['size_bytes'])} MiB has {mib(large['empty_bytes'])} MiB after "
            f"the mount and {mib(large['loaded_bytes'])} MiB with all tags loaded: {part:.2f} % of the array's size.",
            "",
        ]
    return lines
