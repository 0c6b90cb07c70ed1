"""`iostat`: how much passes, and how long it takes, between two looks."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from perdure.cli.options import config_options, find_config, verb
from perdure.service.site import background
from perdure.service.status import ArrayStatus
from perdure.shell.meter import BOUNDS_US

KINDS: Final = ("read", "write", "flush", "trim")


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "iostat", "perdure iostat 1\nperdure iostat -v 5 3")
    @click.option("-v", "is_verbose", is_flag=True, help="With a line for each disk.")
    @click.argument("interval", type=click.FloatRange(min=0.1), default=1.0)
    @click.argument("times", type=click.IntRange(min=1), required=False)
    @config_options
    def iostat(
        is_verbose: bool, interval: float, times: int | None, config_file: Path | None, directory: Path, as_json: bool
    ) -> int:
        """Show operations and bytes a second, and latencies, every INTERVAL seconds, TIMES times.

        The first line is about the time since the main program has mounted the array.
        """
        found = find_config(config_file, directory)
        before: ArrayStatus | None = None
        for turn in itertools.count(1):
            now = background.status(found)
            shown = rates(before, now)
            if as_json:
                click.echo(json.dumps({name: rate.to_json() for name, rate in shown.items()}))
            else:
                click.echo("\n".join(_lines(shown, is_verbose=is_verbose, has_head=turn % 20 == 1)))
            if turn == times:
                return 0
            before = now
            time.sleep(interval)
        return 0


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one kind of work, between two looks: what happened a second, and how long one took, in microseconds."""

    ops_per_s: float
    bytes_per_s: float
    mean_us: float | None
    p50_us: int | None
    p99_us: int | None
    """Upper bounds of the buckets in which half, and 99 of 100, had ended."""

    def to_json(self) -> Mapping[str, Any]:
        """For programs."""
        return {
            "ops_per_s": round(self.ops_per_s, 1),
            "bytes_per_s": round(self.bytes_per_s),
            "mean_us": None if self.mean_us is None else round(self.mean_us),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
        }


def rates(before: ArrayStatus | None, now: ArrayStatus) -> dict[str, Rate]:
    """By kind of request, `evidence`, and `seat N`: since `before`, or since the mount; so too after another mount."""
    if before is not None and before.uptime_ms > now.uptime_ms:
        before = None
    seconds = max(1, now.uptime_ms - (0 if before is None else before.uptime_ms)) / 1000
    then, current = {} if before is None else _counters(before), _counters(now)
    return {name: _rate(then.get(name, {}), counters, seconds) for name, counters in current.items()}


def _counters(status: ArrayStatus) -> dict[str, Mapping[str, Any]]:
    disks = {f"seat {disk.seat}": disk.answers for disk in status.disks if disk.answers is not None}
    return {**status.requests, "evidence": status.evidence, **disks}


def _rate(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> Rate:
    if before and before["count"] > now["count"]:
        before = {}  # another disk is in that seat
    count = now["count"] - before.get("count", 0)
    old = before.get("buckets", [0] * len(now["buckets"]))
    buckets = [after - earlier for after, earlier in zip(now["buckets"], old, strict=True)]
    return Rate(
        count / seconds,
        (now["bytes"] - before.get("bytes", 0)) / seconds,
        (now["us"] - before.get("us", 0)) / count if count else None,
        percentile_us(buckets, 0.5),
        percentile_us(buckets, 0.99),
    )


def percentile_us(buckets: Sequence[int], share: float) -> int | None:
    """The upper bound of the bucket in which that share of all had ended; None if there were none, or it has none."""
    total, seen = sum(buckets), 0
    for bound, count in zip((*BOUNDS_US, None), buckets, strict=True):
        seen += count
        if total and seen >= share * total:
            return bound
    return None


def _lines(shown: Mapping[str, Rate], *, is_verbose: bool, has_head: bool) -> list[str]:
    head = f"{'':10} {'ops/s':>10} {'MiB/s':>9} {'mean ms':>9} {'p50 ms <=':>10} {'p99 ms <=':>10}"
    rows = [(name, rate) for name, rate in shown.items() if is_verbose or name in KINDS]
    return [*([head] if has_head or is_verbose else []), *(_row(name, rate) for name, rate in rows), ""]


def _row(name: str, rate: Rate) -> str:
    mean, p50, p99 = (_ms(value) for value in (rate.mean_us, rate.p50_us, rate.p99_us))
    return f"{name:10} {rate.ops_per_s:10,.1f} {rate.bytes_per_s / (1 << 20):9,.1f} {mean:>9} {p50:>10} {p99:>10}"


def _ms(us: float | None) -> str:
    return "-" if us is None else f"{us / 1000:.2f}"
