"""Kills of databases and of what is below them, again and again; what a database acknowledged must be there each time.

A database commits numbered rows, one a transaction, and says each number once its commit has returned. The numbers are
kept here, outside the array. After each kill it must hold rows 1 to N without a gap, where N is the last number that it
said, or the one after it, whose commit was under way.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, Protocol

from tests.databases.mounted import Mounted
from tests.system.rig import seeded

KILLS = int(os.environ.get("PERDURE_KILLS") or 32)
"""Eight of each kind, unless somebody wants fewer."""
LONGEST_S = 0.5
WAIT_S = 60


class Said:
    """The numbers that a database says on a stream, as they come: from `first` on, without a gap."""

    def __init__(self, stream: IO[str], first: int) -> None:
        self.last = first - 1
        self._changed = threading.Condition()
        self._has_ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if not line.endswith("\n") or int(line) != self.last + 1:
                break  # cut off by the kill; or out of order, which `end` finds
            with self._changed:
                self.last += 1
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self.rest = stream.read()
            self._changed.notify_all()

    def wait_past(self, number: int) -> None:
        """Return when a greater number was said. Fails when the stream ends before that."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._has_ended or self.last > number, WAIT_S), "nothing is committed"
            assert self.last > number, f"the database ended after commit {self.last}: {self.rest}"

    def end(self) -> int:
        """The last number, once the stream has ended."""
        self._thread.join(WAIT_S)
        assert self._has_ended
        assert self.rest == "", f"after {self.last} came {self.rest!r}"
        return self.last


class Database(Protocol):
    """A real database in a directory."""

    undone_max: int
    """How many of the last commits the database itself may undo when a machine stops, by its own documentation."""

    def create(self, root: Path) -> None:
        """Make an empty one in the file system that is mounted at `root`."""

    def start(self, first: int) -> Said:
        """Commit rows from number `first` on, until it is killed."""

    def kill(self) -> None:
        """kill -9 everything of it. It need not have ended on return: something below may hold it."""

    def wait(self) -> None:
        """Return when everything of it has ended."""

    def check(self) -> int:
        """Open it as its next start would, let it check itself; N, if its rows are 1 to N and nothing else."""


# The kinds ------------------------------------------------------------------------------------------------


class Blows:
    """What happens to a database that commits, by turns. Each ends with the database dead and the array mounted."""

    def __init__(self, mounted: Mounted, database: Database, rng: random.Random) -> None:
        self.mounted, self.database, self.rng = mounted, database, rng
        self.turns = itertools.cycle((self.database_alone, self.main, self.disk_killed, self.everything))
        self.second = itertools.cycle((self.disk_killed, self.disk_paused))
        self.missing: list[int] = []

    def next(self) -> str:
        """The next kind's name."""
        blow = next(self.turns)
        self.blow = next(self.second) if blow == self.disk_killed else blow
        return self.blow.__name__

    def database_alone(self, said: Said) -> None:
        """Its page cache lives on, and the array does not notice."""
        self.database.kill()
        self.database.wait()

    def main(self, said: Said) -> None:
        """Whatever was not flushed is gone, and the database sees errors."""
        self.mounted.lose_main()
        self.database.kill()
        self.mounted.end_after_failure()
        self.database.wait()
        self.mounted.mount()

    def disk_killed(self, said: Said) -> None:
        """The database must go on, and while the seat is rebuilt too; then it is killed like the others."""
        seat = self.rng.randrange(5)
        self.mounted.rig.kill_disk(seat)
        self._goes_on(said, seat)
        self.mounted.rig.run("replace", seat)
        self._end(said)

    def disk_paused(self, said: Said) -> None:
        """Long enough to be voted off; then it is taken back with what it has."""
        seat = self.rng.randrange(5)
        self.mounted.rig.pause_disk(seat)
        try:
            self._goes_on(said, seat)
        finally:
            self.mounted.rig.resume_disk(seat)
        self.mounted.rig.run("rejoin", seat)
        self._end(said)

    def everything(self, said: Said) -> None:
        """As when the machine of the main program stops, and two others with it. They are rebuilt after the check."""
        self.missing = self.rng.sample(range(5), 2)
        self.database.kill()
        self.mounted.crash(lost=self.missing)
        self.database.wait()
        self.mounted.mount()

    def mend(self) -> None:
        """Rebuild what `everything` took; the array must be whole again, whatever the blow was."""
        for seat in self.missing:
            self.mounted.rig.run("replace", seat, code=None)  # 1 as long as another one is missing
        self.missing = []
        status = self.mounted.rig.status()
        assert status["summary"] == "[UUUUU]", status

    def _goes_on(self, said: Said, seat: int) -> None:
        self.mounted.rig.wait_for(lambda status: status["disks"][seat]["state"] not in ("online", "suspect"))
        said.wait_past(said.last)

    def _end(self, said: Said) -> None:
        said.wait_past(said.last)
        self.database.kill()
        self.database.wait()


# The loop -------------------------------------------------------------------------------------------------


def survive(mounted: Mounted, database: Database, *, kills: int = KILLS) -> None:
    """Commit, kill, check; `kills` times. Begins with a blank array and ends with it unmounted."""
    rng = seeded()
    blows, beyond = Blows(mounted, database, rng), Counter()
    mounted.mount("--make-file-system")
    database.create(mounted.root)
    present = 0
    for _ in range(kills):
        begun, name = time.monotonic(), blows.next()
        said = database.start(present + 1)
        said.wait_past(present)
        time.sleep(rng.uniform(0, LONGEST_S))  # not to synchronise: the moment of the kill is to be random
        blows.blow(said)
        acknowledged, before = said.end(), present
        present = database.check()
        undone_max = database.undone_max if name in ("main", "everything") else 0
        assert present >= acknowledged - undone_max, f"{name}: {acknowledged} were acknowledged and {present} are there"
        assert present <= acknowledged + 1, (
            f"{name}: {acknowledged + 1} was the last one begun, and {present} are there"
        )
        beyond[present - acknowledged] += 1
        blows.mend()
        print(f"{name}: {acknowledged - before} commits, {time.monotonic() - begun:.1f} s")
    mounted.unmount()
    print(f"{present} commits in {kills} kills; there beyond the acknowledged ones, and how often: {dict(beyond)}")
