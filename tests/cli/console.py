"""The ```console blocks of a document, and one bash that runs their lines as somebody would who pastes them.

    with Shell(cwd, env) as shell:
        for step in steps(text):
            shell.run(step)

A line that begins with `$ ` is typed; the lines below it are what one may expect, in order. `...` stands for anything
within a line, and a line of three dots alone for lines that are left out. Leaving the block ends what was started in
the background, by its process group.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROMPT = "$ "
ANYTHING = "..."
END = "end-of-command"
COMMAND_S = 90
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One line to type, and what its document says that it prints."""

    command: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """What a line printed, on both outputs, and the exit code of its last command."""

    out: str
    code: int


def blocks(text: str) -> list[list[Step]]:
    """The steps of each console block of a text. Fails for a block that does not begin with a prompt."""
    return [_steps(body) for body in _BLOCK.findall(text)]


def steps(text: str) -> list[Step]:
    """All of them, one after another."""
    return [step for block in blocks(text) for step in block]


def _steps(body: str) -> list[Step]:
    found: list[Step] = []
    for line in body.splitlines():
        if line.startswith(PROMPT):
            found.append(Step(line.removeprefix(PROMPT), ()))
        else:
            last = found.pop()
            found.append(Step(last.command, (*last.expected, line)))
    return found


def missing_line(said: str, expected: tuple[str, ...]) -> str | None:
    """The first expected line that does not come, in its order; None if all do."""
    lines = iter(said.splitlines())
    for wanted in expected:
        pattern = ".*".join(map(re.escape, _even(wanted).split(ANYTHING)))
        if _even(wanted) != ANYTHING and not any(re.fullmatch(pattern, _even(line)) for line in lines):
            return wanted
    return None


def _even(line: str) -> str:
    """With one space where there are several: columns move with what is in them."""
    return " ".join(line.split())


class Shell:
    """One bash, in which variables, background jobs and the working directory stay from line to line."""

    def __init__(self, cwd: Path, env: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,  # so that what runs in the background is ended with it, and nothing else
        )
        self._kept = b""

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._bash.stdin.close()
        self._bash.stdout.close()

    def run(self, step: Step) -> Said:
        """Type the line and return what it printed. Fails when that is not what its document says."""
        said = self.type(step.command)
        print(f"$ {step.command}\n{said.out}")
        missing = missing_line(said.out, step.expected)
        assert missing is None, f"$ {step.command}\nprinted\n{said.out}\nand then no line is\n{missing}"
        return said

    def type(self, command: str) -> Said:
        """Run one line; what it reads from its standard input is nothing."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n{END} %s\\n' $?\n".encode())
        self._bash.stdin.flush()
        out = self._read_to_end(command)
        text, _, code = out.decode(errors="replace").rpartition(f"\n{END} ")
        return Said(text, int(code))

    def _read_to_end(self, command: str) -> bytes:
        assert self._bash.stdout is not None
        give_up = time.monotonic() + COMMAND_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while not (found := re.search(rb"\n" + END.encode() + rb" \d+\n", self._kept)):
                assert selector.select(max(0, give_up - time.monotonic())), f"not over: {command}\n{self._kept!r}"
                data = os.read(self._bash.stdout.fileno(), 1 << 16)
                assert data, f"the shell has ended: {command}\n{self._kept!r}"
                self._kept += data
        out, self._kept = self._kept[: found.end()], self._kept[found.end() :]
        return out
