"""The command: started in the file system, told every signal that is for it, and waited for.

Signals are kept from ending this program from the first step to the last, since a mount that is left half-way helps
nobody. While the command runs they are passed on, except those that the terminal sent: it sent them to the command too.
Whatever is ignored when we start (`nohup`) stays so, for the command as well.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from perdure.errors import Misuse

PASSED_ON: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What shells and env(1) return for a command that could not be started."""
WATCH_S: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


# Signals --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Kept:
    """Signals that came while no command ran, in order. `numbers` are those that are kept at all."""

    numbers: frozenset[signal.Signals]
    arrived: list[int] = field(default_factory=list)


@contextmanager
def signals_kept() -> Iterator[Kept]:
    """Until the block ends, a signal to end is noted and does not end this program."""
    kept = Kept(frozenset(number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN))

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        kept.arrived.append(number)

    before = {number: signal.signal(number, note) for number in kept.numbers}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children could not be waited for
    try:
        yield kept
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# Who runs it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """Somebody of this machine, by numbers. `environment` is what a login would set."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str]


def user(text: str) -> User:
    """`NAME`, `NAME:GROUP` or numbers. Raises Misuse for somebody unknown, and where only root could become another."""
    name, _, group = text.partition(":")
    try:
        if name.isdecimal() and group.isdecimal():
            found = User(int(name), int(group), (), {})
        else:
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
            gid = _group(group) if group else entry.pw_gid
            environment = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
            found = User(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), environment)
    except KeyError:
        raise Misuse(
            f"There is no user or group {text!r} here; nothing was started. Name one that is, or UID:GID in numbers."
        ) from None
    if os.geteuid() not in (0, found.uid):
        raise Misuse("Only root can run a command as another user; nothing was started. Leave --user out.")
    return found


def _group(text: str) -> int:
    return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid


# The command ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What to run: words, where, as whom (None: as we are), and what its environment has beside ours."""

    words: Sequence[str]
    cwd: Path | None
    user: User | None
    environment: Mapping[str, str]


def run(order: Order, kept: Kept, watch: Callable[[], None], say: Callable[[str], None]) -> int:
    """Run it to its end; its exit code, or 128+N after signal N. `watch` is called every few seconds.

    A signal that came earlier is its end before it begins: then nothing is started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*kept.numbers, signal.SIGCHLD})
    try:
        if kept.arrived:
            return 128 + kept.arrived[0]
        try:
            child = _start(order, before)
        except OSError as error:
            say(f"The command {order.words[0]!r} cannot be started ({error.strerror}).")
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return _wait(child, kept, watch)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(order: Order, mask: Iterable[int]) -> subprocess.Popen[bytes]:
    us = os.getpid()

    def in_the_child() -> None:
        # When we are killed, the command is told to end, as the file system goes with us in the next run.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != us:
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    as_whom = order.user
    environment = {**os.environ, **(as_whom.environment if as_whom else {}), **order.environment}
    return subprocess.Popen(  # noqa: S603  (the user's own command)
        list(order.words),
        cwd=order.cwd,
        env=environment,
        user=as_whom.uid if as_whom else None,
        group=as_whom.gid if as_whom else None,
        extra_groups=as_whom.groups if as_whom else None,
        preexec_fn=in_the_child,  # noqa: PLW1509  (this program has one thread)
    )


def _wait(child: subprocess.Popen[bytes], kept: Kept, watch: Callable[[], None]) -> int:
    while child.poll() is None:
        info = signal.sigtimedwait({*kept.numbers, signal.SIGCHLD}, WATCH_S)
        if info is None:
            watch()
        elif info.si_signo != signal.SIGCHLD and info.si_code <= 0:  # sigaction(2): above 0 it is from the kernel
            child.send_signal(info.si_signo)
    code = child.returncode
    return code if code >= 0 else 128 - code
