"""The goals: from what was measured to named entries, each met, missed, or unknown for a reason. Pure.

An entry's `value`, `peer` and `ratio` are those of its first check; it is met when all of its checks are. What could
not be measured makes it `None`, never true. Ratios are medians of ratios taken within rounds (`bench.stats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import stats
from bench.checks import check, entry
from bench.model import GIB, K, N
from bench.stats import Runs

OURS, CHAINS, GLUSTER, ETCD = "perdure", "perdure, chains", "GlusterFS", "etcd"
NAMES = (
    "durable-write-1",
    "durable-write-1-chains",
    "durable-write-32",
    "write-32",
    "read",
    "sequential",
    "rebuild",
    "mount",
    "wire",
    "memory",
)
IDEAL_WIRE_BYTES = 4096 * N / K
RATES = {"iops": ("operations a second", "IOPS"), "mib_s": ("throughput", "MiB/s")}


@dataclass(frozen=True, slots=True)
class Measured:
    """What the goals look at; what was not measured is empty, or None."""

    runs: Runs = field(default_factory=dict)
    floors: Sequence[Mapping[str, float]] = ()
    """Totals of `bench.floor`, one a round, in the order of the rounds."""
    rebuilds: Sequence[Mapping[str, float]] = ()
    """By size: `size_bytes`, `rebuild_mib_s`, `sequential_read_mib_s`."""
    mounts_s: Mapping[int, float] = field(default_factory=dict)
    """By the array's size in bytes."""
    wire_bytes: Mapping[str, float] = field(default_factory=dict)
    """For each durable 4 KiB write, by work."""
    memory_bytes: int | None = None
    """Of the main program of a 16 GiB array, every tag loaded."""
    skipped: Mapping[str, str] = field(default_factory=dict)


def entries(measured: Measured) -> dict[str, dict[str, Any]]:
    """All goals by name, in the order of `NAMES`."""
    makers = (
        _durable,
        _chains,
        lambda m: _faster(m, "durable-write-32", "4 KiB random write + fsync, depth 32", 10),
        lambda m: _faster(m, "write-32", "4 KiB random write, depth 32", 12),
        _reads,
        _sequential,
        _rebuild,
        _mount,
        _wire,
        _memory,
    )
    return {name: make(measured) for name, make in zip(NAMES, makers, strict=True)}


# Against a peer -------------------------------------------------------------------------------------------


def _against(
    measured: Measured, work: str, least: float, *, what: str = "", key: str = "iops", ours: str = OURS
) -> dict[str, Any]:
    runs, (title, unit) = measured.runs, RATES[key]
    value = stats.median(runs, work, ours, key)
    return check(
        what or title,
        value,
        unit,
        ratio=stats.ratio(runs, work, ours, GLUSTER, key),
        least=least,
        peer=stats.median(runs, work, GLUSTER, key),
        peer_name=GLUSTER,
        reason=_missing(measured, ours if value is None else GLUSTER),
    )


def _missing(measured: Measured, name: str) -> str:
    why = measured.skipped.get(name)
    return f"{name} did not run: {why}" if why else f"{name} was not measured in this run"


def _faster(measured: Measured, work: str, title: str, least: float) -> dict[str, Any]:
    return entry(title, f"{least:g} x {GLUSTER}", _against(measured, work, least))


def _durable(measured: Measured) -> dict[str, Any]:
    work = "durable-write-1"
    ours = [None if rate is None else 1e6 / rate for rate in stats.values(measured.runs, work, OURS, "iops")]
    floors = [one["durable_us"] for one in measured.floors]
    return entry(
        "4 KiB random write + fsync, depth 1, evidence on each flush",
        f"1 x {GLUSTER}, and within 1.5 x of the floor",
        _against(measured, work, 1),
        check(
            "time of one write over the floor",
            stats.middle(ours),
            "us",
            ratio=stats.middle(stats.ratios(ours, floors)),
            most=1.5,
            peer=stats.middle(floors),
            peer_name="floor",
            reason=_missing(measured, OURS if not ours else "floor"),
        ),
    )


def _chains(measured: Measured) -> dict[str, Any]:
    work, runs = "durable-write-1", measured.runs
    latency = stats.median(runs, work, CHAINS, "p50_us")
    return entry(
        "4 KiB random write + fsync, depth 1, acknowledgement chains",
        f"3 x {GLUSTER}, and p50 at or below half of {ETCD}'s put",
        _against(measured, work, 3, ours=CHAINS),
        check(
            "p50",
            latency,
            "us",
            ratio=stats.ratio(runs, work, CHAINS, ETCD, "p50_us"),
            most=0.5,
            peer=stats.median(runs, work, ETCD, "p50_us"),
            peer_name=ETCD,
            reason=_missing(measured, CHAINS if latency is None else ETCD),
        ),
    )


def _reads(measured: Measured) -> dict[str, Any]:
    return entry(
        "4 KiB random read, tags known, depth 1 / 32",
        f"2 x / 10 x {GLUSTER}",
        _against(measured, "read-1", 2, what="depth 1"),
        _against(measured, "read-32", 10, what="depth 32"),
    )


def _sequential(measured: Measured) -> dict[str, Any]:
    return entry(
        "sequential 1 MiB write / read",
        f"4 x / 2 x {GLUSTER}",
        _against(measured, "sequential-write", 4, what="write", key="mib_s"),
        _against(measured, "sequential-read", 2, what="read", key="mib_s"),
    )


# Against ourselves ----------------------------------------------------------------------------------------


def _rebuild(measured: Measured) -> dict[str, Any]:
    largest = max(measured.rebuilds, key=lambda one: one["size_bytes"], default={})
    speed, reading = largest.get("rebuild_mib_s"), largest.get("sequential_read_mib_s")
    return entry(
        "rebuild of one disk",
        "60 % of sequential read speed",
        check(
            f"an array of {largest['size_bytes'] / (1 << 20):.0f} MiB" if largest else "rebuild",
            speed,
            "MiB/s",
            ratio=speed / reading if speed is not None and reading else None,
            least=0.6,
            peer=reading,
            peer_name="sequential read",
        ),
    )


def _mount(measured: Measured) -> dict[str, Any]:
    small, large = measured.mounts_s.get(GIB), measured.mounts_s.get(16 * GIB)
    both = [one for one in (small, large) if one is not None]
    slowest = max(both, default=None)
    return entry(
        "mount, 1 GiB and 16 GiB array",
        "the same time within 20 %, under one second",
        check(
            "16 GiB over 1 GiB",
            large,
            "s",
            ratio=large / small if large is not None and small else None,
            least=1 / 1.2,
            most=1.2,
            peer=small,
            peer_name="1 GiB",
            reason="the 16 GiB array was not mounted in this run",
        ),
        check("the slower of both, in seconds", slowest, "s", ratio=slowest if len(both) == 2 else None, most=1),
    )


def _wire(measured: Measured) -> dict[str, Any]:
    value = measured.wire_bytes.get("durable-write-32")
    return entry(
        "bytes on the wire per durable 4 KiB write",
        "within 15 % of n/k",
        check(
            "both ways, evidence included, depth 32",
            value,
            "bytes",
            ratio=None if value is None else value / IDEAL_WIRE_BYTES,
            most=1.15,
            peer=IDEAL_WIRE_BYTES,
            peer_name="n/k",
        ),
    )


def _memory(measured: Measured) -> dict[str, Any]:
    value = measured.memory_bytes
    return entry(
        "main program's memory for a 16 GiB array",
        "stated, and under 2 % of its size with all tags loaded",
        check(
            "of the array's size",
            None if value is None else value / (1 << 20),
            "MiB",
            ratio=None if value is None else value / (16 * GIB),
            most=0.02,
            peer=16 * GIB / (1 << 20),
            peer_name="the array",
        ),
    )
