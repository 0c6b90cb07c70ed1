"""SQLite in the file system of `perdure run`, killed with everything below it, in both kinds of journal.

DELETE commits by removing the journal, and with FULL does not sync the directory afterwards: on any disk, a machine
that stops may bring the journal back and undo the last transaction (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases.kills import Said, survive
from tests.databases.mounted import Mounted
from tests.databases.writer import Writer
from tests.system import sqlite_writer
from tests.system.test_sqlite import check_rows

SYNCHRONOUS = "FULL"


class Sqlite(Writer):
    """One file, and its journal."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.undone_max = int(mode == "DELETE")

    def create(self, root: Path) -> None:
        self.file = root / "rows.db"
        sqlite_writer.opened(str(self.file), self.mode, SYNCHRONOUS).close()

    def start(self, first: int) -> Said:
        return self.said(sqlite_writer.__name__, self.file, self.mode, SYNCHRONOUS, first)

    def check(self) -> int:
        """`PRAGMA integrity_check` is in it."""
        return check_rows(self.file, self.mode, SYNCHRONOUS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_sqlite_keeps_every_commit_that_it_acknowledged_whatever_is_killed(tmp_path, mode):
    with Mounted(tmp_path, size="64M") as mounted:
        survive(mounted, Sqlite(mode))
