"""Sizes and places: shapes that are refused, areas that never overlap, and the limits that other formats rely on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.array import journal
from perdure.array.geometry import (
    ENTRY_SECTORS_MAX,
    ENTRY_TRIMS_MAX,
    GENESIS_AREA,
    HEAD_AREA,
    ROSTER_AREA,
    SEATS_MAX,
    SECTOR_BYTES,
    SLOTS,
    Geometry,
    Run,
    ceil_div,
)
from perdure.array.journal import Entry
from perdure.disk.wire import COMMAND_BYTES_MAX, COMMAND_HEADER, COUNT, DISK_SECTOR_BYTES, OP, SIGNATURE_BYTES
from perdure.errors import Misuse

DISK_SECTORS_MAX = 0xFFFFFFFF
"""What a disk can say of its size: 32 bits."""

SHAPES = [(k, n) for n in range(2, SEATS_MAX + 1) for k in range(n // 2 + 1, n + 1)]
shapes = st.sampled_from(SHAPES)
geometries = st.builds(lambda shape, sectors: Geometry(*shape, sectors), shapes, st.integers(1, 1 << 26))


@pytest.mark.parametrize(("value", "by", "result"), [(0, 64, 0), (1, 64, 1), (64, 64, 1), (65, 64, 2)])
def test_a_quotient_is_rounded_up(value: int, by: int, result: int) -> None:
    assert ceil_div(value, by) == result


def test_a_run_ends_before_its_end() -> None:
    assert Run(5, 3).end == 8


@pytest.mark.parametrize("shape", SHAPES)
def test_every_majority_of_up_to_16_disks_is_a_shape(shape: tuple[int, int]) -> None:
    k, n = shape
    assert (Geometry(k, n, 1).k, Geometry(k, n, 1).n) == shape
    assert 2 * k > n


@pytest.mark.parametrize("n", [-1, 0, 1, SEATS_MAX + 1])
def test_an_impossible_number_of_disks_is_refused(n: int) -> None:
    with pytest.raises(Misuse, match=f"^an array has 2 to 16 disks, not {n}$"):
        Geometry(n, n, 1)


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4), (1, 3), (3, 6), (8, 16), (0, 3), (-1, 2)])
def test_half_or_less_is_refused_because_hosts_could_show_two_arrays(k: int, n: int) -> None:
    with pytest.raises(Misuse, match=rf"k must be more than half of n.*not {k} of {n}.*two different arrays"):
        Geometry(k, n, 1)


def test_more_fragments_needed_than_there_are_is_refused() -> None:
    with pytest.raises(Misuse, match="at most n, not 4 of 3"):
        Geometry(4, 3, 1)


@pytest.mark.parametrize("sectors", [0, -1])
def test_an_array_without_sectors_is_refused(sectors: int) -> None:
    with pytest.raises(Misuse, match="at least one sector"):
        Geometry(2, 3, sectors)


@pytest.mark.parametrize("k", range(2, SEATS_MAX + 1))
def test_the_largest_array_still_fits_what_a_disk_can_say_and_one_sector_more_is_refused(k: int) -> None:
    empty = Geometry(k, k, 1).tags_start
    most = (DISK_SECTORS_MAX - empty) // (1 + Geometry(k, k, 1).fragment_sectors)
    largest = Geometry(k, k, most)
    assert largest.disk_sectors <= DISK_SECTORS_MAX
    with pytest.raises(Misuse, match="256 GiB on each disk"):
        Geometry(k, k, most + 1)


@pytest.mark.parametrize(
    ("size", "near"), [(-4097, 4096), (-1, 4096), (0, 4096), (1, 4096), (4095, 4096), (4097, 8192), (10_000, 12_288)]
)
def test_a_size_that_is_no_multiple_is_refused_with_one_that_would_do(size: int, near: int) -> None:
    with pytest.raises(Misuse, match=rf"not {size}; {near} would do\. Nothing was created"):
        Geometry.for_size(2, 3, size)
    assert Geometry.for_size(2, 3, near).size_bytes == near


def test_a_size_in_bytes_becomes_sectors() -> None:
    assert Geometry.for_size(2, 3, 1 << 30) == Geometry(2, 3, 1 << 18)


def test_a_gibibyte_on_2_of_3_has_the_sizes_worked_out_by_hand() -> None:
    geometry = Geometry.for_size(2, 3, 1 << 30)
    assert geometry.fragment_bytes == 2048
    # A slot: header 1, records 256 * 4 + 64 * 8 = 1,536 bytes = 24, 256 tags, 256 fragments of 32.
    assert geometry.slot_sectors == 1 + 24 + 256 + 256 * 32 == 8473
    assert (geometry.current_start, geometry.next_start, geometry.head_start) == (32, 160, 288)
    assert geometry.slot_start(0) == 289
    assert geometry.slot_start(17) == geometry.slot_start(1) == 289 + 8473
    assert geometry.tags_start == geometry.tag_start(0) == 289 + 16 * 8473 == 135_857
    assert geometry.fragment_start(0) == 135_857 + 262_144
    assert geometry.disk_sectors == 135_857 + 262_144 * 33
    assert geometry.disk_bytes == 562_342_976


@pytest.mark.parametrize(("k", "fragment_bytes"), [(2, 2048), (3, 1408), (4, 1024), (5, 832), (7, 640), (16, 256)])
def test_a_fragment_is_a_kth_of_a_sector_rounded_up_to_disk_sectors(k: int, fragment_bytes: int) -> None:
    geometry = Geometry(k, k, 1)
    assert geometry.fragment_bytes == fragment_bytes
    assert geometry.k * fragment_bytes >= SECTOR_BYTES > geometry.k * (fragment_bytes - DISK_SECTOR_BYTES)


def areas(geometry: Geometry, index: int) -> list[Run]:
    """Every area, with the places of sector `index` and its neighbours among the tags and fragments."""
    found = [Run(0, GENESIS_AREA), Run(geometry.current_start, ROSTER_AREA), Run(geometry.next_start, ROSTER_AREA)]
    found.append(Run(geometry.head_start, HEAD_AREA))
    found += [Run(geometry.slot_start(number), geometry.slot_sectors) for number in range(SLOTS)]
    near = sorted({0, index, min(index + 1, geometry.sectors - 1), geometry.sectors - 1})
    found += [Run(geometry.tag_start(at), 1) for at in near]
    found += [Run(geometry.fragment_start(at), geometry.fragment_sectors) for at in near]
    return found


@given(geometries, st.integers(0))
def test_no_two_areas_of_a_disk_overlap_and_all_are_inside_it(geometry: Geometry, index: int) -> None:
    found = areas(geometry, index % geometry.sectors)
    assert found[0].start == 0
    for one, after in pairwise(found):
        assert one.end <= after.start
    assert found[-1].end == geometry.disk_sectors


@given(geometries, st.integers(0, 1 << 64), st.integers(1, SLOTS - 1))
def test_entries_that_are_not_applied_never_share_a_slot(geometry: Geometry, number: int, later: int) -> None:
    assert geometry.slot_start(number) != geometry.slot_start(number + later)
    assert geometry.slot_start(number) == geometry.slot_start(number + SLOTS)


@given(shapes, st.integers(0, ENTRY_SECTORS_MAX), st.integers(0, ENTRY_TRIMS_MAX))
def test_every_entry_fits_its_slot(shape: tuple[int, int], writes: int, trims: int) -> None:
    geometry = Geometry(*shape, 1 << 20)
    entry = Entry(1, bytes(16), tuple(range(writes)), (Run(0, 1),) * trims, bytes(64 * writes))
    assert entry.slot_sectors(geometry) <= geometry.slot_sectors
    assert len(entry.encode(b"k")) + writes * geometry.fragment_bytes == entry.slot_sectors(geometry) * 64


@pytest.mark.parametrize("k", range(2, SEATS_MAX + 1))
def test_the_largest_entry_and_the_application_of_a_full_ring_fit_one_command(k: int) -> None:
    geometry = Geometry(k, k, 1 << 20)
    scattered = tuple(range(0, 2 * ENTRY_SECTORS_MAX, 2))
    entry = Entry(1, bytes(16), scattered, (Run(0, 1),) * ENTRY_TRIMS_MAX, bytes(64 * ENTRY_SECTORS_MAX))
    ops = SLOTS * len(journal.apply_ops(geometry, entry)) + 2
    assert ops < 1 << 16
    fixed = SIGNATURE_BYTES + COMMAND_HEADER.size + COUNT.size + HEAD_AREA * DISK_SECTOR_BYTES
    assert fixed + ops * OP.size + geometry.slot_sectors * DISK_SECTOR_BYTES <= COMMAND_BYTES_MAX
