"""Which faults met in one story: counted for every pair, and what never met is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations


class Coverage:
    """Counts, over many stories, the faults that happened in each."""

    def __init__(self, faults: Sequence[str]) -> None:
        self._faults = tuple(sorted(faults))
        self.alone: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()

    def add(self, seen: Iterable[str]) -> None:
        """One story's faults."""
        here = sorted(set(seen))
        self.alone.update(here)
        self.pairs.update(combinations(here, 2))

    @property
    def never(self) -> list[tuple[str, str]]:
        """The pairs that no story had."""
        return [pair for pair in combinations(self._faults, 2) if not self.pairs[pair]]

    def summary(self) -> list[str]:
        """How many pairs met, the rarest, and those that never did."""
        possible = list(combinations(self._faults, 2))
        met = sorted((self.pairs[pair], pair) for pair in possible if self.pairs[pair])
        lines = [f"{len(met)} of {len(possible)} pairs of faults met in one story"]
        lines += [f"  rarely: {first} and {second}, in {count}" for count, (first, second) in met[:5]]
        return lines + [f"  never: {first} and {second}" for first, second in self.never]

    def table(self) -> list[str]:
        """Every pair and in how many stories it met."""
        return [
            f"{self.pairs[first, second]:8} {first} and {second}" for first, second in combinations(self._faults, 2)
        ]
