"""The ways in: how an array that is served over NBD becomes something that a file system can be on.

- `nbd`: the kernel is the client, and the array is /dev/nbdN;
- `loop`: nbdfuse shows the array as a file, which the kernel mounts over a loop device;
- `fuse2fs`: the same file, and ext4 in a process of its own: for those who are not root.

Which one is decided by what is here (`choose`, which looks at nothing by itself), unless somebody says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from perdure.errors import Misuse, Unavailable
from perdure.service.mounting import mounts, tools
from perdure.service.site import processes
from perdure.service.site.processes import Process

READY_S: Final = 30.0
FILE_NAME: Final = "disk"
_SYS_BLOCK: Final = Path("/sys/block")


class Way(StrEnum):
    """How the array is shown to a file system."""

    NBD = "nbd"
    LOOP = "loop"
    FUSE2FS = "fuse2fs"


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine and its user have. `tools` are names of programs."""

    is_root: bool
    has_nbd: bool
    """Whether the kernel's NBD client is there: /dev/nbd0."""
    has_fuse: bool
    has_loop: bool
    tools: frozenset[str]


def look() -> Here:
    """See what is here."""
    return Here(
        is_root=os.geteuid() == 0,
        has_nbd=Path("/dev/nbd0").exists(),
        has_fuse=os.access("/dev/fuse", os.R_OK | os.W_OK),
        has_loop=os.access("/dev/loop-control", os.R_OK | os.W_OK),
        tools=frozenset(name for name in tools.PACKAGES if tools.find(name) is not None),
    )


def choose(here: Here, asked: Way | None) -> Way:
    """The way that was asked for, else the first that works here. Raises Misuse: one sentence on what is missing."""
    if asked is not None:
        missing = lacking(here, asked)
        if missing:
            raise Misuse(f"The way in `{asked}` needs {_listed(missing)}; nothing was changed.")
        return asked
    for way in Way:
        if not lacking(here, way):
            return way
    wanted = Way.LOOP if here.is_root else Way.FUSE2FS
    raise Misuse(
        f"There is no way here to mount the array; nothing was changed. The nearest, `{wanted}`, needs "
        f"{_listed(lacking(here, wanted))}."
    )


def lacking(here: Here, way: Way) -> list[str]:
    """What a way needs and is not here, as parts of a sentence."""
    needed: dict[Way, list[tuple[str, bool]]] = {
        Way.NBD: [("root", here.is_root), ("/dev/nbd0 (`modprobe nbd`)", here.has_nbd)],
        Way.LOOP: [
            ("root", here.is_root),
            ("/dev/fuse (`modprobe fuse`)", here.has_fuse),
            ("/dev/loop-control (`modprobe loop`)", here.has_loop),
        ],
        Way.FUSE2FS: [("/dev/fuse (`modprobe fuse`)", here.has_fuse)],
    }
    programs = {
        Way.NBD: ["nbd-client", "mount", "umount"],
        Way.LOOP: ["nbdfuse", "mount", "umount"],
        Way.FUSE2FS: ["nbdfuse", "fuse2fs", "umount" if here.is_root else "fusermount3"],
    }
    absent = [name for name in programs[way] if name not in here.tools]
    return [
        *(what for what, is_here in needed[way] if not is_here),
        *(f"{name} (Debian package {tools.PACKAGES[name]})" for name in absent),
    ]


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)


# The array as a file --------------------------------------------------------------------------------------


def start_nbdfuse(uri: str, folder: Path, log: Path) -> Process:
    """Show the array at `uri` as `folder`/disk, and return the server of it. Raises Unavailable."""
    folder.mkdir(exist_ok=True, mode=0o700)
    command = [tools.require("nbdfuse"), str(folder / FILE_NAME), uri]
    return start_server("nbdfuse", command, folder, log)


def start_server(name: str, command: Sequence[str], mount_point: Path, log: Path) -> Process:
    """Start a FUSE server and return when `mount_point` is mounted. Raises Unavailable with what it said."""
    child = processes.start_detached(command, log=log)
    mounts.wait_until(lambda: child.poll() is not None or mounts.find(mount_point) is not None, READY_S)
    process = Process.of(child.pid)
    if process is None or mounts.find(mount_point) is None:
        child.kill()
        child.wait()
        raise Unavailable(
            f"{name} did not start: {processes.last_line(log)}; the array was not touched. Try again, or another way "
            "with --by."
        )
    child.returncode = 0  # `stop_server` waits for it, in this process or in a later one
    return process


def stop_server(process: Process) -> None:
    """Wait for a FUSE server whose file system was unmounted; one that hangs is killed."""
    if not process.wait(mounts.BUSY_S):
        process.end(grace_s=0)


# The array as /dev/nbdN -----------------------------------------------------------------------------------


def free_devices() -> list[Path]:
    """The devices /dev/nbdN that are not connected, in order."""
    entries = sorted(_SYS_BLOCK.glob("nbd*"), key=lambda entry: int(entry.name.removeprefix("nbd")))
    return [Path("/dev", entry.name) for entry in entries if not is_connected(entry.name)]


def is_connected(name: str) -> bool:
    """Whether the kernel serves nbdN now; it has a `pid` there as long as it does."""
    return (_SYS_BLOCK / name / "pid").exists()


def connect(uri: str) -> Path:
    """Connect the first free device to the array at `uri`. Raises Unavailable."""
    said = "no /dev/nbdN is free"
    for device in free_devices():
        done = tools.call("nbd-client", *client_words(uri, device))
        if done.code == 0 and mounts.wait_until(lambda name=device.name: is_connected(name), READY_S):  # type: ignore[misc]
            return device
        said = done.last_line
    raise Unavailable(f"The kernel's NBD client cannot be connected: {said}; the array was not touched. Try --by loop.")


def client_words(uri: str, device: Path) -> list[str]:
    """The arguments of nbd-client(8) for an NBD URI (doc/uri.md of the NBD repository)."""
    parts = urlsplit(uri)
    export = unquote(parts.path.lstrip("/"))
    if parts.scheme == "nbd+unix":
        where = ["-unix", parse_qs(parts.query)["socket"][0], str(device)]
    else:
        where = [str(parts.hostname), str(parts.port), str(device)]
    return [*where, "-name", export]


def disconnect(device: Path) -> None:
    """Let go of /dev/nbdN. Raises Unavailable."""
    done = tools.call("nbd-client", "-d", device)
    if not mounts.wait_until(lambda: not is_connected(device.name), mounts.BUSY_S):
        raise Unavailable(
            f"{device} is still connected ({done.last_line}); what was synced is safe. Run `nbd-client -d {device}`."
        )


# Giving back ----------------------------------------------------------------------------------------------


def release_loops(file: Path) -> None:
    """Wait until the loop devices of an unmounted file are given back, which the kernel does by itself."""
    if mounts.wait_until(lambda: not mounts.loops_of(file), mounts.BUSY_S):
        return
    for loop in mounts.loops_of(file):
        tools.call("losetup", "--detach", loop)
    for loop in mounts.loops_of(file):
        holders = [f"process {pid} ({name}) in another mount namespace" for pid, name in mounts.mounted_elsewhere(loop)]
        who = _listed(holders) or "somebody who has it open"
        raise Unavailable(
            f"The loop device {loop} is still in use by {who}; what was synced is safe. End that, and give the same "
            "command again."
        )


def bring_home(device: Path) -> str | None:
    """Make the array keep all that was written to it; what went wrong, in a few words, or None."""
    try:
        fd = os.open(device, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return f"{device} cannot be flushed ({error.strerror})"
    return None
