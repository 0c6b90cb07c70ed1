"""Medians, and ratios taken within rounds. Pure.

`Runs` is work -> target -> one entry a round, None where the target could not do it in that round. A machine that is
slow for a minute is slow for everyone in that round, so a ratio is taken in each round first and the median after.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

Runs = Mapping[str, Mapping[str, Sequence[Mapping[str, float] | None]]]


def median(runs: Runs, work: str, target: str, key: str) -> float | None:
    """The median over the rounds; None when nobody did it."""
    return middle(values(runs, work, target, key))


def ratio(runs: Runs, work: str, ours: str, theirs: str, key: str, *, their_work: str | None = None) -> float | None:
    """The median of `ours` over `theirs` of the same round; None when no round has both."""
    mine, other = values(runs, work, ours, key), values(runs, their_work or work, theirs, key)
    return middle(ratios(mine, other))


def ratios(mine: Iterable[float | None], other: Iterable[float | None]) -> list[float | None]:
    """Round by round; None where either has none, or nothing to divide by."""
    return [None if a is None or not b else a / b for a, b in zip(mine, other, strict=False)]


def values(runs: Runs, work: str, target: str, key: str) -> list[float | None]:
    """One value a round."""
    return [None if run is None else run.get(key) for run in runs.get(work, {}).get(target, ())]


def middle(some: Iterable[float | None]) -> float | None:
    """The median of what is there; None when nothing is."""
    there = [value for value in some if value is not None]
    return statistics.median(there) if there else None


def medians(rounds: Sequence[Mapping[str, float] | None]) -> dict[str, float]:
    """The median of every value that any round has."""
    keys = {key: None for run in rounds if run is not None for key in run}
    found = ((key, middle(None if run is None else run.get(key) for run in rounds)) for key in keys)
    return {key: value for key, value in found if value is not None}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the sorted values do not exceed. Raises ValueError for none."""
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
