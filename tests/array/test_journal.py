"""The journal: entries that come back exactly or not at all, and their application by a real disk."""

from __future__ import annotations

import hmac
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array import journal
from perdure.array.geometry import ENTRY_SECTORS_MAX, ENTRY_TRIMS_MAX, SLOTS, Geometry, Run
from perdure.array.journal import Entry, EntryHeader, Head, apply_ops, runs_of
from perdure.disk.wire import DISK_SECTOR_BYTES
from perdure.errors import Corrupt

from .one_disk import OneDisk

KEY = b"k" * 32
EPOCH = b"e" * 16
SECTORS = 24
FILL = 0xA5
FILLED = bytes([FILL])


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def entry_of(number: int, indices: Sequence[int], trims: Sequence[Run] = ()) -> Entry:
    return Entry(number, EPOCH, tuple(indices), tuple(trims), some_bytes(64 * len(indices), number))


ENTRY = entry_of(5, [1, 2, 3, 9], [Run(4, 2), Run(11, 1)])

u32 = st.integers(0, (1 << 32) - 1)
runs = st.builds(Run, u32, u32)
entries = st.builds(
    lambda number, epoch, indices, trims, seed: Entry(
        number, epoch, tuple(sorted(indices)), tuple(trims), some_bytes(64 * len(indices), seed)
    ),
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=16, max_size=16),
    st.sets(u32, max_size=40),
    st.lists(runs, max_size=20),
    st.integers(0),
)


# Head -----------------------------------------------------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1), st.data())
def test_a_head_comes_back(last: int, data: st.DataObject) -> None:
    head = Head(last, data.draw(st.integers(0, last)))
    assert len(head.encode()) == DISK_SECTOR_BYTES
    assert Head.decode(head.encode()) == head


def test_a_head_is_two_numbers_and_zeros() -> None:
    assert Head(258, 3).encode() == (258).to_bytes(8, "big") + (3).to_bytes(8, "big") + bytes(48)


def test_a_blank_disk_has_an_empty_journal() -> None:
    assert Head.decode(bytes(64)) == Head(0, 0)


@pytest.mark.parametrize(
    "data",
    [
        Head(3, 4).encode(),
        Head(0, 1).encode(),
        *(Head(4, 3).encode()[:at] + b"\x01" + Head(4, 3).encode()[at + 1 :] for at in (16, 40, 63)),
        b"",
        Head(4, 3).encode()[:63],
        Head(4, 3).encode() + b"\0",
    ],
)
def test_a_head_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^a journal's head is damaged$"):
        Head.decode(data)


# Entries --------------------------------------------------------------------------------------------------


@given(entries)
def test_an_entry_comes_back_exactly(entry: Entry) -> None:
    encoded = entry.encode(KEY)
    header = EntryHeader.decode(encoded)
    assert len(encoded) == header.sectors_before_fragments() * DISK_SECTOR_BYTES
    assert Entry.decode(encoded, KEY) == entry
    assert Entry.decode(bytearray(encoded), KEY) == entry
    assert header == entry.header(KEY)
    assert header.encode() == encoded[:DISK_SECTOR_BYTES]
    assert (header.writes, header.trims) == (len(entry.indices), len(entry.trims))
    assert (header.number, header.epoch) == (entry.number, entry.epoch)


def test_the_encoding_is_the_documented_one() -> None:
    encoded = ENTRY.encode(KEY)
    fixed = b"PENT" + bytes([0, 4, 0, 2]) + (5).to_bytes(8, "big") + EPOCH
    records = b"".join(number.to_bytes(4, "big") for number in (1, 2, 3, 9, 4, 2, 11, 1)) + bytes(32)
    mac = hmac.digest(KEY, fixed + records + ENTRY.tags, "sha256")
    assert encoded == fixed + mac + records + ENTRY.tags


def test_the_largest_entry_comes_back() -> None:
    entry = entry_of(1, range(ENTRY_SECTORS_MAX), [Run(at, 1) for at in range(ENTRY_TRIMS_MAX)])
    assert Entry.decode(entry.encode(KEY), KEY) == entry


def test_an_entry_without_writes_or_trims_comes_back() -> None:
    entry = entry_of(1, [])
    assert len(entry.encode(KEY)) == DISK_SECTOR_BYTES
    assert Entry.decode(entry.encode(KEY), KEY) == entry


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    encoded = ENTRY.encode(KEY)
    for at in range(len(encoded)):
        with pytest.raises(Corrupt):
            Entry.decode(encoded[:at] + bytes([encoded[at] ^ 1 << bit]) + encoded[at + 1 :], KEY)


def test_an_entry_cut_short_anywhere_or_followed_by_anything_is_refused() -> None:
    encoded = ENTRY.encode(KEY)
    for length in range(len(encoded)):
        with pytest.raises(Corrupt):
            Entry.decode(encoded[:length], KEY)
    for more in (b"\0", bytes(64), encoded):
        with pytest.raises(Corrupt):
            Entry.decode(encoded + more, KEY)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_noise_is_refused_in_our_own_words(writes: int, trims: int, noise: bytes) -> None:
    with pytest.raises(Corrupt):
        Entry.decode(b"PENT" + writes.to_bytes(2, "big") + trims.to_bytes(2, "big") + noise, KEY)


def test_another_key_is_refused() -> None:
    with pytest.raises(Corrupt, match=r"^journal entry 5 does not authenticate$"):
        Entry.decode(ENTRY.encode(KEY), b"K" * 32)


@pytest.mark.parametrize(
    "other",
    [
        Entry(6, ENTRY.epoch, ENTRY.indices, ENTRY.trims, ENTRY.tags),
        Entry(5, b"E" * 16, ENTRY.indices, ENTRY.trims, ENTRY.tags),
        Entry(5, ENTRY.epoch, (1, 2, 3, 10), ENTRY.trims, ENTRY.tags),
        Entry(5, ENTRY.epoch, ENTRY.indices, (Run(4, 3), Run(11, 1)), ENTRY.tags),
        Entry(5, ENTRY.epoch, ENTRY.indices, (Run(11, 1), Run(4, 2)), ENTRY.tags),
        Entry(5, ENTRY.epoch, ENTRY.indices, ENTRY.trims, ENTRY.tags[64:] + ENTRY.tags[:64]),
        Entry(5, ENTRY.epoch, ENTRY.indices[2:], (Run(1, 2), *ENTRY.trims), ENTRY.tags[128:]),
    ],
)
def test_the_mac_tells_apart_entries_that_differ_in_anything(other: Entry) -> None:
    mine, theirs = ENTRY.header(KEY), other.header(KEY)
    assert mine.mac != theirs.mac
    grafted = theirs.encode()[:32] + mine.mac + other.encode(KEY)[64:]
    with pytest.raises(Corrupt):
        Entry.decode(grafted, KEY)


@pytest.mark.parametrize("data", [b"", b"PENT", bytes(64), b"PENU" + bytes(60), b"PENT" + bytes(59)])
def test_a_slot_without_an_entry_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^a journal slot holds no entry where the head says there is one$"):
        EntryHeader.decode(data)


def test_tags_that_are_not_one_for_each_write_never_come_back() -> None:
    wrong = Entry(5, EPOCH, (1, 2), (), bytes(64))
    with pytest.raises(Corrupt):
        Entry.decode(wrong.encode(KEY), KEY)


# Runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "runs"),
    [
        ([], []),
        ([4], [(0, Run(4, 1))]),
        ([4, 5, 6], [(0, Run(4, 3))]),
        ([4, 6, 7, 9], [(0, Run(4, 1)), (1, Run(6, 2)), (3, Run(9, 1))]),
    ],
)
def test_neighbours_make_runs(indices: list[int], runs: list[tuple[int, Run]]) -> None:
    assert list(runs_of(indices)) == runs


@given(st.sets(st.integers(0, 60)).map(sorted))
def test_runs_are_the_indices_and_never_touch(indices: list[int]) -> None:
    runs = list(runs_of(indices))
    assert [index for _, run in runs for index in range(run.start, run.end)] == indices
    assert all(indices[at] == run.start for at, run in runs)
    ends = {run.end for _, run in runs}
    assert not ends & {run.start for _, run in runs}


# Application, by a real disk ------------------------------------------------------------------------------


class Applied:
    """A disk whose whole memory is filled, so that whatever changes shows; entries are put and applied on it."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.disk = OneDisk(geometry.disk_sectors + 3, fill=FILL)
        self.disk.open()
        self.expected = bytearray(self.disk.memory)

    def put(self, entry: Entry) -> bytes:
        """Write it into its slot; its fragments."""
        size = self.geometry.fragment_bytes
        fragments = some_bytes(size * len(entry.indices), entry.number + 1000)
        count = entry.slot_sectors(self.geometry)
        slot = self.geometry.slot_start(entry.number)
        self.disk.execute([journal.write(slot, count)], entry.encode(KEY), fragments)
        self.expect(slot, entry.encode(KEY) + fragments)
        self.check()
        return fragments

    def apply(self, *entries: Entry) -> None:
        self.disk.execute([op for entry in entries for op in apply_ops(self.geometry, entry)])

    def check(self) -> None:
        """All of the memory is as expected; else the first disk sectors that are not."""
        if self.disk.memory != self.expected:
            is_wrong = np.frombuffer(self.disk.memory, np.uint8) != np.frombuffer(self.expected, np.uint8)
            wrong = np.unique(np.flatnonzero(is_wrong) // DISK_SECTOR_BYTES)
            raise AssertionError(f"disk sectors {wrong[:8].tolist()} are not what they must be")

    def expect(self, start: int, data: bytes) -> None:
        self.expected[start * DISK_SECTOR_BYTES : start * DISK_SECTOR_BYTES + len(data)] = data

    def expect_home(self, entry: Entry, fragments: bytes) -> None:
        """What the disk must hold afterwards, place by place and sector by sector."""
        size = self.geometry.fragment_bytes
        for run in entry.trims:
            for index in range(run.start, run.end):
                self.expect(self.geometry.tag_start(index), bytes(64))
                self.expect(self.geometry.fragment_start(index), bytes(size))
        for at, index in enumerate(entry.indices):
            self.expect(self.geometry.tag_start(index), entry.tags[at * 64 : at * 64 + 64])
            self.expect(self.geometry.fragment_start(index), fragments[at * size : (at + 1) * size])
        length = entry.slot_sectors(self.geometry) * DISK_SECTOR_BYTES
        self.expect(self.geometry.slot_start(entry.number), bytes(length))


small_runs = st.integers(0, SECTORS - 1).flatmap(lambda at: st.builds(Run, st.just(at), st.integers(1, SECTORS - at)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(2, 3), (3, 5), (7, 12), (16, 16)]),
    st.integers(0, 1 << 40),
    st.sets(st.integers(0, SECTORS - 1)).map(sorted),
    st.lists(small_runs, max_size=4),
)
def test_applying_puts_every_tag_and_fragment_home_wipes_the_slot_and_touches_nothing_else(
    shape: tuple[int, int], number: int, indices: list[int], trims: list[Run]
) -> None:
    world = Applied(Geometry(*shape, SECTORS))
    entry = entry_of(number, indices, trims)
    fragments = world.put(entry)
    world.apply(entry)
    world.expect_home(entry, fragments)
    world.check()


def test_a_sector_trimmed_and_then_written_in_one_entry_holds_what_was_written() -> None:
    world = Applied(Geometry(2, 3, SECTORS))
    entry = entry_of(3, [5], [Run(4, 3)])
    fragments = world.put(entry)
    world.apply(entry)
    geometry = world.geometry
    assert world.disk.part(geometry.tag_start(4), 3) == bytes(64) + entry.tags + bytes(64)
    size = geometry.fragment_sectors
    assert world.disk.part(geometry.fragment_start(4), 3 * size) == bytes(2048) + fragments + bytes(2048)


def test_entries_applied_in_one_command_take_effect_in_order() -> None:
    world = Applied(Geometry(2, 3, SECTORS))
    first, second = entry_of(7, [1, 2]), entry_of(8, [2, 3], [Run(1, 1)])
    for entry, fragments in [(entry, world.put(entry)) for entry in (first, second)]:
        world.expect_home(entry, fragments)
    world.apply(first, second)
    world.check()
    assert world.disk.part(world.geometry.tag_start(1), 3) == bytes(64) + second.tags


def test_a_whole_ring_is_put_and_then_applied() -> None:
    world = Applied(Geometry(16, 16, SECTORS))
    entries = [entry_of(number, [number % SECTORS, 20], [Run(number % 7, 2)]) for number in range(10, 10 + SLOTS)]
    for entry, fragments in [(entry, world.put(entry)) for entry in entries]:
        world.expect_home(entry, fragments)
    world.apply(*entries)
    world.check()


def test_applying_twice_would_not_go_unnoticed_it_copies_the_wiped_slot() -> None:
    """Application is not idempotent: the head, moved in the same command, is what keeps it from happening twice."""
    world = Applied(Geometry(2, 3, SECTORS))
    entry = entry_of(3, [5])
    world.put(entry)
    world.apply(entry)
    world.apply(entry)
    assert world.disk.part(world.geometry.tag_start(5), 1) == bytes(64)


def test_the_largest_entry_fills_its_slot_and_no_more() -> None:
    geometry = Geometry(16, 16, 2 * ENTRY_SECTORS_MAX)
    world = Applied(geometry)
    trims = [Run(at, 1) for at in range(ENTRY_TRIMS_MAX)]
    entry = entry_of(SLOTS - 1, range(0, 2 * ENTRY_SECTORS_MAX, 2), trims)
    fragments = world.put(entry)
    assert entry.slot_sectors(geometry) == geometry.slot_sectors
    assert world.disk.part(geometry.slot_start(SLOTS - 1), geometry.slot_sectors).endswith(fragments)
    assert world.disk.part(geometry.tags_start, 1) == FILLED * 64
    world.apply(entry)
    world.expect_home(entry, fragments)
    world.check()
