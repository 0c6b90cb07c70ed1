"""No failure domain holds more seats than the array can lose, unless the policy says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from perdure.array import create
from perdure.array.geometry import Geometry
from perdure.array.join import Progress
from perdure.array.places import Place, Spread
from perdure.array.world import World
from perdure.errors import Misuse
from perdure.sim.disks import FastEvidence, SimAttested
from tests.array.world import POLICY, SimArray, outcome


@dataclass(frozen=True)
class Said:
    """What evidence says of a disk's place."""

    root: str = "aws"
    module_id: str = "i-1-enc1"
    platform: str = "nitro"
    measurement: Mapping[str, bytes] = field(default_factory=dict)
    time_ms: int = 0

    @property
    def host(self) -> str | None:
        return self.module_id.partition("-enc")[0] or None


def _places(roots: Sequence[str], hosts: Sequence[str]) -> list[Place]:
    pairs = zip(roots, hosts, strict=True)
    return [Place(f"disk-{at}", Said(root, f"i-{host}-enc{at}")) for at, (root, host) in enumerate(pairs)]


SHAPE = Geometry(3, 5, 8)


@pytest.mark.parametrize(
    ("roots", "hosts", "domain"),
    [
        ("aabbc", "12345", None),
        ("aaabc", "12345", "3 disks hang on the attestation root a"),
        ("aabbc", "11123", "3 disks hang on the host i-1"),
        ("aabbc", "11223", None),
    ],
)
def test_at_most_n_minus_k_seats_hang_on_one_root_or_host(roots: str, hosts: str, domain: str | None) -> None:
    if domain is None:
        Spread().require(SHAPE, _places(roots, hosts))
        return
    with pytest.raises(Misuse, match=domain):
        Spread().require(SHAPE, _places(roots, hosts))


def test_an_array_without_redundancy_may_have_each_disk_in_a_place_of_its_own() -> None:
    Spread().require(Geometry(2, 2, 8), _places("ab", "12"))
    with pytest.raises(Misuse, match="2 disks hang on the host"):
        Spread().require(Geometry(2, 2, 8), _places("ab", "11"))


def test_the_operators_zones_count_as_domains_and_addresses_without_one_do_not() -> None:
    places = _places("aabbc", "12345")
    Spread(zones={"disk-0": "paris", "disk-1": "paris", "disk-2": "oslo"}).require(SHAPE, places)
    zones = dict.fromkeys(["disk-0", "disk-1", "disk-4"], "paris")
    with pytest.raises(Misuse, match="3 disks hang on the domain paris"):
        Spread(zones=zones).require(SHAPE, places)
    Spread(per_domain=3, zones=zones).require(SHAPE, places)


def test_disks_whose_platform_names_no_host_count_for_none() -> None:
    places = [Place(f"disk-{at}", Said(root, module_id="")) for at, root in enumerate("aabbc")]
    assert all(place.attested.host is None for place in places)
    Spread(per_domain=1).require(SHAPE, places)
    with pytest.raises(Misuse, match="root a"):
        Spread(per_root=1, per_domain=1).require(SHAPE, places)


def test_the_policy_may_allow_more_of_either_and_not_of_the_other() -> None:
    Spread(per_root=5).require(SHAPE, _places("aaaaa", "12345"))
    with pytest.raises(Misuse, match="root"):
        Spread(per_root=4).require(SHAPE, _places("aaaaa", "12345"))
    with pytest.raises(Misuse, match="host"):
        Spread(per_root=5).require(SHAPE, _places("aaaaa", "11145"))
    Spread(per_root=5, per_domain=5).require(SHAPE, _places("aaaaa", "11111"))


class _Spreading(FastEvidence):
    """Evidence of disks on hosts in turn."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = list(hosts)

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        await super().verify(document, commitment)
        host = self._hosts.pop(0) if len(self._hosts) > 1 else self._hosts[0]
        return SimAttested(module_id=f"i-{host}-enc0", root=host)


def _world(sim: SimArray, spread: Spread, hosts: Sequence[str]) -> World:
    return World(sim.authority, _Spreading(hosts), sim.loop, sim.dead_after_ms, spread)


def test_create_refuses_too_many_disks_in_one_place_and_leaves_them_blank() -> None:
    sim = SimArray(k=2, n=3)
    refused = sim.run(outcome(create.create(_world(sim, Spread(), "112"), sim.new_channels(), sim.geometry, POLICY)))
    assert isinstance(refused, Misuse)
    assert "host i-1" in str(refused) or "root 1" in str(refused)
    assert all(disk is not None and not any(disk.memory) for disk in sim.disks)
    opened = sim.run(create.create(_world(sim, Spread(), "123"), sim.new_channels(), sim.geometry, POLICY))
    assert len(opened.sessions) == 3


def test_a_disk_that_would_crowd_a_place_is_not_taken_in() -> None:
    sim = SimArray(k=3, n=5, dead_after_ms=200)
    array = sim.create()
    sim.kill(2)
    sim.flush()
    sim.disks[2] = sim.new_disk()
    array._world = World(sim.authority, FastEvidence(), sim.loop, 200, Spread())  # all say that they are on one host
    refused = sim.run(outcome(array.join(sim.new_channels()[2], 2, Progress(64))))
    assert isinstance(refused, Misuse)
    assert "5 disks hang on" in str(refused)
    assert not any(sim.disks[2].memory)  # type: ignore[union-attr]
    array._world = World(sim.authority, FastEvidence(), sim.loop, 200, Spread(5, 5))
    sim.run(array.join(sim.new_channels()[2], 2, Progress(64)))
    assert len(array.members.roster.members) == 5
