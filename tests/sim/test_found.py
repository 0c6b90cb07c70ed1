"""What seeds of the simulator have found in the product, each as the smallest story that shows it."""

from __future__ import annotations

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Progress
from perdure.array.ports import Lane
from perdure.array.receipt import Erased
from perdure.errors import Misuse
from perdure.sim.disks import SimChannel
from tests.array.world import SimArray, outcome


def test_a_second_join_on_a_seat_that_was_filled_meanwhile_is_refused() -> None:
    """Seed 28: the seat was empty when the second began, and taken when it went on."""
    sim = SimArray(k=2, n=3, sectors=8, dead_after_ms=200)
    array = sim.create()
    sim.kill(2)
    sim.write(0, 1)
    sim.flush()  # disk 2 is voted off
    first, other = sim.new_disk(), sim.new_disk()
    quick, slow = SimChannel(sim.loop, "a", lambda: first), SimChannel(sim.loop, "b", lambda: other)
    slow.latency_ms = (100.0, 100.0)
    second = sim.spawn(outcome(array.join(slow, 2, Progress(8))))
    sim.run(array.join(quick, 2, Progress(8)))
    assert isinstance(sim.run(outcome(second)), Misuse)
    assert None not in array.members.roster.seats
    sim.write(0, 2)
    sim.flush()


def test_an_erasure_that_others_write_and_trim_again_is_shown_again_and_no_disk_is_blamed() -> None:
    """Seed 568: every member shows what was written meanwhile, and by then it is trimmed again."""
    sim = SimArray(k=2, n=3, sectors=8)
    array = sim.create()
    sim.write(0, 1)
    for channel in sim.channels:
        channel.lane_delay_ms[Lane.READ] = 50.0
    erasing = sim.spawn(outcome(array.erase(0, SECTOR_BYTES)))
    sim.loop.run_for(200)  # the questions after the erasure are on their way
    while not any(channel._waiting[Lane.READ] for channel in sim.channels):
        sim.loop.step()
    sim.write(0, 2)
    sim.settle()
    sim.loop.run_for(60)  # answered, with what was written
    sim.run(array.trim(0, SECTOR_BYTES))
    assert isinstance(sim.run(outcome(erasing)), Erased)
