"""docs/recipes, typed: `$` lines into a bash beside the array, `vm#` lines into a machine whose disk it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.cli.console import Shell, Step, steps
from tests.cli.test_quickstart import Home

from .guest import Disk, Guest
from .test_luks import PASSPHRASE

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
IN_A_MACHINE = ("ext4", "luks", "xfs", "zfs")
HERE, MACHINE = "$ ", "vm# "
REBOOT = "reboot"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, list[Step]]]:
    """The console blocks of a recipe, each with the prompt of all its lines."""
    found = []
    for body in _BLOCK.findall(text):
        prompt = MACHINE if body.startswith(MACHINE) else HERE
        plain = re.sub(f"^{re.escape(prompt)}", HERE, body, flags=re.MULTILINE)
        found.append((prompt, steps(f"```console\n{plain}```\n")))
    return found


def restart(home: Home, guest: Guest, cwd: Path) -> None:
    """Boot the machine, on the array that is served; a passphrase is given to it each time."""
    guest.power_off()
    guest.boot(Disk(home.nbd_uri))
    if (cwd / PASSPHRASE).exists():
        guest.put(PASSPHRASE, (cwd / PASSPHRASE).read_bytes())


@pytest.mark.parametrize("name", IN_A_MACHINE)
@pytest.mark.timeout(900)
def test_the_lines_of_a_recipe_do_what_it_says(tmp_path: Path, guest: Guest, name: str) -> None:
    with Home(tmp_path) as home:
        home.env["PATH"] = f"{Path(sys.executable).parent}:{home.env['PATH']}"
        with Shell(tmp_path, home.env) as shell:
            for prompt, lines in blocks((RECIPES / f"{name}.md").read_text()):
                if prompt == MACHINE and not guest.is_on:
                    restart(home, guest, tmp_path)
                for step in lines:
                    if prompt == HERE:
                        said = shell.run(step)
                    elif step.command == REBOOT:
                        restart(home, guest, tmp_path)
                        continue
                    else:
                        said = guest.run(step)
                    assert said.code == 0, f"{prompt}{step.command}\n{said}"
        guest.cut_power()


def test_the_recipes_attach_an_array_as_the_tests_do() -> None:
    words = Disk("nbd+unix:///?socket=nbd.sock").words(0)
    lines = "".join(f"{option} {value}\n" for option, value in zip(words[::2], words[1::2], strict=True))
    assert f"```\n{lines}```\n" in (RECIPES / "README.md").read_text()
