"""SQLite on a volume, cut at every effect: what was committed is there, what was not is not, and the database is sound.

A transaction writes its number into every row of one database or of two, so one look says which it was.
"""

from __future__ import annotations

import pytest

from perdure.sqlite.connect import connect
from perdure.volume.volume import Volume
from tests.volume.look import require_clean
from tests.volume.recorded import Recorded

SECTORS = 400
ROWS = 12
LAST = 6
UNDONE = 4
MODES = ["DELETE", "TRUNCATE", "PERSIST", "WAL"]


class Story:
    """Transactions on an array, and how far the array was when each of them had returned."""

    def __init__(self, mode: str, *, is_pair: bool) -> None:
        self.array = Recorded(SECTORS)
        self.mode, self.is_pair = mode, is_pair
        self.committed: list[tuple[int, int]] = []
        """How many effects were flushed when a transaction had returned, and its number."""
        with Volume(self.array) as volume, self.connected(volume) as connection:
            for table in self.tables:
                connection.execute(f"CREATE TABLE {table}(number, filling)")
                connection.executemany(f"INSERT INTO {table} VALUES(0, zeroblob(?))", [(1500,)] * ROWS)
            self.began = len(self.array.effects)
            for number in range(1, LAST + 1):
                self.transact(connection, number)

    @property
    def tables(self) -> list[str]:
        return ["main.t", "second.t"] if self.is_pair else ["main.t"]

    def connected(self, volume: Volume):
        return _Connected(volume, self)

    def transact(self, connection, number: int) -> None:
        connection.execute("BEGIN")
        for table in self.tables:
            connection.execute(f"UPDATE {table} SET number=?, filling=zeroblob(1000 + 100 * ?)", (number, number))
            connection.execute(f"INSERT INTO {table} VALUES(?, zeroblob(9000))", (number,))
        connection.execute("ROLLBACK" if number == UNDONE else "COMMIT")
        if number != UNDONE:
            self.committed.append((self.array.flushes[-1], number))

    def found(self, array: Recorded) -> int:
        """The transaction that a crash left, after all that must be true was checked."""
        with Volume(array) as volume, self.connected(volume) as connection:
            seen = set()
            for table in self.tables:
                schema = table.split(".")[0]
                assert connection.execute(f"PRAGMA {schema}.integrity_check").fetchall() == [("ok",)]
                numbers = connection.execute(f"SELECT DISTINCT number FROM {table} WHERE rowid <= {ROWS}").fetchall()
                assert len(numbers) == 1
                rows = connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
                assert rows == ROWS + sum(1 for at in range(1, numbers[0][0] + 1) if at != UNDONE)
                seen.add(numbers[0][0])
            assert len(seen) == 1, "one transaction over two databases"
        require_clean(array)
        return seen.pop()


class _Connected:
    """A connection in the story's journal mode, with the second database attached."""

    def __init__(self, volume: Volume, story: Story) -> None:
        self._block = connect(volume, "main.db", wal=story.mode == "WAL")
        self._story = story

    def __enter__(self):
        connection = self._block.__enter__()
        if self._story.is_pair:
            connection.execute("ATTACH 'second.db' AS second")
        if self._story.mode != "WAL":
            for schema in ("main", "second")[: 1 + self._story.is_pair]:
                connection.execute(f"PRAGMA {schema}.journal_mode={self._story.mode}").fetchall()
        return connection

    def __exit__(self, *error):
        return self._block.__exit__(*error)


@pytest.mark.parametrize(
    ("mode", "is_pair"), [*((mode, False) for mode in MODES), *((mode, True) for mode in MODES[:3])]
)
def test_cut_at_any_effect_it_has_what_was_committed_and_no_more(mode: str, is_pair: bool) -> None:
    story = Story(mode, is_pair=is_pair)
    assert story.committed[-1][1] == LAST
    cuts = least = 0
    for count, crashed in story.array.cuts(start=story.began):
        required = max((number for flushed, number in story.committed if flushed <= count), default=0)
        found = story.found(crashed)
        assert found >= max(required, least), f"cut after effect {count}: {found} is there, {required} was committed"
        least = found
        cuts += 1
    assert least == LAST
    assert cuts > 80


def test_a_rollback_after_a_crash_may_be_cut_short_too() -> None:
    story = Story("DELETE", is_pair=True)
    effects = len(story.array.effects)
    middle = [count for count, _ in story.array.cuts(start=story.began) if count % 41 == 5]
    tried = 0
    for count, crashed in story.array.cuts(start=story.began):
        if count not in middle:
            continue
        found = story.found(crashed)
        for _, twice in crashed.cuts():
            assert story.found(twice) == found, f"cut after effect {count} of {effects}"
            tried += 1
    assert tried > 100
