"""The tag table: what is known, from whom, and what must still be read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.geometry import TAG_BYTES, Geometry, Run
from perdure.array.tags import GROUP_TAGS, TagTable

SECTORS = 2 * GROUP_TAGS + 100


def tags_of(run: Run, version: int) -> bytes:
    """Tags that tell their sector and version."""
    return b"".join(
        (index.to_bytes(8, "big") + bytes([version])).ljust(TAG_BYTES, b"t") for index in range(run.start, run.end)
    )


@pytest.fixture
def table() -> TagTable:
    return TagTable(Geometry(2, 3, SECTORS))


def learn(table: TagTable, run: Run, version: int) -> None:
    table.learn(run, memoryview(tags_of(run, version)))


def test_nothing_is_known_at_first(table: TagTable) -> None:
    assert table.known_count == 0
    assert not table.knows(Run(0, 1))
    assert not table.knows(Run(SECTORS - 1, 1))
    assert table.knows(Run(5, 0))


def test_a_tag_that_is_not_known_is_never_given_out(table: TagTable) -> None:
    """Its row is zeros, which would read as a sector never written."""
    table.put(4, tags_of(Run(4, 2), 1))
    for run in (Run(3, 1), Run(3, 2), Run(5, 2)):
        with pytest.raises(AssertionError):
            table.get(run)


def test_what_this_program_wrote_is_known(table: TagTable) -> None:
    run = Run(1000, 100)
    table.put(run.start, tags_of(run, 1))
    assert table.get(run) == tags_of(run, 1)
    assert table.get(Run(1050, 1)) == tags_of(Run(1050, 1), 1)
    assert table.known_count == 100
    assert not table.knows(Run(999, 2))
    assert not table.knows(Run(1099, 2))


def test_what_this_program_writes_again_replaces_what_was_known(table: TagTable) -> None:
    run = Run(7, 3)
    learn(table, run, 1)
    table.put(8, tags_of(Run(8, 1), 2))
    assert table.get(run) == tags_of(Run(7, 1), 1) + tags_of(Run(8, 1), 2) + tags_of(Run(9, 1), 1)


def test_what_a_disk_proves_never_replaces_what_is_known(table: TagTable) -> None:
    """A READ that was under way while we wrote shows the older tags."""
    table.put(5, tags_of(Run(5, 2), 2))
    table.clear(Run(8, 1))
    learn(table, Run(4, 6), 1)
    assert table.get(Run(4, 1)) == tags_of(Run(4, 1), 1)
    assert table.get(Run(5, 2)) == tags_of(Run(5, 2), 2)
    assert table.get(Run(7, 1)) == tags_of(Run(7, 1), 1)
    assert table.get(Run(8, 1)) == bytes(TAG_BYTES)
    assert table.get(Run(9, 1)) == tags_of(Run(9, 1), 1)
    learn(table, Run(4, 6), 3)
    assert table.get(Run(4, 1)) == tags_of(Run(4, 1), 1)


def test_what_was_trimmed_is_known_to_be_zeros(table: TagTable) -> None:
    learn(table, Run(0, 10), 1)
    table.clear(Run(2, 3))
    table.clear(Run(100, 5))
    assert table.get(Run(2, 3)) == bytes(3 * TAG_BYTES)
    assert table.get(Run(100, 5)) == bytes(5 * TAG_BYTES)
    assert table.get(Run(1, 1)) == tags_of(Run(1, 1), 1)
    assert table.get(Run(5, 1)) == tags_of(Run(5, 1), 1)
    assert table.known_count == 15


def test_the_first_and_the_last_sector_have_tags(table: TagTable) -> None:
    for index in (0, SECTORS - 1):
        table.put(index, tags_of(Run(index, 1), 1))
        assert table.get(Run(index, 1)) == tags_of(Run(index, 1), 1)


def test_tags_that_are_not_whole_or_not_as_many_as_the_run_are_refused(table: TagTable) -> None:
    with pytest.raises(ValueError):
        table.put(0, bytes(TAG_BYTES + 1))
    with pytest.raises(ValueError):
        table.learn(Run(0, 2), memoryview(bytes(TAG_BYTES)))
    assert table.known_count == 0


# What to read ---------------------------------------------------------------------------------------------


def test_the_group_around_an_unknown_sector_is_to_be_read(table: TagTable) -> None:
    assert table.groups(Run(5, 1)) == [Run(0, GROUP_TAGS)]
    assert table.groups(Run(GROUP_TAGS - 1, 2)) == [Run(0, GROUP_TAGS), Run(GROUP_TAGS, GROUP_TAGS)]


def test_the_last_group_ends_with_the_array(table: TagTable) -> None:
    assert table.groups(Run(SECTORS - 1, 1)) == [Run(2 * GROUP_TAGS, 100)]


def test_a_group_is_not_read_for_what_is_known_in_it(table: TagTable) -> None:
    table.put(5, tags_of(Run(5, 2), 1))
    assert table.groups(Run(5, 2)) == []
    assert table.groups(Run(4, 2)) == [Run(0, GROUP_TAGS)]
    assert table.groups(Run(6, GROUP_TAGS)) == [Run(0, GROUP_TAGS), Run(GROUP_TAGS, GROUP_TAGS)]
    learn(table, Run(0, GROUP_TAGS), 1)
    assert table.groups(Run(6, GROUP_TAGS)) == [Run(GROUP_TAGS, GROUP_TAGS)]


def test_nothing_is_to_be_read_for_an_empty_run(table: TagTable) -> None:
    assert table.groups(Run(0, 0)) == []
    assert table.groups(Run(5, 0)) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, SECTORS), st.data())
def test_reading_the_groups_makes_the_run_known_and_changes_nothing_that_was(sectors: int, data: st.DataObject) -> None:
    table = TagTable(Geometry(2, 3, sectors))
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    known: dict[int, bytes] = {}
    for _ in range(rng.randint(0, 5)):
        index = rng.randrange(sectors)
        run = Run(index, rng.randint(1, min(sectors - index, 1500)))
        table.put(run.start, tags_of(run, 2))
        known |= {at: tags_of(Run(at, 1), 2) for at in range(run.start, run.end)}
    start = data.draw(st.integers(0, sectors - 1))
    wanted = Run(start, data.draw(st.integers(1, sectors - start)))
    for group in table.groups(wanted):
        assert group.end <= sectors
        learn(table, group, 1)
    assert table.groups(wanted) == []
    expected = b"".join(known.get(at, tags_of(Run(at, 1), 1)) for at in range(wanted.start, wanted.end))
    assert table.get(wanted) == expected
    assert all(table.get(Run(at, 1)) == tag for at, tag in list(known.items())[:50])


def test_a_table_takes_memory_only_as_it_is_touched_also_where_freed_memory_is_overwritten() -> None:
    """16 GiB: 272 MiB of tags and counters, which an allocator with M_PERTURB would write at once."""
    code = """
from perdure.array.geometry import Geometry, Run
from perdure.array.tags import GROUP_TAGS, TagTable
def resident_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
geometry = Geometry(3, 5, 1 << 22)
before = resident_kib()
table = TagTable(geometry)
made = resident_kib()
table.learn(Run(0, 1 << 20), memoryview(bytes(64 << 20)))
print(made - before, resident_kib() - made)
"""
    environment = {**os.environ, "MALLOC_PERTURB_": "165", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    made_kib, touched_kib = map(int, done.stdout.split())
    assert made_kib < 8 << 10
    assert 64 << 10 < touched_kib < 72 << 10, "so the test can fail"


def test_what_is_known_already_stays_whether_it_was_learnt_in_groups_or_in_parts() -> None:
    geometry = Geometry(2, 3, 3 * GROUP_TAGS + 5)
    for first in (Run(0, GROUP_TAGS), Run(3, 7), Run(3 * GROUP_TAGS, 5), Run(0, geometry.sectors)):
        table = TagTable(geometry)
        table.learn(first, memoryview(b"a" * TAG_BYTES * first.count))
        assert table.known_count == first.count
        assert table.knows(first)
        table.put(first.start, b"w" * TAG_BYTES)
        whole = Run(0, geometry.sectors)
        table.learn(whole, memoryview(b"b" * TAG_BYTES * geometry.sectors))
        assert table.known_count == geometry.sectors
        assert table.groups(whole) == []
        for index in range(geometry.sectors):
            held = b"w" if index == first.start else b"a" if first.start <= index < first.end else b"b"
            assert table.get(Run(index, 1)) == held * TAG_BYTES
