"""fio: its command line for a piece of work, and its JSON, read. Only `run` and `fill` start it.

Targets that speak NBD get fio's `nbd` engine; a file on a mounted file system gets `libaio` with O_DIRECT, so that the
kernel's page cache does not answer in the target's place.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.model import KIB, MIB, Access, Result, Work
from bench.processes import tool
from bench.work.table import MIXED_READ_PERCENT

SPAN_BYTES = 96 * MIB
"""What is written and read: more than any cache of ours, and a fraction of memory."""
OVERTIME_S = 60
FILL_S_MAX = 300


@dataclass(frozen=True, slots=True)
class Place:
    """Where fio works: an NBD URI or a file's path, as fio's arguments, and how many bytes from the start on."""

    arguments: tuple[str, ...]
    span_bytes: int = SPAN_BYTES

    @classmethod
    def nbd(cls, uri: str, span_bytes: int = SPAN_BYTES) -> Place:
        """A server of NBD."""
        return cls(("--ioengine=nbd", f"--uri={uri}"), span_bytes)

    @classmethod
    def file(cls, path: object) -> Place:
        """A file, past the page cache."""
        return cls(("--ioengine=libaio", "--direct=1", f"--filename={path}"))


def arguments(work: Work, place: Place, seconds: float) -> list[str]:
    """fio's arguments for a piece of work."""
    pattern = {Access.READ: "read", Access.WRITE: "write", Access.MIXED: "rw"}[work.access]
    words = [
        *place.arguments,
        "--name=bench",
        f"--rw={'' if work.sequential else 'rand'}{pattern}",
        f"--bs={work.block_bytes}",
        f"--size={place.span_bytes}",
        "--time_based",
        f"--runtime={round(seconds * 1000)}ms",
        "--norandommap",
        "--randrepeat=0",
        "--refill_buffers",
        "--thread",
        "--group_reporting",
        "--lat_percentiles=1",  # from the submission on: through FUSE that is where it waits
        "--output-format=json",
    ]
    if work.access is Access.MIXED:
        words.append(f"--rwmixread={MIXED_READ_PERCENT}")
    if work.fsync:  # so many clients, each of which waits for its own fsync
        return [*words, "--fsync=1", "--iodepth=1", f"--numjobs={work.depth}"]
    # What was taken into a cache is made durable after the time is up, so that it is not left to the next one's turn.
    return [*words, f"--iodepth={work.depth}", *(() if work.access is Access.READ else ("--end_fsync=1",))]


def parse(output: str, work: Work) -> Result:
    """The result in fio's JSON. Raises RuntimeError when fio reports an error, or did nothing.

    Latency of a durable write is that of the write and of its fsync together: percentiles are added, which is exact
    enough at the median and more than the truth at the 99th. Of mixed work it is the reads'; the writes' is beside it.
    """
    job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio ended with error {job['error']}")
    sides = {Access.READ: ["read"], Access.WRITE: ["write"], Access.MIXED: ["read", "write"]}[work.access]
    operations = sum(job[side]["total_ios"] for side in sides)
    if not operations:
        raise RuntimeError("fio did nothing in its time")
    p50, p99 = _latency_us(job[sides[0]])
    details: dict[str, float] = {}
    if work.fsync:
        sync = _latency_us(job["sync"])
        details = {"write_p50_us": p50, "fsync_p50_us": sync[0], "write_p99_us": p99, "fsync_p99_us": sync[1]}
        p50, p99 = p50 + sync[0], p99 + sync[1]
    elif work.access is Access.MIXED:
        details = dict(zip(("write_p50_us", "write_p99_us"), _latency_us(job["write"]), strict=True))
    duration_s = max(job[side]["runtime"] for side in sides) / 1000
    client_cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000  # without fio's start
    return Result(operations, duration_s, work.block_bytes, p50, p99, client_cpu_s, details)


def _latency_us(side: Mapping[str, Any]) -> tuple[float, float]:
    percentiles = side["lat_ns"]["percentile"]
    return percentiles["50.000000"] / 1000, percentiles["99.000000"] / 1000


def run(place: Place, work: Work, seconds: float) -> Result:
    """Have fio do it. Raises RuntimeError with what fio said."""
    return parse(_fio(arguments(work, place, seconds), seconds), work)


def fill(place: Place) -> None:
    """Write the whole span once, to the end and durably, so that reads find data and every tag is known."""
    words = ["--name=fill", "--rw=write", f"--bs={MIB}", f"--size={place.span_bytes}", "--iodepth=4", "--end_fsync=1"]
    _fio([*place.arguments, *words, "--refill_buffers", "--thread", "--output-format=json"], FILL_S_MAX)


def touch(place: Place, every_bytes: int) -> None:
    """Read 4 KiB at each multiple of `every_bytes`."""
    step = f"--rw=read:{every_bytes - 4 * KIB}"
    words = ["--name=touch", step, "--bs=4k", "--iodepth=16", f"--number_ios={place.span_bytes // every_bytes}"]
    _fio([*place.arguments, *words, f"--size={place.span_bytes}", "--thread", "--output-format=json"], FILL_S_MAX)


def _fio(words: Sequence[str], seconds: float) -> str:
    command = [tool("fio"), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + OVERTIME_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"fio did not end {OVERTIME_S} s after its time") from None
    if done.returncode or "{" not in done.stdout:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise RuntimeError(f"fio ended with {done.returncode} and said: {said[0]}")
    return done.stdout
