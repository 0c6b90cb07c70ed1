"""What being watched costs: processor time to render the metrics of 100 arrays, each scraped every 15 seconds.

    python -m bench.metrics

The arrays have five disks, and then sixteen, the most there can be, and a rebuild; every histogram has samples. What is
measured is the time of this process alone, as a main program would spend it on its event loop, and the least of several
rounds, since what else runs can only add to it. The goal is under 1 % of a core for arrays of five.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, RepairState, State, Verb
from perdure.service.telling import metrics
from perdure.shell.meter import BOUNDS_US, Meter

ARRAYS: Final = 100
SCRAPE_S: Final = 15
ROUNDS: Final = 7


def main() -> None:
    """Measure and print."""
    for disks, repairs in ((5, 0), (16, 1)):
        made = [status(index, disks, repairs) for index in range(ARRAYS)]
        seconds = min(processor_s(made) for _ in range(ROUNDS))
        print(
            f"{ARRAYS} arrays of {disks} disks, {len(metrics.render(made[0])):,} bytes each: "
            f"{1000 * seconds / ARRAYS:.2f} ms each, {100 * seconds / SCRAPE_S:.2f} % of a core with a scrape "
            f"every {SCRAPE_S} s"
        )


def processor_s(statuses: Sequence[ArrayStatus]) -> float:
    """Of this process, to render each of them once."""
    begun = time.process_time()
    for one in statuses:
        metrics.render(one)
    return time.process_time() - begun


def status(index: int, disks: int, repairs: int) -> ArrayStatus:
    """One array's; no two are the same."""
    busy = Meter()
    for us in BOUNDS_US:
        busy.note(us / 1e6 + index * 1e-7, 4096)
    counted = busy.to_json()
    errors = {"read": 0, "write": 0, "checksum": 0}
    seats = tuple(
        DiskStatus(
            seat=seat,
            instance=f"{index * 100 + seat:064x}",
            address=f"tcp:10.0.{index}.{seat}:7001",
            state=DiskState.ONLINE,
            errors=errors,
            platform="nitro",
            root="aws",
            evidence_age_ms=1000 + index,
            domain=f"zone-{seat % 3}",
            latency_us=900,
            answers=counted,
        )
        for seat in range(disks)
    )
    return ArrayStatus(
        array_id=f"{index:064x}",
        state=State.ONLINE,
        k=disks // 2 + 1,
        n=disks,
        size_bytes=1 << 40,
        disks=seats,
        losses_survived=disks - disks // 2 - 1,
        summary=f"[{'U' * disks}]",
        roster_version=f"{index:032x}.1",
        dirty_sectors=index,
        tags_known=1 << 20,
        journal_last=index,
        strays=(),
        nbd_uri="nbd+unix:///perdure?socket=/run/perdure/nbd.sock",
        action="None is needed.",
        failure=None,
        exit_code=0,
        repairs=tuple(repair(seat) for seat in range(repairs)),
        evidence_age_ms=1000 + index,
        name=f"array-{index}",
        uptime_ms=3_600_000,
        requests=dict.fromkeys(("read", "write", "flush", "trim"), counted),
        evidence=counted,
        events_last=index,
        scrubbed_unix_ms=1_790_000_000_000,
    )


def repair(seat: int) -> Repair:
    """A rebuild, half done."""
    return Repair(
        f"{seat:016x}",
        Verb.REPLACE,
        seat,
        "tcp:10.0.0.9:7001",
        RepairState.RUNNING,
        1 << 40,
        1 << 39,
        1 << 20,
        None,
        1 << 27,
        4096,
        1_790_000_000_000,
        60_000,
    )


if __name__ == "__main__":
    main()
