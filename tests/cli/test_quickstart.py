"""docs/quickstart.md, typed line by line into one bash, with the states between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.service.control import ask
from tests.cli.console import Shell, missing_line, steps
from tests.cli.rig import Rig
from tests.system.rig import how_to_mount, tool

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "quickstart.md").read_text()

DEGRADED = ("perdure status", "perdure replace 1")
"""What ends with exit code 1, because a disk is still missing then."""


class Home(Rig):
    """The directory of `make up` below a home of the test's own; whatever is mounted there is unmounted in the end."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.directory = home / ".local" / "state" / "perdure"
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        self.env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": cache}
        self.env.pop("PERDURE_DIRECTORY", None)
        self.env["PATH"] = f"{self.env['PATH']}:/usr/sbin:/sbin"

    def destroy(self) -> None:
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for path in reversed([path for path in mounted if path.startswith(f"{self.directory}/")]):
            os.system(f"umount -l {path}")
        super().destroy()


def require_tools() -> None:
    tool("make")
    if how_to_mount() != "loop":
        pytest.skip("loop devices are not allowed here, and the quickstart mounts one")
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("the checkout has no .venv of `make setup`, and a quickstart that installs one is no test")


def test_the_lines_of_the_quickstart_do_what_it_says(tmp_path):
    require_tools()
    control = tmp_path / ".local" / "state" / "perdure" / "control.sock"
    seen = {}
    with Home(tmp_path) as home, Shell(ROOT, home.env) as shell:
        for step in steps(TEXT):
            said = shell.run(step)
            assert said.code == int(step.command in DEGRADED), f"$ {step.command}\n{said}"
            if control.exists():
                status = ask(control, "status")
                seen[step.command] = (status["summary"], status["losses_survived"])
        assert not home.directory.exists()
    assert seen["make up"] == ("[UUUUU]", 2)
    assert seen["perdure status"] == ("[U_U_U]", 0)
    assert seen["perdure replace 1"] == ("[UUU_U]", 1)
    assert seen["perdure replace 3"] == ("[UUUUU]", 2)


def test_what_a_document_says_that_a_line_prints_is_compared():
    said = "one\ntwo 2\nthree\n"
    assert missing_line(said, ("one", "...", "three")) is None
    assert missing_line(said, ("two ...",)) is None
    assert missing_line(said, ("three", "one")) == "one"
    assert missing_line(said, ("two",)) == "two"
