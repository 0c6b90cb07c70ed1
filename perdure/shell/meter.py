"""Counters of what passes: how often, how much, how long. They are for people who look, and decide nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final

BOUNDS_US: Final = (
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000
)  # fmt: skip
"""Upper bounds, inclusive, of the buckets of latencies, in microseconds; one more bucket has all that took longer."""


class Meter:
    """Of one kind of work. Counts only grow; whoever wants rates takes differences."""

    __slots__ = ("buckets", "bytes", "count", "failed", "us", "usual_us")

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self.bytes = 0
        self.us = 0.0
        """All of them together."""
        self.usual_us = 0.0
        """A mean in which each counts a sixteenth of what is left: the last few dozen."""
        self.buckets = [0] * (len(BOUNDS_US) + 1)

    def note(self, seconds: float, length: int = 0) -> None:
        """One piece of work of `length` bytes has taken so long."""
        us = seconds * 1e6
        self.count += 1
        self.bytes += length
        self.us += us
        self.usual_us += (us - self.usual_us) / 16 if self.usual_us else us
        self.buckets[bisect_left(BOUNDS_US, us)] += 1

    def to_json(self) -> Mapping[str, Any]:
        """For a status."""
        return {
            "count": self.count,
            "failed": self.failed,
            "bytes": self.bytes,
            "us": round(self.us),
            "buckets": list(self.buckets),
        }
