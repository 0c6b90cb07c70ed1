"""A main program takes in a disk on which somebody counts by now: its successor, or itself.

The host needs nothing but patience: it holds one command back, and hides one disk afterwards. The case of the successor
was found by the search (`joiner-not-looked-at` and `joiner-named-and-not-looked-at` in `model/cases.py`).
"""

from __future__ import annotations

import pytest

from perdure.array.engine import Array
from perdure.array.join import Progress
from perdure.array.mount import mount
from perdure.errors import Misuse
from perdure.sim.disks import SimDisk
from tests.array.world import POLICY, Owner, SimArray, outcome, sector

SEAT = 2
OLD, NEW = 1, 2


def _mount(sim: SimArray, *seats: int) -> Array:
    """By a new main program, which is shown these disks only."""
    sim.owner = Owner()
    channels = sim.new_channels()
    return sim._start(sim.run(mount(sim.world(), [channels[at] for at in seats], sim.array_id, POLICY)))


def _disk(sim: SimArray) -> SimDisk:
    disk = sim.disks[SEAT]
    assert disk is not None
    return disk


def _vote_off(sim: SimArray) -> None:
    sim.kill(SEAT)
    sim.flush()
    sim.settle()
    _disk(sim).is_alive = True


def _degraded(seed: int) -> tuple[SimArray, Array, Owner]:
    """Sector 0 is OLD, and a disk is voted off that has been voted off and taken in once before."""
    sim = SimArray(k=2, n=3, sectors=8, dead_after_ms=400, seed=seed)
    first = sim.create()
    sim.write(0, OLD)
    sim.settle()
    _vote_off(sim)
    sim.run(first.join(sim.new_channels()[SEAT], SEAT, Progress(8)))
    _vote_off(sim)
    return sim, first, sim.owner


def _succeed(sim: SimArray) -> None:
    """Another main program mounts, takes the disk in, flushes NEW, and stops."""
    second = _mount(sim, 0, 1)
    sim.run(second.join(sim.new_channels()[SEAT], SEAT, Progress(8)))
    sim.write(0, NEW)
    sim.flush()
    sim.crash()


def _is_rolled_back(sim: SimArray) -> bool:
    """Whether a mount that is not shown disk 1 has lost what was flushed."""
    sim.kill(1)
    _mount(sim, 0, SEAT)
    return sim.read(0) != sector(NEW)


@pytest.mark.parametrize("seed", range(3))
def test_a_main_that_was_overtaken_before_it_joins_a_disk_wipes_nothing_on_it(seed: int) -> None:
    sim, first, owner = _degraded(seed)
    _succeed(sim)
    sim.owner = owner
    sim.run(outcome(first.join(sim.new_channels()[SEAT], SEAT, Progress(8))))
    sim.loop.kill(owner)
    assert not _is_rolled_back(sim)


def _overtaken_while_its_open_is_on_the_way(seed: int) -> SimArray:
    sim, first, owner = _degraded(seed)
    slow = sim.new_channels()[SEAT]
    slow.latency_ms = (100, 100)
    sim.spawn(first.join(slow, SEAT, Progress(8)))
    sim.loop.run_for(430)  # the disk is greeted, looked at and named; OPEN is on its way
    _succeed(sim)
    sim.owner = owner
    sim.loop.run_for(300)
    sim.loop.kill(owner)
    return sim


def test_a_main_that_is_overtaken_while_its_open_is_on_the_way_wipes_nothing() -> None:
    """Both OPENs have one counter, and the random halves decide: so several seeds."""
    assert [seed for seed in range(8) if _is_rolled_back(_overtaken_while_its_open_is_on_the_way(seed))] == []


def test_a_disk_that_became_a_member_meanwhile_is_not_opened_again() -> None:
    sim = SimArray(k=3, n=5, sectors=8, dead_after_ms=400)
    array = sim.create()
    sim.kill(3)
    sim.flush()
    sim.kill(4)
    sim.flush()
    sim.disks[3] = sim.new_disk()
    slow = sim.new_channels()[3]
    slow.latency_ms = (100, 100)
    second = sim.spawn(outcome(array.join(slow, 4, Progress(8))))
    sim.loop.run_for(20)
    sim.run(array.join(sim.new_channels()[3], 3, Progress(8)))
    sim.loop.run_for(2000)
    assert second.done
    assert array.committer.failure is None
    sim.flush()


def test_a_member_is_never_announced_for_another_seat() -> None:
    sim, first, _ = _degraded(0)
    member = sim.disks[0]
    assert member is not None
    result = sim.run(outcome(first.committer.announce(SEAT, member.instance)))
    assert isinstance(result, Misuse)
    assert "in use in another seat already" in str(result)
    assert first.array_id == sim.array_id
