"""`perdure run`: a command on a real file system on a real array, and nothing left afterwards, whatever is killed."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.service.mounting import mounts
from perdure.service.mounting.attach import Way, lacking, look
from perdure.service.site import processes
from tests.cli.rig import COMMAND_S, Rig, is_running
from tests.service.mounting import leftovers
from tests.system.rig import tool

LACKING = lacking(look(), Way.LOOP)
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"the way in `loop` needs {', '.join(LACKING)}"),
    pytest.mark.timeout(240),
]
NOBODY = 65534
MIB = 1 << 20
SIZE = "32M"


@contextlib.contextmanager
def an_array(path, size, *, is_served):
    with Rig(path) as rig:
        rig.up(size=size)
        if not is_served:
            rig.down()
        try:
            yield rig
            left = leftovers.of(rig.directory)
            assert not left, left
        finally:
            leftovers.force_away(rig.directory)


@pytest.fixture
def rig(tmp_path):
    """A blank array that a main program serves."""
    with an_array(tmp_path, SIZE, is_served=True) as rig:
        yield rig


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with an_array(tmp_path_factory.mktemp("run"), SIZE, is_served=True) as rig:
        rig.run("run", "--make-file-system", "--", "true")
        yield rig


@pytest.fixture
def made(shared):
    """An array with an ext4 on it that a main program serves: the same for all tests that break no disk."""
    if not is_running(shared):
        shared.up(size=SIZE)
    try:
        yield shared
        left = leftovers.of(shared.directory)
        assert not left, left
    finally:
        leftovers.force_away(shared.directory)


@pytest.fixture
def own(rig):
    """The same, to be broken."""
    rig.run("run", "--make-file-system", "--", "true")
    return rig


@pytest.fixture
def idle(tmp_path):
    """A blank array that nobody serves."""
    with an_array(tmp_path, SIZE, is_served=False) as rig:
        yield rig


@contextlib.contextmanager
def running(rig, *words):
    """`perdure run` in a session of its own; the command must print a line once it is where it shall be."""
    command = [sys.executable, "-m", "perdure.cli.main", "run", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=rig.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def sh(script):
    return ("--", "sh", "-c", script)


def ended(process, code):
    out, err = process.communicate(timeout=COMMAND_S)
    assert process.returncode == code, (process.returncode, out, err)
    return err


# A day without trouble ------------------------------------------------------------------------------------


def test_what_a_command_writes_the_next_one_reads(made):
    done = made.run("run", *sh("pwd; echo $PERDURE_DATA; echo state > file"))
    assert done.out.splitlines() == [str(made.directory / "data")] * 2
    assert f"ext4 is mounted at {made.directory / 'data'}, by loop." in done.err
    assert made.run("run", "--", "cat", "file").out == "state\n"
    assert leftovers.of(made.directory) == []


def test_the_main_program_that_runs_is_used_and_left_running(made):
    before = made.process("main")
    made.run("run", "--", "true")
    assert made.process("main") == before


def test_where_none_runs_one_is_started_and_stopped_at_the_end(idle):
    idle.run("run", "--make-file-system", *sh("echo state > file"))
    assert not is_running(idle)
    assert processes.find(idle.directory / "main.pid") is None
    assert idle.run("run", "--", "cat", "file").out == "state\n"
    assert not is_running(idle)


def test_the_key_is_not_in_the_commands_environment(made):
    key = (made.directory / "authority.key").read_text().strip()
    assert key not in made.run("run", "--", "env").out


@pytest.mark.parametrize(
    ("words", "code"),
    [(sh("exit 7"), 7), (sh("kill -9 $$"), 137), (("--", "no-such-command"), 127), (("--", "/etc/passwd"), 126)],
)
def test_the_exit_status_is_the_commands(made, words, code):
    made.run("run", *words, code=code)


def test_options_after_the_command_are_the_commands(made):
    done = made.run("run", "sh", "-c", "echo $0", "--json")
    assert done.out == "--json\n"


def test_the_working_directory_may_stay(made, tmp_path):
    done = made.run("run", "--no-chdir", "--", "pwd")
    assert done.out == f"{os.getcwd()}\n"


def test_the_result_is_an_object_after_the_commands_output(made):
    done = made.run("run", "--json", "--", "true")
    assert json.loads(done.out) == {"exit_code": 0, "mount_point": str(made.directory / "data"), "clean": True}


def test_another_user_gets_a_file_system_of_its_own(rig, tmp_path):
    at = Path("/run") / f"perdure-test-{os.getpid()}"
    words = ("run", "--user", f"{NOBODY}:{NOBODY}", "--at", at)
    done = rig.run(*words, "--make-file-system", *sh("id -u; id -g; echo mine > file; stat -c %u file"))
    assert done.out.split() == [str(NOBODY)] * 3
    assert not at.exists()
    assert "needs --at" in rig.run("run", "--user", "nobody", "--", "true", code=2).sentence


def test_sqlites_shell_keeps_its_database(made):
    tool("sqlite3")
    made.run("run", "--", "sqlite3", "state.db", "create table t (n); insert into t values (1), (2)")
    made.run("run", "--", "sqlite3", "state.db", "insert into t values (3)")
    done = made.run("run", "--", "sqlite3", "state.db", "pragma integrity_check; select sum(n) from t")
    assert done.out.split() == ["ok", "6"]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_file_systems(tmp_path, kind):
    tool(f"mkfs.{kind}")
    with an_array(tmp_path, "320M", is_served=True) as rig:
        rig.run("run", "--make-file-system", "--file-system", kind, *sh("echo state > file"))
        with running(rig, *sh("echo synced > other; sync other; echo; read x")) as process:
            process.stdout.readline()
            kill_everything(rig, process)
        rig.up(size="320M")
        done = rig.run("run", "--mount-options", "noexec", *sh("cat file other; grep $PERDURE_DATA /proc/mounts"))
        assert done.out.startswith("state\nsynced\n")
        assert f" {kind} rw,nosuid,nodev,noexec,noatime," in done.out


# Refusals -------------------------------------------------------------------------------------------------


def test_nothing_is_formatted_that_is_not_blank(rig):
    rig.write(20 * MIB, b"precious")
    done = rig.run("run", "--make-file-system", "--", "true", code=2)
    assert "The array is not blank" in done.sentence
    assert rig.read(20 * MIB, 8) == b"precious"
    assert rig.read(0, 4096) == bytes(4096)


def test_a_file_system_is_not_formatted_over(made):
    made.run("run", *sh("echo state > file"))
    assert "it holds ext4 already" in made.run("run", "--make-file-system", "--", "true", code=2).sentence
    assert made.run("run", "--", "cat", "file").out == "state\n"


def test_a_blank_array_is_not_formatted_without_being_told(rig):
    assert "add --make-file-system" in rig.run("run", "--", "true", code=2).sentence
    assert rig.read(0, 8192) == bytes(8192)


def test_a_file_system_that_cannot_be_mended_is_not_mounted(own):
    damaged = bytes([0xA5]) * 64
    own.write(4096, damaged * 64)  # the group descriptors
    own.write(1024 + 0x58, damaged)  # and what the superblock says of inodes
    done = own.run("run", *sh("echo ran"), code=2)
    assert "cannot be mended" in done.sentence
    assert "ran" not in done.out


def test_a_mount_point_with_something_in_it_is_refused(made, tmp_path):
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "file").write_text("hidden?")
    assert "is not empty" in made.run("run", "--at", tmp_path / "at", "--", "true", code=2).sentence


def test_two_at_once_are_refused(made):
    with running(made, *sh("echo; while :; do sleep 0.05; done")) as process:
        process.stdout.readline()
        assert "at work on this array already" in made.run("run", "--", "true", code=2).sentence
        for verb in ("down", "export"):
            assert "has a file system on this array; nothing was stopped" in made.run(verb, code=2).sentence
        process.terminate()
        ended(process, 143)


# Signals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_goes_to_the_command_which_ends_in_its_own_time(made, number):
    name = number.name.removeprefix("SIG")
    script = f"trap 'sleep 0.2; echo told > told; exit 5' {name}; echo; while :; do sleep 0.05; done"
    with running(made, *sh(script)) as process:
        process.stdout.readline()
        process.send_signal(number)
        ended(process, 5)
    assert made.run("run", "--", "cat", "told").out == "told\n"


IN_A_GROUP_OF_ITS_OWN = """
import os, signal, time
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
os.setpgrp()
print("ready", flush=True)
time.sleep(1.5)
open("count", "w").write(str(len(came)))
"""


def test_ctrl_c_is_not_passed_on_as_the_terminal_sends_it_to_the_command_itself(made):
    """Seen by a command that has left the terminal's group: whatever came to it would be from us."""
    pid, fd = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "perdure.cli.main", "run", "--", sys.executable, "-c", IN_A_GROUP_OF_ITS_OWN]
        os.execve(sys.executable, words, made.env)
    said, is_sent = b"", False
    with contextlib.suppress(OSError):  # a terminal that nobody has any more
        while data := os.read(fd, 4096):
            said += data
            if b"ready" in said and not is_sent:
                os.write(fd, b"\x03")
                is_sent = True
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"^C" in said
    assert made.run("run", "--", "cat", "count").out == "0"


# Kills ----------------------------------------------------------------------------------------------------


def kill_everything(rig, process):
    """As a machine stops: nothing of ours gets a word out."""
    command = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    rig.kill_main()
    for server in leftovers.servers(rig.directory):
        server.kill()
    process.wait()
    for pid in command:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_killed_itself_it_ends_the_command_and_the_next_run_takes_over(idle):
    idle.run("run", "--make-file-system", "--", "true")
    script = "trap 'echo told > told; exit' TERM; echo $$ > pid; echo; while :; do sleep 0.05; done"
    with running(idle, *sh(script)) as process:
        process.stdout.readline()
        process.kill()
        process.wait()
    assert is_running(idle)
    done = idle.run("run", "--", "cat", "told")
    assert "An earlier run did not end by itself" in done.err
    assert done.out == "told\n"
    assert not is_running(idle), "the main program that the killed run had started is ours to stop"


@pytest.mark.parametrize("by", ["loop", "fuse2fs"])
def test_everything_killed_at_once_loses_nothing_that_was_synced(made, by):
    tool("fuse2fs")
    with running(made, "--by", by, *sh("echo synced > file; sync file .; echo; echo not > other; read x")) as process:
        process.stdout.readline()
        kill_everything(made, process)
    done = made.run("run", "--", "cat", "file")
    assert done.out == "synced\n"
    assert leftovers.of(made.directory) == []


def test_a_file_server_that_was_told_to_end_leaves_nothing_mounted(made):
    with running(made, *sh("echo synced > file; sync file; echo; read x")) as process:
        process.stdout.readline()
        (server,) = leftovers.servers(made.directory)
        server.terminate()  # it detaches its mount and ends, as when a service is stopped with all its processes
        assert mounts.wait_until(lambda: mounts.find(made.directory / "attached") is None, COMMAND_S)
        process.stdin.write("\n")
        err = ended(process, 2)
    assert "Not all that was written is on the disks" in err
    assert mounts.find(made.directory / "data") is None
    assert made.run("run", "--", "cat", "file").out == "synced\n"


def test_sqlite_loses_no_commit_that_it_acknowledged(made):
    tool("sqlite3")
    script = "sqlite3 s.db 'pragma synchronous=extra; create table t(n)'; i=0; while :; do i=$((i+1)); "
    script += 'sqlite3 s.db "pragma synchronous=extra; insert into t values ($i)" && echo $i; done'
    with running(made, *sh(script)) as process:
        for _ in range(5):
            last = int(process.stdout.readline())
        kill_everything(made, process)
        for line in process.stdout:
            last = int(line)
    done = made.run("run", "--", "sqlite3", "s.db", "pragma integrity_check; select count(*) from t")
    sound, count = done.out.split()
    assert sound == "ok"
    assert int(count) in (last, last + 1)


def test_two_of_five_disks_die_and_the_command_goes_on(own):
    with running(own, *sh("echo; dd if=/dev/urandom of=a bs=1M count=4 conv=fsync; md5sum a > sum; sync")) as process:
        process.stdout.readline()
        own.kill_disk(1)
        own.kill_disk(4)
        ended(process, 0)
    assert own.run("run", "--", "md5sum", "-c", "sum").out == "a: OK\n"


def test_an_array_that_fails_is_said_and_the_command_sees_errors(own):
    script = "echo before > before; sync; echo; while :; do echo x >> file && sync file || exit 9; sleep 0.05; done"
    with running(own, *sh(script)) as process:
        process.stdout.readline()
        for seat in (0, 2, 4):
            own.kill_disk(seat)
        err = ended(process, 2)
    assert "Not all that was written is on the disks; what was synced is. 2 disks are left and 3 are needed" in err
    assert leftovers.of(own.directory) == []


# Somebody holds it ----------------------------------------------------------------------------------------


def test_an_unmount_waits_for_those_who_hold_it_and_names_them(made):
    done = made.run("run", *sh("sleep 1.5 >/dev/null 2>&1 & echo $!"))
    assert f"it is used by process {done.out.strip()} (sleep)" in done.err


def test_where_they_stay_it_ends_with_two_and_the_next_run_takes_it_away(made):
    done = made.run("run", *sh("echo state > file; sleep 1000 >/dev/null 2>&1 & echo $!"), code=2)
    holder = int(done.out)
    try:
        assert f"is still mounted, because it is used by process {holder} (sleep)" in done.sentence
        assert mounts.find(made.directory / "data") is not None
    finally:
        os.kill(holder, signal.SIGKILL)
    assert made.run("run", "--", "cat", "file").out == "state\n"


# Without root ---------------------------------------------------------------------------------------------


def test_fuse2fs_keeps_what_was_written(made):
    tool("fuse2fs")
    done = made.run("run", "--by", "fuse2fs", *sh("echo state > file; mkdir d; mv file d"))
    assert "by fuse2fs" in done.err
    assert made.run("run", "--by", "loop", "--", "cat", "d/file").out == "state\n"
