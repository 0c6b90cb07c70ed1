"""Writes that follow one another go to the array as one, and nothing else is different."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.array.geometry import SECTOR_BYTES
from perdure.volume.gathering import BYTES_MAX, Gathering
from tests.volume.recorded import Recorded

SIZE = 2 * SECTOR_BYTES
WRITES = st.tuples(st.just("write"), st.integers(0, SIZE - 40), st.binary(min_size=1, max_size=40))
ON = st.tuples(st.just("on"), st.just(0), st.binary(min_size=1, max_size=40))  # where the last write ended
READS = st.tuples(st.just("read"), st.integers(0, SIZE - 1), st.just(b""))
TRIMS = st.tuples(st.just("trim"), st.integers(0, SIZE - 1), st.just(b""))
FLUSHES = st.tuples(st.just("flush"), st.just(0), st.just(b""))


class Counted(Recorded):
    """Says what it was asked to write."""

    def __init__(self, sectors: int) -> None:
        super().__init__(sectors)
        self.writes: list[tuple[int, int]] = []

    def pwrite(self, offset: int, data) -> None:
        self.writes.append((offset, len(data)))
        super().pwrite(offset, data)


@given(st.lists(st.one_of(WRITES, ON, ON, READS, TRIMS, FLUSHES), max_size=40))
def test_it_reads_as_bytes_do_and_the_array_is_what_some_prefix_left(steps) -> None:
    array, model = Recorded(2), bytearray(SIZE)
    gathering, end = Gathering(array), 0
    states, least = [bytes(model)], 0
    for verb, at, data in steps:
        offset = min(end, SIZE - len(data)) if verb == "on" else at
        match verb:
            case "write" | "on":
                gathering.pwrite(offset, data)
                model[offset : offset + len(data)] = data
                end = offset + len(data)
            case "read":
                assert gathering.pread(offset, SIZE - offset) == model[offset:]
            case "trim":
                gathering.trim(offset, SIZE - offset)
                model[offset:] = bytes(SIZE - offset)
            case "flush":
                gathering.flush()
        states.append(bytes(model))
        if verb in ("trim", "flush"):
            least = len(states) - 1
        assert bytes(array.data) in states[least:]
    gathering.send()
    assert array.data == model


def test_what_follows_goes_along_and_what_does_not_sends_it() -> None:
    array = Counted(2)
    gathering = Gathering(array)
    for offset, length in ((0, 24), (24, 4096), (4120, 24), (0, 8), (8, 8)):
        gathering.pwrite(offset, bytes(length))
    assert array.writes == [(0, 4144)]
    gathering.flush()
    assert array.writes == [(0, 4144), (0, 16)]
    assert array.flushes[-1] == len(array.effects)


def test_only_so_much_waits() -> None:
    array = Counted(3 * BYTES_MAX // SECTOR_BYTES)
    gathering = Gathering(array)
    gathering.pwrite(0, bytes(BYTES_MAX))
    assert array.writes == []
    gathering.pwrite(BYTES_MAX, b"x")
    gathering.pwrite(BYTES_MAX + 1, bytes(BYTES_MAX + 1))
    assert array.writes == [(0, BYTES_MAX), (BYTES_MAX, 1), (BYTES_MAX + 1, BYTES_MAX + 1)]


def test_what_waits_may_be_a_buffer_that_is_used_again() -> None:
    array = Recorded(2)
    gathering, buffer = Gathering(array), bytearray(b"kept")
    gathering.pwrite(0, buffer)
    buffer[:] = b"gone"
    gathering.send()
    assert array.data[:4] == b"kept"
