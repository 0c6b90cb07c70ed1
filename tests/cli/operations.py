"""docs/operations.md as its tests use it: its sections, a way to follow them, and an array to raise alarms on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perdure.service.control import ask
from perdure.service.site import config, local
from perdure.service.site.local import Wish
from tests.cli.console import Shell, blocks, steps
from tests.cli.rig import Rig, perdure

TEXT = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()
LEADS = ("Seen", "Happened", "Safe", "Do")
SIZE = "16M"
ANSWER_MS_MAX = 2000
DEAD_AFTER_MS = 1500


def sections(chapter: str) -> dict[str, str]:
    """The text of each `###` section of a chapter, by its title."""
    body = re.split(r"^## (.*)\n", TEXT, flags=re.MULTILINE)
    parts = re.split(r"^### (.*)\n", body[body.index(chapter) + 1], flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def name_of_test(title: str) -> str:
    """What the test of a section is called."""
    return "test_" + re.sub(r"[^a-z0-9]+", "_", title.lower().replace("'", "")).strip("_")


def follow(rig: Rig, title: str, block: int | None = None, *, codes: Iterable[int] = (0,), **variables: object) -> str:
    """Type the lines of a section, or of one of its blocks; what they printed.

    `codes` are those that each may end with. It is done in the folder beside the array's directory, with that as $DIR.
    """
    section = {**sections("Alarms"), **sections("Drills")}[title]
    with Shell(rig.directory.parent, environment(rig, **variables)) as shell:
        said = []
        for step in steps(section) if block is None else blocks(section)[block]:
            done = shell.run(step)
            assert done.code in codes, f"$ {step.command}\nended with {done.code}\n{done.out}"
            said.append(done.out)
    return "\n".join(said)


def environment(rig: Rig, **variables: object) -> dict[str, str]:
    """A shell in which `perdure` is this one, about the rig's directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {name: str(value) for name, value in variables.items()}
    return {**rig.env, "PATH": path, "DIR": str(rig.directory), **given}


def prepare(rig: Rig, *, spares: int = 0, **edits: str) -> None:
    """The configuration of a 3-of-5 array that notices silence soon; `edits` are lines for the table of that name."""
    rig.directory.mkdir(mode=0o700)
    local.prepare(rig.directory, Wish(SIZE, 5, 3, "unix:nbd.sock", DEAD_AFTER_MS, spares=spares))
    path = rig.directory / config.NAME
    text = path.read_text().replace("answer-ms-max = 5000", f"answer-ms-max = {ANSWER_MS_MAX}")
    for table, line in edits.items():
        text = text.replace(f"[{table}]\n", f"[{table}]\n{line}\n")
    path.write_text(text)
    config.load(path)


def up(rig: Rig, *, code: int = 0) -> None:
    """`perdure up` of what was prepared."""
    done = perdure("up", "--json", env=rig.env)
    assert done.code == code, done


def require_healthy(rig: Rig) -> None:
    """Return when it serves, with every disk, and nothing is left to be mended; fails after half a minute."""
    rig.wait_for(lambda status: status["exit_code"] == 0 and all(map(_is_well, status["disks"])))


def _is_well(disk: dict[str, Any]) -> bool:
    return disk["state"] == "online" and not any(disk["errors"].values())


def wait_for_event(rig: Rig, says: str) -> None:
    """Return when an event says this: it may come a moment after the status does. Fails after half a minute."""
    rig.wait_for(lambda _: any(says in message for message in _messages(rig)))


def _messages(rig: Rig) -> list[str]:
    return [event["message"] for event in ask(rig.directory / "control.sock", "events", since=0)["events"]]
