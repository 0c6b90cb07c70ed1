"""What one FLUSH covers, when there is far more to send than may be under way."""

from __future__ import annotations

from perdure.array.cache import BATCHES_MAX
from perdure.array.geometry import ENTRY_TRIMS_MAX, Run
from tests.array.world import SimArray, sector


def test_a_flush_returns_only_when_every_batch_before_it_is_proved() -> None:
    """P2: more batches wait than rounds may be under way; the main program dies the moment FLUSH returns."""
    sim = SimArray(k=2, n=3, sectors=1 + ENTRY_TRIMS_MAX)
    array = sim.create()
    last = BATCHES_MAX - 1

    async def write_all_and_flush() -> None:
        for value in range(1, last + 1):
            array.cache.write(0, sector(value))
            for at in range(ENTRY_TRIMS_MAX):  # so many that the batch is full
                array.cache.trim(Run(1 + at, 1))
        await array.flush()

    sim.run(write_all_and_flush())
    sim.crash()
    sim.mount()
    assert int.from_bytes(sim.read(0)[:8], "big") == last
