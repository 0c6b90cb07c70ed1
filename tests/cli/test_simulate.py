"""`simulate`: stories for so long, or so many, what they came to, and what is said of one that breaks a promise."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from perdure.cli import simulate
from perdure.cli.main import run
from tests.cli.rig import perdure

STORY = dict.fromkeys(simulate._COUNTED, 1) | {"k": 3, "n": 5, "failure": None}
BROKEN = "Violation: a read returned what was never written"


def test_so_many_stories_are_told_and_counted():
    done = perdure("simulate", "--seed", "3", "--runs", "4")
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("4 stories: ")
    assert "crashes" in first
    assert "disks lost" in first
    assert second.startswith("No promise was broken. Seeds 3 to 6, in ")


def test_a_seed_is_one_story_and_always_the_same():
    once, again = (perdure("simulate", "--seed", "7", "--json").json for _ in range(2))
    assert (once["stories"], once["first_seed"], once["last_seed"], once["failure"]) == (1, 7, 7, None)
    assert once | {"duration_s": 0} == again | {"duration_s": 0}


def test_it_ends_when_the_time_is_up():
    begun = time.monotonic()
    value = perdure("simulate", "--seconds", "2", "--json").json
    assert value["stories"] >= 1
    assert value["duration_s"] >= 2
    assert time.monotonic() - begun < 30


def test_with_chains_only_stories_with_chains_are_told():
    value = perdure("simulate", "--seed", "10", "--runs", "2", "--chains", "--json").json
    assert (value["stories"], value["last_seed"]) == (2, 14)


@pytest.fixture
def teller(monkeypatch, tmp_path):
    """The command with another simulator, which says what it is told to."""

    def teller(*lines, code=0):
        program = tmp_path / "teller.py"
        program.write_text(
            "\n".join([f"print({line!r}, flush=True)" for line in lines] + [f"raise SystemExit({code})"])
        )
        real = subprocess.Popen
        monkeypatch.setattr(
            simulate.subprocess, "Popen", lambda command, **rest: real([sys.executable, str(program)], **rest)
        )

    return teller


def test_a_broken_promise_is_exit_code_2_with_the_seed_that_tells_it_again(teller, capsys):
    teller(json.dumps(STORY | {"seed": 5}), json.dumps(STORY | {"seed": 6, "failure": BROKEN}), json.dumps(STORY))
    assert run(["simulate", "--seed", "5", "--runs", "9"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("2 stories: ")
    assert f"THE STORY OF SEED 6 BROKE A PROMISE: {BROKEN}" in out
    assert "`perdure simulate --seed 6` tells it again" in out
    assert "no array was touched" in out


def test_for_programs_the_failure_is_in_the_object(teller, capsys):
    teller(json.dumps(STORY | {"seed": 6, "failure": BROKEN}))
    assert run(["simulate", "--seed", "6", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["failure"] == {"seed": 6, "message": BROKEN}


def test_a_simulator_that_breaks_is_no_success(teller, capsys):
    teller(json.dumps(STORY | {"seed": 5}), code=1)
    assert run(["simulate", "--seed", "5", "--runs", "2"]) == 2
    assert "The simulator ended before its stories did" in capsys.readouterr().err


def test_where_there_is_no_terminal_a_line_comes_now_and_then(teller, capsys, monkeypatch):
    monkeypatch.setattr(simulate, "LINE_S", 0.0)
    teller(*(json.dumps(STORY | {"seed": seed}) for seed in range(3)))
    assert run(["simulate", "--seed", "0", "--runs", "3"]) == 0
    assert capsys.readouterr().err.splitlines()[0].startswith("1 story: ")


def test_interrupted_it_leaves_nothing_running():
    command = [sys.executable, "-m", "perdure.cli.main", "simulate", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 30
        while not (children := psutil.Process(process.pid).children()):
            assert time.monotonic() < give_up
            time.sleep(0.05)  # how often to look
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not any(child.is_running() for child in children)
