"""`tests/cli/transcripts/*.txt`: what the command line says, as files that one reads as documentation, run for real.

The form is that of cram: prose stands at the margin; a line of two spaces and `$ ` is a command for the shell, one of
two spaces and `> ` continues it; the other lines of two spaces are what it prints on standard output and standard
error together, and `[exit N]` if it ends with another code than 0. In what is printed these stand for what differs
from run to run:

    <hex>  <number>  <seconds>  <clock>  <path>     as in `3f0c`, `1,024`, `0.3`, `00:00:41`, `/tmp/x`
    <text>                                          anything, to the end of the line or to what follows
    ...                                             alone on a line: any lines, or none

Each file runs in a directory of its own for `perdure up`. Beside `perdure` there are two commands: `kill-disk SEAT`
kills the simulated disk of a seat, `await TEXT` returns once `perdure status` shows the text.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.rig import Rig

FOLDER = Path(__file__).parent / "transcripts"
COMMAND_S = 60
WILD = {
    "hex": r"[0-9a-f]+",
    "number": r"[0-9][0-9,]*",
    "seconds": r"[0-9]+(?:\.[0-9]+)?",
    "clock": r"[0-9]{2,}:[0-9]{2}:[0-9]{2}",
    "path": r"[^\s`,;]*[^\s`,;.:]",
    "text": r".+?",
}
ANY_LINES = "..."
PROGRAMS = {
    "perdure": 'exec "$PYTHON" -m perdure.cli.main "$@"',
    "kill-disk": 'kill -9 "$(sed -E \'s/.*"pid": ([0-9]+).*/\\1/\' "$PERDURE_DIRECTORY/disk-$1.pid")"',
    "await": 'for _ in $(seq 100); do if perdure status | grep -qF "$1"; then exit 0; fi; sleep 0.1; done; exit 1',
}


@dataclass(frozen=True)
class Step:
    """A command and what it must print; `line` is where it stands in its file."""

    line: int
    command: str
    expected: tuple[str, ...]


def parse(text: str) -> list[Step]:
    """The steps of a transcript. Fails on output that follows no command."""
    steps: list[Step] = []
    is_open, blank = False, 0
    for number, line in enumerate(text.splitlines(), 1):
        body = line[2:]
        if not line.strip():
            blank += 1  # part of what is printed, if more of it follows
            continue
        if line.startswith("  $ "):
            steps.append(Step(number, body[2:], ()))
        elif line.startswith("  "):
            assert is_open, f"line {number} is output of no command"
            last = steps.pop()
            if body.startswith("> ") and not last.expected:
                steps.append(Step(last.line, f"{last.command}\n{body[2:]}", ()))
            else:
                steps.append(Step(last.line, last.command, (*last.expected, *[""] * blank, body)))
        is_open, blank = line.startswith("  "), 0
    return steps


def pattern(line: str) -> str:
    """A line with its wildcards, as a regular expression. Fails on a wildcard that is none of ours."""
    parts = re.split(r"<([a-z]+)>", line)
    assert set(parts[1::2]) <= WILD.keys(), f"of {parts[1::2]} one is no wildcard: {line}"
    return "".join(WILD[part] if at % 2 else re.escape(part) for at, part in enumerate(parts))


def fits(expected: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether all that was printed is what was expected."""
    whole = "".join(r"(?:.*\n)*?" if line == ANY_LINES else rf"{pattern(line)}\n" for line in expected)
    return re.fullmatch(whole, "".join(f"{line}\n" for line in printed)) is not None


def run(step: Step, env: dict[str, str], cwd: Path) -> list[str]:
    """What it prints, and the line for its exit code."""
    done = subprocess.run(
        ["/bin/sh", "-c", step.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
        cwd=cwd,
        timeout=COMMAND_S,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    return [*lines, *([f"[exit {done.returncode}]"] if done.returncode else [])]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """The environment and the folder in which a transcript runs."""
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    with Rig(tmp_path) as rig:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        here = {"PYTHON": sys.executable, "PYTHONPATH": str(Path(__file__).parents[2])}  # this tree, wherever one works
        yield {**rig.env, **here, "PATH": path, "HOME": str(tmp_path)}, work


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_what_the_command_line_says_is_what_is_written_down(path, place):
    steps = parse(path.read_text())
    assert steps
    for step in steps:
        printed = run(step, *place)
        if not fits(step.expected, printed):
            shown = "\n".join(difflib.unified_diff(step.expected, printed, "written down", "printed", lineterm=""))
            pytest.fail(f"{path.name}, line {step.line}: $ {step.command}\n{shown}", pytrace=False)


# The runner itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["all of <hex> in <seconds> s"], ["all of 00ff in 0.3 s"]),
        (["at <path>: <text>."], ["at /tmp/a.b: it is, so to say, full."]),
        (["a", "...", "z"], ["a", "z"]),
        (["a", "...", "z"], ["a", "b", "c", "z"]),
        ([], []),
    ],
)
def test_a_wildcard_fits_what_it_stands_for(expected, printed):
    assert fits(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["all of <hex>"], ["all of them"]),
        (["<number> disks"], [" disks"]),
        (["a.c"], ["abc"]),
        (["a"], ["a", "b"]),
        (["a", "b"], ["a"]),
        (["a", "...", "z"], ["a", "b"]),
        (["ok"], ["ok", "[exit 1]"]),
    ],
)
def test_what_differs_in_anything_else_does_not_fit(expected, printed):
    assert not fits(expected, printed)


def test_a_transcript_is_read_as_commands_and_what_they_print(place):
    text = "Prose.\n\n  $ echo 1 \\\n  > 2; false\n  1 2\n  [exit 1]\n\nMore.\n\n  $ echo 2; echo; echo 3\n  2\n\n  3\n"
    steps = parse(text)
    assert [(step.line, step.expected) for step in steps] == [(3, ("1 2", "[exit 1]")), (10, ("2", "", "3"))]
    assert [fits(step.expected, run(step, *place)) for step in steps] == [True, True]


def test_a_wildcard_that_is_none_is_a_mistake():
    with pytest.raises(AssertionError, match="no wildcard"):
        pattern("<whatever> it is")
