"""Rosters: their one encoding, what counts as damage, and the traces behind the rules for choosing the base."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.geometry import SEATS_MAX
from perdure.array.roster import (
    AREA_BYTES,
    DEPARTED_MAX,
    Departed,
    Label,
    Program,
    Roster,
    Version,
    choose_base,
    require_quorum,
)
from perdure.errors import Corrupt, Unavailable

HEADER_BYTES, DEPARTED_BYTES = 72, 48
PROGRAM_START = AREA_BYTES - 40


def who(disk: int) -> bytes:
    return bytes([disk + 1]) * 32


def version(epoch: int, counter: int = 0) -> Version:
    return Version(epoch.to_bytes(8, "big") + b"-random-", counter)


def roster(*members: int, at: int, after: int = 0, n: int = 3, counter: int = 0) -> Roster:
    """Members by disk number, which is their seat; proposed in epoch `at`, in place of the roster of `after`."""
    seats = tuple(who(disk) if disk in members else None for disk in range(n))
    before = version(after) if after else Version(bytes(16), 0)
    return Roster(version(at, counter), before, 0, 0, seats)


def labels(**by_disk: tuple[Roster | None, Roster | None]) -> dict[bytes, Label]:
    """For instance `d0=(current, next)`."""
    return {who(int(disk[1:])): Label(*pair) for disk, pair in by_disk.items()}


numbers = st.integers(0, (1 << 64) - 1)
instances = st.binary(min_size=32, max_size=32).filter(any)
versions = st.builds(Version, st.binary(min_size=16, max_size=16), numbers)
version_pairs = st.tuples(versions, versions).filter(lambda pair: pair[0] != pair[1]).map(sorted)
rosters = st.builds(
    lambda pair, last, applied, seats, departed: Roster(pair[1], pair[0], last, applied, seats, departed),
    version_pairs,
    numbers,
    numbers,
    st.lists(st.none() | instances, min_size=1, max_size=SEATS_MAX).map(tuple),
    st.lists(st.builds(Departed, st.integers(0, 15), numbers, instances), max_size=5).map(tuple),
)


# Encoding -------------------------------------------------------------------------------------------------


@given(rosters)
def test_a_roster_comes_back_exactly(one: Roster) -> None:
    encoded = one.encode()
    assert len(encoded) == AREA_BYTES == 8192
    assert Roster.decode(encoded) == one


def test_the_encoding_is_the_documented_one() -> None:
    gone = Departed(2, 9, b"\x77" * 32)
    one = Roster(version(5, 3), version(4, 1), 11, 10, (who(0), None, who(2)), (gone,))
    encoded = one.encode()
    assert encoded[:8] == b"PRST" + bytes([3, 1, 0, 0])
    assert encoded[8:32] == version(5).epoch + (3).to_bytes(8, "big")
    assert encoded[32:56] == version(4).epoch + (1).to_bytes(8, "big")
    assert encoded[56:72] == (11).to_bytes(8, "big") + (10).to_bytes(8, "big")
    assert encoded[72:168] == who(0) + bytes(32) + who(2)
    assert encoded[168:216] == b"\x02" + bytes(7) + (9).to_bytes(8, "big") + b"\x77" * 32
    assert not any(encoded[216:])


def test_an_area_of_zeros_holds_no_roster() -> None:
    assert Roster.decode(bytes(AREA_BYTES)) is None


def test_the_largest_roster_fits_its_area() -> None:
    seats = tuple(who(disk) for disk in range(SEATS_MAX))
    departed = tuple(Departed(at % 16, at, bytes([at]) * 32) for at in range(1, DEPARTED_MAX + 1))
    one = Roster(version(2), version(1), 1, 1, seats, departed)
    assert Roster.decode(one.encode()) == one


@pytest.mark.parametrize("length", [0, 1, 4, 71, AREA_BYTES - 1, AREA_BYTES + 1])
def test_an_area_of_another_length_is_refused(length: int) -> None:
    for data in (bytes(length), (roster(0, 1, 2, at=1).encode() + b"\0")[:length]):
        with pytest.raises(Corrupt, match=r"^there is no roster here$"):
            Roster.decode(data)


def test_another_magic_is_refused() -> None:
    with pytest.raises(Corrupt, match=r"^there is no roster here$"):
        Roster.decode(b"PRSU" + roster(0, 1, 2, at=1).encode()[4:])


DAMAGED = Roster(
    version(5, 3),
    version(4, 1),
    11,
    10,
    (who(0), None, who(2)),
    (Departed(1, 9, b"\x77" * 32), Departed(0, 2, b"\x78" * 32)),
)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_no_flipped_byte_goes_unnoticed(mask: int) -> None:
    """Each is refused, or is another roster with its own one encoding; evidence tells which was written."""
    encoded = DAMAGED.encode()
    for at in range(AREA_BYTES):
        damaged = encoded[:at] + bytes([encoded[at] ^ mask]) + encoded[at + 1 :]
        try:
            other = Roster.decode(damaged)
        except Corrupt:
            continue
        assert other is not None
        assert other != DAMAGED
        assert other.encode() == damaged


def test_every_byte_without_a_meaning_must_be_zero() -> None:
    encoded = DAMAGED.encode()
    first_departed = HEADER_BYTES + 3 * 32
    end = first_departed + 2 * DEPARTED_BYTES
    for at in [*range(first_departed + 1, first_departed + 8), *range(end, PROGRAM_START)]:
        with pytest.raises(Corrupt, match=r"^a roster is damaged$"):
            Roster.decode(encoded[:at] + b"\x01" + encoded[at + 1 :])


def test_a_program_has_a_version_or_there_is_none() -> None:
    named = replace(DAMAGED, program=Program(1, b"m" * 32)).encode()
    assert Roster.decode(named).program == Program(1, b"m" * 32)  # type: ignore[union-attr]
    for at in range(PROGRAM_START, PROGRAM_START + 8):
        assert Roster.decode(named[:at] + b"\x01" + named[at + 1 :]).program.version  # type: ignore[union-attr]
    with pytest.raises(Corrupt, match=r"^a roster is damaged$"):
        Roster.decode(named[:PROGRAM_START] + bytes(8) + named[PROGRAM_START + 8 :])


@given(st.binary(min_size=4, max_size=400), st.integers(0, 255), st.integers(0, 255))
def test_noise_is_refused_in_our_own_words_or_is_its_own_encoding(noise: bytes, seats: int, departed: int) -> None:
    area = (b"PRST" + bytes([seats, departed, 0, 0]) + noise[4:]).ljust(AREA_BYTES, b"\0")
    try:
        one = Roster.decode(area)
    except Corrupt:
        return
    assert one is not None
    assert one.encode() == area


@pytest.mark.parametrize(("seats", "departed"), [(SEATS_MAX + 1, 0), (255, 0), (255, 255), (0, DEPARTED_MAX + 1)])
def test_more_seats_or_departed_than_there_can_be_are_refused(seats: int, departed: int) -> None:
    """And nothing is read from beyond the area, as counts of 255 would have it."""
    encoded = roster(0, 1, 2, at=2, after=1).encode()
    with pytest.raises(Corrupt, match=r"^a roster is damaged$"):
        Roster.decode(encoded[:4] + bytes([seats, departed]) + encoded[6:HEADER_BYTES] + b"\x55" * (AREA_BYTES - 72))


@pytest.mark.parametrize(("at", "after"), [(2, 2), (2, 3)])
def test_a_roster_that_does_not_come_after_its_predecessor_is_refused(at: int, after: int) -> None:
    """Else the search for the base could go round in circles."""
    with pytest.raises(Corrupt, match=r"^a roster is damaged$"):
        Roster.decode(roster(0, 1, 2, at=at, after=after).encode())


# Members --------------------------------------------------------------------------------------------------


def test_versions_are_ordered_by_epoch_and_then_by_counter() -> None:
    rising = [version(1, 0), version(1, 1), version(1, 256), version(2, 0), version(256, 0)]
    assert sorted(rising, reverse=True) == rising[::-1]


def test_members_are_the_instances_in_seats() -> None:
    one = roster(0, 2, at=1)
    assert one.members == {who(0), who(2)}


def test_without_empties_seats_and_records_who_left_with_what() -> None:
    before = roster(0, 1, 2, 3, 4, at=1, n=5)
    after = before.without([who(3), who(1)], version(1, 1), 17, 15)
    assert after.seats == (who(0), None, who(2), None, who(4))
    assert (after.version, after.predecessor) == (version(1, 1), before.version)
    assert (after.last, after.applied) == (17, 15)
    assert after.departed == (Departed(1, 17, who(1)), Departed(3, 17, who(3)))
    again = after.without([who(0)], version(2), 20, 20)
    assert again.departed == (*after.departed, Departed(0, 20, who(0)))


def test_without_nobody_is_the_same_members_under_a_new_version() -> None:
    before = roster(0, 1, at=1)
    after = before.without([], version(2), 3, 2)
    assert (after.seats, after.departed) == (before.seats, before.departed)
    assert after.predecessor == before.version


@given(rosters, st.lists(instances, max_size=4), st.data())
def test_without_never_adds_or_moves_anyone(one: Roster, strangers: list[bytes], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(sorted(one.members)), max_size=4)) if one.members else []
    after = one.without([*some, *strangers], Version(b"\xff" * 16, 1 << 63), 1, 1)
    gone = {*some, *strangers}
    assert after.members == one.members - gone
    assert all(new in (old, None) for old, new in zip(one.seats, after.seats, strict=True))
    newly = after.departed[len(one.departed) :]
    assert {departed.instance for departed in newly} == one.members & gone


def test_only_the_last_128_departed_are_kept() -> None:
    one = roster(0, 1, 2, at=1)
    for number in range(DEPARTED_MAX + 5):
        seats = (number.to_bytes(32, "big") if number else who(0), who(1), who(2))
        one = Roster(one.version, one.predecessor, 0, 0, seats, one.departed)
        one = one.without([seats[0]], version(number + 2), number, number)
    assert len(one.departed) == DEPARTED_MAX
    assert [gone.last for gone in one.departed] == list(range(5, DEPARTED_MAX + 5))
    assert Roster.decode(one.encode()) == one


# The base: rule 2 -----------------------------------------------------------------------------------------

C = roster(0, 1, 2, at=1)


def test_the_roster_that_all_hold_is_the_base() -> None:
    assert choose_base(labels(d0=(C, None), d1=(C, None), d2=(C, None))) == C


def test_the_newest_in_force_wins_over_what_a_removed_disk_says() -> None:
    without_0 = roster(1, 2, at=2, after=1)
    assert choose_base(labels(d0=(C, None), d1=(without_0, None), d2=(without_0, None))) == without_0


def test_a_proposal_that_no_one_activated_is_void() -> None:
    proposed = roster(0, 1, at=2, after=1)
    assert choose_base(labels(d0=(C, proposed), d1=(C, proposed), d2=(C, None))) == C


def test_a_proposal_recorded_on_one_disk_does_not_close_the_array_when_the_other_dies() -> None:
    """The trace of rule 2: B proposes {0,1} on 0 alone and crashes, then 1 dies. {0,2} go on from C."""
    proposed = roster(0, 1, at=2, after=1)
    shown = labels(d0=(C, proposed), d2=(C, None))
    assert choose_base(shown) == C
    assert require_quorum(C, shown, 2) == {who(0), who(2)}


def test_a_roster_activated_on_one_member_only_is_void_while_another_member_shows_it() -> None:
    activated = roster(0, 1, 2, at=2, after=1)
    assert choose_base(labels(d0=(activated, None), d1=(C, activated), d2=(C, activated))) == C
    assert choose_base(labels(d0=(activated, None), d1=(C, activated))) == C


def test_a_roster_counts_when_no_member_that_is_here_denies_it() -> None:
    """Disk 1 alone might hide that it never activated: then the roster may have served, and is the base."""
    activated = roster(0, 1, 2, at=2, after=1)
    assert choose_base(labels(d0=(activated, None), d2=(activated, None))) == activated


def test_a_disk_that_is_no_member_cannot_make_a_roster_void() -> None:
    without_2 = roster(0, 1, at=2, after=1)
    assert choose_base(labels(d0=(without_2, None), d1=(without_2, None), d2=(C, None))) == without_2


def test_a_newer_activation_is_no_denial_of_an_older_roster() -> None:
    second = roster(0, 1, 2, at=2, after=1)
    third = roster(0, 1, 2, at=3, after=2)
    shown = labels(d0=(third, None), d1=(second, third), d2=(second, third))
    assert choose_base(shown) == second


def test_two_void_proposals_in_a_row_lead_back_to_the_roster_in_force() -> None:
    second = roster(0, 1, 2, at=2, after=1)
    third = roster(0, 1, at=3, after=2)
    shown = labels(d0=(C, third), d1=(C, second), d2=(C, second))
    assert choose_base(shown) == C


def test_a_later_proposal_that_skipped_a_void_one_leads_back_past_it() -> None:
    second = roster(0, 1, 2, at=2, after=1)
    third = roster(0, 1, 2, at=3, after=1)
    assert choose_base(labels(d0=(second, third), d1=(C, third), d2=(C, second))) == C


def test_a_member_that_holds_no_roster_yet_makes_one_void() -> None:
    """A disk that joins: until it has activated, the roster with it has not served."""
    joined = roster(0, 1, 2, 3, at=2, after=1, n=4)
    before = roster(0, 1, 2, at=1, n=4)
    shown = labels(d0=(joined, None), d1=(joined, None), d2=(before, joined), d3=(None, joined))
    assert choose_base(shown) == before


def test_the_base_that_a_proposal_writes_beside_itself_is_the_way_back() -> None:
    """B activated on 0 alone; D proposed from C on all, put C back in force on 0, and activated on all but 0."""
    third = roster(0, 1, 2, at=3, after=1)
    assert choose_base(labels(d0=(C, third), d1=(third, None), d2=(third, None))) == C


def test_the_counter_orders_the_changes_of_one_mount() -> None:
    first = roster(0, 1, 2, at=2, n=4, after=1)
    second = Roster(version(2, 1), first.version, 0, 0, (who(0), who(1), None, None))
    shown = labels(d0=(second, None), d1=(second, None), d2=(first, None))
    assert choose_base(shown) == second
    assert choose_base(labels(d0=(second, None), d1=(first, second), d2=(first, None))) == first


def test_blank_disks_are_no_array() -> None:
    for shown in ({}, labels(d0=(None, None), d1=(None, None), d2=(None, None))):
        with pytest.raises(Unavailable, match="none of the disks that answer holds a roster that was in force"):
            choose_base(shown)


def test_disks_whose_creation_was_interrupted_are_no_array() -> None:
    """The first roster on two of three: whatever it says, the third denies it, and nothing came before."""
    with pytest.raises(Unavailable, match="nothing was changed"):
        choose_base(labels(d0=(C, None), d1=(C, None), d2=(None, None)))


def test_a_void_roster_whose_predecessor_is_not_shown_is_unavailable_not_guessed() -> None:
    third = roster(0, 1, at=3, after=2)
    with pytest.raises(Unavailable):
        choose_base(labels(d0=(C, third), d1=(C, None)))


def test_the_order_in_which_disks_answer_does_not_matter() -> None:
    proposed = roster(0, 1, at=2, after=1)
    shown = labels(d0=(C, proposed), d1=(proposed, None), d2=(C, None))
    assert choose_base(shown) == choose_base(dict(reversed(shown.items()))) == C


# The quorum: rule 3 ---------------------------------------------------------------------------------------


def test_the_case_that_stays_stuck_rightly() -> None:
    """C = {0,1,2}, P = {1,2} is active on 1 only, then 2 dies: {0,1} refuse, since 0 was voted off."""
    p = roster(1, 2, at=2, after=1)
    shown = labels(d0=(C, None), d1=(p, None))
    base = choose_base(shown)
    assert base == p
    with pytest.raises(Unavailable) as refused:
        require_quorum(base, shown, 2)
    assert str(refused.value).startswith("only 1 of the 2 disks that the array needs are here; missing: seat 2 (")
    assert who(2).hex()[:16] in str(refused.value)
    assert who(0).hex()[:16] not in str(refused.value)


def test_a_quorum_is_the_members_that_are_here() -> None:
    five = roster(0, 1, 2, 4, at=1, n=5)
    assert require_quorum(five, [who(4), who(2), who(0), who(3), b"?" * 32], 3) == {who(0), who(2), who(4)}


def test_disks_that_are_no_members_do_not_count() -> None:
    five = roster(0, 1, 2, at=1, n=5)
    with pytest.raises(Unavailable, match=r"only 2 of the 3 .*missing: seat 2 \(instance 0303030303030303\)\. "):
        require_quorum(five, [who(disk) for disk in (0, 1, 3, 4)], 3)


def test_every_missing_member_is_named_and_what_is_safe_is_said() -> None:
    with pytest.raises(Unavailable) as refused:
        require_quorum(roster(0, 1, 3, 4, at=1, n=5), [who(3)], 3)
    message = str(refused.value)
    assert [seat for seat in range(5) if f"seat {seat} " in message] == [0, 1, 4]
    assert "Nothing acknowledged is lost while they keep running, and nothing older is served." in message
    assert refused.value.exit_code == 2
