"""An array that `perdure run` has mounted, for databases that are started in it; and the ways in which that ends.

    with Mounted(tmp_path) as mounted:
        mounted.mount("--make-file-system")
        ... start something below mounted.root ...
        mounted.crash(lost=[1, 3])
        mounted.mount()

The command of `perdure run` does nothing here but hold the mount. Leaving the block ends and unmounts everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from perdure.service.mounting import mounts
from perdure.service.mounting.attach import Way, lacking, look
from tests.cli.rig import COMMAND_S, Rig
from tests.service.mounting import leftovers

HOLD = ("sh", "-c", "echo mounted; exec cat")
"""Until its standard input is closed."""
HELD_ELSEWHERE = "in another mount namespace"
FAILED = "Not all that was written is on the disks; what was synced is."


class Mounted:
    """`root` is the mount point while it is mounted, where other users can reach it."""

    def __init__(self, path: Path, *, size: str, user: str | None = None, hold: Sequence[str] = HOLD) -> None:
        missing = lacking(look(), Way.LOOP)
        if missing:
            pytest.skip(f"NO DATABASE WAS TESTED: the way in `loop` needs {', '.join(missing)}")
        self.rig = Rig(path)
        self.root = Path("/tmp") / f"perdure-databases-{os.getpid()}"  # pytest's directories are closed to other users
        self._size, self._hold = size, hold
        self._who = () if user is None else ("--user", user)
        self._log = path / "run.log"
        self._run: subprocess.Popen[str] | None = None

    def __enter__(self) -> Mounted:
        self.rig.up(size=self._size)
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.kill()
            self._reap()
        leftovers.force_away(self.rig.directory)
        if mounts.find(self.root) is not None:
            subprocess.run(["umount", "-l", self.root], check=False)
        shutil.rmtree(self.root, ignore_errors=True)
        self.rig.destroy()

    def mount(self, *words: str) -> None:
        """Start `perdure run`; return when the file system is there.

        Where somebody else on this machine made a mount namespace while ours was mounted, `perdure run` names them and
        refuses; it is tried again until they have ended, as the sentence says.
        """
        give_up = time.monotonic() + COMMAND_S
        while not self._is_mounted(*words):
            assert HELD_ELSEWHERE in self._log.read_text(), self._log.read_text()
            assert time.monotonic() < give_up, self._log.read_text()

    def _is_mounted(self, *words: str) -> bool:
        words = ("run", "--by", "loop", "--at", str(self.root), *self._who, *words, "--", *self._hold)
        pipe = subprocess.PIPE
        with self._log.open("w") as log:
            self._run = subprocess.Popen(
                [sys.executable, "-m", "perdure.cli.main", *words],
                env=self.rig.env,
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        is_mounted = self._run.stdout.readline() == "mounted\n"
        if not is_mounted:
            self._reap()
        return is_mounted

    def unmount(self) -> None:
        """Let the command end; all that was written must have come home, and nothing may be left."""
        assert self._end() == 0, self._log.read_text()
        assert leftovers.of(self.rig.directory) == []

    def stop(self, number: signal.Signals) -> int:
        """Send `perdure run` a signal; its exit code."""
        self._run.send_signal(number)
        return self._end()

    def lose_main(self) -> None:
        """kill -9 the main program; nothing in the file system can be synced from now on."""
        self.rig.kill_main()

    def end_after_failure(self) -> None:
        """Let the command end when the main program was killed; `perdure run` must say so and take everything away."""
        assert self._end() == 2, self._log.read_text()
        assert FAILED in self._log.read_text()
        assert mounts.find(self.root) is None, self._log.read_text()

    def crash(self, lost: Iterable[int]) -> None:
        """Kill -9, as a machine stops, everything of ours at once, and the disks of the seats `lost` with it."""
        holder = Path(f"/proc/{self._run.pid}/task/{self._run.pid}/children").read_text().split()
        self._run.kill()
        self.rig.kill_main()
        for server in leftovers.servers(self.rig.directory):
            server.kill()
        for seat in lost:
            self.rig.kill_disk(seat)
        for pid in holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._reap()

    def _end(self) -> int:
        self._run.stdin.close()
        code = self._run.wait(COMMAND_S)
        self._reap()
        return code

    def _reap(self) -> None:
        """Take leave of a `perdure run` that has ended, or is ending."""
        with contextlib.suppress(OSError):
            self._run.stdin.close()
        self._run.stdout.close()
        self._run.wait(COMMAND_S)
        self._run = None
