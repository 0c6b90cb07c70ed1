"""The bytes of a slot: what a crash may leave is understood, anything else is refused."""

from __future__ import annotations

import pytest

from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Corrupt
from perdure.keystore.slots import (
    SLOT_BYTES,
    Place,
    State,
    decode,
    encode_label,
    encode_secret,
    is_public_key,
    secret_of,
)
from tests.keystore.world import key

PLACE = Place(8 * SECTOR_BYTES, 3)
NOTHING = bytes(SECTOR_BYTES)


def label(
    version: int = 1, last: int = 0, since: int = 1, public_key: bytes = key(1)[1], place: Place = PLACE
) -> bytes:
    return encode_label(place, version, last or version, since, public_key)


def secret(version: int = 1, number: int = 1, place: Place = PLACE) -> bytes:
    return bytes(encode_secret(place, version, key(number)[1], key(number)[0]))


def test_a_slot_is_two_sectors_and_the_secret_stands_in_the_second() -> None:
    assert (PLACE.label_start, PLACE.secret_start) == (14 * SECTOR_BYTES, 15 * SECTOR_BYTES)
    assert len(label()) == len(secret()) == SECTOR_BYTES
    assert key(1)[0] not in label()
    assert secret_of(label() + secret()) == bytearray(key(1)[0])


@pytest.mark.parametrize(
    ("first", "second", "state", "version", "last"),
    [
        (NOTHING, NOTHING, State.EMPTY, 0, 0),
        (NOTHING, secret(1), State.EMPTY, 0, 1),
        (label(1), secret(1), State.HELD, 1, 1),
        (label(4), NOTHING, State.ERASED, 4, 4),
        (label(4), secret(5, 2), State.ERASED, 4, 5),
        (label(4, last=5), NOTHING, State.ERASED, 4, 5),
        (label(4, last=5), secret(6, 2), State.ERASED, 4, 6),
    ],
    ids=["new", "a crash in the first put", "held", "erased", "in a later put", "and then erased", "and again"],
)
def test_what_puts_erasures_and_crashes_leave(
    first: bytes, second: bytes, state: State, version: int, last: int
) -> None:
    found = decode(PLACE, first + second)
    assert (found.state, found.version, found.last_version) == (state, version, last)
    assert found.public_key == (key(1)[1] if version else b"")
    assert found.is_torn == (second != NOTHING and state is not State.HELD)


@pytest.mark.parametrize(
    "sectors",
    [
        label(5) + secret(4),
        label(5) + secret(5, 2),
        secret(1) + label(1),
        label(place=Place(PLACE.store, 2)) + NOTHING,
        label(place=Place(0, 3)) + NOTHING,
        label(version=0) + NOTHING,
        label(5, last=4) + NOTHING,
        label(since=0) + NOTHING,
        label(public_key=bytes(33)) + NOTHING,
        label(public_key=b"\x04" + key(1)[1][1:]) + NOTHING,
        label()[:-1] + b"\1" + NOTHING,
        NOTHING + secret(place=Place(PLACE.store, 2)),
        NOTHING + secret(version=0),
        NOTHING + secret()[:-1] + b"\1",
        b"\1" * SLOT_BYTES,
    ],
)
def test_anything_else_is_refused_and_named(sectors: bytes) -> None:
    with pytest.raises(Corrupt, match="not slot 3 of a key store that begins at 32768"):
        decode(PLACE, sectors)


def test_a_public_key_has_one_form() -> None:
    assert is_public_key(key(1)[1])
    assert not is_public_key(key(1)[1][:32])
    assert not is_public_key(b"\x05" * 33)
