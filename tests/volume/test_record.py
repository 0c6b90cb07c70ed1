"""The bytes of a record: the specification's listing, and nothing else is taken for one."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.errors import Corrupt
from perdure.volume.record import DATA_START, HEADER, Record, State


def test_bytes_are_those_of_the_specification():
    record = Record("a.db", State.GROWING, 5000, (Run(300, 2), Run(1000, 1)))
    data = record.encode()
    assert data[:20].hex() == "5056464c020400020000000000001388612e6462"
    assert data[256:272].hex() == "0000012c00000002000003e800000001"
    assert not any(data[20:256] + data[272:])
    assert len(data) == SECTOR_BYTES
    assert HEADER.rstrip(b"\0") == b"PVOL\0\1"
    assert Record.decode(data, 2000) == record


def test_zeros_are_no_record():
    assert Record.decode(bytes(SECTOR_BYTES), 2000) is None


@given(st.integers(0, SECTOR_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_corrupt_or_another_record_in_its_one_form(at: int, change: int):
    data = bytearray(Record("name", State.QUIET, 8192, (Run(DATA_START, 2),)).encode())
    data[at] ^= change
    try:
        found = Record.decode(bytes(data), 2000)
    except Corrupt:
        return
    assert found is not None
    assert found.encode() == data
