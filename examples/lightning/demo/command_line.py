"""`perdure` as an operator types it, on an array of simulated disks in a directory of the demo's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from perdure.service.site import processes

PERDURE = (sys.executable, "-m", "perdure.cli.main")
SIZE = "64M"
DEAD_AFTER_MS = 5000  # a busy machine is not a dead disk
COMMAND_S = 300.0


@dataclass(frozen=True, slots=True)
class Done:
    """A verb that has ended: what was typed, its exit code, and what it said, the sentence of its error last."""

    typed: str
    code: int
    out: str
    said: str


@dataclass(frozen=True, slots=True)
class Array:
    """Five simulated disks of which three must be there, all in `directory`."""

    directory: Path

    def command(self, verb: str, *words: object) -> list[str]:
        """The words of a command line."""
        return [*PERDURE, *verb.split(), "--directory", str(self.directory), *map(str, words)]

    def run(self, verb: str, *words: object) -> Done:
        """Run a verb to its end, whatever its exit code."""
        done = subprocess.run(
            self.command(verb, *words),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        lines = done.stderr.strip().splitlines()
        typed = " ".join(["perdure", verb, *map(str, words)])
        return Done(typed, done.returncode, done.stdout, lines[-1].removeprefix("perdure: ") if lines else "")

    def must(self, verb: str, *words: object) -> Done:
        """Run a verb that has to succeed. Raises RuntimeError with what it said."""
        done = self.run(verb, *words)
        if done.code:
            raise RuntimeError(f"`{done.typed}` ended with {done.code}: {done.said}")
        return done

    # What a host may do with processes ------------------------------------------------------------------------

    def kill_main(self) -> None:
        """kill -9 the main program, if it runs."""
        self._signal("main", signal.SIGKILL)

    def freeze(self, seats: Sequence[int]) -> None:
        """Stop disks as they are: all that a host can keep of them."""
        for seat in seats:
            self._signal(f"disk-{seat}", signal.SIGSTOP)

    def thaw(self, seats: Sequence[int]) -> None:
        """Let them go on, with what was in their memory."""
        for seat in seats:
            self._signal(f"disk-{seat}", signal.SIGCONT)

    def kill(self, seats: Sequence[int]) -> None:
        """kill -9 disks."""
        for seat in seats:
            self._signal(f"disk-{seat}", signal.SIGKILL)

    def _signal(self, name: str, number: signal.Signals) -> None:
        found = processes.find(self.directory / f"{name}.pid")
        if found is None:
            return
        launcher = psutil.Process(found.pid)
        for process in (*launcher.children(recursive=True), launcher):
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, number)
        if number is signal.SIGKILL:
            found.wait(COMMAND_S)

    @contextlib.contextmanager
    def blank_disk(self, seat: int) -> Iterator[None]:
        """A new disk of the same image at the address of a seat's, which has ended."""
        address = self.directory / f"disk-{seat}.sock"
        address.unlink(missing_ok=True)
        root = self.directory / "simulated-root"
        words = ["--image", self.directory / "disk.eif", "--listen", f"unix:{address}", "--size", "256M"]
        command = [*PERDURE, "disk", "run", *map(str, words), "--root-directory", str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as disk:
            assert disk.stdout is not None
            disk.stdout.readline()  # its address, once it listens
            try:
                yield
            finally:
                disk.terminate()


@contextlib.contextmanager
def array_in(directory: Path) -> Iterator[Array]:
    """A new array, served; its disks end with the block."""
    array = Array(directory)
    array.must("up", "--size", SIZE, "--dead-after-ms", DEAD_AFTER_MS)
    try:
        yield array
    finally:
        array.thaw(range(5))
        array.run("down", "--destroy")
        shutil.rmtree(directory, ignore_errors=True)
