"""Where the processor's time goes: `python -m bench.profile --work durable-write-1` samples both sides with py-spy.

Needs py-spy on the PATH (`pip install py-spy`), which reads another process's stack without slowing it; it is no
dependency of the project. While fio does one piece of work, or a disk is rebuilt, the main program, one disk and the
process that signs as its hardware would are sampled. Prints, for each, the functions by the share of their samples in
which they are the innermost (`self`) or anywhere on the stack (`all`). docs/performance.md says what came of it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import processes
from bench.model import Skip
from bench.ours.array import Mode, Running, array
from bench.work import fio, table
from perdure.service.site.config import Acknowledgements

ROWS = 25
SAMPLES_PER_S = 200
REBUILD = "rebuild"
LOST_SEAT = 4
_LINE = re.compile(r":\d+\)$")


def shares(collapsed: str) -> tuple[int, list[tuple[str, float, float]]]:
    """From py-spy's raw form, `a;b;c COUNT` a line: how many samples, and (function, self, all) as shares of them."""
    own: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    total = 0
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_LINE.sub(")", frame) for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            anywhere[frame] += int(count)
    rows = [(name, own[name] / total, anywhere[name] / total) for name in anywhere] if total else []
    return total, sorted(rows, key=lambda row: (-row[1], -row[2]))


def sample(pids: dict[str, int], seconds: float, folder: Path) -> dict[str, str]:
    """What py-spy collects from each process at the same time, in its raw form. Raises Skip without py-spy."""
    spy = processes.tool("py-spy")
    started = {}
    for name, pid in pids.items():
        words = [spy, "record", "--pid", str(pid), "--format", "raw", "--output", str(folder / name), "--nonblocking"]
        words += ["--rate", str(SAMPLES_PER_S), "--duration", str(max(1, round(seconds)))]
        started[name] = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for name, process in started.items():
        _, said = process.communicate(timeout=seconds + 60)
        if process.returncode:
            raise RuntimeError(f"py-spy could not sample {name}: {said.strip().splitlines()[-1]}")
    return {name: (folder / name).read_text() for name in pids}


def work_of(running: Running, name: str, seconds: float) -> Callable[[], object]:
    """What is to be done while the samples are taken."""
    if name == REBUILD:
        os.kill(running.processes()["platform"][LOST_SEAT], signal.SIGKILL)
        return lambda: running.perdure("replace", LOST_SEAT)
    work = table.ALL.get(name)
    if work is None:
        raise SystemExit(f"there is no work called {name}; there are {REBUILD}, {', '.join(table.ALL)}")
    return lambda: fio.run(running.place, work, seconds + 2)


def main() -> int:
    """Sample, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--work", default="durable-write-1")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--acknowledgements", choices=[one.value for one in Acknowledgements], default="evidence")
    options = parser.parse_args()
    mode = Mode(acknowledgements=Acknowledgements(options.acknowledgements), dead_after_ms=1000)
    try:
        processes.tool("py-spy")
        with array(mode) as running, tempfile.TemporaryDirectory() as folder:
            fio.fill(running.place)
            work = work_of(running, options.work, options.seconds)
            found = running.processes()
            pids = {"main": found["main"][0], "disk": found["disks"][0], "platform": found["platform"][0]}
            with ThreadPoolExecutor(1) as beside:
                busy = beside.submit(work)
                collected = sample(pids, options.seconds, Path(folder))
                busy.result()  # if the work went wrong, the samples say nothing
    except Skip as why:
        print(f"SKIPPED: {why}", file=sys.stderr)
        return 2
    for name, text in collected.items():
        total, rows = shares(text)
        print(f"\n{options.work}: {name}, {total} samples\n  self    all  function")
        for function, own, anywhere in rows[:ROWS]:
            print(f"{own:6.1%} {anywhere:6.1%}  {function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
