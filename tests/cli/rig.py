"""An array of simulated disks in a directory of the test's own, driven through the command line; and ways to break it.

    with Rig(tmp_path) as rig:
        rig.up()
        rig.write(0, b"state")
        rig.kill_main()
        rig.up()
        assert rig.read(0, 5) == b"state"

Leaving the block ends every process that was started for the directory, each by its own id, and fails the test when
one would not go. Nothing here sleeps to synchronise; `wait_for` polls what the main program itself says.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from perdure.errors import Unavailable
from perdure.service.control import ask
from perdure.service.site import processes
from perdure.service.site.processes import Process

SIZE = "16M"
DEAD_AFTER_MS = 1000
COMMAND_S = 180
WAIT_S = 30


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it printed; fails if that is not one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def sentence(self) -> str:
        """The one line of an error; fails if there is more or less, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("perdure: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("perdure: ")


def perdure(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Rig:
    """One directory of `perdure up`."""

    def __init__(self, path: Path, *, disks: int = 5, threshold: int = 3) -> None:
        self.shape = ("--disks", disks, "--threshold", threshold)
        self.directory = path / "perdure"
        self.env = {**os.environ, "PERDURE_DIRECTORY": str(self.directory)}

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    # Commands ---------------------------------------------------------------------------------------------

    def run(self, *words: object, code: int | None = 0) -> Done:
        """Run any verb on this directory; `code` is the exit code it must have, None for any."""
        done = perdure(*words, env=self.env)
        assert code is None or done.code == code, f"exit code {done.code}\n{done.out}\n{done.err}"
        return done

    def up(self, *words: object, size: str = SIZE, dead_after_ms: int = DEAD_AFTER_MS, code: int = 0) -> dict[str, Any]:
        """`perdure up --json`; what it printed."""
        words = ("--size", size, "--dead-after-ms", dead_after_ms, *self.shape, *words)
        return self.run("up", "--json", *words, code=code).json

    def down(self, *words: object, code: int = 0) -> dict[str, Any]:
        """`perdure down --json`; what it printed."""
        return self.run("down", "--json", *words, code=code).json

    def status(self) -> dict[str, Any]:
        """What the main program says of itself; Unavailable when it does not run."""
        return ask(self.directory / "control.sock", "status")

    def wait_for(self, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which `what` holds; fails after half a minute."""
        give_up = time.monotonic() + WAIT_S
        while True:
            status = self.status()
            if what(status):
                return status
            assert time.monotonic() < give_up, f"never happened; the last status was {status}"
            time.sleep(0.05)  # how often to look, not how long to wait

    @property
    def nbd_uri(self) -> str:
        """Where the array is served now."""
        return str(self.status()["nbd_uri"])

    # Trouble ----------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """The living process of a process file (`main`, `disk-0` ...)."""
        found = processes.find(self.directory / f"{name}.pid")
        assert found is not None, f"{name} does not run"
        return found

    def kill_disk(self, seat: int) -> None:
        """kill -9 the simulated disk of a seat; return when it is gone, and what it held with it."""
        _kill(self.process(f"disk-{seat}"))

    def kill_main(self) -> None:
        """kill -9 the main program; return when it is gone."""
        _kill(self.process("main"))

    def pause_disk(self, seat: int) -> None:
        """Stop the simulated disk and the program in it, as a host may; `resume_disk` lets it go on."""
        self._signal_disk(seat, signal.SIGSTOP)

    def resume_disk(self, seat: int) -> None:
        """Let a paused disk go on."""
        self._signal_disk(seat, signal.SIGCONT)

    def _signal_disk(self, seat: int, number: signal.Signals) -> None:
        launcher = psutil.Process(self.process(f"disk-{seat}").pid)
        for process in (launcher, *launcher.children(recursive=True)):
            process.send_signal(number)

    # The disk, as a client sees it ------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Bytes through NBD. Raises OSError with what the server answered."""
        with _Nbd(self.directory / "nbd.sock") as nbd:
            return nbd.request(0, offset, length=length)

    def write(self, offset: int, data: bytes, *, flush: bool = True) -> None:
        """Bytes through NBD, and a FLUSH unless told otherwise. Raises OSError with what the server answered."""
        with _Nbd(self.directory / "nbd.sock") as nbd:
            nbd.request(1, offset, data=data)
            if flush:
                nbd.request(3, 0)

    # The end ----------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """End everything that runs for this directory, and fail if anything had to be hunted down."""
        if self.directory.exists():
            for seat_file in self.directory.glob("disk-*.pid"):
                with contextlib.suppress(AssertionError, psutil.NoSuchProcess):
                    self.resume_disk(int(seat_file.stem.removeprefix("disk-")))
            done = perdure("down", "--destroy", env=self.env)
            assert done.code == 0, done.err
        left = self._left()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert not left, f"these had to be killed one by one: {left}"

    def _left(self) -> list[psutil.Process]:
        """Processes that name this directory in their command line and are no zombies."""
        left = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            is_ours = any(str(self.directory) + "/" in word for word in words) and process.pid != os.getpid()
            if (
                is_ours
                and process.info["status"] != psutil.STATUS_ZOMBIE
                and any("perdure" in word for word in words[:3])
            ):
                left.append(process)
        return left


def is_running(rig: Rig) -> bool:
    """Whether a main program answers."""
    try:
        rig.status()
    except Unavailable:
        return False
    return True


def _kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(WAIT_S)


class _Nbd:
    """The least of an NBD client (doc/proto.md of the NBD repository): EXPORT_NAME, then simple replies."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(WAIT_S)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rb")
        assert self._stream.read(18)[:16] == b"NBDMAGICIHAVEOPT"
        self._socket.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
        self.size_bytes, self.flags = struct.unpack(">QH", self._stream.read(10))

    def __enter__(self) -> _Nbd:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def request(self, kind: int, offset: int, *, length: int = 0, data: bytes = b"") -> bytes:
        self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, offset, length or len(data)) + data)
        magic, error, cookie = struct.unpack(">IIQ", self._stream.read(16))
        assert (magic, cookie) == (0x67446698, 7)
        if error:
            raise OSError(error, os.strerror(error))
        return self._stream.read(length if kind == 0 else 0)
