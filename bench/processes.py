"""Processes that a benchmark starts: each is ended by its own id, however the benchmark ends, and its cost is known.

Some peers detach themselves. `adopt_orphans` makes this process their parent instead of init, so all that was ever
started stays below it and `end_the_rest` finds what nobody else ended. If this process is killed, those started
by `start` die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from bench.model import Skip
from perdure.simtee.process import die_with

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.02
END_S = 10.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (each benchmark makes a directory of its own there)
ROOT = Path(__file__).resolve().parent.parent
Words = Sequence[object]


def tool(name: str) -> str:
    """The path of a program. Raises Skip when it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise Skip(f"{name} is not installed")
    return found


def call(*words: object, timeout_s: float = 60, user: str | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end; its standard output. Raises RuntimeError with what it said when it fails."""
    command = [tool(str(words[0])), *map(str, words[1:])]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, user=user, cwd=cwd
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return done.stdout


@contextlib.contextmanager
def started(
    *words: object, log: Path, user: str | None = None, stdout: IO[bytes] | int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended when the block ends: SIGTERM, then SIGKILL. What it prints goes to `log`."""
    command = [tool(str(words[0])), *map(str, words[1:])]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file if stdout is None else stdout,
            stderr=file,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=True,  # Ctrl-C is ours to act on
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509  (one thread)
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; returns when it has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(ready: Callable[[], object], what: str, *, process: subprocess.Popen[bytes] | None = None) -> None:
    """Look until `ready()` is true. Raises RuntimeError when it is not within half a minute, or `process` ended."""
    give_up = time.monotonic() + 30
    while not ready():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: its process ended with {process.returncode}")
        if time.monotonic() > give_up:
            raise RuntimeError(f"{what}: it does not get ready")
        time.sleep(_LOOK_S)


# Places ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch(*, in_memory: bool, need_bytes: int = 0) -> Iterator[Path]:
    """A directory that is removed again; `in_memory` on tmpfs. Raises Skip when there is no room."""
    parent = SHARED_MEMORY if in_memory else Path(tempfile.gettempdir())
    if in_memory and not os.path.ismount(parent):
        raise Skip(f"no tmpfs is mounted at {parent}")
    free = shutil.disk_usage(parent).free
    if free < need_bytes:
        raise Skip(f"{parent} has {free >> 20} MiB left, and {need_bytes >> 20} are needed")
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=parent, ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # noqa: S103  (a database runs as another user)
        yield Path(name)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports of the loopback device at which nobody listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def is_mounted(path: Path) -> bool:
    """From the kernel's list: os.path.ismount says False of a FUSE mount whose server has died."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def unmount(path: Path) -> None:
    """Unmount; lazily when it stays busy, so that nothing is left mounted."""
    for _ in range(100):
        if not is_mounted(path):
            return
        if subprocess.run([tool("umount"), path], capture_output=True, check=False).returncode:
            time.sleep(_LOOK_S)
    if is_mounted(path):
        subprocess.run([tool("umount"), "-l", path], capture_output=True, check=False)


# What they cost -------------------------------------------------------------------------------------------


def tree(pids: Iterable[int]) -> list[int]:
    """These processes and all below them."""
    found = list(pids)
    for pid in found:  # grows meanwhile
        found += [child for child in _children(pid) if child not in found]
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time that these processes have used, in seconds; one that has ended counts nothing.

    The kernel's clock of a process counts nanoseconds where /proc/PID/stat counts ticks of 10 ms
    (clock_getcpuclockid(3): the id is ~PID << 3 | 2). It has only what the process itself used, in user and kernel
    mode; work of the kernel in nobody's name, such as most of loopback's receiving, is not in it.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)
    return total


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory, pages shared between processes counted in each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


# The end --------------------------------------------------------------------------------------------------


def adopt_orphans() -> None:
    """Become the parent of everything below us whose parent ends; see prctl(2), PR_SET_CHILD_SUBREAPER."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_the_rest() -> list[str]:
    """End every process that is still below this one; their names, for a complaint."""
    left = [pid for pid in tree([os.getpid()])[1:] if _name(pid)]
    names = [_name(pid) for pid in left]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        give_up = time.monotonic() + END_S / 2
        while any(_name(pid) for pid in left) and time.monotonic() < give_up:
            time.sleep(_LOOK_S)
    _reap()
    return names


def _reap() -> None:
    """Take leave of adopted children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _name(pid: int) -> str:
    """Its name; empty when it has ended, reaped or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return "" if text.rpartition(")")[2].split()[0] in "ZX" else text[text.index("(") + 1 : text.rindex(")")]
