"""The tags in this program's memory: which version of each sector is the latest.

A tag gets here in two ways only: this program wrote it and every disk proved to have it, or it was read with evidence
since this program fenced the array. 64 bytes for each 4,096, taken from the system as they are touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from perdure.array.geometry import TAG_BYTES, Geometry, Run, ceil_div
from perdure.array.ports import Buffer

CHANGES_MASK = 0xFFFFFFFF
GROUP_TAGS = 1024
"""Tags read at once on first touch: 64 KiB, for 4 MiB of sectors."""


class TagTable:
    """One row for each sector, and whether it is known."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._rows = _zeros(geometry.sectors * TAG_BYTES, np.uint8).reshape(geometry.sectors, TAG_BYTES)
        self._groups = bytearray(ceil_div(geometry.sectors, GROUP_TAGS))
        """1 for each group that was learnt whole; of the others `_known` says which tags are known."""
        self._known = _zeros(geometry.sectors, np.bool_)
        self._changes = _zeros(geometry.sectors, np.uint32)
        # The same memory again: one element of a memoryview costs a fraction of one of an array.
        self._row_bytes = self._rows.reshape(-1).data
        self._known_bytes = self._known.view(np.uint8).data
        self._change_counts = self._changes.data

    @property
    def known_count(self) -> int:
        """How many are known."""
        groups = self._groups_of(Run(0, self._geometry.sectors))
        return sum(part.count if self._groups[at] else int(np.count_nonzero(self._of(part))) for at, part in groups)

    def get(self, run: Run) -> bytes:
        """The tags of `run`, end to end; all must be known."""
        assert self.knows(run)
        return self._row_bytes[run.start * TAG_BYTES : run.end * TAG_BYTES].tobytes()

    def knows(self, run: Run) -> bool:
        """Whether every tag of `run` is known."""
        if run.count == 1:
            return bool(self._groups[run.start // GROUP_TAGS] or self._known_bytes[run.start])
        return all(self._groups[at] or self._of(part).all() for at, part in self._groups_of(run))

    def changes(self, run: Run) -> list[int]:
        """How often each tag of `run` was changed. A sector may be written and trimmed, and look as it did before."""
        return self._change_counts[run.start : run.end].tolist()

    def put(self, index: int, tags: Buffer) -> None:
        """What this program wrote from sector `index` on."""
        count = len(tags) // TAG_BYTES
        self._row_bytes[index * TAG_BYTES : (index + count) * TAG_BYTES] = tags
        if count == 1:
            self._known_bytes[index] = 1
            self._change_counts[index] = (self._change_counts[index] + 1) & CHANGES_MASK
        else:
            self._known[index : index + count] = True
            self._changes[index : index + count] += 1

    def clear(self, run: Run) -> None:
        """What this program trimmed."""
        self._rows[run.start : run.end] = 0
        self._known[run.start : run.end] = True
        self._changes[run.start : run.end] += 1

    def learn(self, run: Run, tags: memoryview) -> None:
        """What a disk proved to hold; a tag that is known already is newer and stays."""
        rows = np.frombuffer(tags, np.uint8).reshape(run.count, TAG_BYTES)
        for at, part in self._groups_of(run):
            if self._groups[at]:
                continue
            missing = ~self._of(part)
            self._rows[part.start : part.end][missing] = rows[part.start - run.start : part.end - run.start][missing]
            if part == self._group(at):
                self._groups[at] = 1
            else:
                self._of(part)[:] = True

    def groups(self, run: Run) -> list[Run]:
        """The whole groups to read so that `run` becomes known."""
        return [self._group(at) for at, part in self._groups_of(run) if not self.knows(part)]

    def _group(self, at: int) -> Run:
        start = at * GROUP_TAGS
        return Run(start, min(GROUP_TAGS, self._geometry.sectors - start))

    def _groups_of(self, run: Run) -> Iterator[tuple[int, Run]]:
        """The numbers of the groups that `run` touches, and its part of each."""
        for at in range(run.start // GROUP_TAGS, ceil_div(run.end, GROUP_TAGS)):
            yield at, _common(self._group(at), run)

    def _of(self, run: Run) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return self._known[run.start : run.end]


def _zeros(count: int, kind: type[np.generic]) -> np.ndarray[Any, Any]:
    """An array of zeros straight from the system, of which only what is touched takes memory.

    Not `numpy.zeros`: an allocator that overwrites what is freed also writes all the zeros that it is asked for.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory is taken even by looking at it
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(kind).itemsize, private), kind)


def _common(left: Run, right: Run) -> Run:
    start, end = max(left.start, right.start), min(left.end, right.end)
    return Run(start, end - start)
