"""The NBD client of the simulator over the real protocol core: what arrives in pieces is carried out whole."""

from __future__ import annotations

import pytest

from perdure.errors import Misuse
from perdure.sim.history import Violation
from perdure.sim.nbd import NbdClient
from tests.array.world import SimArray, sector


def connected(seed: int = 0) -> tuple[SimArray, NbdClient]:
    sim = SimArray(k=2, n=3, sectors=8, seed=seed)
    client = NbdClient(sim.loop, sim.create(), sim.owner)
    sim.run(client.connect())
    return sim, client


@pytest.mark.parametrize("seed", range(4))  # structured replies, and simple ones
def test_what_is_written_over_nbd_is_read_over_nbd_and_without(seed: int) -> None:
    sim, client = connected(seed)
    sim.run(client.pwrite(0, sector(1) * 3, fua=True))
    sim.run(client.trim(4096, 4096))
    sim.run(client.flush())
    assert sim.run(client.pread(0, 3 * 4096)) == sector(1) + bytes(4096) + sector(1) == sim.read(0, 3)


def test_an_error_reaches_the_client_as_what_it_was() -> None:
    sim, client = connected()
    sim.array.abandon()  # type: ignore[union-attr]
    with pytest.raises(Misuse):
        sim.run(client.flush())


def test_a_server_that_offers_another_size_is_found() -> None:
    sim = SimArray(k=2, n=3, sectors=8)
    client = NbdClient(sim.loop, sim.create(), sim.owner)
    client._core._export = type(client._core._export)(b"", b"", 4096)
    with pytest.raises(Violation, match="another size"):
        sim.run(client.connect())
