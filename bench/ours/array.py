"""An array of simulated disks, 3 of 5, driven through the command line; made and ended with a block."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import processes
from bench.model import K, N
from bench.work.fio import Place
from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.service.site import config, local, template
from perdure.service.site.config import Acknowledgements
from perdure.service.site.processes import find, remember

PERDURE = (sys.executable, "-m", "perdure.cli.main")
COMMAND_S = 600
LAZY = Path(__file__).with_name("lazy.py")


@dataclass(frozen=True, slots=True)
class Mode:
    """How an array is set up. `size` as the command line takes it."""

    size: str = "128M"
    evidence_latency_ms: float = 0.0
    attest: str = "flush"
    acknowledgements: Acknowledgements = Acknowledgements.EVIDENCE
    tcp: bool = False
    """Disks at TCP ports of the loopback device and not at Unix sockets."""
    lazy: bool = False
    """Disks take memory as it is touched (`bench.ours.lazy`)."""
    dead_after_ms: int = 10_000


class Running:
    """One array that is served."""

    def __init__(self, directory: Path, mode: Mode) -> None:
        self.directory = directory
        self.mode = mode

    def perdure(self, *words: object) -> dict[str, Any]:
        """Run a verb; the object that it prints. Raises RuntimeError with what it said when it fails."""
        command = [*PERDURE, *map(str, words), "--json"]
        done = subprocess.run(
            command,
            env={**os.environ, "PERDURE_DIRECTORY": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        value = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        if not value or done.returncode > 1 or "error" in value:  # 1 is degraded, and an answer
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise RuntimeError(f"perdure {words[0]} ended with {done.returncode}: {said}")
        return dict(value)

    def up(self) -> dict[str, Any]:
        """Serve it; what `perdure up` prints."""
        words: list[object] = ["up"]
        if self.mode.evidence_latency_ms:
            words += ["--evidence-latency-ms", self.mode.evidence_latency_ms]
        return self.perdure(*words)

    @property
    def uri(self) -> str:
        """Where NBD clients find it."""
        return f"nbd+unix:///perdure?socket={self.directory}/nbd.sock"

    @property
    def place(self) -> Place:
        """The same for fio."""
        return Place.nbd(self.uri)

    def pid(self, name: str) -> int:
        """Of the process called `main` or `disk-0`, ... Raises RuntimeError when it does not run."""
        process = find(self.directory / f"{name}.pid")
        if process is None:
            raise RuntimeError(f"{name} does not run")
        return process.pid

    def processes(self) -> dict[str, list[int]]:
        """By role. A disk's program is the child of its launcher, which signs as the hardware would: the platform."""
        launchers = [self.pid(path.stem) for path in sorted(self.directory.glob("disk-*.pid"))]
        below = [pid for pid in processes.tree(launchers) if pid not in launchers]
        return {"main": [self.pid("main")], "disks": below, "platform": launchers}


@contextlib.contextmanager
def array(mode: Mode) -> Iterator[Running]:
    """Start disks and main program; both are ended and everything is removed when the block ends."""
    with processes.scratch(in_memory=False) as scratch:
        running = Running(scratch / "array", mode)
        running.directory.mkdir(mode=0o700)
        _prepare(running)
        try:
            if mode.lazy:
                _start_lazy_disks(running)
            running.up()
            yield running
        finally:
            running.perdure("down", "--destroy")


def _prepare(running: Running) -> None:
    """The files of `perdure up`, with what it has no option for."""
    mode, path = running.mode, running.directory / config.NAME
    wish = local.Wish(
        size=mode.size,
        disks=N,
        threshold=K,
        listen="unix:nbd.sock",
        dead_after_ms=mode.dead_after_ms,
        acknowledgements=mode.acknowledgements,
    )
    local.prepare(running.directory, wish)
    text = template.with_value(path.read_text(), "serve", "attest", mode.attest)
    if mode.tcp:
        for seat, port in enumerate(processes.free_ports(N)):
            text = template.with_address(text, seat, f"tcp:127.0.0.1:{port}")
    path.write_text(text)


def _start_lazy_disks(running: Running) -> None:
    """As `perdure up` would, with another launcher; it then finds them by their process files."""
    found = config.load(running.directory / config.NAME)
    size_bytes = Geometry.for_size(K, N, found.array.size_bytes, HISTORY_SECTORS).disk_bytes
    for seat, address in enumerate(found.addresses):
        words: Sequence[object] = (
            *(sys.executable, "-P", LAZY, "--image", running.directory / local.IMAGE_FILE),
            *("--root-directory", running.directory / local.ROOT_DIRECTORY),
            *("--listen", address, "--size-bytes", size_bytes),
        )
        log = running.directory / f"disk-{seat}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                list(map(str, words)),
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        remember(running.directory / f"disk-{seat}.pid", process.pid)
        assert process.stdout is not None
        with process.stdout as stream:
            if not stream.readline().startswith(b"listening "):
                raise RuntimeError(f"the disk of seat {seat} did not start: {log.read_text()[-200:]}")
        process.returncode = 0  # `perdure down --destroy` ends it
