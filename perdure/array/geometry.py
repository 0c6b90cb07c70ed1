"""Sizes and places: how a disk's memory is laid out (docs/spec.md, section 4). Pure arithmetic, in disk sectors of 64
bytes unless a name says bytes.

    genesis | current roster | next roster | head | journal slots | tags | fragments
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.disk.wire import COMMAND_BYTES_MAX, DISK_SECTOR_BYTES
from perdure.errors import Misuse

SECTOR_BYTES = 4096
TAG_BYTES = 64
SEATS_MAX = 16
SLOTS = 16
"""Journal slots on each disk: entry S lives in slot S mod SLOTS, so at most this many are not yet applied."""
ENTRY_SECTORS_MAX = 256
ENTRY_TRIMS_MAX = 64
HISTORY_SECTORS = 1024
"""What the main program as a service keeps for its history: 4 MiB."""
TRIM_SECTORS_MAX = 1 << 15
"""The most sectors that one entry trims, all its runs together, so that a disk never zeroes for long at a stretch:
64 MiB with k = 2, a tenth of a second where memory is touched for the first time."""
INDEX_BYTES, TRIM_BYTES = 4, 8
GENESIS_AREA, ROSTER_AREA, HEAD_AREA = 32, 128, 1
ADDRESSABLE = 1 << 32


def ceil_div(value: int, by: int) -> int:
    """`value / by`, rounded up."""
    return -(-value // by)


class Run(NamedTuple):
    """`count` sectors from `start`. A tuple, since some are made for every read."""

    start: int
    count: int  # type: ignore[assignment]  # what tuples call by that name is not used of runs

    @property
    def end(self) -> int:
        """The first sector after the run."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Geometry:
    """k fragments rebuild a sector, n disks hold one each, the array has `sectors` sectors of 4,096 bytes.

    k > n/2 always: then any two sets of k disks share one, so a host that hides disks can never show an older array
    (docs/design.md). Raises Misuse for anything else.
    """

    k: int
    n: int
    sectors: int
    history_sectors: int = 0
    """So many of them, the last, are not presented: the main program keeps its history there."""
    fragment_sectors: int = field(init=False, repr=False, compare=False)
    """One fragment: a k-th of a sector, rounded up to whole disk sectors."""
    fragment_bytes: int = field(init=False, repr=False, compare=False)
    """The same in bytes."""
    slot_sectors: int = field(init=False, repr=False, compare=False)
    """One journal slot: the largest entry."""
    tags_start: int = field(init=False, repr=False, compare=False)
    """Where the tags stand, one disk sector each."""
    fragments_start: int = field(init=False, repr=False, compare=False)
    """Where this disk's fragments stand."""

    def __post_init__(self) -> None:
        if not 1 < self.n <= SEATS_MAX:
            raise Misuse(f"an array has 2 to {SEATS_MAX} disks, not {self.n}")
        if not self.n < 2 * self.k or self.k > self.n:
            raise Misuse(
                f"k must be more than half of n and at most n, not {self.k} of {self.n}: with k <= n/2 a host that "
                "hides disks could show two different arrays"
            )
        if not 0 <= self.history_sectors < self.sectors:
            raise Misuse("the size must be at least one sector of 4,096 bytes, beside what the history takes")
        self._work_out()
        if self.disk_sectors >= ADDRESSABLE:
            raise Misuse("the size is more than one disk can address (256 GiB on each disk)")

    def _work_out(self) -> None:
        """All that follows from k and the size, once: it is asked for with every fragment that is read or written."""
        fragment_sectors = ceil_div(SECTOR_BYTES, self.k * DISK_SECTOR_BYTES)
        records = ceil_div(ENTRY_SECTORS_MAX * INDEX_BYTES + ENTRY_TRIMS_MAX * TRIM_BYTES, DISK_SECTOR_BYTES)
        slot_sectors = 1 + records + ENTRY_SECTORS_MAX * (1 + fragment_sectors)
        tags_start = self.head_start + HEAD_AREA + SLOTS * slot_sectors
        for name, value in (
            ("fragment_sectors", fragment_sectors),
            ("fragment_bytes", fragment_sectors * DISK_SECTOR_BYTES),
            ("slot_sectors", slot_sectors),
            ("tags_start", tags_start),
            ("fragments_start", tags_start + self.sectors),
        ):
            object.__setattr__(self, name, value)

    @property
    def size_bytes(self) -> int:
        """What the array presents."""
        return (self.sectors - self.history_sectors) * SECTOR_BYTES

    @property
    def history(self) -> Run:
        """The sectors that are not presented."""
        return Run(self.sectors - self.history_sectors, self.history_sectors)

    @property
    def current_start(self) -> int:
        """Where the roster in force stands."""
        return GENESIS_AREA

    @property
    def next_start(self) -> int:
        """Where a proposed roster stands; all zero for none."""
        return self.current_start + ROSTER_AREA

    @property
    def head_start(self) -> int:
        """Where the journal's position stands."""
        return self.next_start + ROSTER_AREA

    def slot_start(self, number: int) -> int:
        """Where entry `number` lives until it is applied."""
        return self.head_start + HEAD_AREA + number % SLOTS * self.slot_sectors

    def tag_start(self, index: int) -> int:
        """Where the tag of sector `index` stands."""
        return self.tags_start + index

    def fragment_start(self, index: int) -> int:
        """Where this disk's fragment of sector `index` stands."""
        return self.fragments_start + index * self.fragment_sectors

    @property
    def disk_sectors(self) -> int:
        """The memory one disk must lend."""
        return self.fragment_start(self.sectors)

    @property
    def disk_bytes(self) -> int:
        """The same in bytes."""
        return self.disk_sectors * DISK_SECTOR_BYTES

    @classmethod
    def for_size(cls, k: int, n: int, size_bytes: int, history_sectors: int = 0) -> Geometry:
        """The geometry of an array that presents `size_bytes`. Raises Misuse when that is not a multiple of 4,096."""
        if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
            near = max(SECTOR_BYTES, ceil_div(size_bytes, SECTOR_BYTES) * SECTOR_BYTES)
            raise Misuse(
                f"the size must be a positive multiple of 4,096 bytes, not {size_bytes}; {near} would do. "
                "Nothing was created."
            )
        return cls(k, n, size_bytes // SECTOR_BYTES + history_sectors, history_sectors)


assert Geometry(2, 3, 1).slot_sectors * DISK_SECTOR_BYTES < COMMAND_BYTES_MAX * 3 // 4
