"""The genesis record: one encoding, an id that changes with every bit of it, and nothing half-read."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, SEATS_MAX, Geometry
from perdure.disk.wire import DISK_SECTOR_BYTES
from perdure.errors import Corrupt, Misuse

AREA_BYTES = GENESIS_AREA * DISK_SECTOR_BYTES
AUTHORITY = b"\x02" + b"A" * 32
POLICY = b"P" * 32
HEADER_BYTES = 96


def instances(n: int) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(bytes([seat])).digest() for seat in range(n))


def record(k: int = 2, n: int = 3, sectors: int = 1 << 18) -> Genesis:
    return Genesis(Geometry(k, n, sectors), AUTHORITY, POLICY, instances(n))


records = st.builds(
    lambda n, spare, sectors: record(min(n, n // 2 + 1 + spare), n, sectors),
    st.integers(2, SEATS_MAX),
    st.integers(0, 7),
    st.integers(1, 1 << 26),
)


@given(records)
def test_a_record_comes_back_from_its_area_on_the_disk(genesis: Genesis) -> None:
    encoded = genesis.encode()
    assert len(encoded) == HEADER_BYTES + 32 * genesis.geometry.n
    back = Genesis.decode(encoded.ljust(AREA_BYTES, b"\0"))
    assert back == genesis
    assert back.array_id == genesis.array_id


def test_the_largest_record_fits_its_area() -> None:
    assert len(record(9, 16).encode()) <= AREA_BYTES


def test_the_encoding_is_the_documented_one() -> None:
    encoded = record().encode()
    assert encoded[:16] == b"PERDURE1" + bytes([2, 3]) + bytes(6)
    assert encoded[16:24] == (1 << 18).to_bytes(8, "big")
    assert encoded[24:57] == AUTHORITY
    assert encoded[57:64] == bytes(7)
    assert encoded[64:96] == POLICY
    assert encoded[96:] == b"".join(instances(3))


def test_the_id_is_a_tagged_hash_of_the_encoding() -> None:
    tag = hashlib.sha256(b"perdure/genesis/1").digest()
    assert record().array_id == hashlib.sha256(tag + tag + record().encode()).digest()


@given(records, st.data())
def test_no_flipped_bit_keeps_the_id(genesis: Genesis, data: st.DataObject) -> None:
    encoded = bytearray(genesis.encode().ljust(AREA_BYTES, b"\0"))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        other = Genesis.decode(bytes(encoded))
    except (Corrupt, Misuse):
        return
    assert other.array_id != genesis.array_id


def test_every_byte_of_padding_must_be_zero() -> None:
    area = record().encode().ljust(AREA_BYTES, b"\0")
    padding = [11, *range(57, 64), *range(HEADER_BYTES + 3 * 32, AREA_BYTES)]
    for at in padding:
        with pytest.raises(Corrupt, match=r"^the genesis record is damaged$"):
            Genesis.decode(area[:at] + b"\x01" + area[at + 1 :])


def test_a_history_that_leaves_nothing_to_present_is_refused() -> None:
    area = record().encode().ljust(AREA_BYTES, b"\0")
    with pytest.raises(Misuse, match="beside what the history takes"):
        Genesis.decode(area[:12] + b"\xff\xff\xff\xff" + area[16:])


@pytest.mark.parametrize("data", [b"", bytes(AREA_BYTES), b"PERDURE2".ljust(AREA_BYTES, b"\0"), b"PERDURE1"])
def test_where_there_is_no_record_that_is_said(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^there is no genesis record here$"):
        Genesis.decode(data)


def test_a_record_cut_short_anywhere_is_refused() -> None:
    encoded = record().encode()
    for length in range(len(encoded)):
        with pytest.raises(Corrupt):
            Genesis.decode(encoded[:length])
    assert Genesis.decode(encoded) == record()


@given(st.binary(max_size=200))
def test_noise_behind_the_magic_is_refused_in_our_own_words(noise: bytes) -> None:
    try:
        genesis = Genesis.decode(b"PERDURE1" + noise)
    except (Corrupt, Misuse):
        return
    assert genesis.encode() == (b"PERDURE1" + noise)[: len(genesis.encode())]


def test_an_impossible_shape_is_refused_with_its_reason() -> None:
    area = bytearray(record().encode().ljust(AREA_BYTES, b"\0"))
    area[8] = 1
    with pytest.raises(Misuse, match="k must be more than half of n"):
        Genesis.decode(bytes(area))


@pytest.mark.parametrize(
    ("authority", "policy", "members"),
    [
        (AUTHORITY[:32], POLICY, instances(3)),
        (AUTHORITY + b"A" * 32, POLICY, instances(3)),
        (AUTHORITY, POLICY[:31], instances(3)),
        (AUTHORITY, POLICY * 2, instances(3)),
        (AUTHORITY, POLICY, instances(2)),
        (AUTHORITY, POLICY, instances(4)),
        (AUTHORITY, POLICY, (*instances(2), b"short")),
    ],
)
def test_fields_of_a_wrong_length_are_refused_rather_than_cut_to_fit(
    authority: bytes, policy: bytes, members: tuple[bytes, ...]
) -> None:
    with pytest.raises(Misuse):
        Genesis(Geometry(2, 3, 1), authority, policy, members)
