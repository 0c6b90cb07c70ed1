"""docs/operations.md: its drills, typed as they stand there on an array of simulated disks."""

from __future__ import annotations

import json

import pytest

from tests.cli.operations import follow, prepare, require_healthy, up
from tests.cli.rig import Rig
from tests.system.rig import tool

DATA = b"channel state 42" * 256
ZONES = 'zones = ["paris", "paris", "oslo", "oslo", "rome"]'


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("drills")) as rig:
        prepare(rig, disks=ZONES)
        up(rig)
        rig.write(0, DATA)
        yield rig


@pytest.fixture
def rig(standing):
    """Healthy before and after, with what was flushed on it."""
    require_healthy(standing)
    yield standing
    require_healthy(standing)
    assert standing.read(0, len(DATA)) == DATA


def instances(rig):
    return [disk["instance"] for disk in rig.status()["disks"]]


def test_losing_a_disk(rig):
    before = instances(rig)
    follow(rig, "Losing a disk")
    assert [seat for seat, instance in enumerate(instances(rig)) if instance != before[seat]] == [2]


def test_a_disk_that_hangs(rig):
    tool("pkill")
    before = instances(rig)
    try:
        follow(rig, "A disk that hangs")
    finally:
        rig.resume_disk(2)
    assert instances(rig) == before


def test_losing_a_zone(rig):
    assert [disk["domain"] for disk in rig.status()["disks"]][:3] == ["paris", "paris", "oslo"]
    follow(rig, "Losing a zone", codes=(0, 1))


def test_replacing_every_disk(rig):
    before = instances(rig)
    follow(rig, "Replacing every disk")
    assert not set(before) & set(instances(rig))


def test_a_compromised_host(rig):
    before = instances(rig)[2]
    follow(rig, "A compromised host")
    assert before not in instances(rig)
    saved = json.loads((rig.directory.parent / "events.json").read_text())["events"]
    assert saved == sorted(saved, key=lambda event: event["number"])
    assert saved


def test_a_new_key(tmp_path):
    tool("nbdcopy")
    tool("qemu-img")
    with Rig(tmp_path) as old, Rig(tmp_path) as new:
        new.directory = old.directory.with_name(f"{old.directory.name}-new")
        new.env["PERDURE_DIRECTORY"] = str(new.directory)
        prepare(old)
        up(old)
        old.write(4096, DATA)
        key = (old.directory / "authority.key").read_bytes()
        follow(old, "A new key")
        assert sorted(old.directory.parent.iterdir()) == [new.directory, tmp_path / "receipt.json"]
        require_healthy(new)
        assert new.read(4096, len(DATA)) == DATA
        assert (new.directory / "authority.key").read_bytes() != key
        assert json.loads((tmp_path / "receipt.json").read_text())["length"] == 16 << 20
