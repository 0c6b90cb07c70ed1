"""One client that commits rows, one after another, for so long: what every database without a server is measured by."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from bench.model import Result, Work
from bench.stats import percentile

ROWS = 2000
ROW_BYTES = 1000


def commits(commit: Callable[[int, bytes], None], work: Work, seconds: float) -> Result:
    """Replace one row of `ROWS` at a time; each commit is timed until it returns, and it returns once it is durable."""
    draw, times_us = random.Random(), []  # noqa: S311  (which row is no secret)
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        row = (draw.randrange(ROWS), draw.randbytes(ROW_BYTES))
        begun = time.perf_counter()
        commit(*row)
        times_us.append((time.perf_counter() - begun) * 1e6)
    duration_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    times_us.sort()
    p50, p99 = percentile(times_us, 50), percentile(times_us, 99)
    return Result(len(times_us), duration_s, work.block_bytes, p50, p99, cpu_s)
