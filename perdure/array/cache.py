"""The write cache: what was written and has not yet come home on every disk.

A row of batches, oldest first. Each becomes one journal entry, whole or not at all, in order; so what a crash leaves
is a prefix of what was written, though a sector written twice within one batch is sent once. Reads look from the
newest batch to the oldest. Bounded: `is_full` tells the writer to wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from perdure.array.geometry import ENTRY_SECTORS_MAX, ENTRY_TRIMS_MAX, SECTOR_BYTES, TRIM_SECTORS_MAX, Run
from perdure.array.ports import Buffer

ZERO_SECTOR = bytes(SECTOR_BYTES)
BATCHES_MAX = 32
"""Batches that are not home; with the open one, at most 33 MiB of sectors."""


@dataclass(slots=True, eq=False)
class Batch:
    """One atomic group: the trims first, then the writes."""

    writes: dict[int, Buffer] = field(default_factory=dict)
    trims: list[Run] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self.writes and not self.trims

    @property
    def is_full(self) -> bool:
        """Whether one entry can take no more."""
        return len(self.writes) >= ENTRY_SECTORS_MAX or len(self.trims) >= ENTRY_TRIMS_MAX

    def has_room_to_trim(self, count: int) -> bool:
        """Whether one entry may trim `count` sectors more."""
        return sum(run.count for run in self.trims) + count <= TRIM_SECTORS_MAX

    def find(self, index: int) -> Buffer | None:
        """Sector `index` as this batch leaves it, None if it does not touch it."""
        data = self.writes.get(index)
        if data is None and any(run.start <= index < run.end for run in self.trims):
            return ZERO_SECTOR
        return data

    def trim(self, run: Run) -> None:
        """Zero `run`; what was written there within this batch is dropped."""
        if run.count < len(self.writes):
            for index in range(run.start, run.end):
                self.writes.pop(index, None)
        else:
            self.writes = {index: data for index, data in self.writes.items() if not run.start <= index < run.end}
        self.trims.append(run)


class WriteCache:
    """Batches that wait (`closed`), are under way, or are applied but not yet proved to be; and the open one."""

    def __init__(self) -> None:
        self._open = Batch()
        self._closed: deque[Batch] = deque()
        self._sent: deque[Batch] = deque()
        self._closed_count = 0
        self._taken_count = 0

    @property
    def mark(self) -> int:
        """How many batches must have been taken for all that is written by now to have been."""
        return self._closed_count + (not self._open.is_empty)

    def has_taken(self, mark: int) -> bool:
        """Whether everything up to `mark` has been taken."""
        return self._taken_count >= mark

    @property
    def is_full(self) -> bool:
        """Whether a writer must wait."""
        return len(self._closed) + len(self._sent) >= BATCHES_MAX

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._closed and self._open.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether everything is home."""
        return not self._sent and not self._closed and self._open.is_empty

    @property
    def dirty_sectors(self) -> int:
        """Sectors written and not yet home."""
        return sum(len(batch.writes) for batch in (*self._sent, *self._closed, self._open))

    def write(self, index: int, data: Buffer) -> None:
        """Put one whole sector; `data` must not change afterwards."""
        self._open.writes[index] = data
        self._close_if_full()

    def trim(self, run: Run) -> None:
        """Zero a run; it must not be longer than one entry may trim."""
        assert 0 < run.count <= TRIM_SECTORS_MAX  # a disk refuses an empty operation, and the whole entry with it
        if not self._open.has_room_to_trim(run.count):
            self._close()
        self._open.trim(run)
        self._close_if_full()

    def _close_if_full(self) -> None:
        if self._open.is_full:
            self._close()

    def _close(self) -> None:
        self._closed.append(self._open)
        self._closed_count += 1
        self._open = Batch()

    def find(self, index: int) -> Buffer | None:
        """The newest content of a sector that is not home, else None."""
        found = self._open.find(index)
        if found is not None:
            return found
        for batches in (self._closed, self._sent):
            for batch in reversed(batches):
                found = batch.find(index)
                if found is not None:
                    return found
        return None

    def take(self, *, partial: bool) -> Batch | None:
        """The next batch to send; the open one only if `partial`. It stays readable until `evict`."""
        if not self._closed and partial and not self._open.is_empty:
            self._close()
        if not self._closed:
            return None
        batch = self._closed.popleft()
        self._taken_count += 1
        self._sent.append(batch)
        return batch

    def evict(self, batch: Batch) -> None:
        """Drop the oldest batch: it is home on every disk."""
        oldest = self._sent.popleft()
        assert oldest is batch
