"""`up` and `down`: one command makes, finds and mounts an array, and never makes a second one in its place."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from perdure.service.site import processes
from tests.cli.rig import SIZE, Rig, is_running, perdure

PROCESSES = ("main", "disk-0", "disk-1", "disk-2")


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        yield rig


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """An array that runs; a test leaves it as it was."""
    with Rig(tmp_path_factory.mktemp("standing"), disks=3, threshold=2) as rig:
        rig.up()
        yield rig


def without_id(rig):
    path = rig.directory / "perdure.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("id = ")))


# A life ---------------------------------------------------------------------------------------------------


def test_first_up_says_that_it_created_and_prints_lines_to_paste(rig):
    done = rig.run("up", "--size", SIZE, *rig.shape)
    assert "A NEW array was created, and it is empty." in done.out
    assert "state: ONLINE [UUU]" in done.out
    path = rig.directory / "nbd.sock"
    assert f"nbdinfo 'nbd+unix:///perdure?socket={path}'" in done.out
    assert f"qemu-img info 'nbd+unix:///perdure?socket={path}'" in done.out
    assert f"nbd-client -unix {path} /dev/nbd0 -name perdure" in done.out
    assert f"nbdfuse {rig.directory}/mnt/disk 'nbd+unix:///perdure?socket={path}'" in done.out
    down = rig.run("down")
    assert "3 disks go on running: they ARE the data." in down.out


def test_the_pasted_lines_work(standing):
    lines = standing.up()["clients"]
    for tool in ("nbdinfo", "qemu-img"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, and nothing can stand in for the real client")
        shown = subprocess.run(
            ["bash", "-c", lines[tool]], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        assert "16777216" in shown


def test_data_survive_the_kill_of_the_main_program(rig):
    made = rig.up()
    data = os.urandom(1 << 20)
    rig.write(12_345, data)
    rig.kill_main()
    again = rig.up()
    assert (made["created"], again["created"]) == (True, False)
    assert again["array_id"] == made["array_id"]
    assert rig.read(12_345, len(data)) == data


def test_a_second_up_finds_everything_running(standing):
    before = {name: standing.process(name) for name in PROCESSES}
    assert standing.up()["state"] == "online"
    assert {name: standing.process(name) for name in before} == before


def test_two_ups_at_once_make_one_array(rig):
    command = [sys.executable, "-m", "perdure.cli.main", "up", "--json", "--size", SIZE, *map(str, rig.shape)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, env=rig.env, stdout=pipe, stderr=subprocess.DEVNULL) for _ in range(2)]
    values = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(value["created"] for value in values) == [False, True]
    assert values[0]["array_id"] == values[1]["array_id"]


def test_down_brings_home_what_no_client_flushed_and_leaves_the_disks(rig):
    rig.up()
    rig.write(0, b"not flushed by the client", flush=False)
    assert rig.down() == {"stopped": True, "disks_running": 3, "destroyed": False}
    assert not is_running(rig)
    assert rig.down()["stopped"] is False
    assert rig.up()["created"] is False
    assert rig.read(0, 25) == b"not flushed by the client"


def test_destroy_ends_everything_and_leaves_only_what_is_not_ours(rig):
    rig.up()
    found = [rig.process(name) for name in PROCESSES]
    (rig.directory / "notes.txt").write_text("mine")
    value = rig.down("--destroy")
    assert (value["disks_ended"], value["left"]) == (3, ["notes.txt"])
    assert not any(process.is_alive for process in found)
    assert [path.name for path in rig.directory.iterdir()] == ["notes.txt"]
    (rig.directory / "notes.txt").unlink()
    rig.directory.rmdir()


def test_a_stranger_with_a_reused_number_is_never_ended(rig):
    rig.up()
    rig.kill_disk(1)
    path = rig.directory / "disk-1.pid"
    value = json.loads(path.read_bytes())
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            path.write_text(json.dumps({**value, "pid": stranger.pid}))
            assert rig.down("--destroy")["disks_ended"] == 2
            assert stranger.poll() is None
            assert processes.Process.of(stranger.pid) is not None
        finally:
            stranger.kill()
    assert not rig.directory.exists()


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--size", "1000001"], ["multiple of 4,096", "1003520 would do", "Nothing was created"]),
        (["--disks", "4", "--threshold", "2"], ["more than half of n", "nothing was created"]),
        (["--size", "lots"], ["'lots' is not a size", "See `perdure up --help`", "Nothing was done"]),
        (["--nbd", "ftp:x"], ["'serve.listen' must be an address to serve at"]),
    ],
)
def test_a_bad_wish_is_refused_before_anything_is_made(rig, words, what):
    sentence = rig.run("up", *words, code=2).sentence
    assert all(part in sentence for part in what), sentence
    assert not (rig.directory / "perdure.toml").exists()
    assert not list(rig.directory.glob("disk-*.pid"))


def test_another_shape_or_address_than_the_running_one_is_refused(standing):
    assert "already has 16777216 for --size" in standing.run("up", "--size", "32M", code=2).sentence
    assert "`perdure down` first" in standing.run("up", "--nbd", "tcp:127.0.0.1:0", code=2).sentence
    assert standing.status()["state"] == "online"


def test_a_port_in_use_is_said_and_the_array_is_there_at_another(rig):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = rig.run("up", "--json", "--size", SIZE, *rig.shape, "--nbd", f"tcp:127.0.0.1:{port}", code=2)
        assert f"Cannot serve NBD at tcp:127.0.0.1:{port}: Address already in use" in done.sentence
        assert done.json["error"]["class"] == "Misuse"
    value = rig.run("up", "--json", "--nbd", "tcp:127.0.0.1:0").json
    assert value["created"] is False
    assert value["nbd_uri"].startswith("nbd://127.0.0.1:")
    assert value["clients"]["nbd-client"].startswith("nbd-client 127.0.0.1 ")


def test_a_directory_with_too_long_a_name_is_refused(tmp_path):
    done = perdure("up", "--directory", tmp_path / ("d" * 100))
    assert done.code == 2
    assert "longer than the 107 bytes" in done.sentence


def test_down_where_nothing_is(rig):
    assert "no array was made there" in rig.run("down", code=2).sentence
    assert not rig.directory.exists()


def test_a_lost_configuration_never_leads_to_a_new_array(standing):
    path = standing.directory / "perdure.toml"
    text = path.read_text()
    path.unlink()
    assert "no new array was made" in standing.run("up", code=2).sentence
    path.write_text(text)
    assert standing.up()["created"] is False


def test_a_crash_between_record_and_configuration_is_made_good(standing):
    array_id = standing.status()["array_id"]
    without_id(standing)
    assert standing.up()["array_id"] == array_id
    assert f'id = "{array_id}"' in (standing.directory / "perdure.toml").read_text()


def test_disks_in_use_are_never_formatted_again(standing):
    standing.write(0, b"precious")
    standing.down()
    record = standing.directory / "array.json"
    text = record.read_text()
    without_id(standing)
    record.unlink()
    assert "already belongs to an array; nothing was created" in standing.run("up", code=2).sentence
    record.write_text(text)
    standing.up()
    assert standing.read(0, 8) == b"precious"


# Acknowledgement chains -----------------------------------------------------------------------------------


def test_chains_are_chosen_once_are_shown_and_need_the_policy(rig):
    made = rig.run("up", "--json", "--size", SIZE, *rig.shape, "--acknowledgements", "chains").json
    assert made["acknowledgements"] == "chains"
    assert made["exposure"] == {"commands": 32, "entries": 7, "ms": 1000}
    shown = rig.run("status").out
    assert "acknowledgements: chains (weaker: whoever knows a disk's secret can forge up to 1 s" in shown
    other = rig.run("up", "--acknowledgements", "evidence", code=2)
    assert "already has chains for --acknowledgements, not evidence; nothing was changed" in other.err
    rig.run("down")
    path = rig.directory / "perdure.toml"
    path.write_text(path.read_text().replace('acknowledgements = "chains"', 'acknowledgements = "evidence"'))
    assert rig.run("up", "--json").json["acknowledgements"] == "evidence", "evidence is always allowed"


def test_a_file_alone_cannot_choose_chains(rig):
    rig.up()
    rig.run("down")
    path = rig.directory / "perdure.toml"
    path.write_text(path.read_text().replace('acknowledgements = "evidence"', 'acknowledgements = "chains"'))
    refused = rig.run("serve", code=2)
    assert "the evidence policy does not say `acknowledgement_chains`: nothing was started" in refused.err
