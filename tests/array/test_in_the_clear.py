"""Arrays in the clear: as fresh and as whole as sealed ones, readable by hosts, and without erase receipts."""

from __future__ import annotations

import os

import pytest

from perdure.array.create import create
from perdure.array.engine import Array
from perdure.array.genesis import Genesis
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.array.join import Progress
from perdure.array.mount import mount
from perdure.errors import Corrupt, Misuse
from tests.array.world import POLICY, SimArray

SECTOR = bytes(range(256)) * 16


@pytest.fixture
def clear() -> tuple[SimArray, Array]:
    sim = SimArray(k=2, n=3, dead_after_ms=200)
    opened = sim.run(create(sim.world(), sim.new_channels(), sim.geometry, POLICY, is_sealed=False))
    sim.array_id = opened.genesis.array_id
    array = Array(sim.world(), opened)
    array.start()
    return sim, array


def on_disks(sim: SimArray, piece: bytes) -> int:
    return sum(bytes(disk.memory).count(piece) for disk in sim.disks if disk)


def test_hosts_read_it_and_what_is_read_is_what_was_written(clear: tuple[SimArray, Array]) -> None:
    sim, array = clear
    sim.run(array.pwrite(0, SECTOR, fua=True))
    sim.run(array.committer.settle())
    assert bytes(sim.run(array.pread(0, SECTOR_BYTES))) == SECTOR
    assert on_disks(sim, SECTOR[: SECTOR_BYTES // 2])


def test_a_mount_finds_it_as_it_was_made(clear: tuple[SimArray, Array]) -> None:
    sim, array = clear
    sim.run(array.pwrite(5, b"kept", fua=True))
    sim.run(array.close())
    opened = sim.run(mount(sim.world(), sim.new_channels(), sim.array_id, POLICY))
    assert not opened.genesis.is_sealed
    again = Array(sim.world(), opened)
    assert bytes(sim.run(again.pread(0, 16))) == bytes(5) + b"kept" + bytes(7)


def test_a_flipped_bit_is_noticed_and_mended(clear: tuple[SimArray, Array]) -> None:
    sim, array = clear
    sim.run(array.pwrite(0, SECTOR, fua=True))
    sim.run(array.close())
    start = sim.geometry.fragment_start(0) * 64
    sim.disks[0].memory[start] ^= 1
    opened = sim.run(mount(sim.world(), sim.new_channels(), sim.array_id, POLICY))
    again = Array(sim.world(), opened)
    assert bytes(sim.run(again.pread(0, SECTOR_BYTES))) == SECTOR


def test_there_is_no_receipt_and_nothing_is_erased(clear: tuple[SimArray, Array]) -> None:
    sim, array = clear
    sim.run(array.pwrite(0, SECTOR, fua=True))
    with pytest.raises(Misuse, match="this array is in the clear"):
        sim.run(array.erase(0, SECTOR_BYTES))
    assert bytes(sim.run(array.pread(0, SECTOR_BYTES))) == SECTOR
    sim.run(array.trim(0, SECTOR_BYTES, fua=True))
    sim.run(array.committer.settle())
    assert not on_disks(sim, SECTOR[:64])


def test_a_lost_disk_is_rebuilt(clear: tuple[SimArray, Array]) -> None:
    sim, array = clear
    data = os.urandom(SECTOR_BYTES * 4)
    sim.run(array.pwrite(0, data, fua=True))
    sim.kill(2)
    sim.run(array.pwrite(0, data, fua=True))
    sim.disks[2] = sim.new_disk()
    sim.run(array.join(sim.new_channels()[2], 2, Progress(sim.geometry.sectors)))
    sim.kill(0)
    assert bytes(sim.run(array.pread(0, len(data)))) == data


def test_the_arrays_id_says_which_kind_it_is() -> None:
    fields = (Geometry(2, 3, 4), b"\2" + bytes(32), bytes(32), tuple(bytes([at]) * 32 for at in range(3)))
    sealed, clear = Genesis(*fields), Genesis(*fields, is_sealed=False)
    assert sealed.array_id != clear.array_id
    assert Genesis.decode(clear.encode()) == clear
    damaged = clear.encode()[:10] + b"\2" + clear.encode()[11:]
    with pytest.raises(Corrupt):
        Genesis.decode(damaged)
