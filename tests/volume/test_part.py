"""A part of an array is an array, and what is beside it stays as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Misuse
from perdure.volume.part import Part
from perdure.volume.volume import Volume
from tests.volume.look import reopened
from tests.volume.recorded import Recorded

BEFORE, INSIDE, BEHIND = 3, 300, 2
SIDES = b"\xff"


def made(inside: int = INSIDE) -> tuple[Recorded, Part]:
    """An array that is full on both sides of a part of zeros."""
    first, last = (SIDES * count * SECTOR_BYTES for count in (BEFORE, BEHIND))
    array = Recorded(content=first + bytes(inside * SECTOR_BYTES) + last)
    return array, Part(array, BEFORE * SECTOR_BYTES, inside * SECTOR_BYTES)


def sides(array: Recorded) -> bytes:
    return bytes(array.data[: BEFORE * SECTOR_BYTES] + array.data[-BEHIND * SECTOR_BYTES :])


UNTOUCHED = sides(made()[0])
PLACE = st.integers(-2, 2 * SECTOR_BYTES + 2) | st.sampled_from([-SECTOR_BYTES, SECTOR_BYTES, 2 * SECTOR_BYTES])


@given(st.lists(st.tuples(st.sampled_from(["write", "trim", "read"]), PLACE, PLACE), max_size=8))
def test_any_sequence_is_as_on_bytes_of_its_size_and_changes_nothing_beside_them(steps) -> None:
    array, part = made(2)
    model = bytearray(part.size)
    for number, (what, offset, wanted) in enumerate(steps):
        data = bytes([number + 1 if what == "write" else 0]) * wanted
        length = len(data) if what == "write" else wanted
        if offset < 0 or length < 0 or offset + length > part.size:
            with pytest.raises(Misuse, match="nothing was read or changed"):
                do(part, what, offset, length, data)
        else:
            found = do(part, what, offset, length, data)
            assert found in (None, model[offset : offset + length])
            if what != "read":
                model[offset : offset + length] = data
        assert part.pread(0, part.size) == model
    assert sides(array) == UNTOUCHED


def do(part: Part, what: str, offset: int, length: int, data: bytes) -> bytes | None:
    if what == "read":
        return part.pread(offset, length)
    return part.pwrite(offset, data) if what == "write" else part.trim(offset, length)


def test_a_buffer_counts_by_its_bytes_not_by_its_items() -> None:
    array, part = made(1)
    words = memoryview(bytes(SECTOR_BYTES)).cast("I")
    with pytest.raises(Misuse):
        part.pwrite(SECTOR_BYTES // 2, words)
    assert sides(array) == UNTOUCHED


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (-SECTOR_BYTES, SECTOR_BYTES),
        (0, 0),
        (2 * SECTOR_BYTES, -SECTOR_BYTES),
        (3 * SECTOR_BYTES, 2 * SECTOR_BYTES),
        (1, SECTOR_BYTES),
        (0, SECTOR_BYTES - 1),
    ],
)
def test_a_part_is_whole_sectors_of_its_array(offset: int, size: int) -> None:
    with pytest.raises(Misuse, match="nothing was changed"):
        Part(Recorded(4), offset, size)
    assert Part(Recorded(4), 0, 4 * SECTOR_BYTES).size == 4 * SECTOR_BYTES


def test_a_flush_is_the_arrays() -> None:
    array, part = made()
    array.pwrite(0, SIDES)
    part.pwrite(0, b"x")
    part.flush()
    assert array.flushes[-1] == len(array.effects) == 2


def test_a_volume_in_a_part_is_found_again_and_is_alone_in_it() -> None:
    array, part = made()
    with Volume(part) as volume:
        volume.write(volume.create("a"), 0, b"a" * 5000)
    assert sides(array) == UNTOUCHED
    assert reopened(Part(array, BEFORE * SECTOR_BYTES, part.size)) == {"a": b"a" * 5000}
    with pytest.raises(Misuse, match="is not a volume"):
        Volume(Part(array, 0, array.size))


def test_parts_that_overlap_are_not_volumes_at_once() -> None:
    array, part = made()
    inner = Part(part, SECTOR_BYTES, (INSIDE - 1) * SECTOR_BYTES)
    with Volume(part):
        for overlapping in (part, inner, array, Part(array, 0, (BEFORE + INSIDE) * SECTOR_BYTES)):
            with pytest.raises(Misuse, match="open as a volume already"):
                Volume(overlapping)
    array.trim(0, array.size)
    with Volume(inner), pytest.raises(Misuse, match="open as a volume already"):
        Volume(part)
    array.trim(0, array.size)
    with Volume(Part(array, 0, array.size)):
        pass


def test_parts_beside_each_other_are_volumes_at_once() -> None:
    array = Recorded(2 * INSIDE)
    half = INSIDE * SECTOR_BYTES
    with Volume(Part(array, 0, half)) as one, Volume(Part(array, half, half)) as two:
        one.create("here")
        assert (one.names, two.names) == (["here"], [])


def test_what_a_volume_keeps_back_is_behind_its_sync_and_not_behind_the_flush_of_another_part() -> None:
    """A limit: so what must be in order on two parts is synced in between."""
    array = Recorded(2 * INSIDE)
    half = INSIDE * SECTOR_BYTES
    beside = Part(array, half, half)
    with Volume(Part(array, 0, half)) as volume:
        file = volume.create("a")
        volume.sync()
        volume.write(file, 0, b"first")
        beside.pwrite(0, b"second")
        beside.flush()
        assert (b"first" in array.data, b"second" in array.data) == (False, True)
        volume.sync()
        assert b"first" in array.data
