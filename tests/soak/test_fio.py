"""Ten minutes of fio with verification, on one array after another.

While fio runs, disks are paused for less time than makes them dead, and two of five are killed. Then the main
program is killed, `perdure up` mounts what is left, and fio reads all of it back. No disk can take a dead one's place
yet, so each round begins with a new array.
"""

import subprocess
import time

import pytest

from tests.cli.rig import Rig
from tests.system.rig import CLIENT_S, call, seeded, up_again
from tests.system.test_nbd_clients import FIO, assert_clean, need_fio

SOAK_S = 600
PAUSE_S = 1.0


@pytest.mark.timeout(1800)
def test_ten_minutes_of_verified_writes_while_disks_pause_and_die(tmp_path):
    rng, end, rounds = seeded(), time.monotonic() + SOAK_S, 0
    while time.monotonic() < end:
        directory = tmp_path / str(rounds)
        directory.mkdir()
        with Rig(directory) as rig:
            one_round(rig, directory, rng)
        rounds += 1
    print(f"{rounds} arrays")
    assert rounds > 5


def one_round(rig, directory, rng):
    uri = rig.up(size="128M", dead_after_ms=3000)["nbd_uri"]
    job = [*FIO, "--size=128m", "--fsync=128", f"--randseed={rng.randrange(1 << 31)}", f"--uri={uri}"]
    command = [need_fio(), *job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=directory) as process:
        try:
            for seat in rng.sample(range(5), 2):
                pause(rig, rng.randrange(5), rng)
                rig.kill_disk(seat)
            said = process.communicate(timeout=CLIENT_S)[0].decode()
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert_clean(said, bytes_min=128 << 20)
    # fio minds neither a last flush that failed nor, with --verify and --end_fsync, one that it never sent.
    assert "failed" not in call("qemu-io", "-f", "raw", "-c", "flush", uri)
    status = rig.wait_for(lambda status: status["losses_survived"] == 0)
    assert (status["state"], status["failure"]) == ("degraded", None)
    rig.kill_main()
    up_again(rig, code=1)
    # With a backlog fio would verify the end of what it wrote only.
    call("fio", *(word for word in job if "backlog" not in word), "--verify_only=1", cwd=directory)


def pause(rig, seat, rng):
    """Not to synchronise: the moments are to be random, and a disk to be silent for a while."""
    time.sleep(rng.uniform(0, 2))
    if rig.status()["disks"][seat]["state"] == "online":
        rig.pause_disk(seat)
        time.sleep(rng.uniform(0, PAUSE_S))
        rig.resume_disk(seat)
