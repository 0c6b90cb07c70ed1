"""What depends on an array's size: mounting, rebuilding a disk, scrubbing, and the main program's memory."""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from datetime import datetime

from bench import processes
from bench.model import GIB, MIB, Access
from bench.ours.array import Mode, Running, array
from bench.work import fio
from bench.work.table import durable, sequential
from perdure.array.geometry import SECTOR_BYTES

DIRTY_S = 0.5
LOST_SEAT = 4
DEAD_AFTER_MS = 500
TOUCH_BYTES = MIB
"""Tags are read in groups of more sectors than this, so a read at every such step loads all."""
_LINE = re.compile(r"^(\S+ \S+) INFO (mounting array|serving )", re.MULTILINE)


def logged_mount_s(log: str) -> float:
    """From the last `mounting` to the last `serving` of a main program's log, in seconds. Raises ValueError."""
    times = {what: datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f") for at, what in _LINE.findall(log)}
    try:
        return (times["serving "] - times["mounting array"]).total_seconds()
    except KeyError:
        raise ValueError("the log does not say when the array was mounted") from None


def mounts(size_bytes: int, count: int) -> dict[str, float]:
    """Mount an array of this size after a clean stop, and after kill -9 with the journal not yet home; medians.

    Its disks take memory as it is touched. Seconds are the main program's own, from its first word to a disk until it
    serves; `up_s` is the whole command with the start of two interpreters.
    """
    with array(Mode(size=str(size_bytes), lazy=True)) as running:
        clean: list[float] = []
        killed: list[float] = []
        whole: list[float] = []
        for _ in range(count):
            _dirty(running)
            running.perdure("down")
            clean.append(_mounted_s(running, whole))
            _dirty(running)
            os.kill(running.pid("main"), signal.SIGKILL)
            killed.append(_mounted_s(running, whole))
        medians = map(statistics.median, (clean, killed, whole))
        return {"size_bytes": size_bytes, **dict(zip(("clean_s", "killed_s", "up_s"), medians, strict=True))}


def _dirty(running: Running) -> None:
    """Durable writes, the last of which are in the journal alone."""
    fio.run(running.place, durable(4), DIRTY_S)


def _mounted_s(running: Running, whole: list[float]) -> float:
    start = time.perf_counter()
    running.up()
    whole.append(time.perf_counter() - start)
    return logged_mount_s((running.directory / "main.log").read_text())


def repairs(size_bytes: int, seconds: float) -> dict[str, float]:
    """Fill an array, read it in sequence, scrub it, and rebuild one disk that was killed: MiB of the array a second."""
    with array(Mode(size=str(size_bytes), dead_after_ms=DEAD_AFTER_MS)) as running:
        place = fio.Place.nbd(running.uri, size_bytes)
        fio.fill(place)
        reading = fio.run(place, sequential(Access.READ), seconds)
        scrub = running.perdure("scrub")["repair"]
        launcher = running.pid(f"disk-{LOST_SEAT}")
        os.kill(processes.tree([launcher])[1], signal.SIGKILL)  # the program; its launcher then ends by itself
        rebuild = running.perdure("replace", LOST_SEAT)["repair"]
        return {
            "size_bytes": size_bytes,
            "sequential_read_mib_s": reading.operations / reading.duration_s,
            "scrub_mib_s": speed_mib_s(scrub),
            "rebuild_mib_s": speed_mib_s(rebuild),
        }


def speed_mib_s(repair: dict[str, float]) -> float:
    """Of a piece of repair as `status` shows it."""
    return repair["done_bytes"] / MIB / (max(repair["duration_ms"], 1) / 1000)


def memory(size_bytes: int = 16 * GIB) -> dict[str, float]:
    """The main program's resident memory before and after every tag was loaded. Raises RuntimeError if some were not.

    Nothing was written but for a little, so the tags are zeros; they take as much room as others.
    """
    with array(Mode(size=str(size_bytes), lazy=True)) as running:
        before = processes.rss_bytes([running.pid("main")])
        fio.touch(fio.Place.nbd(running.uri, size_bytes), TOUCH_BYTES)
        known, wanted = running.perdure("status")["tags_known"], size_bytes // SECTOR_BYTES
        if known != wanted:
            raise RuntimeError(f"{known} of {wanted} tags were loaded")
        after = processes.rss_bytes([running.pid("main")])
        return {"size_bytes": size_bytes, "empty_bytes": before, "loaded_bytes": after}
