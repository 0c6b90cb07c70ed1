"""The changes of a volume, in the order that makes each of them done or not done after a crash.

There is no journal. The array keeps sectors whole, and what a crash leaves is a prefix of what was written
(docs/threat-model.md, P3). So the order of writes is enough:

- a file is one record in one sector: to make it is one write; to delete it is one write, then its sectors are wiped,
  then its record;
- it grows by a record that names the new sectors and says `GROWING`, then bytes, then a record with the new size;
- it shrinks by a record with the new size that says `GROWING`, then what is behind the size is wiped, then a record
  without those sectors.

What was cut short is finished when the volume is opened: what is behind the size of a growing file is wiped, and all of
a deleted one. Invariant: a sector that no record names is zeros. So new sectors need no wiping, and nothing that was
deleted stays on the disks (P6).

While a file is appended to, its size is written only before something else is changed, or at `sync`: still a prefix.
And the last write waits in memory for one that begins where it ends (`perdure.volume.gathering`): a prefix too.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.array.geometry import SECTOR_BYTES, Run, ceil_div
from perdure.errors import Corrupt, Misuse
from perdure.volume.extents import Extents, capacity_of, cut, joined, pieces
from perdure.volume.file import Bytes, File
from perdure.volume.gathering import Gathering
from perdure.volume.record import DATA_START, EXTENTS_MAX, FILES_MAX, HEADER, Record, State
from perdure.volume.space import Space

GROWTH_SECTORS = 16
"""So many at once for a file that grows: its record is then written less often. What is too much is given back."""
_CHUNK_BYTES = 1 << 20


class Store:
    """Files by name, in memory and on the array. One caller at a time; what raises half-way ends its use.

    Everything raises what the array raises.
    """

    def __init__(self, array: Bytes) -> None:
        self._array = Gathering(array)
        self._space = Space(Run(DATA_START, array.size // SECTOR_BYTES - DATA_START))
        self._late: File | None = None
        """The file whose size is not written yet."""
        self.files: dict[str, File] = {}

    @property
    def free_sectors(self) -> int:
        """That no record names."""
        return self._space.count

    # What a volume does -----------------------------------------------------------------------------------

    def create(self, file: File) -> None:
        """Add a new, empty file."""
        self.write_size()
        self._put(file)
        self.files[file.name] = file

    def delete(self, file: File) -> None:
        """Take a file away and wipe what it held."""
        self.write_size()
        file.state = State.DELETED
        self._put(file)
        del self.files[file.name]
        self._wipe_out(file)

    def read(self, file: File, offset: int, length: int) -> bytes:
        """Bytes of a file, fewer at its end."""
        length = min(length, file.size - offset)
        parts = [self._array.pread(*piece) for piece in pieces(file.extents, offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, file: File, offset: int, view: memoryview, extents: Extents) -> None:
        """Write `view` at `offset`, and zeros up to there; `extents` is what `room` gave for its end."""
        end = offset + len(view)
        if self._late is not file or offset < file.size:
            self.write_size()
        if end > file.size and (file.state is State.QUIET or extents != file.extents):
            file.extents, file.state = extents, State.GROWING
            self._put(file)
        if offset > file.size:
            self._wipe(file, file.size, offset)
        for at, length in pieces(file.extents, offset, len(view)):
            self._array.pwrite(at, view[:length])
            view = view[length:]
        if end > file.size:
            file.size, self._late = end, file

    def shrink(self, file: File, size: int) -> None:
        """Cut a file to `size`, which is less than it has."""
        self.write_size()
        file.size, file.state = size, State.GROWING
        self._put(file)
        self._settle(file)

    def write_size(self) -> None:
        """Write the size that is not written yet, if there is one."""
        if self._late is not None:
            self._put(self._late)
            self._late = None

    def send(self) -> None:
        """Give to the array all that is not written yet."""
        self.write_size()
        self._array.send()

    def settle(self) -> None:
        """Give back all sectors that files do not need."""
        self.write_size()
        for file in self.files.values():
            if file.state is State.GROWING:
                self._settle(file)

    def room(self, file: File, end: int, *, is_tight: bool) -> Extents | None:
        """The extents with which `file` can grow to `end` bytes: its own if those do, None if there is no room.

        `is_tight`: no more than it needs. What is taken must be given to `write`.
        """
        if end <= file.size or (file.state is State.GROWING and end <= capacity_of(file.extents)):
            return file.extents
        count = ceil_div(max(0, end - capacity_of(file.extents)), SECTOR_BYTES)
        if not is_tight:
            count = ceil_div(count, GROWTH_SECTORS) * GROWTH_SECTORS
        if count > self._space.count:
            return None
        taken = self._space.take(count, file.extents[-1].end if file.extents else 0)
        extents = joined(file.extents, taken)
        if len(extents) <= EXTENTS_MAX:
            return extents
        self._give(taken)
        return None

    # Opening ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the records and finish what a crash cut short; on zeros, make a volume. Raises Misuse, Corrupt."""
        head = self._array.pread(0, DATA_START * SECTOR_BYTES)
        if head[:SECTOR_BYTES] != HEADER:
            self._require_zeros()
            self._array.pwrite(0, HEADER)
            self._array.flush()
            return
        deleted = []
        for place in range(FILES_MAX):
            data = head[(1 + place) * SECTOR_BYTES : (2 + place) * SECTOR_BYTES]
            record = Record.decode(data, self._array.size // SECTOR_BYTES)
            if record is None:
                continue
            file = File(place, record)
            self._claim(file)
            if file.state is State.DELETED:
                deleted.append(file)  # there may be a new file of its name
            elif self.files.setdefault(file.name, file) is not file:
                raise Corrupt(f"The volume has two files of the name {file.name!r}; nothing was changed.")
        for file in deleted:
            self._wipe_out(file)
        self.settle()

    def _require_zeros(self) -> None:
        """Free sectors must be zeros; and whoever has something else on this array must not lose it."""
        for start in range(0, self._array.size, _CHUNK_BYTES):
            length = min(_CHUNK_BYTES, self._array.size - start)
            if self._array.pread(start, length) != bytes(length):
                raise Misuse(
                    "The array holds something that is not a volume; nothing was changed. Use another array, or trim "
                    "all of this one if what it holds is to be lost."
                )

    def _claim(self, file: File) -> None:
        if not all(self._space.claim(run) for run in file.extents):
            raise Corrupt(f"The volume's file {file.name!r} has sectors of another; nothing was changed.")

    # Inside -----------------------------------------------------------------------------------------------

    def _settle(self, file: File) -> None:
        """Wipe what is behind the file's size, and give back sectors that it does not need."""
        self._wipe(file, file.size, capacity_of(file.extents))
        file.extents, unused = cut(file.extents, ceil_div(file.size, SECTOR_BYTES))
        file.state = State.QUIET
        self._put(file)
        self._give(unused)

    def _wipe_out(self, file: File) -> None:
        """The end of a deleted file."""
        self._wipe(file, 0, capacity_of(file.extents))
        self._array.trim((1 + file.place) * SECTOR_BYTES, SECTOR_BYTES)
        self._give(file.extents)

    def _wipe(self, file: File, start: int, end: int) -> None:
        for at, length in pieces(file.extents, start, end - start):
            self._array.trim(at, length)

    def _give(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._space.give(run)

    def _put(self, file: File) -> None:
        record = Record(file.name, file.state, file.size, file.extents)
        self._array.pwrite((1 + file.place) * SECTOR_BYTES, record.encode())
