"""docs/recipes, typed line by line into one bash; and, as far as it goes, what only another machine could run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.service.mounting import mounts
from perdure.service.mounting.attach import Way, lacking, look
from tests.cli.console import Shell, steps
from tests.cli.test_quickstart import Home
from tests.databases.mounted import Mounted
from tests.service.mounting import leftovers
from tests.system.rig import call, tool
from tests.vm.test_recipes import IN_A_MACHINE

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "recipes"
AT = Path("/srv/state")
"""Where the recipes mount."""
NEEDED = {"sqlite": ["sqlite3"], "postgresql": ["psql", "runuser"], "docker-volume": ["unshare"]}
DEGRADED = "perdure replace 1"
"""Ends with 1, because a disk is still missing then."""


def text(name):
    return (RECIPES / f"{name}.md").read_text()


def block(name, language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def home(tmp_path):
    """The home directory of somebody who has no array yet."""
    missing = lacking(look(), Way.LOOP)
    if missing:
        pytest.skip(f"NO RECIPE WAS TESTED: the way in `loop` needs {', '.join(missing)}")
    if mounts.find(AT) is not None:
        pytest.skip(f"NO RECIPE WAS TESTED: something is mounted at {AT}")
    with Home(tmp_path) as home:
        home.env["PATH"] = f"{Path(sys.executable).parent}:{home.env['PATH']}"
        try:
            yield home
            assert leftovers.of(home.directory) == []
        finally:
            if home.directory.exists():
                leftovers.force_away(home.directory)
            if mounts.find(AT) is not None:
                subprocess.run(["umount", "-l", AT], check=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NEEDED)
def test_the_lines_of_a_recipe_do_what_it_says(home, tmp_path, name):
    for program in NEEDED[name]:
        tool(program)
    if name == "postgresql" and not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("POSTGRESQL NOT TESTED: it is not installed")
    (tmp_path / "here").mkdir()
    with Shell(tmp_path / "here", home.env) as shell:
        for step in steps(text(name)):
            said = shell.run(step)
            assert said.code == int(step.command == DEGRADED), f"$ {step.command}\n{said.out}"
    assert not home.directory.exists()


def test_every_recipe_is_tested_and_in_the_index():
    here, elsewhere = {*NEEDED, "systemd-mount"}, {*IN_A_MACHINE, "sqlite-without-a-mount"}  # tests/vm, tests/sqlite
    assert {path.stem for path in RECIPES.glob("*.md")} == {"README"} | here | elsewhere
    assert {name for name in here | elsewhere if f"]({name}.md)" not in text("README")} == set()


def test_dockers_client_takes_every_option_of_the_recipe():
    docker, (line,) = tool("docker"), block("docker-volume", "sh").splitlines()
    words = shlex.split(line)
    words = words[words.index("docker") + 1 :]
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = subprocess.run([docker, *words], env=nowhere, capture_output=True, text=True, timeout=60, check=False)
    assert "nonexistent/docker.sock" in done.stderr, done.stderr  # it got as far as looking for its daemon
    wrong = subprocess.run(
        [docker, "run", "--no-such", *words[1:]], env=nowhere, capture_output=True, text=True, timeout=60, check=False
    )
    assert "nonexistent/docker.sock" not in wrong.stderr


def test_systemd_understands_the_unit(tmp_path):
    tool("systemd-analyze")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "state.service").write_text(block("systemd-mount", "ini"))
    program = tmp_path / "opt/perdure/bin/perdure"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for target in ("sysinit", "basic", "shutdown", "multi-user", "network-online"):
        (units / f"{target}.target").write_text("[Unit]\nDescription=stands for the system's own\n")
    options = ("--recursive-errors=no", "--man=no", f"--root={tmp_path}")
    assert call("systemd-analyze", "verify", *options, "/etc/systemd/system/state.service") == ""


@pytest.mark.timeout(240)
def test_the_unit_is_stopped_by_its_signal_and_by_systemds_default_it_would_lose_what_is_not_synced(tmp_path):
    unit = block("systemd-mount", "ini")
    assert "\nKillMode=mixed\n" in unit
    number = signal.Signals[re.search(r"^KillSignal=(\w+)$", unit, re.MULTILINE)[1]]
    script = "trap 'echo ended > ended; exit 0' INT; echo mounted; while :; do sleep 0.05; done"
    with Mounted(tmp_path, size="32M", hold=("sh", "-c", script)) as mounted:
        mounted.mount("--make-file-system")
        assert mounted.stop(number) == 0
        mounted.mount()
        assert (mounted.root / "ended").read_text() == "ended\n"
        for server in leftovers.servers(mounted.rig.directory):
            server.terminate()
        assert mounted.stop(number) == 2
        assert mounts.find(mounted.root) is None
