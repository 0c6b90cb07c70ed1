"""Disks die: what is said, with which exit code, and that nothing old is ever served."""

import os
import subprocess
import sys

import pytest

from tests.cli.rig import Rig, is_running


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


def test_one_dead_disk_is_degraded_and_named(rig):
    rig.up()
    data = os.urandom(300_000)
    rig.write(0, data)
    rig.kill_disk(2)
    status = rig.wait_for(lambda status: status["summary"] == "[UU_UU]")
    assert (status["state"], status["losses_survived"], status["exit_code"]) == ("degraded", 1, 1)
    assert [disk["state"] for disk in status["disks"]] == ["online", "online", "dead", "online", "online"]
    assert status["disks"][2]["address"] == f"unix:{rig.directory}/disk-2.sock"
    done = rig.run("status", code=1)
    assert "state: DEGRADED [UU_UU]" in done.out
    assert "1 more may be lost" in done.out
    assert rig.read(0, len(data)) == data


def test_up_after_deaths_mounts_degraded_and_says_which(rig):
    rig.up()
    rig.write(4096, b"kept")
    rig.kill_main()
    rig.kill_disk(0)
    rig.kill_disk(4)
    done = rig.run("up", "--json", code=1)
    assert "seat 0 (dead), 4 (dead)" in done.sentence
    assert done.json["summary"] == "[_UUU_]"
    assert done.json["losses_survived"] == 0
    assert [stray["address"] for stray in done.json["strays"]] == [
        f"unix:{rig.directory}/disk-{n}.sock" for n in (0, 4)
    ]
    assert rig.read(4096, 4) == b"kept"


def test_one_loss_too_many_stops_the_array_and_nothing_old_is_ever_served(rig):
    made = rig.up()
    rig.write(0, b"acknowledged")
    for seat in (0, 1, 3):
        rig.kill_disk(seat)
    status = rig.wait_for(lambda status: status["state"] == "unusable")
    assert (status["exit_code"], status["failure"]["class"]) == (2, "Unavailable")
    with pytest.raises(OSError, match="error"):
        rig.read(0, 12)
    assert "2 disks are left and 3 are needed" in rig.run("status", code=2).out
    assert "THE ARRAY HAS STOPPED (unusable)" in (rig.directory / "main.log").read_text()
    while_it_runs = rig.run("up", code=2).sentence
    rig.kill_main()
    assert rig.run("up", code=2).sentence == while_it_runs
    assert "3 of the 5 disks have ended (seats 0, 1, 3) and 3 must run" in while_it_runs
    assert "nothing old is served" in while_it_runs
    assert "a new, EMPTY array" in while_it_runs
    assert made["array_id"] in (rig.directory / "array.json").read_text()
    assert not is_running(rig)
    rig.down("--destroy")
    assert rig.up()["array_id"] != made["array_id"]
    assert rig.read(0, 12) == bytes(12)


def test_a_silent_disk_is_suspect_before_it_is_dead(rig):
    rig.up(dead_after_ms=60_000)
    rig.pause_disk(1)
    status = rig.wait_for(lambda status: status["disks"][1]["state"] == "suspect")
    assert (status["state"], status["summary"], status["exit_code"]) == ("degraded", "[U?UUU]", 1)
    assert status["losses_survived"] == 1
    rig.resume_disk(1)
    assert rig.wait_for(lambda status: status["state"] == "online")["failure"] is None


def test_a_restarted_disk_is_blank_and_never_taken_for_the_old_one(rig):
    rig.up()
    rig.write(0, b"kept")
    rig.kill_main()
    rig.kill_disk(3)
    with_blank_disk(rig, 3, lambda: check_blank(rig))


def check_blank(rig):
    status = rig.run("up", "--json", code=1).json
    assert status["disks"][3]["state"] == "blank"
    assert "blank" in status["strays"][0]["reason"]
    assert rig.read(0, 4) == b"kept"


def with_blank_disk(rig, seat, use):
    """Run `use` with a fresh disk at the seat's address."""
    words = ["disk", "run", "--json", "--image", rig.directory / "disk.eif", "--size", "32M"]
    words += [
        "--listen",
        f"unix:{rig.directory}/disk-{seat}.sock",
        "--root-directory",
        rig.directory / "simulated-root",
    ]
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as disk:
        try:
            assert b"listening" in disk.stdout.readline()
            use()
        finally:
            disk.terminate()
