"""Memory that holds the key: a file system that is never swapped, seen by this process and its children alone.

It is a tmpfs with `noswap` (Linux 6.4) or else a ramfs, mounted in a mount namespace of our own, so that neither its
files nor its name show outside; this process's own memory is locked. Core files are off: with a limit of 1, since 0
still lets a kernel pipe a core to a program (core(5), and do_coredump of Linux's fs/coredump.c). Inside a TEE the host
sees none of this anyway; it is for what runs beside the main program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from perdure.errors import Misuse

_CLONE_NEWNS: Final = 0x00020000
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_MS_REC_PRIVATE: Final = 0x4000 | (1 << 18)
_MNT_DETACH: Final = 2
_MCL_CURRENT_FUTURE_ONFAULT: Final = 1 | 2 | 4
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_IPC_LOCK: Final = 14
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_libc = ctypes.CDLL(None, use_errno=True)


def seclude() -> None:
    """Before any key is here: a mount namespace of our own, locked memory, no core files, no new privileges.

    Children inherit all but the locked memory. Raises Misuse where this process may not.
    """
    try:
        _call(_libc.unshare, _CLONE_NEWNS)
        _call(_libc.mount, b"none", b"/", None, _MS_REC_PRIVATE, None)
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
        _call(_libc.mlockall, _MCL_CURRENT_FUTURE_ONFAULT)
        _call(_libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
        _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_libc.prctl, _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except OSError as error:
        raise Misuse(
            f"The loader cannot keep a key to itself here ({error}); nothing was started. It needs to be root, as the "
            "first program of a TEE is."
        ) from None


def mount_memory(directory: Path) -> None:
    """Mount memory at an existing directory; owned by root, mode 0711. Raises OSError."""
    options = _MS_NOSUID_NODEV_NOEXEC & ~8  # programs are executed from it too
    for kind, data in ((b"tmpfs", b"noswap,mode=0711"), (b"ramfs", b"mode=0711")):
        if _libc.mount(kind, bytes(directory), kind, options, data) == 0:
            return
    raise OSError(ctypes.get_errno(), f"no memory can be mounted at {directory}")


def unmount(directory: Path) -> None:
    """Let go of it; whatever is left there is gone. Raises OSError."""
    _call(_libc.umount2, bytes(directory), _MNT_DETACH)


def write_private(directory: Path, files: Mapping[str, bytes], owner: int) -> None:
    """Make `directory` (0700) with these files (0400), all of them `owner`'s. Raises OSError."""
    directory.mkdir(mode=0o700)
    for name, contents in files.items():
        with open(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(contents)
        os.chown(directory / name, owner, owner)
    os.chown(directory, owner, owner)


def wipe(directory: Path) -> None:
    """Overwrite every file below `directory` with zeros, then remove it. Nothing to do if there is none.

    Links are removed and not followed: what runs below may have made some.
    """
    for folder, names, files in os.walk(directory, topdown=False):
        for name in files + names:
            path = Path(folder, name)
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode):
                path.rmdir()
                continue
            if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:  # another name of a file is not ours to empty
                with open(os.open(path, os.O_WRONLY | os.O_NOFOLLOW), "wb", buffering=0) as file:
                    file.write(bytes(state.st_size))
            path.unlink()
    if directory.is_dir():
        directory.rmdir()


def wipe_all(directory: Path) -> None:
    """The same for all that stands in `directory`, which stays."""
    for entry in directory.iterdir():
        wipe(entry)


def become(uid: int) -> None:
    """Turn this process, a child that has yet to execute its program, into `uid` without any privilege but one.

    That one, CAP_IPC_LOCK, lets the program lock its own memory (mlockall(2)), so that the key is never swapped from
    there either. It is ambient, hence kept when the program is executed. Raises OSError.
    """
    _call(_libc.prctl, _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # capset(2), version 3: effective, permitted and inheritable of capabilities 0 to 31, then of the others.
    header, sets = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[1 << _CAP_IPC_LOCK] * 3, 0, 0, 0)
    _call(_libc.capset, header, sets)
    _call(_libc.prctl, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_IPC_LOCK, 0, 0)


def end_with(parent: int) -> None:
    """Have this process told to end (SIGTERM) when `parent` is gone. Raises OSError, also if it is gone already."""
    _call(_libc.prctl, _PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise OSError("the loader is gone")


def end_what_is_left() -> None:
    """Kill and reap every process below this one. Whatever a main program has started comes to us when it ends."""
    while left := _below(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # a grandchild is its parent's until that is gone
                os.waitpid(pid, 0)


def _below(top: int) -> list[int]:
    """The process ids of all descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            # proc(5): after the name in parentheses come the state and the parent.
            parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], list(children.get(top, []))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def _call(function: ctypes._CFuncPtr, *arguments: object) -> None:  # type: ignore[name-defined]
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")
