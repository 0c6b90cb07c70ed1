"""A small run, as `turns.measure` gives it, and the document made of it."""

from __future__ import annotations

import json

from bench import floor
from bench.document import Document, assemble
from bench.model import GIB, MIB

MACHINE = {
    "cpu": "Example processor",
    "cores": 2,
    "memory_bytes": 24 * GIB,
    "kernel": "6.1",
    "python": "3.11.2",
    "tcp_congestion_control": "cubic",
    "load_at_start": 0.1,
    "commit": "0123456789ab",
    "versions": {"fio": "3.33"},
}
SETTINGS = {"started": "2030-01-01 00:00 UTC", "rounds": 2, "seconds": 4.0, "quick": False}
COSTS = {step.name: 10.0 for step in floor.STEPS}


def run(iops: float, p50_us: float = 100.0, **more: float) -> dict[str, float]:
    """One run of 4 KiB blocks."""
    values = {"operations": iops * 4, "iops": iops, "mib_s": iops / 256, "p50_us": p50_us, "p99_us": 2 * p50_us}
    return {**values, "cpu_us.main": 50.0, "cpu_us.client": 5.0, **more}


def runs() -> dict[str, dict[str, list[dict[str, float] | None]]]:
    """Two rounds, in the second of which the machine was half as fast."""
    return {
        "durable-write-1": {
            "perdure": [run(2000), run(1000)],
            "perdure, TCP": [run(1900, wire_bytes=30_000), run(950, wire_bytes=30_000)],
            "GlusterFS": [run(1000), run(400)],
            "etcd": [run(1500, 600), run(700, 1200)],
        },
        "durable-write-32": {
            "perdure": [run(9000), run(4500)],
            "perdure, TCP": [run(9000, wire_bytes=7500), run(4500, wire_bytes=7500)],
            "GlusterFS": [run(600), None],
        },
        "sequential-read": {"perdure": [run(400), run(200)], "GlusterFS": [run(100), run(100)]},
        "sqlite": {"perdure, ext4": [run(200), run(100)], "GlusterFS": [run(100), run(100)]},
    }


def document() -> Document:
    """All of it, as it is after JSON."""
    found = assemble(
        machine=MACHINE,
        settings=SETTINGS,
        targets={"perdure": "ours", "perdure, TCP": "ours over TCP", "GlusterFS": "a peer", "etcd": "a peer"},
        skipped={"perdure, chains": "this release has none"},
        runs=runs(),
        memory={"perdure": {"main": 80 * MIB, "disks": 300 * MIB}},
        floors=[COSTS, COSTS],
        scaling={
            "mounts": [{"size_bytes": GIB, "clean_s": 0.1, "killed_s": 0.2, "up_s": 1.0}],
            "repairs": [
                {
                    "size_bytes": 64 * MIB,
                    "sequential_read_mib_s": 400.0,
                    "scrub_mib_s": 200.0,
                    "rebuild_mib_s": 300.0,
                }
            ],
            "memory": {"size_bytes": 16 * GIB, "empty_bytes": 80 * MIB, "loaded_bytes": 320 * MIB},
        },
    )
    loaded: Document = json.loads(json.dumps(found))
    return loaded
