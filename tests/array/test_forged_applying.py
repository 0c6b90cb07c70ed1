"""What a forged answer to the EXECUTE that applies an entry gains."""

from __future__ import annotations

from perdure.array.geometry import ENTRY_SECTORS_MAX, SECTOR_BYTES
from tests.array.test_commit import _forge
from tests.array.world import SimArray, sector


def test_an_entry_comes_home_only_when_every_disk_has_proved_to_have_applied_it() -> None:
    """A3, spec 9.3: until then it is read from memory, and what three hosts made up is not asked for."""
    sim = SimArray(sectors=2 * ENTRY_SECTORS_MAX)
    array = sim.create()
    sim.run(array.pwrite(0, sector(1) * ENTRY_SECTORS_MAX, fua=True))
    for seat in range(3):
        _forge(sim, seat)
    # A whole batch goes out without evidence, and with it the order to apply the one before.
    sim.run(array.pwrite(ENTRY_SECTORS_MAX * SECTOR_BYTES, sector(2) * ENTRY_SECTORS_MAX))
    sim.loop.run_for(2)
    assert array.members.lost == {}, "nobody has noticed yet"
    assert sim.read(0) == sector(1)
