"""LMDB in the file system of `perdure run`, killed with everything below it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.databases.kills import Said, survive
from tests.databases.mounted import Mounted
from tests.databases.writer import Writer, counted
from tests.system.rig import call, tool

MODULE = "tests.databases.lmdb_rows"


class Lmdb(Writer):
    """A directory with two files, one of them mapped into memory."""

    def create(self, root: Path) -> None:
        self.directory = root / "lmdb"
        self.directory.mkdir()

    def start(self, first: int) -> Said:
        return self.said(MODULE, "write", self.directory, first)

    def check(self) -> int:
        """mdb_copy walks every page that a row can be reached by, and mdb_stat the list of free ones."""
        found, copy = counted(MODULE, self.directory), self.directory.parent / "copy"
        call("mdb_stat", "-e", "-a", "-ff", self.directory)
        copy.mkdir()
        call("mdb_copy", "-c", self.directory, copy)
        assert counted(MODULE, copy) == found
        shutil.rmtree(copy)
        return found


@pytest.mark.timeout(900)
def test_lmdb_keeps_every_commit_that_it_acknowledged_whatever_is_killed(tmp_path):
    pytest.importorskip("lmdb", reason="LMDB NOT TESTED: the Python package lmdb is not installed")
    tool("mdb_stat")
    with Mounted(tmp_path, size="64M") as mounted:
        survive(mounted, Lmdb())
