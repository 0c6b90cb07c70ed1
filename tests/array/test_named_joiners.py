"""Whoever gets fragments is named first: so an erasure knows every disk that may still hold what it wiped."""

from __future__ import annotations

import pytest

from perdure.array.geometry import SECTOR_BYTES, SLOTS, TAG_BYTES, Run
from perdure.array.join import Progress
from perdure.array.journal import EntryHeader
from perdure.array.roster import ANY_ENTRY, Departed
from perdure.array.sealing import NEVER_WRITTEN, generation_of
from perdure.disk.wire import NO_EPOCH
from perdure.errors import DiskLost, Misuse, PerdureError
from perdure.sim.disks import SimChannel, SimDisk
from tests.array.world import SimArray, outcome, sector

SECTORS = 600


def _degraded(*dead: int, sectors: int = SECTORS, seed: int = 0) -> SimArray:
    sim = SimArray(k=3, n=5, sectors=sectors, seed=seed, dead_after_ms=200)
    sim.create()
    sim.write(0, 1, count=sectors)
    sim.settle()
    sim.kill(*dead)
    sim.flush()
    return sim


def _fresh(sim: SimArray, seat: int) -> SimChannel:
    sim.disks[seat] = sim.new_disk()
    return sim.new_channels()[seat]


def _named(sim: SimArray, seat: int) -> list[Departed]:
    assert sim.array is not None
    return [gone for gone in sim.array.members.roster.departed if gone.seat == seat]


def _stop_in_the_middle(sim: SimArray, seat: int, progress: Progress) -> SimDisk:
    """A fresh disk for `seat`, whose rebuild ends with its death; the disk."""
    assert sim.array is not None
    joining = sim.spawn(outcome(sim.array.join(_fresh(sim, seat), seat, progress, sectors_per_s=200)))
    while progress.done == 0:
        sim.loop.run_for(1)
    sim.loop.run_for(500)  # by then the first run is home there
    sim.kill(seat)

    async def end() -> object:
        return await joining

    assert isinstance(sim.run(end()), DiskLost)
    joiner = sim.disks[seat]
    assert joiner is not None
    return joiner


def test_a_joiner_is_in_force_by_name_before_it_gets_its_first_command() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    channel = _fresh(sim, 2)
    joiner = sim.disks[2]
    joining = sim.spawn(sim.array.join(channel, 2, Progress(SECTORS)))
    while joiner.core.epoch == NO_EPOCH:
        assert not joining.done
        named = any(gone.instance == joiner.instance for gone in _named(sim, 2))
        sim.loop.run_for(0.1)
    assert named, "it was opened, and no roster in force named it"
    assert _named(sim, 2)[-1] == Departed(2, ANY_ENTRY, joiner.instance)


def test_a_joiner_that_failed_stays_named_with_the_last_entry_that_it_can_have_got() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    joiner = _stop_in_the_middle(sim, 2, Progress(SECTORS))
    last = sim.array.committer.last
    sim.write(0, 5)
    sim.flush()
    sim.kill(0)
    sim.flush()  # a vote: whoever has stopped joining by now gets no later entry
    assert last <= _named(sim, 2)[-1].last <= sim.array.committer.last
    assert _named(sim, 2)[-1].instance == joiner.instance
    sim.crash()
    sim.mount()
    assert _named(sim, 2)[-1].instance == joiner.instance


def test_a_main_that_dies_in_a_rebuild_leaves_the_joiner_named() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    progress = Progress(SECTORS)
    sim.spawn(sim.array.join(_fresh(sim, 2), 2, progress, sectors_per_s=200))
    while progress.done == 0:
        sim.loop.run_for(1)
    joiner = sim.disks[2]
    assert joiner is not None
    sim.crash()
    array = sim.mount()
    assert _named(sim, 2)[-1] == Departed(2, array.members.roster.last, joiner.instance)


def test_a_vote_during_a_rebuild_does_not_say_that_the_joiner_gets_nothing_more() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    joining = sim.spawn(sim.array.join(_fresh(sim, 2), 2, Progress(SECTORS), sectors_per_s=200))
    sim.loop.run_for(500)
    sim.kill(0)
    sim.flush()
    assert not joining.done
    assert sim.array.members.roster.seats[0] is None
    assert _named(sim, 2)[-1].last == ANY_ENTRY


def test_a_disk_that_was_partly_rebuilt_goes_on_and_does_not_start_over() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    first = Progress(SECTORS)
    joiner = _stop_in_the_middle(sim, 2, first)
    joiner.is_alive = True
    second = Progress(SECTORS)
    sim.run(sim.array.join(sim.new_channels()[2], 2, second))
    assert 0 < second.mended <= SECTORS - 256, "the first run was there already"
    assert sim.array.members.roster.seats[2] == joiner.instance
    sim.kill(0, 1)
    assert sim.read(0, SECTORS) == sector(1) * SECTORS


def test_when_the_old_disk_comes_back_after_another_was_tried_what_that_one_got_is_sealed_anew() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    old = sim.disks[2]
    assert old is not None
    tried = _stop_in_the_middle(sim, 2, Progress(SECTORS))
    sim.disks[2] = old
    old.is_alive = True
    last = sim.array.committer.last
    assert _shared(sim, tried)
    sim.run(sim.array.join(sim.new_channels()[2], 2, Progress(SECTORS)))
    sim.settle()
    assert not _shared(sim, tried)
    tags = sim.array.reader.tags.get(Run(0, SECTORS))
    assert all(generation_of(tags[at : at + TAG_BYTES]) > last for at in range(0, len(tags), TAG_BYTES))


def test_what_was_written_after_the_dead_disk_left_is_copied_and_not_sealed_again() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    sim.write(0, 2, count=SECTORS // 2)
    sim.settle()
    before = sim.array.reader.tags.get(Run(0, SECTORS))
    sim.run(sim.array.join(_fresh(sim, 2), 2, Progress(SECTORS)))
    sim.settle()
    after = sim.array.reader.tags.get(Run(0, SECTORS))
    half = SECTORS // 2 * TAG_BYTES
    assert before[:half] == after[:half]
    pairs = [(before[at : at + TAG_BYTES], after[at : at + TAG_BYTES]) for at in range(half, len(after), TAG_BYTES)]
    assert all(generation_of(old) < generation_of(new) for old, new in pairs)


def test_two_disks_never_join_on_one_seat_at_once() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    first = sim.spawn(sim.array.join(_fresh(sim, 2), 2, Progress(SECTORS), sectors_per_s=200))
    sim.loop.run_for(50)
    result = sim.run(outcome(sim.array.join(_fresh(sim, 2), 2, Progress(SECTORS))))
    assert isinstance(result, Misuse)
    assert "being rebuilt already" in str(result)
    assert not first.done


def _shared(sim: SimArray, disk: SimDisk) -> list[int]:
    """The sectors of which `disk` has the fragment of the version that counts, at home or in its ring."""
    assert sim.array is not None
    shape = sim.geometry
    tags = sim.array.reader.tags.get(Run(0, shape.sectors))
    rings = set()
    for slot in range(SLOTS):
        header = bytes(disk.memory[shape.slot_start(slot) * 64 :][:64])
        if any(header):
            rings.add(EntryHeader.decode(header).number)
    shared = []
    for index in range(shape.sectors):
        tag = tags[index * TAG_BYTES : (index + 1) * TAG_BYTES]
        held = bytes(disk.memory[shape.tag_start(index) * 64 :][:TAG_BYTES])
        if tag != NEVER_WRITTEN and (held == tag or generation_of(tag) in rings):
            shared.append(index)
    return shared


def _assert_every_holder_is_named(sim: SimArray, ever: list[SimDisk]) -> None:
    """Whoever holds a fragment of a version that counts is a member, or named for an empty seat and for that entry."""
    assert sim.array is not None
    roster = sim.array.members.roster
    tags = sim.array.reader.tags.get(Run(0, sim.geometry.sectors))
    for disk in ever:
        shared = _shared(sim, disk) if disk.instance not in roster.members else []
        for index in shared:
            generation = generation_of(tags[index * TAG_BYTES : (index + 1) * TAG_BYTES])
            named = [gone for gone in roster.departed if gone.instance == disk.instance]
            assert len(named) == 1, f"sector {index}: an unnamed disk holds a fragment"
            assert named[0].last >= generation, f"sector {index}: the roster says that it cannot"
            assert roster.seats[named[0].seat] is None, f"sector {index}: it shares a version with its successor"


@pytest.mark.parametrize("seed", range(40))
def test_after_any_story_every_disk_that_holds_a_fragment_that_counts_is_known(seed: int) -> None:
    """Deaths, replacements that fail, old disks that come back, crashes: every disk is kept and looked at."""
    count = 40
    sim = _degraded(sectors=count, seed=seed)
    rng = sim.loop.rng
    ever = [disk for disk in sim.disks if disk is not None]
    joined = 0
    for _ in range(10):
        assert sim.array is not None
        empty = [seat for seat, holder in enumerate(sim.array.members.roster.seats) if holder is None]
        if len(empty) < 2 and rng.random() < 0.6:
            sim.kill(rng.choice([seat for seat in range(5) if seat not in empty]))
            sim.flush()
        elif empty:
            seat = rng.choice(empty)
            old = [disk for disk in ever if any(gone.instance == disk.instance for gone in _named(sim, seat))]
            if old and rng.random() < 0.5:
                sim.disks[seat] = rng.choice(old)
            else:
                sim.disks[seat] = sim.new_disk()
                ever.append(sim.disks[seat])
            sim.disks[seat].is_alive = True
            joining = sim.spawn(outcome(sim.array.join(sim.new_channels()[seat], seat, Progress(count))))
            for _ in range(rng.randrange(1, 6)):
                sim.loop.run_for(rng.random() * 4)
                sim.run(outcome(sim.array.pwrite(rng.randrange(count) * SECTOR_BYTES, sector(rng.randrange(1, 99)))))
            fate = rng.random()
            is_crash = 0.3 <= fate < 0.5
            if fate < 0.3:
                sim.kill(seat)
            elif is_crash:
                sim.crash()
                sim.mount()
            while not is_crash and not joining.done:
                sim.loop.run_for(5)
            joined += sim.disks[seat].instance in sim.array.members.roster.members
        sim.settle()
        sim.run(sim.array.reader.load_tags(Run(0, count)))
        _assert_every_holder_is_named(sim, ever)
    assert joined or seed, "the first story at least has a whole replacement"


def test_the_look_at_all_disks_does_find_one_that_is_not_named() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    gone = sim.disks[2]
    assert gone is not None
    _assert_every_holder_is_named(sim, [gone])
    stranger = sim.new_disk()
    stranger.memory[:] = gone.memory
    with pytest.raises(AssertionError, match="unnamed"):
        _assert_every_holder_is_named(sim, [stranger])


def test_errors_of_the_announcement_end_the_join_and_leave_the_seat_free() -> None:
    sim = _degraded(2)
    assert sim.array is not None
    sim.kill(0, 1, 3)
    result = sim.run(outcome(sim.array.join(_fresh(sim, 2), 2, Progress(SECTORS))))
    assert isinstance(result, PerdureError)
