"""A database that is a library: a process of its own that writes, and that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.databases.kills import WAIT_S, Said
from tests.system.rig import CLIENT_S


class Writer:
    """A module that commits numbers and prints each: `python -m MODULE WORDS... NEXT_NUMBER`."""

    undone_max = 0

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def begin(self, module: str, *words: object) -> subprocess.Popen[str]:
        """Start it; `words` end with the number of the first commit."""
        command = [sys.executable, "-m", module, *map(str, words)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return self._process

    def said(self, module: str, *words: object) -> Said:
        """The same; what it says."""
        return Said(self.begin(module, *words).stdout, int(str(words[-1])))

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def wait(self) -> None:
        """Until the kernel has let go of it."""
        self._process.wait(WAIT_S)


def counted(module: str, path: Path) -> int:
    """How many rows the module finds in the database at `path`, once it has checked all of them.

    In a process of its own, since a library that maps a broken file into memory ends the process.
    """
    command = [sys.executable, "-m", module, "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
