"""The oracle of the array's history by itself: what it lets pass, and what it must not."""

from __future__ import annotations

import pytest

from perdure.sim.history import Violation
from perdure.sim.records import Records

A, B, C = (bytes([at]) * 16 for at in range(3))
"""Epochs."""


def told(ring: int, *bodies: bytes) -> Records:
    """These were appended and kept by the first main program."""
    records, before = Records(ring), dict[int, bytes]()
    for number, body in enumerate(bodies, 1):
        records.begins(number, body, before)
        records.keeps(number, body, A)
        before[number] = body
    return records


def test_what_was_kept_is_found_and_so_may_be_what_was_only_begun() -> None:
    records = told(8, b"one", b"two")
    records.begins(3, b"three", {1: b"one", 2: b"two"})
    records.found({1: b"one", 2: b"two"}, B)
    records.found({1: b"one", 2: b"two", 3: b"three"}, C)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, "found were none"),
        ({1: b"one"}, "found were 1 to 1"),
        ({2: b"two"}, "record 1 was kept, and is not found"),
        ({1: b"one", 3: b"three"}, "gaps"),
        ({2: b"two", 1: b"one"}, "out of order"),
        ({1: b"one", 2: b"other"}, "not one that was appended"),
        ({1: b"one", 2: b"one"}, "not one that was appended under that number"),
        ({1: b"one", 2: b"lost"}, "record 2 was kept, and is not found as it was"),
    ],
)
def test_what_is_lost_altered_repeated_or_out_of_order_is_a_violation(found: dict[int, bytes], why: str) -> None:
    records = told(8, b"one")
    records.begins(2, b"lost", {1: b"one"})  # by a main program that died over it
    records.begins(2, b"two", {1: b"one"})
    records.keeps(2, b"two", A)
    with pytest.raises(Violation, match=why):
        records.found(found, B)


def test_records_make_room_when_the_ring_comes_round_and_only_then() -> None:
    long = [bytes([at]) * 8160 for at in range(1, 5)]  # three sectors each: the third begins anew
    assert told(8, *long[:2]).overwritten == 0
    records = told(8, *long[:3])
    assert records.overwritten == 1
    assert [records.stands(number) for number in range(1, 5)] == [False, True, True, False]
    records.found({2: long[1], 3: long[2]}, B)
    with pytest.raises(Violation, match="record 2 was kept"):
        records.found({3: long[2]}, B)
    records.begins(4, long[3], dict(enumerate(long[:3], 1)))  # unfinished, it may have made room all the same
    records.found({3: long[2]}, B)


def test_what_is_overwritten_takes_what_is_older_with_it_though_nobody_was_told_that_it_was_kept() -> None:
    """Record 3 ends the ring, 4 and 5 lie before it; 6 does not fit beside 3, and overwrites 4."""
    long = {number: bytes([number]) * (8000 if number == 3 else 8160) for number in range(1, 7)}
    records = told(8, *(long[number] for number in (1, 2, 3)))
    for number in (4, 5, 6):  # their appends never returned, but the first two were found
        records.begins(number, long[number], {at: long[at] for at in range(1, number)})
    assert records.overwritten == 4
    records.found({5: long[5], 6: long[6]}, B)


def test_a_mount_need_not_find_what_a_later_one_has_kept() -> None:
    records = told(8, b"one")
    records.begins(2, b"two", {1: b"one"})
    records.keeps(2, b"two", C)
    records.found({1: b"one"}, B)


def test_an_append_that_returns_after_a_mount_that_did_not_find_it_is_a_violation() -> None:
    records = told(8, b"one")
    records.begins(2, b"two", {1: b"one"})
    records.found({1: b"one"}, B)
    with pytest.raises(Violation, match="a later mount did not find it"):
        records.keeps(2, b"two", A)


def test_a_number_is_kept_once_and_is_the_one_that_was_begun() -> None:
    records = told(8, b"one")
    records.begins(1, b"other", {})
    with pytest.raises(Violation, match="two records"):
        records.keeps(1, b"other", A)
    with pytest.raises(Violation, match="appended as 1"):
        records.keeps(2, b"other", A)
