"""`make bench`: the array over NBD under fio, and nbdkit's memory plugin (no redundancy, no cryptography) as ceiling.

Both serve a Unix socket on this machine and take turns, round by round, because such machines drift: compare the
ratios. Writes build/bench.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PERDURE = Path(sys.executable).parent / "perdure"
WORK = {
    "4 KiB random write + fsync, depth 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
    "4 KiB random write + fsync, depth 32": ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1", "--numjobs=32"],
    "4 KiB random write, depth 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "4 KiB random read, depth 1": ["--rw=randread", "--bs=4k", "--iodepth=1"],
    "4 KiB random read, depth 32": ["--rw=randread", "--bs=4k", "--iodepth=32"],
    "sequential 1 MiB write": ["--rw=write", "--bs=1m", "--iodepth=4"],
    "sequential 1 MiB read": ["--rw=read", "--bs=1m", "--iodepth=4"],
}


def fio(uri: str, options: list[str], seconds: int) -> dict[str, float]:
    """One fio run: operations and MiB per second, and the latency of one operation in microseconds."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--time_based", f"--runtime={seconds}"]
    command += ["--group_reporting", "--output-format=json", "--size=96m", "--norandommap", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["read" if "read" in options[0] else "write"]
    latency = side["clat_ns"]["percentile"]
    sync = job.get("sync", {}).get("lat_ns", {}).get("percentile", {})
    wait = sync if "--fsync=1" in options and sync else latency
    return {
        "iops": side["iops"],
        "mib_s": side["bw_bytes"] / (1 << 20),
        "p50_us": wait["50.000000"] / 1000,
        "p99_us": wait["99.000000"] / 1000,
    }


@contextmanager
def perdure_array(evidence_latency_ms: float) -> Iterator[str]:
    """A 3-of-5 array of simulated disks; its NBD URI."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        environment = {**os.environ, "PERDURE_DIRECTORY": folder}
        up = [str(PERDURE), "up", "--size", "128M", "--evidence-latency-ms", str(evidence_latency_ms)]
        try:
            subprocess.run(up, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=120)
            yield f"nbd+unix:///perdure?socket={folder}/nbd.sock"
        finally:
            down = [str(PERDURE), "down", "--destroy"]
            subprocess.run(down, check=True, env=environment, capture_output=True, timeout=120)


@contextmanager
def nbdkit_memory() -> Iterator[str]:
    """nbdkit's memory plugin; its NBD URI."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        command = ["nbdkit", "--foreground", "--unix", f"{folder}/nbd.sock", "memory", "128M"]
        server = subprocess.Popen(command)
        try:
            give_up = time.monotonic() + 10
            while not Path(folder, "nbd.sock").exists():
                if server.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("nbdkit did not start")
                time.sleep(0.01)
            yield f"nbd+unix:///?socket={folder}/nbd.sock"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(10)


def main() -> int:
    """Run all, print, and write build/bench.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each fio run")
    options = parser.parse_args()
    for tool in ("fio", "nbdkit"):
        if shutil.which(tool) is None:
            print(f"SKIPPED: everything, because {tool} is not here", file=sys.stderr)
            return 2
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        targets = {
            "perdure": stack.enter_context(perdure_array(0)),
            "perdure, 5.7 ms evidence": stack.enter_context(perdure_array(5.7)),
            "nbdkit memory": stack.enter_context(nbdkit_memory()),
        }
        for number in range(options.rounds):
            for work, arguments in WORK.items():
                for target, uri in targets.items():
                    print(f"round {number + 1} of {options.rounds}: {work}: {target}", file=sys.stderr)
                    runs.setdefault(work, {}).setdefault(target, []).append(fio(uri, arguments, options.seconds))
    medians = {
        work: {
            target: {key: statistics.median(run[key] for run in results) for key in results[0]}
            for target, results in targets_runs.items()
        }
        for work, targets_runs in runs.items()
    }
    report(medians)
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"version": 1, "rounds": options.rounds, "medians": medians}, indent=2) + "\n")
    print(f"\nwritten to {target.relative_to(ROOT)}")
    return 0


def report(medians: dict[str, dict[str, dict[str, float]]]) -> None:
    """One line for each kind of work and target."""
    for work, by_target in medians.items():
        print(f"\n{work}")
        for target, m in by_target.items():
            speed = f"{m['iops']:10.0f} op/s {m['mib_s']:8.1f} MiB/s"
            print(f"  {target:26}{speed}   p50 {m['p50_us']:8.0f} us   p99 {m['p99_us']:8.0f} us")


if __name__ == "__main__":
    sys.exit(main())
