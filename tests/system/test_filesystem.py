"""A real file system on the array: the Python standard library is copied in while disks and the main program die.

ext4 without a journal promises nothing for what was not synced when the machine stops, and its own structures may then
contradict each other. So what must hold depends on the moment. Frozen, that is synced and quiet: `e2fsck -fn` finds
nothing. In the middle of a copy: `e2fsck -fy` may repair what was not synced, and every synced file is there.
"""

import re
import time

import pytest

from tests.cli.rig import Rig
from tests.system import copier
from tests.system.rig import FileSystem, helper, how_to_mount, seeded, tool, up_again


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def files(rig, tmp_path):
    with FileSystem(rig, tmp_path, kind=how_to_mount()) as files:
        rig.up(size="64M")
        files.attach()
        files.make(journal=False)
        files.mount()
        yield files


def test_synced_and_quiet_when_the_main_program_is_killed_it_is_clean(rig, files):
    if files.kind != "loop":
        pytest.skip("loop devices are not allowed here, and fuse2fs cannot be frozen")
    tool("fsfreeze")
    rng = seeded()
    half = copier.BATCH_COUNT // 2
    with helper("copier", files.root) as process:
        copy_up_to(process, 0, half)
        kill_in_the_middle_of_a_batch(rig, process, half, rng)
        copy_up_to(process, half + 1, copier.BATCH_COUNT - 2)
        files.freeze()
        files.crash()
        files.thaw()
    files.detach()
    up_again(rig, code=1)
    files.attach()
    code, said = files.check("-fn")
    assert code == 0, said
    assert_clean(said)
    assert_synced(files, copier.BATCH_COUNT - 2)


def test_killed_in_the_middle_of_a_copy_it_keeps_every_synced_file(rig, files):
    rng = seeded()
    first, last = rng.randrange(2, 5), rng.randrange(6, 9)
    with helper("copier", files.root, *([] if files.kind == "loop" else ["each"])) as process:
        copy_up_to(process, 0, first)
        kill_in_the_middle_of_a_batch(rig, process, first, rng)
        copy_up_to(process, first + 1, last)
        for _ in range(last, copier.BATCH_COUNT):
            allow(process)
        process.stdin.close()
        wait_a_moment(rng)
        files.crash()
        synced = last + len(process.stdout.readlines())
        has_failed = process.wait(60) != 0
    print(f"{synced} batches were synced; in the middle of one: {has_failed}")
    files.detach()
    up_again(rig, code=1)
    files.attach()
    code, said = files.check("-fy")
    print(f"e2fsck -fy ended with {code}\n{said}")
    assert code in (0, 1), said
    code, said = files.check("-fn")
    assert code == 0, said
    assert_synced(files, synced)


def test_fuse2fs_serves_where_loop_devices_are_not_allowed(rig, tmp_path):
    how_to_mount()
    tool("fuse2fs")
    with FileSystem(rig, tmp_path, kind="fuse2fs") as files:
        rig.up(size="32M")
        files.attach()
        files.make(journal=False)
        files.mount()
        with helper("copier", files.root) as process:
            copy_up_to(process, 0, 2)
        files.detach()
        rig.kill_main()
        up_again(rig)
        files.attach()
        code, said = files.check("-fn")
        assert code == 0, said
        assert_synced(files, 2)


# Steps ----------------------------------------------------------------------------------------------------


def allow(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def copy_up_to(process, start, end):
    """Let the copier go on to the end of batch `end - 1`."""
    for number in range(start, end):
        allow(process)
        assert process.stdout.readline() == f"synced {number}\n"


def kill_in_the_middle_of_a_batch(rig, process, number, rng):
    """Two of five disks die at once while the batch is under way; it is synced all the same."""
    doomed = rng.sample(range(5), 2)
    print(f"disks {doomed} die in batch {number}")
    allow(process)
    wait_a_moment(rng)
    for seat in doomed:
        rig.kill_disk(seat)
    assert process.stdout.readline() == f"synced {number}\n"
    status = rig.wait_for(lambda status: status["summary"].count("U") == 3)
    assert (status["state"], status["failure"]) == ("degraded", None)


def wait_a_moment(rng):
    """Not to synchronise: the moment of the kill is to be random. A batch takes about this long."""
    time.sleep(rng.uniform(0, 0.25))


def assert_clean(said):
    """With -n, e2fsck says of what it would repair `IGNORED` or `no`."""
    assert not re.search(r"IGNORED|\? no|ERROR", said), said


def assert_synced(files, count):
    """Every file of the first `count` batches is bit-identical to the original."""
    files.mount()
    compared = 0
    for number, batch in enumerate(copier.batches()[:count]):
        for file in batch:
            copy = copier.place(files.root, number, file)
            assert copy.read_bytes() == (copier.LIBRARY / file).read_bytes(), copy
            compared += 1
    print(f"{compared} files are identical")
    assert compared > 20
