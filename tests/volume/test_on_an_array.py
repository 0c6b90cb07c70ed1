"""The same over the real array core: crashes of the main program between any two calls, and what is left on disks."""

from __future__ import annotations

import apsw

from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Misuse
from perdure.sqlite.connection import connect
from perdure.volume.record import DATA_START
from perdure.volume.volume import Volume
from tests.array.world import SimArray
from tests.volume.look import content

SECTORS = 400


class CutError(Exception):
    """The main program dies here."""


class OnSim:
    """A simulated array for a thread that waits: it dies before call number `lives`."""

    def __init__(self, sim: SimArray, lives: int | None = None) -> None:
        self.sim, self.calls, self.lives = sim, 0, lives

    def _do(self, work):
        self.calls += 1
        if self.lives is not None and self.calls > self.lives:
            work.close()
            raise CutError
        return self.sim.run(work)

    @property
    def size(self) -> int:
        return self.sim.array.size_bytes

    def pread(self, offset: int, length: int) -> bytes:
        return bytes(self._do(self.sim.array.pread(offset, length)))

    def pwrite(self, offset: int, data) -> None:
        self._do(self.sim.array.pwrite(offset, data))

    def trim(self, offset: int, length: int) -> None:
        self._do(self.sim.array.trim(offset, length))

    def flush(self) -> None:
        self._do(self.sim.array.flush())


def story(array: OnSim, done: list[int]) -> None:
    with Volume(array) as volume, connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t(number, filling)")
        for number in range(1, 4):
            connection.execute("INSERT INTO t VALUES(?, zeroblob(6000))", (number,))
            done.append(number)
        connection.execute("DELETE FROM t WHERE number = 1")
        done.append(4)


def found(array: OnSim) -> list[int]:
    with Volume(array) as volume, connect(volume, "main.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT * FROM sqlite_schema").fetchall():
            return []
        return [row[0] for row in connection.execute("SELECT number FROM t ORDER BY number")]


AFTER = [[], [1], [1, 2], [1, 2, 3], [2, 3]]


def test_a_main_program_that_dies_between_any_two_calls_keeps_what_was_committed():
    lives, cuts = 0, 0
    while True:
        sim = SimArray(k=2, n=3, sectors=SECTORS, seed=lives)
        sim.create()
        done: list[int] = []
        try:
            story(OnSim(sim, lives), done)
            break
        except (CutError, Misuse, apsw.Error):  # SQLite goes on for a moment, and finds the volume ended
            pass
        sim.crash()
        sim.mount()
        left = found(OnSim(sim))
        last = max(done, default=0)
        assert left in AFTER[last : last + 2], f"died after {lives} calls: {last} was committed, and {left} is there"
        lives, cuts = lives + 2, cuts + 1
    assert done == [1, 2, 3, 4]
    assert cuts > 30


def test_what_was_deleted_is_on_no_disk_once_the_array_has_come_to_rest():
    sim = SimArray(k=2, n=3, sectors=SECTORS)
    sim.create()
    with Volume(OnSim(sim)) as volume:
        volume.write(volume.create("secret"), 0, b"secret" * 5000)
        volume.write(volume.create("kept"), 0, b"kept" * 5000)
        volume.sync()
        sim.settle()
        taken = used(sim)
        volume.delete("secret")
        volume.sync()
        sim.settle()
        assert used(sim) < taken
        kept = {index for run in volume.file("kept").extents for index in range(run.start, run.end)}
        assert used(sim) <= kept
        assert content(volume) == {"kept": b"kept" * 5000}


def used(sim: SimArray) -> set[int]:
    """Data sectors of which some disk holds anything: a tag or a fragment."""
    shape, held = sim.geometry, set()
    for disk in sim.disks:
        for index in range(DATA_START, shape.sectors):
            tag, fragment = shape.tag_start(index) * 64, shape.fragment_start(index) * 64
            if any(disk.memory[tag : tag + 64]) or any(disk.memory[fragment : fragment + shape.fragment_bytes]):
                held.add(index)
    return held


def test_a_story_of_files_goes_on_after_disks_were_lost():
    sim = SimArray(k=3, n=5, sectors=SECTORS)
    sim.create()
    with Volume(OnSim(sim)) as volume:
        file = volume.create("a")
        volume.write(file, 0, b"1" * SECTOR_BYTES * 20)
        sim.kill(1, 4)
        volume.write(file, 5, b"2" * SECTOR_BYTES)
        volume.sync()
    sim.crash()
    sim.mount()
    with Volume(OnSim(sim)) as volume:
        data = b"1" * SECTOR_BYTES * 20
        assert content(volume) == {"a": data[:5] + b"2" * SECTOR_BYTES + data[5 + SECTOR_BYTES :]}
