"""Disks die at random moments: n-k at once lose nothing that was acknowledged, one more closes the array, loudly."""

import contextlib
import errno
import itertools
import os
import threading

import pytest

from perdure import api
from perdure.service.main import settings_of
from perdure.service.site import processes
from tests.cli.rig import Rig
from tests.system import load
from tests.system.rig import blank_disk, call, helper, new_array, seeded

SEATS = range(5)


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


@pytest.mark.parametrize("doomed", [*itertools.combinations(SEATS, 2)], ids=str)
def test_any_two_of_five_killed_at_once_lose_nothing_acknowledged(rig, doomed):
    lose_two_of_five(rig, doomed)


def lose_two_of_five(rig, doomed):
    """Write, kill, mount what is left, and compare with what was acknowledged."""
    found, rng = new_array(rig), seeded()
    with_main = rng.random() < 0.5
    lines = run_until_killed(rig, found, rng, doomed, with_main=with_main)
    held, acknowledged = load.possible(lines)
    print(f"{acknowledged} writes acknowledged, {len(held)} sectors written; main killed with the disks: {with_main}")
    assert acknowledged > 20
    with api.open_array(settings_of(found), found.array.array_id) as array:
        for sector, states in held.items():
            assert array.pread(sector * load.SECTOR, load.SECTOR) in states, f"sector {sector}"
        array.pwrite(0, b"and it goes on", fua=True)
        assert array.pread(0, 14) == b"and it goes on"


def run_until_killed(rig, found, rng, doomed, *, with_main):
    """Kill the disks after a random number of lines, the main program with them or some lines later; all its lines."""
    kill_at, goes_on = rng.randrange(60, 400), 0 if with_main else rng.randrange(30, 200)
    with helper("load", found.path, rng.randrange(1 << 32)) as main:
        lines = [main.stdout.readline() for _ in range(kill_at)]
        assert lines[0] == "ready\n"
        killers = [threading.Thread(target=rig.kill_disk, args=(seat,)) for seat in doomed]
        killers += [threading.Thread(target=main.kill)] * with_main
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        lines += [main.stdout.readline() for _ in range(goes_on)]
        assert main.poll() is None or with_main, "the main program ended by itself"
        main.kill()
        lines += main.stdout.readlines()
    return [line for line in lines if line.endswith("\n")]


def test_one_death_too_many_is_said_and_nothing_older_is_read(rig):
    uri = rig.up(size="32M")["nbd_uri"]
    old, new = os.urandom(1 << 20), os.urandom(1 << 20)
    rig.write(0, old)
    rig.write(0, new)
    rng = seeded()
    doomed = rng.sample(SEATS, 3)
    for seat in doomed:
        rig.kill_disk(seat)
        with contextlib.suppress(OSError):  # an error is honest at any time, other data never
            assert rig.read(0, len(new)) == new
    status = rig.wait_for(lambda status: status["state"] == "unusable")
    for seat in SEATS:
        assert (f"disk-{seat}.sock is given up" in status["failure"]["message"]) == (seat in doomed)
    assert [disk["seat"] for disk in status["disks"] if disk["state"] == "online"] == sorted(set(SEATS) - set(doomed))
    assert refused(lambda: rig.read(0, len(new))) == errno.EIO
    assert refused(lambda: rig.write(0, b"more")) == errno.EIO
    said = call("qemu-io", "-f", "raw", "-c", "read 0 1M", uri, code=None)
    assert "Input/output error" in said
    done = rig.run("status", code=2)
    assert "2 disks are left and 3 are needed" in done.out


def test_blank_disks_at_the_old_addresses_are_never_taken_for_the_array(rig):
    made = rig.up(size="32M")
    rig.write(0, b"precious")
    doomed = seeded().sample(SEATS, 3)
    for seat in doomed:
        rig.kill_disk(seat)
    rig.wait_for(lambda status: status["state"] == "unusable")
    with contextlib.ExitStack() as stack:
        blank = {seat: stack.enter_context(blank_disk(rig, seat)) for seat in doomed}
        # Beside the main program that saw them die, and by the disks' process files, which `up` looks at first.
        assert "have ended" in rig.run("up", code=2).sentence
        rig.kill_main()
        assert "have ended" in rig.run("up", code=2).sentence
        # A host may say anything in those files; then it is the mount that refuses.
        for seat, process in blank.items():
            processes.remember(rig.directory / f"disk-{seat}.pid", process.pid)
        for verb in ("up", "import"):
            sentence = rig.run(verb, code=2).sentence
            assert "only 2 of the 3 disks that the array needs are here" in sentence
            for seat in doomed:
                assert f"disk-{seat}.sock] it was restarted: it is blank" in sentence
        assert "already has an array" in rig.run("create", code=2).sentence
        assert refused(lambda: rig.read(0, 8)) in (errno.ENOENT, errno.ECONNREFUSED)
        assert made["array_id"] in (rig.directory / "array.json").read_text()
        assert made["array_id"] in (rig.directory / "perdure.toml").read_text()


def refused(act):
    """The error number that the act fails with; None when it does not fail."""
    try:
        act()
    except OSError as error:
        return error.errno
    return None
