"""More kills of the main program during SQLite's commits: three times those of tests/system/test_sqlite.py.

Besides, the mode in which SQLite itself may lose the last transaction that it acknowledged, and no other.
"""

import pytest

from tests.cli.rig import Rig
from tests.system.rig import FileSystem, how_to_mount
from tests.system.test_sqlite import CASES, kill_during_commits

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def files(tmp_path):
    with Rig(tmp_path) as rig:
        rig.up(size="32M")
        with FileSystem(rig, tmp_path, kind=how_to_mount()) as files:
            files.attach()
            yield files


@pytest.mark.parametrize(("loops", "journal", "mode", "synchronous"), CASES)
def test_kills_during_commits_lose_no_acknowledged_transaction(files, loops, journal, mode, synchronous):
    files.make(journal=journal)
    kill_during_commits(files, 3 * loops, mode, synchronous)


def test_delete_with_full_loses_no_transaction_but_possibly_the_last(files):
    files.make(journal=False)
    kill_during_commits(files, 20, "DELETE", "FULL", undone_max=1)
