"""RocksDB with synced writes in the file system of `perdure run`, killed with everything below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases.kills import Said, survive
from tests.databases.mounted import Mounted
from tests.databases.writer import Writer, counted
from tests.system.rig import call, tool

MODULE = "tests.databases.rocksdb_rows"


class RocksDb(Writer):
    """A directory with a log, tables and a manifest that names them."""

    def create(self, root: Path) -> None:
        self.directory = root / "rocksdb"

    def start(self, first: int) -> Said:
        return self.said(MODULE, "write", self.directory, first)

    def check(self) -> int:
        """First as the kill has left it: what the manifest names is there; then each table, and all rows."""
        said = call("ldb", f"--db={self.directory}", "--ignore_unknown_options", "checkconsistency")
        assert said.splitlines()[-1] == "OK", said
        found = counted(MODULE, self.directory)
        for table in self.directory.glob("*.sst"):
            assert "The file is ok" in call("sst_dump", f"--file={table}", "--command=verify")
        return found


@pytest.mark.timeout(900)
def test_rocksdb_keeps_every_write_that_it_acknowledged_whatever_is_killed(tmp_path):
    pytest.importorskip("rocksdict", reason="ROCKSDB NOT TESTED: the Python package rocksdict is not installed")
    for name in ("ldb", "sst_dump"):
        tool(name)
    with Mounted(tmp_path, size="64M") as mounted:
        survive(mounted, RocksDb())
