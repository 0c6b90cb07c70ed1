"""What is started is ended, and what it used is known. Real processes, but nothing is timed."""

import os
import subprocess
import sys

import pytest

from bench import processes
from bench.model import Skip
from bench.ours import lazy
from perdure.simtee import launch

DETACHES = """
import os, subprocess, sys
from bench import processes
processes.adopt_orphans()
script = "import os, sys\\nif os.fork(): os._exit(0)\\nos.setsid(); print(os.getpid(), flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
pid = int(child.stdout.readline())
child.wait()
assert pid in processes.tree([os.getpid()])
processes.end_the_rest()
try:
    os.kill(pid, 0)
except ProcessLookupError:
    print("ended")
"""


def test_a_process_is_ended_with_its_block(tmp_path):
    with processes.started("cat", "/dev/zero", log=tmp_path / "log", stdout=subprocess.DEVNULL) as process:
        assert processes.tree([process.pid]) == [process.pid]
        assert processes.rss_bytes([process.pid]) > 0
    assert process.returncode is not None


def test_a_process_that_detached_itself_is_found_and_ended():
    done = subprocess.run(
        [sys.executable, "-c", DETACHES], capture_output=True, text=True, check=True, cwd=processes.ROOT
    )
    assert done.stdout == "ended\n"


def test_processor_time_is_read_from_the_kernel_and_is_nothing_for_who_has_ended():
    assert processes.cpu_s([os.getpid()]) > 0
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert processes.cpu_s([process.pid]) == 0
    assert processes.rss_bytes([process.pid]) == 0


def test_a_program_that_is_not_installed_is_a_reason_to_skip():
    with pytest.raises(Skip, match="no-such-program is not installed"):
        processes.tool("no-such-program")


def test_no_room_in_memory_is_a_reason_to_skip():
    with pytest.raises(Skip), processes.scratch(in_memory=True, need_bytes=1 << 60):
        pass


def test_a_command_that_fails_says_what_it_said():
    with pytest.raises(RuntimeError, match=r"ls ended with \d+: .*no-such-file"):
        processes.call("ls", "/no-such-file")


def test_the_launcher_has_the_line_that_lazy_disks_change():
    assert launch._BOOT.startswith("import ")
    assert lazy.__doc__
    compile(f"import mmap; mmap.MAP_POPULATE = 0; {launch._BOOT}", "boot", "exec")
