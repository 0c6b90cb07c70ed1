"""SQLite on ext4 on the array: the main program is killed during commits, again and again.

Which acknowledgements SQLite itself makes durable (https://www.sqlite.org/pragma.html#pragma_synchronous): WAL with
FULL, and TRUNCATE with FULL, sync all that a commit consists of. DELETE commits by removing the journal, and with FULL
does not sync the directory afterwards: on any disk, a power cut may bring the journal back and undo the last
transaction. EXTRA syncs the directory too. After a crash, ext4 without a journal needs `e2fsck -fy`, as on any disk.
"""

import time

import pytest

from tests.cli.rig import Rig
from tests.system import sqlite_writer
from tests.system.rig import FileSystem, helper, how_to_mount, seeded, up_again

LONGEST_S = 0.4
# loops, has_journal of ext4, journal_mode, synchronous: 50 loops with FULL, and some with EXTRA
CASES = [
    pytest.param(25, False, "WAL", "FULL", id="wal-full"),
    pytest.param(20, False, "TRUNCATE", "FULL", id="truncate-full"),
    pytest.param(5, False, "DELETE", "EXTRA", id="delete-extra"),
    pytest.param(5, True, "WAL", "FULL", id="wal-full-journalled"),
    pytest.param(5, True, "DELETE", "EXTRA", id="delete-extra-journalled"),
]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("sqlite")) as rig:
        rig.up(size="32M")
        yield rig


@pytest.mark.timeout(480)
@pytest.mark.parametrize(("loops", "journal", "mode", "synchronous"), CASES)
def test_kills_during_commits_lose_no_acknowledged_transaction(rig, tmp_path, loops, journal, mode, synchronous):
    with FileSystem(rig, tmp_path, kind=how_to_mount()) as files:
        up_again(rig)  # in case the test before this one failed half-way
        files.attach()
        files.make(journal=journal)
        kill_during_commits(files, loops, mode, synchronous)


def kill_during_commits(files, loops, mode, synchronous, *, undone_max=0):
    """Mount, check, commit, kill; `loops` times, and one more check. Begins attached and ends attached, unmounted."""
    rng = seeded()
    database, acknowledged, tally = files.root / "rows.db", 0, []
    for loop in range(loops + 1):
        files.mount()
        present = check_rows(database, mode, synchronous) if loop else 0
        assert present >= acknowledged - undone_max, f"{acknowledged} were acknowledged and {present} are there"
        assert present <= acknowledged + 1, f"{present} are there, but {acknowledged + 1} was the last one begun"
        tally.append((present - acknowledged) if loop else 0)
        if loop == loops:
            break
        acknowledged = commit_until_killed(files, database, mode, synchronous, present, rng)
        files.detach()
        up_again(files.rig)
        files.attach()
        repair(files)
    files.unmount()
    print(f"{acknowledged} transactions in {loops} kills; beyond the acknowledged ones there were {tally[1:]}")


def commit_until_killed(files, database, mode, synchronous, present, rng):
    """Let a writer commit for a random moment, kill the main program; the last number that was acknowledged."""
    with helper("sqlite_writer", database, mode, synchronous, present + 1) as writer:
        acknowledged = int(writer.stdout.readline())
        assert acknowledged == present + 1
        time.sleep(rng.uniform(0, LONGEST_S))  # not to synchronise: the moment of the kill is to be random
        files.crash()
        numbers = [int(line) for line in writer.stdout if line.endswith("\n")]
        assert writer.wait(60) != 0
    assert numbers == list(range(present + 2, present + 2 + len(numbers)))
    return acknowledged + len(numbers)


def repair(files):
    """What an operator does after a crash; its exit code is in the output."""
    code, said = files.check("-fy")
    print(f"e2fsck -fy: {code}")
    assert code in (0, 1), said


def check_rows(database, mode, synchronous):
    """The database is sound and has rows 1 to N without a gap, each with its content; N."""
    connection = sqlite_writer.opened(str(database), mode, synchronous)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT number, content FROM rows ORDER BY number").fetchall()
    finally:
        connection.close()
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
    assert all(content == sqlite_writer.content(number) for number, content in rows)
    return len(rows)
