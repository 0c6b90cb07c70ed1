"""serve-once: passes signals and exit codes on, and holds a main program back that was fenced or saw a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.deploy.files import DEPLOY

SCRIPT = DEPLOY / "containers/serve-once"
WAIT_S = 30


def stand_in(tmp_path, body):
    """A program `perdure` with that shell code, first in the path; returns the environment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/perdure").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "bin/perdure").chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def run(tmp_path, environment):
    command = [SCRIPT, tmp_path / "perdure.toml", tmp_path / "held"]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=WAIT_S)


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_other_ends_are_passed_on_and_may_be_tried_again(tmp_path, code):
    environment = stand_in(tmp_path, f"exit {code}")
    assert run(tmp_path, environment).returncode == code
    assert not (tmp_path / "held").exists()
    assert run(tmp_path, environment).returncode == code


def test_after_a_fork_it_is_not_started_again(tmp_path):
    environment = stand_in(tmp_path, f'echo started >>"{tmp_path}/starts"; exit 3')
    assert run(tmp_path, environment).returncode == 3
    again = run(tmp_path, environment)
    assert again.returncode == 3
    assert "held" in again.stderr
    assert (tmp_path / "starts").read_text() == "started\n"


def test_the_real_programs_mistake_comes_through(tmp_path):
    environment = stand_in(tmp_path, f'exec "{sys.executable}" -m perdure.cli.main "$@"')
    done = run(tmp_path, environment)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGHUP, "HUP")])
def test_a_signal_reaches_the_program_and_its_end_is_waited_for(tmp_path, number, name):
    os.mkfifo(tmp_path / "ready")
    body = f"""trap 'echo {name} >"{tmp_path}/heard"; exit 5' {name}
echo >"{tmp_path}/ready"
while :; do sleep 0.05; done"""
    # A shell cannot trap what was ignored when it began, as SIGHUP is under nohup.
    command = ["env", f"--default-signal={name}", SCRIPT, tmp_path / "perdure.toml", tmp_path / "held"]
    with subprocess.Popen(command, env=stand_in(tmp_path, body)) as process:
        (tmp_path / "ready").read_text()
        process.send_signal(number)
        assert process.wait(WAIT_S) == 5
    assert (tmp_path / "heard").read_text() == f"{name}\n"
