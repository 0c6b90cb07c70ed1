"""The main program is replaced in its process while real clients work: they see a pause, and nothing else."""

import asyncio
import contextlib
import itertools
import json
import os
import pty
import queue
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import perdure as package
from perdure import RELEASE
from perdure.api import Host
from perdure.errors import Misuse, Unavailable
from perdure.service.control import ask
from perdure.service.main import settings_of
from perdure.service.site import artefacts, config, processes
from tests.cli.rig import Rig, _Nbd
from tests.system import copier
from tests.system.rig import FileSystem, call, helper, how_to_mount, up_again
from tests.system.test_filesystem import assert_synced, copy_up_to
from tests.system.test_nbd_clients import FIO, need_fio

WAIT_S = 60
UPGRADES = 5


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


def log(rig):
    return (rig.directory / artefacts.MAIN_LOG_FILE).read_text()


def wait_for_log(rig, text, count=1):
    """Return when the log has `text` so many times."""
    give_up = time.monotonic() + WAIT_S
    while log(rig).count(text) < count:
        assert time.monotonic() < give_up, f"never logged: {text}\n{log(rig)}"
        time.sleep(0.005)


def upgrade(rig, *words, code=0):
    return rig.run("upgrade", *words, code=code)


class Client(threading.Thread):
    """Writes a number that rises into ever the same sectors, flushes, reads back, and notes what is acknowledged."""

    def __init__(self, rig):
        super().__init__()
        self.rig = rig
        self.acknowledged = -1
        self.error = None
        self.pause_s = 0.0
        self.is_over = threading.Event()

    def run(self):
        try:
            with _Nbd(self.rig.directory / "nbd.sock") as nbd:
                nbd._socket.settimeout(WAIT_S)
                for number in itertools.count():
                    if self.is_over.is_set():
                        return
                    began = time.monotonic()
                    nbd.request(1, number % 8 * 4096, data=struct.pack(">Q", number) * 512)
                    nbd.request(3, 0)
                    self.acknowledged = number
                    assert nbd.request(0, number % 8 * 4096, length=4096) == struct.pack(">Q", number) * 512
                    self.pause_s = max(self.pause_s, time.monotonic() - began)
        except (OSError, struct.error) as error:  # the second: the stream has ended
            self.error = error

    def require_nothing_lost(self):
        """Every acknowledged number, or a later one, is on the array."""
        for number in range(max(0, self.acknowledged - 7), self.acknowledged + 1):
            (held,) = struct.unpack(">Q", self.rig.read(number % 8 * 4096, 8))
            assert held in (number, number + 8), (number, held)


@contextlib.contextmanager
def writing(rig):
    client = Client(rig)
    client.start()
    try:
        while client.acknowledged < 3 and client.error is None:
            time.sleep(0.005)
        yield client
    finally:
        client.is_over.set()
        client.join(WAIT_S)
        assert not client.is_alive()


# What clients see -------------------------------------------------------------------------------------------


def test_fio_verifies_what_it_wrote_over_five_upgrades(rig, tmp_path):
    fio = need_fio()
    uri = rig.up(size="64M")["nbd_uri"]
    command = [fio, *FIO, "--size=48m", "--fsync=64", "--time_based", "--runtime=100", f"--uri={uri}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        try:
            before = rig.process("main")
            for number in range(UPGRADES):
                entries = rig.status()["journal_last"]
                rig.wait_for(lambda status, entries=entries: status["journal_last"] > entries)
                told = json.loads(upgrade(rig, "--json").out)
                assert (told["upgrades"], told["state"]) == (number + 1, "online")
            assert process.poll() is None, "fio had ended before the upgrades"
            assert rig.process("main") == before, "the same process"
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=WAIT_S)[0].decode()
        finally:
            process.kill()
    (done,) = json.loads(said[said.index("{") : said.rindex("}") + 1])["jobs"]
    print(f"longest write {done['write']['clat_ns']['max'] / 1e9:.2f} s, pauses {pauses(rig)}")
    assert done["error"] == 0, said
    assert "verify: bad" not in said
    assert min(done["read"]["io_bytes"], done["write"]["io_bytes"]) > 4 << 20
    assert rig.status()["failure"] is None


def pauses(rig):
    """By the log, how long clients waited each time, in seconds."""
    found = []
    for line in log(rig).splitlines():
        stamp = re.match(r"\S+ (\d+):(\d+):(\d+),(\d+)", line)
        now = sum(int(part) * factor for part, factor in zip(stamp.groups(), (3600, 60, 1, 0.001), strict=True))
        if "NBD clients wait" in line:
            began = now
        elif "INFO serving" in line and "began" in locals():
            found.append(round(now - began, 2))
    return found


def test_an_ext4_goes_on_over_an_upgrade(rig, tmp_path):
    with FileSystem(rig, tmp_path, kind=how_to_mount()) as files:
        rig.up(size="64M")
        files.attach()
        files.make(journal=True)
        files.mount()
        with helper("copier", files.root) as process:
            copy_up_to(process, 0, 2)
            process.stdin.write("go\n")
            process.stdin.flush()
            upgrade(rig)
            assert process.stdout.readline() == "synced 2\n"
            copy_up_to(process, 3, 4)
            upgrade(rig)
            copy_up_to(process, 4, copier.BATCH_COUNT)
        assert rig.status()["upgrades"] == 2
        files.detach()
        files.attach()
        code, said = files.check("-fn")
        assert code == 0, said
        assert_synced(files, copier.BATCH_COUNT)


def test_what_was_acknowledged_and_never_flushed_is_there_after_it(rig):
    """No crash came between, so to a client every write counts that was answered; also the last before the pause."""
    rig.up()
    acknowledged = 0
    with _Nbd(rig.directory / "nbd.sock") as nbd, ThreadedUpgrade(rig) as upgrading:
        nbd._socket.settimeout(WAIT_S)
        while upgrading.is_alive() or not acknowledged:
            nbd.request(1, acknowledged % 2048 * 4096, data=struct.pack(">Q", acknowledged) * 512)
            acknowledged += 1
        for number in range(max(0, acknowledged - 2048), acknowledged):
            assert nbd.request(0, number % 2048 * 4096, length=4096) == struct.pack(">Q", number) * 512
    print(f"{acknowledged} writes")


def test_clients_that_connect_in_the_middle_wait(rig):
    rig.up()
    rig.write(0, b"before")
    with ThreadedUpgrade(rig):
        wait_for_log(rig, "upgrading: executing")
        assert rig.read(0, 6) == b"before"
        assert "mounting array" in log(rig).rpartition("upgrading: executing")[2]  # the new program answered
    call("nbdinfo", "--size", rig.nbd_uri)


class ThreadedUpgrade(threading.Thread):
    """`perdure upgrade` beside the test; as a context manager it ends with it, and `done` is what it did."""

    def __init__(self, rig, code=0):
        super().__init__()
        self.rig, self.code = rig, code
        self.failure = None

    def run(self):
        try:
            self.done = upgrade(self.rig, code=self.code)
        except AssertionError as failure:
            self.failure = failure

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.join(WAIT_S)
        assert self.failure is None, self.failure


# Kills ------------------------------------------------------------------------------------------------------

STAGES = (
    "asking the program that is installed",
    "NBD clients wait",
    "upgrading: executing",
    "INFO mounting",
    "INFO serving",
)


@pytest.mark.parametrize("stage", range(len(STAGES)))
def test_killed_at_any_stage_nothing_that_was_flushed_is_lost(rig, stage):
    rig.up()
    count = 1 if stage < 3 else 2
    with writing(rig) as client:
        main = rig.process("main")
        os.kill(main.pid, signal.SIGHUP)
        wait_for_log(rig, STAGES[stage], count)
        rig.kill_main()
    assert client.error is not None, "a client whose server has died hears of it"
    assert client.acknowledged >= 3
    up_again(rig, code=None)
    client.require_nothing_lost()


def test_killed_in_the_time_between_nothing_that_was_flushed_is_lost(rig):
    """While the new program starts there are no lines in the log: some moments of that time."""
    rig.up()
    for turn, after_s in enumerate((0.05, 0.3, 0.8)):
        with writing(rig) as client:
            os.kill(rig.process("main").pid, signal.SIGHUP)
            wait_for_log(rig, "upgrading: executing", turn + 1)
            time.sleep(after_s)  # the moment of the kill
            rig.kill_main()
        up_again(rig, code=None)
        client.require_nothing_lost()


# What is installed now --------------------------------------------------------------------------------------


@pytest.fixture
def installed(rig, tmp_path):
    """A copy of the package that main programs of the rig are made of, to be changed while they run."""
    place = tmp_path / "installed" / "perdure"
    shutil.copytree(Path(package.__file__).parent, place, ignore=shutil.ignore_patterns("__pycache__"))
    rig.env["PYTHONPATH"] = str(place.parent)
    return place


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def control(rig, do, **arguments):
    return ask(rig.directory / "control.sock", do, timeout_s=WAIT_S, **arguments)


def test_the_program_that_is_installed_now_takes_over(rig, installed):
    rig.up()
    with writing(rig) as client:
        edit(installed / "__init__.py", f"RELEASE = {RELEASE}", f"RELEASE = {RELEASE + 1}")
        edit(installed / "__init__.py", f'__version__ = "{package.__version__}"', '__version__ = "9.9"')
        done = upgrade(rig)
        assert f"9.9 (release {RELEASE + 1}) serves the array, online [UUUUU]" in done.out
        seen = client.acknowledged
        while client.acknowledged < seen + 5 and client.error is None:
            time.sleep(0.005)
    assert client.error is None
    print(f"longest wait {client.pause_s:.2f} s; pauses by the log {pauses(rig)}")
    edit(installed / "__init__.py", f"RELEASE = {RELEASE + 1}", f"RELEASE = {RELEASE}")
    with pytest.raises(Misuse, match="cannot take over"):
        control(rig, "upgrade")
    client.require_nothing_lost()
    told = [event["message"] for event in rig.run("events", "--json").json["events"]]
    assert not any("ended without a word" in message for message in told)


def test_a_program_that_does_not_start_never_takes_over(rig, installed):
    rig.up()
    with writing(rig) as client:
        file = installed / "service" / "main.py"
        good = file.read_text()
        file.write_text("import nothing_of_that_name\n")
        with pytest.raises(Misuse, match=r"does not start; nothing was stopped, this one goes on: .*nothing_of_that"):
            control(rig, "upgrade")
        file.write_text(good)
        config = rig.directory / "perdure.toml"
        text = config.read_text()
        for old, new, why in (
            ("dead-after-ms", "dead-after", "not a key that Perdure knows"),
            ("unix:nbd.sock", "unix:other.sock", "another `serve.listen`"),
            ('id = "', 'id = "00', "must be the array's id"),
            ("threshold = 3", "threshold = 4", "another array"),
        ):
            config.write_text(text.replace(old, new))
            with pytest.raises(Misuse, match=why):
                control(rig, "upgrade")
        config.write_text(text)
    assert (client.error, rig.status()["upgrades"]) == (None, 0)
    assert "NBD clients wait" not in log(rig)
    assert upgrade(rig).code == 0


def test_when_the_system_refuses_to_execute_it_the_old_program_goes_on(rig, installed, tmp_path, monkeypatch):
    """Its interpreter goes after the new program was found good and before it is executed."""
    python = another_python(tmp_path / "venv")
    monkeypatch.setattr(sys, "executable", str(python))
    rig.up()
    monkeypatch.undo()
    edit(installed / "cli" / "serve.py", "    return 0\n", f"    os.unlink({str(python)!r})\n    return 0\n")
    with writing(rig) as client:
        sentence = upgrade(rig, code=2).sentence
        assert "refused to execute the new program" in sentence
        seen = client.acknowledged
        while client.acknowledged < seen + 5 and client.error is None:
            time.sleep(0.005)
        assert rig.status()["upgrade_error"]["message"] == sentence
    assert (client.error, rig.status()["upgrades"], rig.status()["state"]) == (None, 0, "online")
    with pytest.raises(Misuse, match="does not start"):
        control(rig, "upgrade")
    client.require_nothing_lost()


def another_python(directory):
    """The interpreter of this virtual environment under another name; that can be removed."""
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", directory)
    (directory / "lib").symlink_to(Path(sys.prefix) / "lib")
    return directory / "bin" / "python"


def test_a_newer_program_that_has_mounted_meanwhile_ends_it_and_clients_hear_so(rig, installed):
    rig.up()
    edit(installed / "service" / "main.py", "import asyncio\n", "import asyncio\nimport time\ntime.sleep(5)\n")
    with writing(rig) as client:
        os.kill(rig.process("main").pid, signal.SIGHUP)
        wait_for_log(rig, "upgrading: executing")
        mount_by_a_newer_release(rig)
        client.join(WAIT_S)
    assert client.error is not None
    assert "release 3 of the main program has mounted this array" in log(rig).replace(str(RELEASE + 1), "3")
    assert processes.find(rig.directory / artefacts.MAIN_PROCESS_FILE) is None


def mount_by_a_newer_release(rig):
    """What another machine with a newer program would do."""
    found = config.load(rig.directory / "perdure.toml")

    async def mount():
        host = Host(settings_of(found))
        host.world = replace(host.world, release=RELEASE + 1)
        try:
            array = await host.mount(found.array.array_id)
            await array.close()
        finally:
            await host.close()

    asyncio.run(mount())


def test_a_configuration_that_was_changed_is_in_force_after_it(rig):
    rig.up()
    config = rig.directory / "perdure.toml"
    config.write_text(config.read_text().replace('attest = "flush"', 'attest = "every-read"'))
    upgrade(rig)
    rig.write(0, b"x")
    assert rig.read(0, 1) == b"x"
    config.write_text(config.read_text().replace("[serve]", '[serve]\nwhen-too-few-disks = "freeze"'))
    os.kill(rig.process("main").pid, signal.SIGHUP)
    wait_for_log(rig, "INFO serving", 3)
    assert rig.status()["upgrades"] == 2


def test_several_signals_are_one_upgrade_after_another_and_end_nothing(rig):
    rig.up()
    main = rig.process("main")
    with writing(rig) as client:
        for _ in range(200):
            os.kill(main.pid, signal.SIGHUP)
            time.sleep(0.02)  # so that some of them meet each stage
        wait_for_log(rig, "INFO serving", 2)
        seen = client.acknowledged
        while client.acknowledged < seen + 5 and client.error is None:
            time.sleep(0.005)
    assert client.error is None
    assert rig.process("main") == main


def test_on_a_terminal_a_hangup_means_that_the_terminal_is_gone(rig):
    rig.up()
    rig.down()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "perdure.cli.main", "serve", "--directory", str(rig.directory)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as main:
        try:
            assert main.stdout.readline().startswith(b"serving ")
            main.send_signal(signal.SIGHUP)
            assert main.wait(WAIT_S) == 0
        finally:
            main.kill()
            os.close(ours)
            os.close(theirs)


# Disks that are away ----------------------------------------------------------------------------------------


def shorter_answers(rig):
    """So that a paused disk is noticed soon."""
    config = rig.directory / "perdure.toml"
    config.write_text(config.read_text().replace("answer-ms-max = 5000", "answer-ms-max = 1000"))


def test_disks_that_are_away_after_it_are_waited_for_and_clients_wait_too(rig):
    rig.up()
    shorter_answers(rig)
    with writing(rig) as client:
        with ThreadedUpgrade(rig, code=None):
            wait_for_log(rig, "upgrading: executing")
            for seat in (0, 1, 2):
                rig.pause_disk(seat)
            wait_for_log(rig, "UPGRADED, BUT THE ARRAY CANNOT BE MOUNTED YET")
            with pytest.raises(Unavailable, match="cannot mount the array yet; clients wait"):
                control(rig, "status")
            wait_for_log(rig, "UPGRADED, BUT THE ARRAY CANNOT BE MOUNTED YET", 2)
            seen = client.acknowledged
            for seat in (0, 1, 2):
                rig.resume_disk(seat)
            wait_for_log(rig, "INFO serving", 2)
        while client.acknowledged < seen + 5 and client.error is None:
            time.sleep(0.005)
    assert client.error is None
    client.require_nothing_lost()


def test_told_to_stop_while_it_waits_for_disks_it_stops(rig):
    rig.up()
    shorter_answers(rig)
    with writing(rig) as client:
        os.kill(rig.process("main").pid, signal.SIGHUP)
        wait_for_log(rig, "upgrading: executing")
        for seat in (0, 1, 2):
            rig.pause_disk(seat)
        wait_for_log(rig, "UPGRADED, BUT THE ARRAY CANNOT BE MOUNTED YET")
        assert rig.down()["stopped"]
        for seat in (0, 1, 2):
            rig.resume_disk(seat)
    assert client.error is not None
    up_again(rig, code=None)
    client.require_nothing_lost()


# Beside it --------------------------------------------------------------------------------------------------


def test_a_repair_goes_on_in_the_new_program(rig):
    rig.up(size="64M")
    for offset in range(0, 32 << 20, 4 << 20):
        rig.write(offset, os.urandom(4 << 20))
    rig.kill_disk(1)
    rig.wait_for(lambda status: status["disks"][1]["state"] == "dead")
    command = threading.Thread(target=lambda: rig.run("replace", "1", "--limit", "4M", code=None))
    command.start()
    rig.wait_for(lambda status: any(repair["done_bytes"] > 0 for repair in status["repairs"]))
    (before,) = rig.status()["repairs"]
    upgrade(rig, code=None)
    (after,) = rig.wait_for(lambda status: status["repairs"])["repairs"]
    assert (after["id"], after["verb"], after["seat"]) == (before["id"], "replace", 1)
    assert after["bytes_per_s_max"] == 4 << 20
    status = rig.wait_for(lambda status: status["state"] == "online")
    assert status["repairs"][0]["state"] == "done"
    command.join(WAIT_S)


class Manager(threading.Thread):
    """A service manager that reads as it comes, as systemd does: the kernel keeps ten datagrams and no more."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.said = queue.Queue()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def run(self):
        with contextlib.suppress(OSError):
            while said := self.socket.recv(4096):
                self.said.put(said.decode())

    def heard(self, start):
        """Until a datagram that starts so; all of them."""
        said = [""]
        while not said[-1].startswith(start):
            said.append(self.said.get(timeout=WAIT_S))
        return said[1:]


def test_the_service_manager_hears_of_it(rig, tmp_path):
    manager = Manager(tmp_path / "notify")
    manager.start()
    rig.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    rig.env["WATCHDOG_USEC"] = "200000"
    rig.up()
    assert manager.heard("READY=1")[-1] == "READY=1\nSTATUS=[UUUUU] 2 more losses"
    assert set(manager.heard("WATCHDOG=1")) == {"WATCHDOG=1"}
    upgrade(rig)
    until = manager.heard("RELOADING=1")
    assert set(until[:-1]) <= {"WATCHDOG=1"}
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+\nSTATUS=upgrading", until[-1])
    assert manager.heard("READY=1")[-1] == "READY=1\nSTATUS=[UUUUU] 2 more losses"
    rig.kill_disk(4)
    assert manager.heard("READY=1\nSTATUS=[UUUU_]")[-1] == "READY=1\nSTATUS=[UUUU_] 1 more loss, degraded"
    rig.run("down")
    manager.heard("STOPPING=1")
