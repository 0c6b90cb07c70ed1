"""The write cache: what a crash leaves is a prefix of what was written, and reads find the newest."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.array.cache import BATCHES_MAX, ZERO_SECTOR, Batch, WriteCache
from perdure.array.geometry import ENTRY_SECTORS_MAX, ENTRY_TRIMS_MAX, SECTOR_BYTES, TRIM_SECTORS_MAX, Run


def sector(number: int) -> bytes:
    return number.to_bytes(8, "big") * (SECTOR_BYTES // 8)


def filled(cache: WriteCache, batches: int) -> None:
    """Close `batches` batches by filling them."""
    for number in range(batches * ENTRY_SECTORS_MAX):
        cache.write(number % ENTRY_SECTORS_MAX, sector(number))


# One batch ------------------------------------------------------------------------------------------------


def test_a_batch_finds_what_was_written_and_nothing_else() -> None:
    batch = Batch()
    assert batch.is_empty
    batch.writes[3] = sector(1)
    assert not batch.is_empty
    assert batch.find(3) == sector(1)
    assert batch.find(4) is None


@pytest.mark.parametrize("run", [Run(2, 3), Run(0, 1000)])
def test_a_trim_drops_what_was_written_in_its_run_and_nothing_beside_it(run: Run) -> None:
    """The one run is shorter than there are writes, the other longer: both ways of dropping."""
    batch = Batch()
    for index in range(0, 2000, 2):
        batch.writes[index] = sector(index)
    small = Batch({1: sector(1), 3: sector(3), 1001: sector(9)})
    for each in (batch, small):
        before = dict(each.writes)
        each.trim(run)
        assert each.writes == {index: data for index, data in before.items() if not run.start <= index < run.end}
        assert [each.find(index) for index in (run.start, run.end - 1)] == [ZERO_SECTOR, ZERO_SECTOR]
        assert each.find(run.end) == each.writes.get(run.end)
        assert run.start == 0 or each.find(run.start - 1) == each.writes.get(run.start - 1)


def test_a_write_after_a_trim_is_found_and_the_trim_stays() -> None:
    """An entry trims first and then writes, so this order needs no care and the other drops the write."""
    batch = Batch()
    batch.trim(Run(0, 10))
    batch.writes[5] = sector(1)
    assert batch.find(5) == sector(1)
    assert batch.find(4) == ZERO_SECTOR
    assert batch.trims == [Run(0, 10)]


def test_batches_are_told_apart_by_identity() -> None:
    assert Batch() != Batch()


# Order and marks ------------------------------------------------------------------------------------------


def test_a_new_cache_is_clean_and_has_nothing() -> None:
    cache = WriteCache()
    assert cache.is_clean
    assert not cache.is_full
    assert cache.dirty_sectors == 0
    assert cache.mark == 0
    assert cache.has_taken(0)
    assert cache.find(0) is None
    assert cache.take(partial=True) is None


def test_the_open_batch_is_taken_only_when_asked_for() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    assert cache.take(partial=False) is None
    batch = cache.take(partial=True)
    assert batch is not None
    assert batch.writes == {1: sector(1)}
    assert cache.take(partial=True) is None


def test_full_batches_are_taken_oldest_first_and_the_open_one_last() -> None:
    cache = WriteCache()
    filled(cache, 2)
    cache.write(7, sector(999_999))
    first, second, third = (cache.take(partial=True) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.writes[0] == sector(0)
    assert second.writes[0] == sector(ENTRY_SECTORS_MAX)
    assert third.writes == {7: sector(999_999)}


def test_a_full_batch_waits_and_does_not_take_the_open_one_along() -> None:
    cache = WriteCache()
    filled(cache, 1)
    cache.write(7, sector(1))
    assert cache.take(partial=True) is not None
    assert cache.mark == 2
    assert not cache.has_taken(2)
    assert cache.take(partial=False) is None


def test_a_mark_covers_what_is_written_by_now_and_not_what_comes_later() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    mark = cache.mark
    assert not cache.has_taken(mark)
    cache.take(partial=True)
    assert cache.has_taken(mark)
    cache.write(2, sector(2))
    assert cache.has_taken(mark)
    later = cache.mark
    assert not cache.has_taken(later)


def test_a_mark_of_a_clean_cache_has_been_taken() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    cache.take(partial=True)
    assert cache.has_taken(cache.mark)


def test_the_newest_content_is_found_wherever_it_waits() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    sent = cache.take(partial=True)
    assert cache.find(1) == sector(1)
    filled(cache, 2)
    assert cache.find(1) == sector(ENTRY_SECTORS_MAX + 1)
    cache.write(1, sector(777))
    assert cache.find(1) == sector(777)
    assert sent is not None
    cache.evict(sent)
    assert cache.find(1) == sector(777)


def test_a_newer_trim_hides_an_older_write_and_a_newer_write_an_older_trim() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    cache.write(2, sector(2))
    cache.take(partial=True)
    cache.trim(Run(1, 1))
    assert cache.find(1) == ZERO_SECTOR
    assert cache.find(2) == sector(2)
    cache.take(partial=True)
    cache.write(1, sector(3))
    assert cache.find(1) == sector(3)


def test_what_was_evicted_is_no_longer_found_here() -> None:
    cache = WriteCache()
    cache.write(1, sector(1))
    batch = cache.take(partial=True)
    assert batch is not None
    assert cache.find(1) == sector(1)
    cache.evict(batch)
    assert cache.find(1) is None
    assert cache.dirty_sectors == 0


def test_only_the_oldest_batch_can_be_evicted() -> None:
    cache = WriteCache()
    taken = []
    for number in (1, 2):
        cache.write(1, sector(number))
        taken.append(cache.take(partial=True))
    with pytest.raises(AssertionError):
        cache.evict(taken[1])


# Limits ---------------------------------------------------------------------------------------------------


def test_a_batch_closes_when_an_entry_can_take_no_more_writes() -> None:
    cache = WriteCache()
    for index in range(ENTRY_SECTORS_MAX - 1):
        cache.write(index, sector(index))
    cache.write(0, sector(1))  # again: no further sector
    assert cache.take(partial=False) is None
    cache.write(ENTRY_SECTORS_MAX, sector(0))
    batch = cache.take(partial=False)
    assert batch is not None
    assert len(batch.writes) == ENTRY_SECTORS_MAX
    assert batch.is_full


def test_a_batch_closes_when_an_entry_can_take_no_more_trims() -> None:
    cache = WriteCache()
    for index in range(ENTRY_TRIMS_MAX - 1):
        cache.trim(Run(index, 1))
    assert cache.take(partial=False) is None
    cache.trim(Run(0, 1))
    batch = cache.take(partial=False)
    assert batch is not None
    assert len(batch.trims) == ENTRY_TRIMS_MAX


def test_no_entry_trims_more_than_a_disk_may_zero_between_two_commands() -> None:
    cache = WriteCache()
    rng = random.Random(1)
    sizes = [TRIM_SECTORS_MAX, 1, TRIM_SECTORS_MAX, *(rng.randint(1, TRIM_SECTORS_MAX) for _ in range(100))]
    for size in sizes:
        cache.trim(Run(0, size))
    taken = []
    while (batch := cache.take(partial=True)) is not None:
        assert 0 < sum(run.count for run in batch.trims) <= TRIM_SECTORS_MAX
        taken += [run.count for run in batch.trims]
    assert taken == sizes


@pytest.mark.parametrize("count", [-1, 0, TRIM_SECTORS_MAX + 1])
def test_a_trim_that_no_disk_would_carry_out_is_a_defect_of_the_caller(count: int) -> None:
    """A disk refuses an empty operation, and with it the whole entry, again and again."""
    cache = WriteCache()
    with pytest.raises(AssertionError):
        cache.trim(Run(5, count))
    assert cache.is_clean


def test_the_cache_says_when_a_writer_must_wait_until_something_came_home() -> None:
    cache = WriteCache()
    filled(cache, BATCHES_MAX - 1)
    assert not cache.is_full
    filled(cache, 1)
    assert cache.is_full
    taken = [cache.take(partial=False) for _ in range(BATCHES_MAX)]
    assert cache.is_full, "what is on its way still takes room"
    assert cache.is_clean
    assert taken[0] is not None
    cache.evict(taken[0])
    assert not cache.is_full


def test_dirty_sectors_are_those_written_and_not_yet_home() -> None:
    cache = WriteCache()
    filled(cache, 2)
    cache.write(1, sector(1))
    cache.trim(Run(5000, 100))
    assert cache.dirty_sectors == 2 * ENTRY_SECTORS_MAX + 1
    batch = cache.take(partial=False)
    assert cache.dirty_sectors == 2 * ENTRY_SECTORS_MAX + 1
    assert batch is not None
    cache.evict(batch)
    assert cache.dirty_sectors == ENTRY_SECTORS_MAX + 1


# Against a plain dictionary -------------------------------------------------------------------------------

INDICES = 12


class AgainstPlainDictionary(RuleBasedStateMachine):
    """`home` is what batches applied one by one leave on the disks; `written` what a user sees.

    `prefixes` remembers what a user saw at each moment at which a batch closed: what is home must be one of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = WriteCache()
        self.home: dict[int, bytes] = {}
        self.written: dict[int, bytes] = {}
        self.prefixes: deque[dict[int, bytes]] = deque()
        self.sent: deque[Batch] = deque()
        self.number = 0

    @rule(index=st.integers(0, INDICES - 1))
    def write(self, index: int) -> None:
        self.number += 1
        self.cache.write(index, sector(self.number))
        self.written[index] = sector(self.number)

    @rule(start=st.integers(0, INDICES - 1), count=st.integers(1, INDICES))
    def trim(self, start: int, count: int) -> None:
        self.cache.trim(Run(start, count))
        for index in range(start, start + count):
            self.written[index] = ZERO_SECTOR

    @rule(partial=st.booleans())
    def take(self, partial: bool) -> None:
        was_clean = self.cache.is_clean
        mark = self.cache.mark
        batch = self.cache.take(partial=partial)
        if batch is None:
            assert was_clean or not partial
            return
        assert partial, "twelve sectors and few trims never fill a batch"
        assert self.cache.has_taken(mark)
        self.sent.append(batch)
        self.prefixes.append(dict(self.written))

    @precondition(lambda self: self.sent)
    @rule()
    def come_home(self) -> None:
        batch = self.sent.popleft()
        for run in batch.trims:
            for index in range(run.start, run.end):
                self.home[index] = ZERO_SECTOR
        for index, data in batch.writes.items():
            self.home[index] = bytes(data)
        self.cache.evict(batch)
        assert self.home == self.prefixes.popleft()

    @invariant()
    def every_read_gives_the_last_write(self) -> None:
        for index in range(2 * INDICES):
            found = self.cache.find(index)
            assert (self.home.get(index) if found is None else found) == self.written.get(index)

    @invariant()
    def nothing_taken_and_nothing_open_is_clean(self) -> None:
        assert self.cache.is_clean == (self.cache.has_taken(self.cache.mark))


AgainstPlainDictionary.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAgainstPlainDictionary = AgainstPlainDictionary.TestCase


@pytest.mark.parametrize("seed", range(8))
def test_many_full_batches_come_home_in_order_and_leave_a_prefix_each(seed: int) -> None:
    """Random writes and trims over many more sectors than one batch takes; batches close by themselves."""
    rng = random.Random(seed)
    cache, written, home = WriteCache(), {}, {}
    history: list[dict[int, bytes]] = []
    for number in range(3000):
        before = cache.mark
        if rng.random() < 0.97:
            index = rng.randrange(2000)
            cache.write(index, sector(number))
            written[index] = sector(number)
        else:
            run = Run(rng.randrange(1000), rng.randint(1, 600))
            cache.trim(run)
            written.update(dict.fromkeys(range(run.start, run.end), ZERO_SECTOR))
        if (cache.mark != before and before) or number == 2999:
            history.append(dict(written))
    while (batch := cache.take(partial=True)) is not None:
        for run in batch.trims:
            home.update(dict.fromkeys(range(run.start, run.end), ZERO_SECTOR))
        home.update(batch.writes)
        cache.evict(batch)
        assert all(cache.find(index) or home.get(index) == data for index, data in written.items())
    assert home == written, f"seed {seed}"
    assert history
