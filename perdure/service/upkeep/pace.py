"""How fast work goes now and how long the rest takes, from the last half minute: what was long ago says little."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_MS: Final = 30_000
SAMPLE_MS: Final = 250
"""Samples are taken no closer than this, so their number is bounded."""


class Pace:
    """Samples of how much is done, on a clock of milliseconds that never goes back. Amounts are in any one unit."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()

    def note(self, now_ms: int, done: int) -> None:
        """Remember that `done` is done by now."""
        if self._samples and now_ms - self._samples[-1][0] < SAMPLE_MS:
            return
        self._samples.append((now_ms, done))
        while len(self._samples) > 2 and self._samples[0][0] < now_ms - WINDOW_MS:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Amount in a second; None while nobody can tell, and never zero."""
        if len(self._samples) < 2:
            return None
        (first_ms, first), (last_ms, last) = self._samples[0], self._samples[-1]
        return (last - first) * 1000 / (last_ms - first_ms) if last > first else None

    def left_s(self, left: int) -> int | None:
        """Seconds, rounded up, until `left` more is done; None while nobody can tell."""
        speed = self.per_s()
        return None if speed is None else math.ceil(left / speed)
