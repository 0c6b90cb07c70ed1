"""Which sectors belong to no file. Kept in memory only: it follows from the records."""

from __future__ import annotations

from bisect import bisect_left

from perdure.array.geometry import Run


class Space:
    """Free runs of sectors, by their start; two that touch are one."""

    def __init__(self, run: Run) -> None:
        self._free = [run] if run.count else []

    @property
    def count(self) -> int:
        """Free sectors, all together."""
        return sum(run.count for run in self._free)

    def claim(self, run: Run) -> bool:
        """Take exactly this run; whether it was free."""
        at = bisect_left(self._free, (run.start + 1,)) - 1
        if at < 0 or self._free[at].end < run.end:
            return False
        whole = self._free[at]
        rest = Run(whole.start, run.start - whole.start), Run(run.end, whole.end - run.end)
        self._free[at : at + 1] = [piece for piece in rest if piece.count]
        return True

    def take(self, count: int, after: int) -> list[Run]:
        """`count` sectors, of which there must be so many: behind sector `after` while they are free, then elsewhere.

        A new run starts in the middle of the largest free one, so that the file in front of it can grow in place too.
        """
        taken = []
        at = bisect_left(self._free, (after,))
        if at < len(self._free) and self._free[at].start == after:
            taken.append(self._cut(at, after, count))
            count -= taken[0].count
        while count:
            at = max(range(len(self._free)), key=lambda place: self._free[place].count)
            start, size = self._free[at]
            taken.append(self._cut(at, start + max(0, min(size // 2, size - count)), count))
            count -= taken[-1].count
        return taken

    def _cut(self, at: int, start: int, count: int) -> Run:
        """At most `count` sectors from `start` of a free run."""
        piece = Run(start, min(count, self._free[at].end - start))
        self.claim(piece)
        return piece

    def give(self, run: Run) -> None:
        """Take back a run."""
        at = bisect_left(self._free, run)
        start, end = run.start, run.end
        if at < len(self._free) and self._free[at].start == end:
            end = self._free.pop(at).end
        if at and self._free[at - 1].end == start:
            at -= 1
            start = self._free.pop(at).start
        self._free.insert(at, Run(start, end - start))
