"""Committing with acknowledgement chains: what links may do, what needs evidence, and what a leaked secret can cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from perdure.array.chain import CHAIN_MS_MAX
from perdure.array.committer import LINKED_MAX
from perdure.array.engine import HEARTBEAT_MS, TICK_MS
from perdure.array.geometry import SECTOR_BYTES, SLOTS
from perdure.array.join import Progress
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import Opcode, Wants
from perdure.errors import Fenced, Fork, LeakedSecret
from perdure.sim.disks import SimChannel
from tests.array.world import Owner, SimArray, outcome, sector

BODY = wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size
HARDWARE = (Wants.EVIDENCE, Wants.CHAIN)


@pytest.fixture
def sim() -> SimArray:
    world = SimArray(has_chains=True)
    world.create()
    return world


def durable(sim: SimArray, at: int, value: int) -> object:
    assert sim.array is not None
    return sim.run(outcome(sim.array.pwrite(at * SECTOR_BYTES, sector(value), fua=True)))


def executes(sim: SimArray, seat: int) -> Iterator[tuple[int, set[int]]]:
    """What each EXECUTE that a disk has got wanted, and where it wrote."""
    disk = sim.disks[seat]
    assert disk is not None
    for command in disk.commands:
        if command[65] == Opcode.EXECUTE:
            (count,) = wire.COUNT.unpack_from(command, BODY)
            ops = command[BODY + wire.COUNT.size : BODY + wire.COUNT.size + count * wire.OP.size]
            yield command[66], {target for _, target, _, _ in wire.OP.iter_unpack(ops)}


def leak(sim: SimArray, *seats: int) -> Counter[int]:
    """From now on these hosts know their disks' secrets: what asks for no evidence is dropped and acknowledged."""
    forged: Counter[int] = Counter()

    def spoil(seat: int, channel: SimChannel) -> None:
        def forge(lane: Lane, command: bytes) -> bytes | None:
            disk = sim.disks[seat]
            assert disk is not None
            _, opcode, wants, _, epoch, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
            if opcode != Opcode.EXECUTE or wants in HARDWARE:
                return None
            link = disk.secret_link(seq) if wants == Wants.LINK else b""
            if link is None or epoch != disk.core.epoch:
                return None
            forged[seat] += 1
            result = wire.RESULT.pack(disk.instance, epoch, seq, disk.core.size) + link
            return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

        channel.intercept = forge

    for seat in seats:
        spoil(seat, sim.channels[seat])
    return forged


def test_most_flushes_rest_on_links_and_evidence_comes_every_few_entries(sim: SimArray) -> None:
    durable(sim, 0, 0)
    for disk in sim.disks:
        assert disk is not None
        disk.commands.clear()
    for at in range(10 * LINKED_MAX):
        assert durable(sim, at % 64, at) is None
    for seat in range(5):
        wanted = Counter(wants for wants, _ in executes(sim, seat))
        assert wanted == {Wants.LINK: 9 * LINKED_MAX + LINKED_MAX - 10, Wants.CHAIN: 10}, "one command for each write"


def test_nothing_is_overwritten_on_the_strength_of_a_link(sim: SimArray) -> None:
    """Homes and slots of the ring change only by what evidence proves: of each disk, as of all."""
    assert sim.array is not None
    durable(sim, 0, 1)
    sim.settle()
    committer = sim.array.committer
    for value in range(2, 2 + 3 * SLOTS):
        proved = committer._proved
        assert durable(sim, 0, value) is None
        assert committer._applied_sent <= proved, "as of before this write"
        assert committer.last - committer._applied_proved <= SLOTS
        assert committer.last - committer._proved <= LINKED_MAX


def test_a_quiet_array_is_asked_for_evidence_at_once(sim: SimArray) -> None:
    assert sim.array is not None
    for value in range(3):
        durable(sim, 0, value)
    sessions = [session for _, session in sim.array.members]
    assert any(session.linked_seq > session.proved_seq for session in sessions)
    assert not sim.array.committer.is_idle
    sim.loop.run_for(4 * TICK_MS)
    assert sim.array.committer.is_idle
    assert all(session.proved_seq == session.linked_seq == session.seq for session in sessions)


def test_a_flush_without_writes_is_followed_by_evidence_too(sim: SimArray) -> None:
    assert sim.array is not None
    sim.settle()
    sim.loop.run_for(4 * TICK_MS)
    sim.flush()  # brings evidence, since the chains are too old or none is there
    sim.flush()
    session = dict(sim.array.members)[0]
    assert session.linked_seq > session.proved_seq
    sim.loop.run_for(4 * TICK_MS)
    assert session.proved_seq == session.seq


def test_flushes_without_end_are_interrupted_by_evidence_within_a_second(sim: SimArray) -> None:
    """They add no entries, and leave no quiet moment."""
    assert sim.array is not None
    array, last, ages = sim.array, sim.loop.now_ms(), []
    until = sim.loop.time_ms + 4000
    session = dict(array.members)[2]
    while sim.loop.time_ms < until:
        proved = session.proved_seq
        sim.flush()
        if session.proved_seq > proved:
            ages.append(sim.loop.now_ms() - last)
            last = sim.loop.now_ms()
        sim.loop.run_for(TICK_MS - 5)
    assert max(ages) < CHAIN_MS_MAX + TICK_MS
    assert len(ages) > 3


def test_roster_changes_mounts_and_erasures_rest_on_evidence(sim: SimArray) -> None:
    assert sim.array is not None
    shape = sim.geometry
    durable(sim, 0, 1)
    sim.channels[4].is_silent = True
    assert durable(sim, 0, 2) is None, "after a vote"
    sim.run(sim.array.erase(0, SECTOR_BYTES))
    sim.disks[4] = sim.new_disk()
    channel = sim.new_channels()[4]
    sim.run(sim.array.join(channel, 4, Progress(shape.sectors)))
    durable(sim, 0, 3)
    sim.crash()
    sim.mount()
    durable(sim, 0, 4)
    sim.run(sim.array.close())
    rosters = {shape.current_start, shape.next_start}
    for seat in range(4):
        found = list(executes(sim, seat))
        assert any(wants == Wants.LINK for wants, _ in found)
        changes = [wants for wants, targets in found if rosters & targets]
        assert len(changes) >= 8, "creation, removal, naming, adding and a mount, in two steps but the first"
        assert all(wants in HARDWARE for wants in changes)
        assert found[-1][0] in HARDWARE, "nothing rests on a link when it is closed"
    first, *_ = executes(sim, 4)
    assert first[0] in HARDWARE, "so does the welcome of a joiner"


@pytest.mark.parametrize("close", ["close", "settle", "erase"])
def test_what_must_be_proved_is_proved_even_right_after_a_link(sim: SimArray, close: str) -> None:
    array = sim.array
    assert array is not None
    durable(sim, 0, 1)
    durable(sim, 1, 2)
    leak(sim, 0, 1, 2)
    assert durable(sim, 2, 3) is None, "forged"
    if close == "close":
        result = sim.run(outcome(array.close()))
    elif close == "settle":
        result = sim.run(outcome(array.committer.settle()))
    else:
        result = sim.run(outcome(array.erase(0, SECTOR_BYTES)))
    assert isinstance(result, Fork)
    assert "since the last evidence may be lost" in str(result)
    assert all(isinstance(verdict, LeakedSecret) for verdict in array.members.lost.values())


def test_without_the_secret_forged_links_never_satisfy_a_flush(sim: SimArray) -> None:
    """A3: dropped, and acknowledged by the last link that was shown; the commands are sent again."""
    durable(sim, 0, 1)
    durable(sim, 0, 2)

    def intercept(lane: Lane, command: bytes) -> bytes | None:
        disk = sim.disks[0]
        assert disk is not None
        if command[65] != Opcode.EXECUTE or command[66] != Wants.LINK:
            return None
        seq = int.from_bytes(command[116:124], "big")
        result = wire.RESULT.pack(disk.instance, command[100:116], seq, disk.core.size) + disk.shown[-1]
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    for channel in sim.channels:
        channel.intercept = intercept
    assert sim.array is not None
    task = sim.spawn(outcome(sim.array.pwrite(0, sector(3), fua=True)))
    sim.loop.run_for(300)
    assert not task.done
    for channel in sim.channels:
        channel.intercept = None
    sim.loop.run_for(300)
    assert task.done
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(3)


def test_leaked_secrets_of_few_disks_cost_those_disks_and_no_data(sim: SimArray) -> None:
    """As many as may be lost."""
    assert sim.array is not None
    durable(sim, 0, 1)
    forged = leak(sim, 1, 3)
    for value in range(2, 2 + LINKED_MAX - 1):
        assert durable(sim, 0, value) is None
    assert set(forged) == {1, 3}
    sim.loop.run_for(500)
    lost = sim.array.members.lost
    assert len(lost) == 2
    assert all("secret has leaked" in str(verdict) for verdict in lost.values())
    assert sim.array.committer.failure is None
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(LINKED_MAX)


@pytest.mark.parametrize("entries", range(1, LINKED_MAX))
def test_leaked_secrets_of_many_disks_cost_at_most_what_links_acknowledged_since_the_last_evidence(
    sim: SimArray, entries: int
) -> None:
    """More than may be lost forge; the main program dies before evidence is asked for; what stood before stands."""
    durable(sim, 0, 1)
    durable(sim, 1, 2)
    sim.settle()
    durable(sim, 0, 3)
    sim.settle()
    forged = leak(sim, 0, 1, 2)
    for value in range(entries):
        assert durable(sim, 0, 100 + value) is None, "so says a FLUSH that rests on forged links"
    assert all(forged[seat] == entries for seat in (0, 1, 2))
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(3)
    assert sim.read(1) == sector(2)


def test_leaked_secrets_of_many_disks_are_found_out_loudly_within_ticks(sim: SimArray) -> None:
    assert sim.array is not None
    durable(sim, 0, 1)
    leak(sim, 0, 1, 2)
    assert durable(sim, 0, 2) is None
    sim.loop.run_for(4 * TICK_MS)
    failure = sim.array.committer.failure
    assert isinstance(failure, Fork)
    assert "secret has leaked" in str(failure)
    assert failure.exit_code == 3
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(1)


def test_flushes_that_rest_on_leaked_secrets_stop_after_a_few_entries(sim: SimArray) -> None:
    """Even if nothing else is ever quiet."""
    durable(sim, 0, 1)
    leak(sim, 0, 1, 2, 3, 4)
    acknowledged = 0
    while durable(sim, 0, 2 + acknowledged) is None:
        acknowledged += 1
    assert acknowledged < LINKED_MAX


def test_an_overtaken_main_program_gets_no_link(sim: SimArray) -> None:
    """P4 with chains: the disks have wiped what it waits for."""
    first, owner = sim.array, sim.owner
    assert first is not None
    durable(sim, 0, 1)
    durable(sim, 0, 2)
    second = sim.mount()
    sim.owner = owner
    assert isinstance(sim.run(outcome(first.flush())), Fenced)
    sim.owner = Owner()
    assert sim.run(second.pread(0, SECTOR_BYTES)) == sector(2)


def test_a_quiet_array_is_asked_as_often_as_without_chains(sim: SimArray) -> None:
    assert sim.array is not None
    durable(sim, 0, 1)
    sim.loop.run_for(2.5 * HEARTBEAT_MS)
    session = dict(sim.array.members)[0]
    assert sim.loop.now_ms() - session.attested_ms <= HEARTBEAT_MS
