"""Real NBD clients on a served array of five disks."""

import json
import os
import subprocess
import time

import pytest

from tests.cli.rig import Rig
from tests.system.rig import CLIENT_S, call, seeded, tool

SIZE = 64 << 20
FIO = ["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-256k", "--blockalign=512", "--iodepth=16"]
FIO += ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--output-format=json"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("served")) as rig:
        yield rig.up(size="64M")["nbd_uri"]


def test_nbdinfo_shows_the_size_the_flags_and_the_constraints(served):
    told = json.loads(call("nbdinfo", "--json", served))
    assert (told["protocol"], told["structured"]) == ("newstyle-fixed", True)
    (export,) = told["exports"]
    expected = {
        "export-name": "perdure",
        "export-size": SIZE,
        "is_read_only": False,
        "is_rotational": False,
        "can_flush": True,
        "can_fua": True,
        "can_multi_conn": True,
        "can_trim": True,
        "can_zero": True,
        "can_fast_zero": False,
        "block_size_minimum": 1,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 << 20,
    }
    assert {key: export[key] for key in expected} == expected


def test_nbdcopy_brings_random_data_there_and_back(served, tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(os.urandom(23 << 20) + bytes(9 << 20) + os.urandom(SIZE - (32 << 20)))
    call("nbdcopy", "--flush", original, served)
    call("nbdcopy", served, copy)
    assert original.read_bytes() == copy.read_bytes()


def test_qemu_img_shows_the_size_and_converts_onto_it(served, tmp_path):
    told = json.loads(call("qemu-img", "info", "--output=json", served))
    assert (told["virtual-size"], told["format"]) == (SIZE, "raw")
    image = tmp_path / "image"
    image.write_bytes(os.urandom(5 << 20) + bytes(5 << 20) + os.urandom((2 << 20) + 512))
    os.truncate(image, SIZE)
    call("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, served)
    assert "identical" in call("qemu-img", "compare", "-f", "raw", "-F", "raw", image, served)


def test_qemu_io_patterns_aligned_and_not(served):
    commands = (
        "write -P 0x11 0 1M",
        "write -P 0xab 1 4095",
        "write -P 0xcd -f 5000 70001",
        "read -P 0x11 0 1",
        "read -P 0xab 1 4095",
        "read -P 0x11 4096 904",
        "read -P 0xcd 5000 70001",
        "read -P 0x11 75001 100000",
        "write -z 100 50",
        "write -z -u 200k 64k",
        "discard 128k 24k",
        "discard 300001 5000",
        "flush",
        "read -P 0xab 1 99",
        "read -P 0 100 50",
        "read -P 0xab 150 3946",
        "read -P 0 200k 64k",
        "read -P 0 128k 24k",
        "read -P 0x11 300000 1",
        "read -P 0 300001 5000",
        "read -P 0x11 305001 100000",
        f"write -P 0xef {SIZE - 3} 3",
        f"read -P 0xef {SIZE - 3} 3",
    )
    words = [word for command in commands for word in ("-c", command)]
    said = call("qemu-io", "-t", "writeback", "-d", "unmap", "-f", "raw", *words, served)
    assert "failed" not in said, said
    assert said.count("read ") == sum(command.startswith("read") for command in commands), said


def test_fio_verifies_random_writes_of_mixed_sizes(served, tmp_path):
    need_fio()
    said = call("fio", *FIO, "--size=48m", f"--uri={served}", cwd=tmp_path)
    assert_clean(said, bytes_min=24 << 20)


def test_fio_ends_clean_when_two_disks_are_killed_in_the_middle(tmp_path):
    fio, rng = need_fio(), seeded()
    doomed = rng.sample(range(5), 2)
    print("killed:", doomed)
    with Rig(tmp_path) as rig:
        uri = rig.up(size="64M")["nbd_uri"]
        command = [fio, *FIO, "--size=64m", "--fsync=64", f"--uri={uri}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
            try:
                entries = rng.randrange(10, 60)
                rig.wait_for(lambda status: status["journal_last"] >= entries)
                for seat in doomed:
                    rig.kill_disk(seat)
                assert process.poll() is None, "fio had ended before the disks were killed"
                killed = time.monotonic()
                said = process.communicate(timeout=CLIENT_S)[0].decode()
            finally:
                process.kill()
        print(f"fio went on for {time.monotonic() - killed:.1f} s")
        assert process.returncode == 0, said
        assert_clean(said, bytes_min=32 << 20)
        status = rig.status()
        assert (status["state"], status["losses_survived"]) == ("degraded", 0)
        assert [disk["state"] for disk in status["disks"]].count("dead") == 2
        assert status["failure"] is None


def need_fio():
    path = tool("fio")
    if subprocess.run([path, "--enghelp=nbd"], capture_output=True, check=False).returncode:
        pytest.skip("this fio was built without the nbd engine, and nothing can stand in for it")
    return path


def assert_clean(said, *, bytes_min):
    (done,) = json.loads(said[said.index("{") : said.rindex("}") + 1])["jobs"]
    assert done["error"] == 0, said
    assert done["read"]["io_bytes"] >= bytes_min
    assert done["write"]["io_bytes"] >= bytes_min
