"""The units: systemd understands them, they give away nothing that is not needed, and they say what they must."""

from __future__ import annotations

import re
import subprocess

import pytest

from perdure.cli.main import cli
from tests.deploy.files import DEPLOY, tool

UNITS = DEPLOY / "systemd"
EXPOSURE_MAX = {"perdure@.service": 15, "perdure-disk@.service": 15, "perdure-enclave@.service": 18}
"""In tenths, as `--threshold` has it; 100 is a unit without any care."""


def settings(name):
    """Each setting of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_each_unit_is_known_here():
    assert {path.name for path in UNITS.glob("*.service")} == EXPOSURE_MAX.keys()


@pytest.fixture
def root(tmp_path):
    """A machine's files with the units, and the programs they start, in their places."""
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    for unit in UNITS.glob("*.service"):
        (tmp_path / "etc/systemd/system" / unit.name).write_bytes(unit.read_bytes())
    for program in ("opt/perdure/bin/perdure", "opt/perdure/libexec/run-enclave", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for unit in ("sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network-online.target"):
        (tmp_path / "etc/systemd/system" / unit).write_text("[Unit]\nDescription=stands for the system's own\n")
    return tmp_path


@pytest.mark.parametrize("name", EXPOSURE_MAX)
def test_systemd_finds_nothing_wrong(root, name):
    analyze = tool("systemd-analyze", "systemd")
    unit = root / "etc/systemd/system" / name.replace("@", "@main")
    unit.symlink_to(name)
    options = ["--recursive-errors=no", "--man=no", f"--root={root}"]
    command = [analyze, "verify", *options, f"/etc/systemd/system/{unit.name}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "most"), EXPOSURE_MAX.items())
def test_a_unit_is_exposed_no_more_than_it_must_be(name, most):
    analyze = tool("systemd-analyze", "systemd")
    command = [analyze, "security", "--no-pager", "--offline=true", f"--threshold={most}", UNITS / name]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_main_program_is_not_restarted_after_a_fork_or_a_mistake():
    unit = settings("perdure@.service")
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2 3"]


def test_the_main_program_tells_when_it_serves_and_is_watched():
    unit = settings("perdure@.service")
    assert (unit["Type"], unit["NotifyAccess"], unit["WatchdogSec"]) == (["notify"], ["main"], ["30"])
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(unit["TimeoutStopSec"][0]) >= 120


def test_the_key_and_plaintext_stay_in_ram():
    unit = settings("perdure@.service")
    assert (unit["LimitCORE"], unit["MemorySwapMax"]) == (["0"], ["0"])
    assert unit["LoadCredential"] == ["authority.key:/etc/credstore/perdure@%i.key"]


@pytest.mark.parametrize("name", ["perdure@.service", "perdure-disk@.service"])
def test_a_unit_starts_perdure_with_words_that_it_knows(name):
    words = settings(name)["ExecStart"][0].split()
    assert words.pop(0) == "/opt/perdure/bin/perdure"
    values = {"%i": "main", "${LISTEN}": "tcp:0.0.0.0:7001", "${TO}": "vsock:16:7000"}
    words = [re.sub("%i", "main", values.get(word, word)) for word in words]
    command = cli
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)  # raises click.UsageError for what it does not know


def test_users_and_directories_are_made_as_written(tmp_path):
    sysusers, tmpfiles = tool("systemd-sysusers", "systemd"), tool("systemd-tmpfiles", "systemd")
    (tmp_path / "etc").mkdir()
    subprocess.run([sysusers, f"--root={tmp_path}", UNITS / "perdure.sysusers"], check=True, capture_output=True)
    assert re.search(r"^perdure:x:\d+:\d+:Perdure:/:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    command = [tmpfiles, "--create", f"--root={tmp_path}", UNITS / "perdure.tmpfiles"]
    subprocess.run(command, check=True, capture_output=True)
    wanted = {"perdure": 0o755, "perdure/disks": 0o755, "credstore": 0o700}
    assert {name: (tmp_path / "etc" / name).stat().st_mode & 0o777 for name in wanted} == wanted
