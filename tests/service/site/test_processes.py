"""Processes by their own identity, and the lock."""

import json
import os
import subprocess
import sys

import pytest

from perdure.errors import Misuse
from perdure.service.site import processes
from perdure.service.site.processes import Process

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
MEEK = "import signal; print('ready', flush=True); signal.pause()"


@pytest.fixture
def start():
    started = []

    def start(program):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_is_found_again_by_its_file(tmp_path, start):
    process = start(MEEK)
    remembered = processes.remember(tmp_path / "pid", process.pid)
    assert processes.find(tmp_path / "pid") == remembered
    assert remembered.pid == process.pid


def test_an_ended_process_is_not_found_even_before_it_is_reaped(tmp_path, start):
    process = start(MEEK)
    remembered = processes.remember(tmp_path / "pid", process.pid)
    assert remembered.end(grace_s=10) is True
    assert processes.find(tmp_path / "pid") is None  # a zombie still
    process.wait()
    assert processes.find(tmp_path / "pid") is None
    assert remembered.end(grace_s=10) is False
    assert remembered.wait(0)
    assert processes.remember(tmp_path / "pid", process.pid) is None


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}])
def test_the_same_number_in_another_process_is_not_ours(tmp_path, start, change):
    process = start(MEEK)
    processes.remember(tmp_path / "pid", process.pid)
    value = {**json.loads((tmp_path / "pid").read_bytes()), **change}
    (tmp_path / "pid").write_text(json.dumps(value))
    assert processes.find(tmp_path / "pid") is None
    assert Process(**value).end(grace_s=0) is False
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", "{}", "12", '{"pid": "x"}', "\xff"])
def test_a_file_that_is_no_process_file_finds_nothing(tmp_path, text):
    (tmp_path / "pid").write_text(text, encoding="latin-1")
    assert processes.find(tmp_path / "pid") is None


def test_who_ignores_the_request_to_end_is_killed(start):
    process = start(STUBBORN)
    assert Process.of(process.pid).end(grace_s=0.05) is True
    assert process.wait() == -9


def test_a_name_with_parentheses_does_not_confuse(tmp_path):
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert Process.of(process.pid).is_alive
        finally:
            process.kill()


def test_waiting_has_an_end(start):
    assert not Process.of(start(MEEK).pid).wait(0.01)


def test_the_last_line_of_a_log(tmp_path):
    assert processes.last_line(tmp_path / "log") == "it left no log"
    (tmp_path / "log").write_text("")
    assert processes.last_line(tmp_path / "log") == "it said nothing"
    (tmp_path / "log").write_text("x" * 10_000 + "\nwhy\n")
    assert processes.last_line(tmp_path / "log") == "why"


# The lock -------------------------------------------------------------------------------------------------


def test_the_lock_lets_one_in(tmp_path):
    with (
        processes.locked(tmp_path / "made"),
        pytest.raises(Misuse, match="Another perdure command"),
        processes.locked(tmp_path / "made", wait_s=0),
    ):
        pytest.fail("two at once")
    with processes.locked(tmp_path / "made", wait_s=0):
        pass


def test_a_lock_whose_file_was_removed_or_replaced_does_not_count(tmp_path):
    path = tmp_path / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert processes._is_still(path, fd)
        path.unlink()
        assert not processes._is_still(path, fd)
        path.touch()
        assert not processes._is_still(path, fd)
    finally:
        os.close(fd)


def test_a_lock_is_not_inherited(tmp_path):
    with processes.locked(tmp_path):
        child = processes.start_detached(["sleep", "60"], log=tmp_path / "log")
    try:
        with processes.locked(tmp_path, wait_s=0):
            pass
    finally:
        child.kill()
        child.wait()
