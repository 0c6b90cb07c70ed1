"""`replace`, `rejoin`, `scrub` on real processes, while clients write and hosts do what they like."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import tomllib

import psutil
import pytest

from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.image.build import build_simulated
from perdure.service.site import config, local
from perdure.service.site.artefacts import new_key
from perdure.service.site.local import Wish
from tests.cli.rig import Rig, _Nbd

SECTOR = 4096
SIZE = "4M"
LARGE = "16M"
SLOW = "1M"
"""With `LARGE`, slow enough for a command to be given meanwhile."""
DEAD_AFTER_MS = 500


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        yield rig


def up(rig, size=SIZE, code=0):
    return rig.up(size=size, dead_after_ms=DEAD_AFTER_MS, code=code)


def lose(rig, seat):
    """Kill a disk and let the array vote it off."""
    rig.kill_disk(seat)
    rig.write(0, rig.read(0, 1))  # its FLUSH returns after the vote
    assert rig.status()["disks"][seat]["state"] == "dead"


class Writer(threading.Thread):
    """A client that goes on writing; every sector holds what `held` says, once it has stopped."""

    def __init__(self, rig):
        super().__init__()
        self.held = {}
        self._socket = rig.directory / "nbd.sock"
        self._stopping = threading.Event()

    def run(self):
        rng = random.Random(7)
        with _Nbd(self._socket) as nbd:
            while not self._stopping.is_set():
                sector, data = rng.randrange(1024), rng.randbytes(SECTOR)
                nbd.request(1, sector * SECTOR, data=data)
                self.held[sector] = data
                if rng.random() < 0.1:
                    nbd.request(3, 0)
            nbd.request(3, 0)

    @contextlib.contextmanager
    def writing(self):
        self.start()
        try:
            yield
        finally:
            self._stopping.set()
            self.join(60)
        assert not self.is_alive()


# One command ----------------------------------------------------------------------------------------------


def test_one_command_which_status_names_mends_a_killed_disk_while_writes_flow(rig):
    up(rig)
    data = os.urandom(4 << 20)
    rig.write(0, data)
    writer = Writer(rig)
    with writer.writing():
        rig.wait_for(lambda status: len(writer.held) > 100)
        rig.kill_disk(1)
        done = rig.run("replace", 1)
        count = len(writer.held)
        rig.wait_for(lambda status: len(writer.held) > min(count + 50, 900))
    assert re.match(r"Seat 1 was rebuilt on the disk at unix:\S+ in \d\d:\d\d:\d\d: [\d,]+ sectors \(", done.out)
    assert done.out.endswith("The array is online [UUU].\n")
    assert "rebuild of seat 1: 8 MiB of 8 MiB, 100 %" in done.err
    status = rig.run("status").out
    assert "state: ONLINE [UUU]" in status
    assert re.search(r"scan: rebuild of seat 1, done \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: Seat 1 was rebuilt", status)
    lose(rig, 0)  # from here on every read needs the new disk
    held = rig.read(0, len(data))
    for sector in range(1024):
        at = sector * SECTOR
        assert held[at : at + SECTOR] == writer.held.get(sector, data[at : at + SECTOR])
    said = rig.run("status", code=1).out
    assert "one more loss closes the array for good. `perdure replace 0` rebuilds seat 0 on a fresh disk" in said
    words = re.search(r"`perdure (replace \d)`", said)[1].split()
    value = rig.run(*words, "--json").json
    assert (value["state"], value["exit_code"], value["repair"]["state"]) == ("online", 0, "done")
    assert value["repair"]["seat"] == 0
    assert rig.run("scrub", "--json").err == "", "nothing but the object"


# Interrupted ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(rig, *words):
    """The command as a process that shows a rebuild which has got somewhere; and what it said so far."""
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=rig.env, stdout=pipe, stderr=pipe, text=True) as process:
        said = []
        while not said or not said[-1].startswith("rebuild of seat"):
            said.append(process.stderr.readline())
            assert said[-1], said
        rig.wait_for(lambda status: any(repair["done_bytes"] for repair in status["repairs"]))
        yield process, "".join(said)


def test_an_interrupted_command_leaves_the_work_going_on_until_the_main_program_stops(rig):
    up(rig, LARGE)
    data = os.urandom(4 << 20)
    rig.write(0, data, flush=False)
    lose(rig, 1)
    with started(rig, "replace", 1, "--limit", SLOW) as (first, _):
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=30)
    assert first.returncode == 130
    assert "The rebuild of seat 1 goes on in the main program" in said
    status = rig.run("status", code=1).out
    assert re.search(r"scan: rebuild of seat 1: \d(\.\d)? MiB of 20 MiB, \d+ %", status)
    assert re.search(r"1  -  +REBUILDING .* unix:\S+disk-1.sock", status)
    assert "is being rebuilt already, by `perdure replace`" in rig.run("rejoin", 1, code=2).sentence
    with started(rig, "replace", 1) as (again, shown):
        assert rig.down()["stopped"] is True
        _, said = again.communicate(timeout=30)
    assert again.returncode == 2
    assert "It runs already, with the limit that it was given" in shown
    assert "The main program ended during the rebuild of seat 1" in said
    up(rig, LARGE, code=1)
    assert "The array is online [UUU]." in rig.run("replace", 1).out
    lose(rig, 0)
    assert rig.read(0, len(data)) == data


def test_after_a_crash_of_the_main_program_the_same_command_begins_again(rig):
    up(rig, LARGE)
    data = os.urandom(4 << 20)
    rig.write(0, data)
    rig.kill_disk(1)  # and it waits by itself until the array has noticed
    with started(rig, "replace", 1, "--limit", SLOW) as (first, _):
        rig.kill_main()
        _, said = first.communicate(timeout=30)
    assert first.returncode == 2
    assert "The main program ended during the rebuild of seat 1, which stood at" in said
    up(rig, LARGE, code=1)
    assert rig.run("replace", 1, "--json").json["state"] == "online"
    lose(rig, 0)
    assert rig.read(0, len(data)) == data


# A disk that comes back -----------------------------------------------------------------------------------


def test_a_disk_that_was_silent_comes_back_with_what_it_missed(rig):
    rig.directory.mkdir()
    local.prepare(rig.directory, Wish(SIZE, 3, 2, "unix:nbd.sock", DEAD_AFTER_MS))
    path = rig.directory / config.NAME
    path.write_text(path.read_text().replace("answer-ms-max = 5000", "answer-ms-max = 1000"))
    up(rig)
    data = os.urandom(4 << 20)
    rig.write(0, data)
    rig.pause_disk(1)
    rig.write(40 * SECTOR, b"missed" * 2048)  # three sectors; events are some more
    rig.wait_for(lambda status: status["disks"][1]["state"] == "dead")
    rig.resume_disk(1)
    assert "`perdure rejoin 1` takes it back" in rig.run("replace", 1, code=2).sentence
    done = rig.run("rejoin", 1)
    assert re.match(
        r"Seat 1 has its disk back after 00:00:0\d: ([3-9]|1\d) sectors \(\d+ KiB\) that it had missed sent\.", done.out
    )
    lose(rig, 2)
    assert rig.read(0, len(data)) == data[: 40 * SECTOR] + b"missed" * 2048 + data[43 * SECTOR :]


# Elsewhere ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_at(rig, name, image=local.IMAGE_FILE):
    """A fresh disk that `up` did not start, at a socket in the rig's directory."""
    words = ["disk", "run", "--image", rig.directory / image, "--listen", f"unix:{rig.directory}/{name}"]
    words += ["--size", "32M", "--root-directory", rig.directory / local.ROOT_DIRECTORY]
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as disk:
        try:
            assert b"listening" in disk.stdout.readline()
            yield
        finally:
            disk.terminate()


def test_a_new_address_is_kept_in_the_configuration(rig):
    up(rig)
    rig.write(0, b"kept")
    lose(rig, 1)
    with disk_at(rig, "new.sock"):
        rig.run("replace", 1, "--address", "unix:new.sock")
        text = (rig.directory / config.NAME).read_text()
        addresses = tomllib.loads(text)["disks"]["addresses"]
        assert addresses == ["unix:disk-0.sock", f"unix:{rig.directory}/new.sock", "unix:disk-2.sock"]
        assert text.count("#") > 10
        rig.down()
        assert up(rig)["state"] == "online"
        lose(rig, 0)
        assert rig.read(0, 4) == b"kept"


# Scrub ----------------------------------------------------------------------------------------------------


def spoil(rig, seat, disk_sector):
    """Turn one bit over in the memory of a seat's disk."""
    launcher = psutil.Process(rig.process(f"disk-{seat}").pid)
    (program,) = launcher.children()
    try:
        with open(f"/proc/{program.pid}/mem", "r+b", 0) as memory:
            at = memory_start(program.pid, memory) + disk_sector * 64
            memory.seek(at)
            byte = memory.read(1)[0]
            memory.seek(at)
            memory.write(bytes([byte ^ 1]))
    except PermissionError:
        pytest.skip("this user may not write to a process's memory here")


def memory_start(pid, memory):
    """Where the lent memory begins: the genesis record is the first thing in it."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            start, end, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            if flags.startswith("rw") and int(end, 16) - int(start, 16) >= 4 << 20:
                for page in range(int(start, 16), int(end, 16), 4096):
                    memory.seek(page)
                    if memory.read(8) == b"PERDURE1":
                        return page
    raise AssertionError("no genesis record in the disk's memory")


def test_a_scrub_finds_what_is_wrong_says_whose_it_is_and_mends_it(rig):
    up(rig)
    data = os.urandom(4 << 20)
    rig.write(0, data)
    rig.down()  # everything is home, and nothing is cached
    up(rig)
    shape = Geometry.for_size(2, 3, 4 << 20, HISTORY_SECTORS)
    spoil(rig, 2, shape.fragment_start(17))
    spoil(rig, 2, shape.fragment_start(900))
    spoil(rig, 1, shape.tag_start(300))
    first = rig.run("scrub", "--json").json["repair"]
    assert (first["mended_sectors"], first["wrong_by_seat"]) == (3, [0, 1, 2])
    again = rig.run("scrub").out
    assert re.match(r"8 MiB read from every disk in 00:00:\d\d: nothing had to be mended\.\n", again)
    assert "scan: scrub, done" in rig.run("status").out
    lose(rig, 1)
    assert rig.read(0, len(data)) == data


# Mistakes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wounded(tmp_path_factory):
    """An array without its seat 1, where a disk of another authority waits; every test leaves it so."""
    with Rig(tmp_path_factory.mktemp("wounded"), disks=3, threshold=2) as rig:
        up(rig)
        lose(rig, 1)
        key = new_key(rig.directory / "stranger.key")
        (rig.directory / "stranger.eif").write_bytes(build_simulated(key.public_key))
        with disk_at(rig, "stranger.sock", "stranger.eif"), disk_at(rig, "fresh.sock"):
            yield rig
        for name in ("stranger.key", "stranger.eif"):
            (rig.directory / name).unlink()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["replace", 3], "There is no seat 3: the array has seats 0 to 2; nothing was changed."),
        (["replace", "one"], "Invalid value for 'SEAT': 'one' is not a valid integer."),
        (["replace", 0], "is a live member; nothing was changed. A disk is voted off once it was silent for 0.5 s;"),
        (["rejoin", 0], "is a live member; nothing was changed."),
        (["replace", 1, "--address", "unix:nobody.sock"], "Seat 1 stays empty: it does not answer: cannot connect: "),
        (["replace", 1, "--address", "unix:stranger.sock"], "the disk refused: it obeys another authority"),
        (["replace", 1, "--address", "unix:disk-0.sock"], "is the address of seat 0 in the configuration"),
        (["replace", 1, "--address", "ftp:here"], "nothing was changed."),
        (["rejoin", 1], "Seat 1 stays empty: it does not answer: cannot connect: "),
        (["scrub", "--limit", "1K"], "A limit of 1024 bytes a second is too low"),
        (["scrub", "--limit", "fast"], "'fast' is not a size"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_mistake_has_one_sentence_and_changes_nothing(wounded, words, sentence):
    assert sentence in wounded.run(*words, code=2).sentence
    status = wounded.status()
    assert (status["summary"], status["failure"]) == ("[U_U]", None)


def test_without_a_main_program_nothing_is_started(wounded):
    wounded.down()
    for words in (["replace", 1], ["rejoin", 1], ["scrub"]):
        assert "The main program does not run" in wounded.run(*words, code=2).sentence
    assert not (wounded.directory / "disk-1.pid").exists() or local.ended_seats(
        config.load(wounded.directory / config.NAME)
    ) == [1]
    up(wounded, code=1)
