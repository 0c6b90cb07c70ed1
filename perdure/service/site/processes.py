"""Processes that outlive the command which started them: started detached, found again, ended by their own id.

A process file holds the id, the start time and the machine's boot id, so a process that merely has the same number is
never taken for ours and never signalled. Signals go through a pidfd: between the check and the signal nothing can
take the number over. A lock per directory keeps two commands from doing this at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.errors import Misuse
from perdure.service.site.artefacts import write_atomic

LOCK_FILE: Final = "lock"
LOCK_WAIT_S: Final = 120.0
_RETRY_S: Final = 0.05
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine, and no other that may have its number later."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has the number now; None if there is none or it has ended and only waits to be reaped."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        # proc(5): after the name in parentheses come state (field 3) and, 19 further on, starttime (field 22).
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid, int(fields[19]), _BOOT_ID.read_text().strip())

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been restarted since."""
        return self.boot_id == _BOOT_ID.read_text().strip()

    def end(self, *, grace_s: float) -> bool:
        """SIGTERM, and SIGKILL after `grace_s`; whether it was still alive. Returns when it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive:
                return False
            signal.pidfd_send_signal(fd, signal.SIGTERM)
            if not _has_ended(fd, grace_s):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                _has_ended(fd, None)
        except ProcessLookupError:
            return True  # it ended by itself in between
        finally:
            os.close(fd)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, waiting for at most `timeout_s`."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return not self.is_alive or _has_ended(fd, timeout_s)
        finally:
            os.close(fd)


def _has_ended(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def remember(path: Path, pid: int) -> Process | None:
    """Write the process file of a running process; None, and no file, if it has ended already."""
    process = Process.of(pid)
    if process is not None:
        value = {"pid": process.pid, "start_ticks": process.start_ticks, "boot_id": process.boot_id}
        write_atomic(path, (json.dumps(value) + "\n").encode())
    return process


def find(path: Path) -> Process | None:
    """The living process that the file is about; None if there is no file or it has ended."""
    try:
        value = json.loads(path.read_bytes())
        process = Process(int(value["pid"]), int(value["start_ticks"]), str(value["boot_id"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # absent or not ours: nothing that could be ended safely
    return process if process.is_alive else None


def start_detached(
    command: Sequence[str], *, log: Path, stdout: int | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that this terminal's end or Ctrl-C does not reach; what it prints goes to the end of `log`."""
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        return subprocess.Popen(  # noqa: S603  (our own commands only)
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file if stdout is None else stdout,
            stderr=file,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            cwd="/",
        )


def last_line(log: Path) -> str:
    """The last line of a log, for a sentence about why its process ended."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
    return "it left no log"


# The lock -------------------------------------------------------------------------------------------------


@contextmanager
def locked(directory: Path, *, name: str = LOCK_FILE, wait_s: float = LOCK_WAIT_S, busy: str = "") -> Iterator[int]:
    """Hold the directory's lock; its descriptor comes with it.

    Raises Misuse with `busy` when another holds it for longer than `wait_s`.
    """
    path, give_up = directory / name, time.monotonic() + wait_s
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _try_lock(fd) and _is_still(path, fd):
                yield fd
                return
        finally:
            os.close(fd)
        if time.monotonic() >= give_up:
            raise Misuse(
                busy
                or f"Another perdure command has been at work in {directory} for {wait_s:.0f} s; nothing was changed."
                " Wait for it to end, then try again."
            )
        time.sleep(_RETRY_S)


@contextmanager
def kept(fd: int) -> Iterator[int]:
    """Go on holding a lock that another program has taken in this process."""
    try:
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, fd: int) -> bool:
    """Whether the locked file is the one that has the name: `down --destroy` removes it while others wait."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
