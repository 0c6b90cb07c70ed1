"""Creation and mount: fencing, quorum, journal recovery, and what must be refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from perdure.array.commands import Authority
from perdure.array.create import create
from perdure.array.genesis import Genesis
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.array.mount import Mounting, mount
from perdure.array.ports import Channel, Lane
from perdure.array.roster import NO_PROGRAM, Program, Roster, Version
from perdure.array.session import Session
from perdure.disk import wire
from perdure.errors import Corrupt, Fenced, Fork, Misuse, OldProgram, Unavailable
from tests.array.world import POLICY, Owner, SimArray, outcome, sector


@pytest.fixture
def sim() -> SimArray:
    world = SimArray()
    world.create()
    return world


# Creation -----------------------------------------------------------------------------------------------------


def test_the_array_id_is_the_hash_of_what_was_decided(sim: SimArray) -> None:
    other = SimArray(seed=1)
    other.create()
    assert len(sim.array_id) == 32
    assert sim.array_id != other.array_id, "other instances, another array"


def test_create_refuses_a_disk_that_belongs_to_an_array(sim: SimArray) -> None:
    sim.crash()
    sim.owner = Owner()
    result = sim.run(outcome(create(sim.world(), sim.new_channels(), sim.geometry, POLICY)))
    assert isinstance(result, Misuse)
    assert "already belongs to an array; nothing was created" in str(result)
    sim.mount()


def test_create_refuses_the_wrong_number_of_disks() -> None:
    sim = SimArray()
    result = sim.run(outcome(create(sim.world(), sim.new_channels()[:4], sim.geometry, POLICY)))
    assert isinstance(result, Misuse)


def test_create_refuses_one_disk_at_two_addresses() -> None:
    sim = SimArray()
    sim.disks[1] = sim.disks[0]
    result = sim.run(outcome(create(sim.world(), sim.new_channels(), sim.geometry, POLICY)))
    assert isinstance(result, Misuse)
    assert "same disk" in str(result)


def test_create_refuses_a_disk_that_lends_too_little() -> None:
    sim = SimArray()
    bigger = Geometry(3, 5, 128)
    result = sim.run(outcome(create(sim.world(), sim.new_channels(), bigger, POLICY)))
    assert isinstance(result, Misuse)
    assert "each disk of this array needs" in str(result)


def test_create_refuses_a_disk_that_does_not_answer() -> None:
    sim = SimArray()
    sim.kill(3)
    result = sim.run(outcome(create(sim.world(), sim.new_channels(), sim.geometry, POLICY)))
    assert isinstance(result, Unavailable)
    assert "disk-3: it does not answer" in str(result)
    assert "nothing was created" in str(result)


def test_create_fails_whole_when_a_disk_dies_on_the_way() -> None:
    sim = SimArray()
    channels = sim.new_channels()

    def die(lane: Lane, command: bytes) -> bytes | None:
        if command[65] == wire.Opcode.EXECUTE:
            sim.kill(2)
        return None

    channels[2].intercept = die
    result = sim.run(outcome(create(sim.world(), channels, sim.geometry, POLICY)))
    assert isinstance(result, Unavailable)
    assert "was not created" in str(result)


# What a mount refuses -----------------------------------------------------------------------------------------


def _mount(sim: SimArray, **options: object) -> object:
    sim.crash()
    try:
        sim.mount(**options)  # type: ignore[arg-type]
    except Exception as error:
        return error
    return None


def test_a_mount_with_another_arrays_id_touches_nothing(sim: SimArray) -> None:
    before = [disk.core.epoch for disk in sim.disks if disk]
    error = _mount(sim, array_id=b"\1" * 32)
    assert isinstance(error, Unavailable)
    assert sim.array_id.hex() in str(error), "it says which array is there"
    assert [disk.core.epoch for disk in sim.disks if disk] == before, "and does not fence its owner"


def test_a_mount_with_another_policy_touches_nothing(sim: SimArray) -> None:
    error = _mount(sim, policy=b"q" * 32)
    assert isinstance(error, Unavailable)
    assert "policy" in str(error)


def test_a_mount_needs_k_members_and_names_the_missing(sim: SimArray) -> None:
    sim.kill(0, 2, 3)
    gone = [disk.instance.hex()[:16] for disk in sim.disks if disk and not disk.is_alive]
    error = _mount(sim)
    assert isinstance(error, Unavailable)
    assert error.exit_code == 2
    assert all(name in str(error) for name in gone)
    assert "nothing older is served" in str(error)


def test_blank_disks_at_old_addresses_are_never_formatted(sim: SimArray) -> None:
    """A13, A20: a host restarts all disks; a main program that formats blank disks would start from nothing."""
    sim.write(0, 1)
    sim.flush()
    sim.crash()
    sim.disks = [sim.new_disk() for _ in sim.disks]
    error = _mount(sim)
    assert isinstance(error, Unavailable)
    assert "blank" in str(error)
    assert all(disk.core.epoch == wire.NO_EPOCH for disk in sim.disks if disk)


def test_a_blank_disk_among_members_is_left_out(sim: SimArray) -> None:
    sim.write(0, 1)
    sim.flush()
    sim.crash()
    sim.disks[1] = sim.new_disk()
    array = sim.mount()
    assert array.members.roster.seats[1] is None
    assert [stray.address for stray in array.opened.strays] == ["disk-1"]
    assert sim.read(0) == sector(1)


def test_a_clone_fed_with_our_log_stays_blank(sim: SimArray) -> None:
    """A2: every command that disk 0 ever got is replayed to a second launch of the same image."""
    sim.write(0, 1)
    sim.flush()
    original = sim.disks[0]
    assert original is not None
    clone = sim.new_disk()
    for command in list(original.commands):
        clone.reply(command)
    assert clone.core.epoch == wire.NO_EPOCH
    assert not any(clone.memory)


def test_a_disk_of_another_authority_obeys_nothing(sim: SimArray) -> None:
    sim.crash()
    sim.disks[0] = sim.new_disk(Authority(b"\7" * 32).public_key)
    array = sim.mount()
    assert "another authority" in str(array.opened.strays[0].why)
    assert len(array.members.roster.members) == 4


def test_two_addresses_of_one_disk_count_once(sim: SimArray) -> None:
    sim.crash()
    sim.disks[1] = sim.disks[0]
    array = sim.mount()
    assert len(array.members.roster.members) == 4
    assert "two addresses" in str(array.opened.strays[0].why)


def test_replayed_evidence_is_a_fork(sim: SimArray) -> None:
    """A10: the host answers with documents that it kept."""
    kept: dict[int, bytes] = {}
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    for seat in range(3):

        def tamper(lane: Lane, command: bytes, reply: bytes, seat: int = seat) -> bytes:
            return kept.setdefault(seat, reply)

        channels[seat].tamper = tamper
    sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    result = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    assert isinstance(result, Fork)
    assert result.exit_code == 3


def test_a_flipped_bit_in_any_answer_to_a_mount_costs_nothing() -> None:
    """A7, for each reply in turn: the disk is asked again, the altered answer never believed."""
    for victim in range(1, 8):
        sim = SimArray()
        sim.create()
        sim.write(0, 1)
        sim.flush()
        sim.crash()
        sim.owner = Owner()
        channels = sim.new_channels()
        count = 0

        def tamper(lane: Lane, command: bytes, reply: bytes, victim: int = victim) -> bytes:
            nonlocal count
            count += 1
            at = len(reply) * victim // 8
            return reply[:at] + bytes([reply[at] ^ 1]) + reply[at + 1 :] if count == victim else reply

        channels[0].tamper = tamper
        opened = sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
        assert len(opened.roster.members) == 5
        assert count > victim
        sim.mount()
        assert sim.read(0) == sector(1)


# Fencing ------------------------------------------------------------------------------------------------------


def test_each_mount_raises_the_epoch_and_the_roster_version(sim: SimArray) -> None:
    epochs = [sim.array.opened.epoch]  # type: ignore[union-attr]
    for _ in range(3):
        sim.crash()
        epochs.append(sim.mount().opened.epoch)
    assert epochs == sorted(epochs)
    assert len({epoch[:8] for epoch in epochs}) == 4
    assert len({epoch[8:] for epoch in epochs}) == 4, "the random half never repeats"


def test_of_two_mounts_at_once_at_most_one_serves(sim: SimArray) -> None:
    sim.write(0, 1)
    sim.flush()
    sim.crash()
    for seed in range(40):
        sim.loop.rng.seed(seed)
        owners = [Owner(), Owner()]
        tasks = []
        for owner in owners:
            sim.owner = owner
            tasks.append(sim.spawn(outcome(mount(sim.world(), sim.new_channels(), sim.array_id, POLICY))))
            sim.loop.run_for(sim.loop.rng.random())
        sim.owner = Owner()
        results = [sim.run(_wait(task)) for task in tasks]
        won = [result for result in results if not isinstance(result, Exception)]
        current = {disk.core.epoch for disk in sim.disks if disk}
        owning = [result for result in won if {result.epoch} == current]  # type: ignore[attr-defined]
        assert len(owning) <= 1
        for result in results:
            if isinstance(result, Exception):
                assert isinstance(result, Unavailable | Fork), result
        for owner in owners:
            sim.loop.kill(owner)
    sim.mount()
    assert sim.read(0) == sector(1)


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


# Journal ------------------------------------------------------------------------------------------------------


def _in_ring(sim: SimArray, count: int) -> None:
    """Entries that every member has and none has applied: flush, then crash before the idle tick."""
    assert sim.array is not None
    for value in range(count):
        sim.run(sim.array.pwrite(value % 3 * SECTOR_BYTES, sector(value + 1), fua=True))


def test_entries_in_the_ring_are_applied_by_the_next_mount(sim: SimArray) -> None:
    _in_ring(sim, 5)
    sim.crash()
    sim.mount()
    assert [int.from_bytes(sim.read(index)[:8], "big") for index in range(3)] == [4, 5, 3]
    start, end = sim.geometry.slot_start(0) * 64, sim.geometry.tags_start * 64
    assert all(not any(disk.memory[start:end]) for disk in sim.disks if disk), "the ring is wiped"


@pytest.mark.parametrize("holders", [1, 2, 3, 4])
def test_an_entry_on_k_members_is_rolled_forward_any_other_dropped(holders: int) -> None:
    """Rule 6, with the write cut off between the disks; what is rolled forward is on every member afterwards."""
    sim = SimArray()
    array = sim.create()
    sim.write(0, 1)
    sim.flush()
    for seat in range(holders, 5):
        sim.channels[seat].is_silent = True
    sim.run(array.pwrite(0, sector(2)))
    task = sim.spawn(outcome(array.flush()))
    sim.loop.run_for(5)
    assert not task.done
    sim.crash()
    sim.mount()
    expected = sector(2) if holders >= 3 else sector(1)
    assert sim.read(0) == expected
    for pair in ((0, 1), (3, 4)):  # any two may die now
        copy = SimArray()
        copy.loop, copy.disks, copy.array_id = sim.loop, list(sim.disks), sim.array_id
        for seat in pair:
            copy.disks[seat] = None
        copy.mount()
        assert copy.read(0) == expected
        break


def test_a_damaged_journal_is_corrupt_not_guessed(sim: SimArray) -> None:
    _in_ring(sim, 2)
    sim.crash()
    for disk in sim.disks:
        assert disk is not None
        start = sim.geometry.slot_start(2) * 64
        disk.memory[start + 70] ^= 1  # an index of the entry: no honest disk does this
    error = _mount(sim)
    assert isinstance(error, Corrupt)


def test_a_slot_that_does_not_hold_what_the_head_says_leaves_the_disk_out(sim: SimArray) -> None:
    _in_ring(sim, 2)
    sim.crash()
    disk = sim.disks[0]
    assert disk is not None
    disk.memory[sim.geometry.slot_start(2) * 64 + 15] ^= 1  # the entry's number
    array = sim.mount()
    assert "damaged" in str(array.opened.strays[0].why)
    assert array.members.roster.seats[0] is None


def test_a_main_that_crashes_at_any_moment_of_a_mount_harms_nothing() -> None:
    """A17, A18: kill the mounting program after each command that reaches a disk; the next mount has everything."""
    total = 0
    for stop in range(1, 80):
        sim = SimArray(k=2, n=3, sectors=8)
        sim.create()
        sim.write(0, 1, count=3)
        sim.flush()
        sim.channels[2].is_silent = True  # an entry on two of three: the mount has to write it to the third
        assert sim.array is not None
        sim.run(sim.array.pwrite(0, sector(2)))
        sim.spawn(outcome(sim.array.flush()))
        sim.loop.run_for(5)
        sim.crash()
        sim.owner = Owner()
        count = _crash_after(sim, stop)
        total = max(total, count)
        sim.mount()
        assert sim.read(0, 3) == sector(2) + sector(1) * 2, f"crash after command {stop}"
        if count < stop:
            break
    assert 15 < total < 79


def _crash_after(sim: SimArray, stop: int) -> int:
    """Start a mount and kill its process once `stop` of its commands have reached a disk; how many did."""
    channels = sim.new_channels()
    count = 0

    def crash(lane: Lane, command: bytes) -> bytes | None:
        nonlocal count
        count += 1
        if count >= stop:
            sim.loop.kill(owner)
        return None

    for channel in channels:
        channel.intercept = crash
    owner = sim.owner
    task = sim.spawn(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    while not task.done:
        sim.loop.step()
    return count


def test_deaths_during_a_mount_are_survived_up_to_n_minus_k() -> None:
    """Every disk, killed at each of its first commands of a mount; the rest finish it."""
    for seat in range(3):
        for moment in range(1, 9):
            sim = SimArray(k=2, n=3, sectors=8)
            sim.create()
            sim.write(0, 1)
            sim.flush()
            sim.crash()
            sim.owner = Owner()
            channels = sim.new_channels()
            count = 0

            def die(
                lane: Lane, command: bytes, sim: SimArray = sim, seat: int = seat, at: int = moment
            ) -> bytes | None:
                nonlocal count
                count += 1
                if count == at:
                    sim.kill(seat)
                return None

            channels[seat].intercept = die
            opened = sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
            alive = sum(disk.is_alive for disk in sim.disks if disk)
            assert len(opened.roster.members) >= 2
            assert alive >= 2
            sim.mount()
            assert sim.read(0) == sector(1)


def test_a_fenced_mount_attempt_says_so(sim: SimArray) -> None:
    """A later mount comes between OPEN and PROPOSE: the first learns it from evidence."""
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    rival: list[object] = []

    def overtake(lane: Lane, command: bytes) -> bytes | None:
        if command[65] == wire.Opcode.EXECUTE and not rival:
            rival.append(sim.spawn(outcome(mount(sim.world(), sim.new_channels(), sim.array_id, POLICY))))
            for channel in channels:
                channel.latency_ms = (5.0, 5.0)
        return None

    channels[0].intercept = overtake
    result = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    winner = sim.run(_wait(rival[0]))
    assert not isinstance(winner, Exception)
    assert isinstance(result, Fenced | Unavailable), result


def test_what_an_interrupted_mount_left_in_a_ring_is_wiped_by_the_next() -> None:
    """P6: entry 1 is on three disks; a mount puts it into the other rings and dies; the next one drops it."""
    sim = SimArray()
    array = sim.create()
    for seat in (3, 4):
        sim.channels[seat].is_silent = True
    sim.run(array.pwrite(0, sector(1)))
    sim.spawn(outcome(array.flush()))
    sim.loop.run_for(5)
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    executed: dict[int, int] = {}

    def interrupted(seat: int, command: bytes) -> bytes | None:
        if command[65] != wire.Opcode.EXECUTE:
            return None
        executed[seat] = executed.get(seat, 0) + 1
        is_first_of_the_late = seat > 2 and executed[seat] == 1  # the slot; then the head, which never comes
        return None if is_first_of_the_late else b"\0"

    for seat, channel in enumerate(channels):
        channel.intercept = lambda _, command, seat=seat: interrupted(seat, command)
    sim.spawn(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    sim.loop.run_for(50)
    sim.crash()
    slot = slice(sim.geometry.slot_start(1) * 64, sim.geometry.slot_start(2) * 64)
    assert all(any(disk.memory[slot]) for disk in sim.disks if disk), "the trouble is really there"
    hidden, sim.disks[0], sim.disks[1] = sim.disks[:2], None, None
    array = sim.mount()
    assert array.opened.last == 0, "on one present disk only, so it was never acknowledged"
    assert not any(any(disk.memory[slot]) for disk in sim.disks if disk)
    assert len(hidden) == 2


def test_a_defect_is_loud_wherever_it_happens(sim: SimArray) -> None:
    """What is not one of our own errors is never taken for a stray disk."""
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()

    def defect(*_: object) -> None:
        raise RuntimeError("a defect")

    channels[0].exchange = defect  # type: ignore[method-assign,assignment]
    for work in (
        mount(sim.world(), channels, sim.array_id, POLICY),
        create(sim.world(), channels, sim.geometry, POLICY),
    ):
        assert isinstance(sim.run(outcome(work)), RuntimeError)


def test_when_no_disk_goes_through_with_it_the_mount_says_why(sim: SimArray) -> None:
    """Every host lets HELLO and READ pass and spoils every EXECUTE."""
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    for channel in channels:
        channel.intercept = lambda lane, command: b"\0" if command[65] == wire.Opcode.EXECUTE else None
    result = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    assert isinstance(result, Unavailable)
    assert all(f"[disk-{seat}]" in str(result) for seat in range(5))


def test_a_read_that_fails_in_the_middle_of_a_mount_starts_it_again() -> None:
    """A disk dies when its journal entry is asked for."""
    sim = SimArray()
    array = sim.create()
    for value in range(3):
        sim.run(array.pwrite(0, sector(value + 1), fua=True))
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    reads = 0

    def die(lane: Lane, command: bytes) -> bytes | None:
        nonlocal reads
        reads += command[65] == wire.Opcode.READ
        if reads == 3:  # genesis, survey, then the entry
            sim.kill(0)
        return None

    channels[0].intercept = die
    opened = sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
    assert len(opened.roster.members) == 4
    sim.mount()
    assert sim.read(0) == sector(3)


def test_a_member_that_lacks_what_others_applied_is_a_rollback(sim: SimArray) -> None:
    """No honest disk comes to this; memory that went back in time would."""
    assert sim.array is not None
    disk = sim.disks[0]
    assert disk is not None
    for value in range(3):
        sim.run(sim.array.pwrite(0, sector(value + 1), fua=True))
    old = bytes(disk.memory)
    for value in range(20):
        sim.run(sim.array.pwrite(0, sector(value + 10), fua=True))
    sim.settle()
    sim.crash()
    disk.memory[:] = old
    array = sim.mount()
    assert array.members.roster.seats[0] is None
    assert array.opened.strays[0].why.exit_code == 3
    assert sim.read(0) == sector(29)


def test_an_entry_that_only_trims_is_carried_to_a_member_that_lacks_it() -> None:
    """What `erase` leaves in the ring when the main program dies: there are no fragments to rebuild."""
    sim = SimArray()
    array = sim.create()
    sim.write(3, 1)
    sim.settle()
    sim.channels[4].is_silent = True
    sim.run(array.trim(3 * SECTOR_BYTES, SECTOR_BYTES))
    sim.spawn(outcome(array.flush()))
    sim.loop.run_for(5)
    sim.crash()
    array = sim.mount()
    assert len(array.members.roster.members) == 5
    assert sim.read(3) == bytes(SECTOR_BYTES)


def test_a_member_whose_journal_cannot_be_read_is_left_out(sim: SimArray) -> None:
    """Its host alters every answer to the READ of an entry; the next attempt goes without that disk."""
    assert sim.array is not None
    for value in range(2):
        sim.run(sim.array.pwrite(0, sector(value + 1), fua=True))
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    reads = 0

    def alter(lane: Lane, command: bytes, reply: bytes) -> bytes:
        nonlocal reads
        if command[65] != wire.Opcode.READ:
            return reply
        reads += 1
        return reply[:-1] + bytes([reply[-1] ^ 1]) if 3 <= reads <= 5 else reply

    channels[0].tamper = alter
    opened = sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
    assert len(opened.roster.members) == 4
    sim.mount()
    assert sim.read(0) == sector(2)


def test_another_disk_in_a_members_place_during_a_mount_costs_that_disk_only() -> None:
    """A9: the host swaps one address over to another opened disk while the mount proposes."""
    sim = SimArray()
    sim.create()
    sim.write(0, 1)
    sim.flush()
    other = SimArray(seed=3)
    other.create()
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()

    def swap(lane: Lane, command: bytes) -> bytes | None:
        if command[65] == wire.Opcode.EXECUTE:
            sim.disks[0] = other.disks[0]
            channels[0].close()
        return None

    channels[0].intercept = swap
    opened = sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
    assert len(opened.roster.members) == 4
    sim.mount()
    assert sim.read(0) == sector(1)


def test_an_array_exists_only_once_every_disk_proved_to_have_it() -> None:
    """The host drops what formats one disk and answers in its name; it cannot make the evidence."""
    sim = SimArray()
    channels = sim.new_channels()
    core = sim.disks[0].core  # type: ignore[union-attr]

    def forge(lane: Lane, command: bytes) -> bytes | None:
        fields = wire.COMMAND_HEADER.unpack_from(command, 64)
        if fields[1] != wire.Opcode.EXECUTE:
            return None
        result = wire.RESULT.pack(core.instance, fields[4], fields[5], core.size)
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    channels[0].intercept = forge
    result = sim.run(outcome(create(sim.world(), channels, sim.geometry, POLICY)))
    assert isinstance(result, Unavailable)
    assert "was not created" in str(result)


def test_an_older_program_refuses_an_array_that_a_newer_one_has_mounted() -> None:
    sim = SimArray(k=2, n=3)
    sim.create()
    sim.write(0, 5)
    sim.flush()
    sim.crash()
    newer = dataclasses.replace(sim.world(), release=7)
    sim.run(mount(newer, sim.new_channels(), sim.array_id, POLICY))
    epochs = [disk.core.epoch for disk in sim.disks if disk]
    for hidden in (None, 0, 1, 2):
        channels = [channel for at, channel in enumerate(sim.new_channels()) if at != hidden]
        older = dataclasses.replace(sim.world(), release=6)
        refused = sim.run(outcome(mount(older, channels, sim.array_id, POLICY)))
        assert isinstance(refused, OldProgram)
        assert refused.exit_code == 3
        assert "release 7 of the main program has mounted this array, and this is release 6" in str(refused)
    assert [disk.core.epoch for disk in sim.disks if disk] == epochs, "the newer one, which may run, is not fenced"
    opened = sim.run(mount(newer, sim.new_channels(), sim.array_id, POLICY))
    assert opened.roster.release == 7


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (Program(2, b"m" * 32), "version 3 of the signed main program was accepted by this array, and this one is ver"),
        (NO_PROGRAM, "and this one is started without a manifest"),
        (Program(3, b"x" * 32), "another manifest of version 3 was accepted by this array"),
    ],
)
def test_what_its_developers_have_superseded_mounts_no_more(own: Program, sentence: str) -> None:
    sim = SimArray(k=2, n=3)
    sim.create()
    sim.write(0, 5)
    sim.flush()
    sim.crash()
    newest = dataclasses.replace(sim.world(), program=Program(3, b"m" * 32))
    sim.run(mount(newest, sim.new_channels(), sim.array_id, POLICY))
    epochs = [disk.core.epoch for disk in sim.disks if disk]
    for hidden in (None, 0, 1, 2):
        channels = [channel for at, channel in enumerate(sim.new_channels()) if at != hidden]
        older = dataclasses.replace(sim.world(), program=own)
        refused = sim.run(outcome(mount(older, channels, sim.array_id, POLICY)))
        assert isinstance(refused, OldProgram)
        assert sentence in str(refused)
    assert [disk.core.epoch for disk in sim.disks if disk] == epochs, "the newer one, which may run, is not fenced"
    assert sim.run(mount(newest, sim.new_channels(), sim.array_id, POLICY)).roster.program == newest.program
    next_one = dataclasses.replace(sim.world(), program=Program(4, b"n" * 32))
    opened = sim.run(mount(next_one, sim.new_channels(), sim.array_id, POLICY))
    assert opened.roster.program == next_one.program
    left = opened.roster.without([opened.roster.seats[0]], Version(opened.epoch, 1), opened.last, 0)
    back = left.naming(0, b"j" * 32, Version(opened.epoch, 2), 0, 0).with_member(
        0, b"j" * 32, Version(opened.epoch, 3), 0, 0
    )
    assert Roster.decode(back.encode()).program == next_one.program, "whoever comes and goes, it stays"


def test_an_array_that_is_not_as_expected_is_refused_before_anything_is_changed() -> None:
    sim = SimArray(k=2, n=3)
    sim.create()
    sim.crash()
    before = [(disk.core.epoch, bytes(disk.memory)) for disk in sim.disks if disk]

    def require(genesis: Genesis) -> None:
        raise Misuse(f"{genesis.geometry.n} disks")

    refused = sim.run(outcome(mount(sim.world(), sim.new_channels(), sim.array_id, POLICY, require)))
    assert isinstance(refused, Misuse)
    assert str(refused) == "3 disks"
    assert [(disk.core.epoch, bytes(disk.memory)) for disk in sim.disks if disk] == before


def test_an_older_program_that_is_overtaken_while_it_mounts_refuses_too() -> None:
    """The newer release becomes known only from the base, after OPEN."""
    sim = SimArray(k=2, n=3)
    sim.create()
    sim.crash()
    older = dataclasses.replace(sim.world(), release=6)
    mounting = Mounting(older, sim.array_id, POLICY, [])
    find = mounting._find

    async def late(channels: Sequence[Channel]) -> tuple[Genesis, dict[bytes, tuple[bytes, Session]], list[Roster]]:
        newer = dataclasses.replace(sim.world(), release=7)
        await mount(newer, sim.new_channels(), sim.array_id, POLICY)
        genesis, found, _ = await find(channels)
        return genesis, found, []

    mounting._find = late  # type: ignore[method-assign]
    assert isinstance(sim.run(outcome(mounting.run(sim.new_channels()))), OldProgram)
