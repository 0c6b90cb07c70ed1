"""Completion in a real shell: verbs, options, and seats from the configuration."""

import os
import shutil
import subprocess
import sys

import pytest

from perdure.service.site import local
from perdure.service.site.local import Wish
from tests.cli.rig import perdure

ASK = """
source <(perdure completion bash)
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ echo "compopt $*"; }}  # which a shell that completes for a person has
_perdure_completion perdure
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """A shell's environment in which `perdure` is this one, with the configuration of three disks."""
    path = tmp_path_factory.mktemp("shell")
    program = path / "bin" / "perdure"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m perdure.cli.main "$@"\n')
    program.chmod(0o755)
    for name, disks in (("up", 3), ("other", 5)):
        (path / name).mkdir()
        local.prepare(path / name, Wish("4M", disks, disks // 2 + 1, "unix:nbd.sock", 300))
    directories = {"PERDURE_DIRECTORY": str(path / "up"), "OTHER": str(path / "other")}
    return {**os.environ, **directories, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def completed(env, *words):
    """What bash offers for the last of `words`."""
    script = ASK.format(words=" ".join(f"'{word}'" for word in words))
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], ["rejoin", "replace"]),
        (["evidence", "verify"], ["verify", "verify-receipt"]),
        (["simulate", "--s"], ["--seconds", "--seed"]),
        (["replace", ""], ["0", "1", "2"]),
        (["rejoin", "2"], ["2"]),
        (["replace", "7"], []),
        (["replace", "--directory", "$OTHER", ""], ["0", "1", "2", "3", "4"]),
        (["replace", "--config", "$OTHER/perdure.toml", "4"], ["4"]),
        (["replace", "--config", "nowhere.toml", ""], []),
        (["completion", "z"], ["zsh"]),
    ],
    ids=" ".join,
)
def test_bash_completes(env, words, offered):
    assert completed(env, "perdure", *(word.replace("$OTHER", env["OTHER"]) for word in words)) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_files_are_left_to_the_shell(env):
    assert completed(env, "perdure", "status", "--config", "") == ["compopt", "-o", "default"]


def test_each_seat_is_offered_with_its_address(env):
    done = perdure(
        env={**env, "_PERDURE_COMPLETE": "zsh_complete", "COMP_WORDS": "perdure replace ", "COMP_CWORD": "2"}
    )
    assert done.out.splitlines()[:3] == ["plain", "0", f"unix:{env['PERDURE_DIRECTORY']}/disk-0.sock"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_this_program(shell):
    script = perdure("completion", shell).out
    assert f"_PERDURE_COMPLETE={shell}_complete" in script
    assert perdure("completion", shell, "--json").json == {"shell": shell, "script": script}
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False, timeout=20)
        assert (done.returncode, done.stderr) == (0, "")
