"""The operator tries to bring an erased key back, with the authority's private key in hand.

It owns all hosts. It may have kept disks running that the array has lost, and every fragment and tag that stood in
their homes or rings; k - 1 of them give nothing, k give the key: so the search can find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.sealing import Keys
from perdure.errors import Misuse, PerdureError
from perdure.keystore.slots import Place, State
from perdure.sim.disks import SimDisk
from tests.array.world import KEY, SimArray, outcome
from tests.keystore import operator
from tests.keystore.operator import Memory, memories, pieces
from tests.keystore.world import OFFSET, SimStore, key

SHAPES = [(2, 3), (3, 5), (4, 6)]
INDEX = Place(OFFSET, 0).secret_start // SECTOR_BYTES
Copy = tuple[Memory, bytes, int]


def opened(sim: SimArray, kept: Mapping[int, Memory], live: list[Memory]) -> bool:
    """Whether the key comes back."""
    found = operator.opened(sim.geometry, Keys.derive(KEY, sim.array_id), INDEX, kept, live)
    return any(key(1)[0] in sector for sector in found)


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize("is_home", [True, False], ids=["home", "in the ring"])
def test_k_minus_1_kept_memories_and_the_private_key_give_nothing_back_and_k_do(k: int, n: int, is_home: bool) -> None:
    world = SimStore(k=k, n=n)
    world.put(0, 1)
    if is_home:
        world.sim.settle()
    before = memories(world.sim)
    assert opened(world.sim, {}, before), "it is to be found before"
    world.run(world.store.erase(0))
    live = memories(world.sim)
    for seats in combinations(range(n), k - 1):
        assert not opened(world.sim, {seat: before[seat] for seat in seats}, live)
    for seats in combinations(range(n), k):
        assert opened(world.sim, {seat: before[seat] for seat in seats}, live)


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_disks_that_were_kept_from_the_erasure_and_still_run_give_nothing_back(k: int, n: int) -> None:
    """They are voted off for their silence, and the receipt names them."""
    world = SimStore(k=k, n=n)
    world.put(0, 1)
    world.sim.settle()
    kept = range(n - k)
    for seat in kept:
        world.sim.channels[seat].is_silent = True
    erased = world.run(world.store.erase(0))
    assert [gone.seat for gone in erased.holders] == list(kept)
    assert erased.is_beyond_recall
    after = memories(world.sim)
    for seat in kept:
        assert any(after[seat][world.sim.geometry.fragment_start(INDEX) * 64 :][: world.sim.geometry.fragment_bytes])
    assert not opened(world.sim, {}, after)


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_no_live_disk_holds_a_fragment_anywhere_after_the_erasure_in_its_ring_neither(k: int, n: int) -> None:
    world = SimStore(k=k, n=n)
    world.put(0, 1)
    shape = world.sim.geometry
    columns = [
        {fragment for _, fragment in pieces(shape, memory, INDEX) if any(fragment)} for memory in memories(world.sim)
    ]
    assert all(columns)
    world.run(world.store.erase(0))
    for memory, column in zip(memories(world.sim), columns, strict=True):
        for fragment in column:
            parts = [fragment[at : at + 32] for at in range(0, len(fragment), 32)]
            assert not any(part in memory for part in parts if any(part))


# Mounts with old disks ------------------------------------------------------------------------------------


def copy_of(disk: SimDisk | None) -> Copy:
    """What no host of a TEE can take: a running disk, to be put back later."""
    assert disk is not None
    return bytes(disk.memory), disk.core.epoch, disk.core.seq


def put_back(disk: SimDisk | None, old: Copy) -> None:
    assert disk is not None
    disk.memory[:], disk.core.epoch, disk.core.seq = old


def tried(world: SimStore) -> bytes | None:
    """The secret, if a mount by the owner of the private key can use it."""
    try:
        world.mount()
        return world.secret(0)
    except PerdureError:
        return None


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_a_mount_of_k_minus_1_disks_from_before_and_any_others_finds_no_key_and_one_of_k_does(k: int, n: int) -> None:
    for count in (k - 1, k):
        for seats in combinations(range(n), count):
            world = SimStore(k=k, n=n)
            world.put(0, 1)
            world.sim.settle()
            old = [copy_of(disk) for disk in world.sim.disks]
            world.run(world.store.erase(0))
            world.sim.crash()
            for seat in seats:
                put_back(world.sim.disks[seat], old[seat])
            if count == k:
                world.sim.kill(*(seat for seat in range(n) if seat not in seats))
            assert tried(world) == (key(1)[0] if count == k else None), seats


def test_disks_that_were_kept_from_the_erasure_and_come_back_bring_nothing_with_them() -> None:
    world = SimStore()
    world.put(0, 1)
    world.sim.settle()
    for seat in (0, 1):
        world.sim.channels[seat].is_silent = True
    world.run(world.store.erase(0))
    world.sim.crash()
    found = world.run(world.mount().get(0))
    assert (found.state, found.version) == (State.ERASED, 1)
    assert isinstance(world.run(outcome(world.store.use(0, bytes))), Misuse)
    world.sim.crash()
    world.sim.kill(2, 3)
    world.sim.disks[2:4] = [world.sim.new_disk(), world.sim.new_disk()]
    assert tried(world) is None, "two old disks, one live and two blank ones"
