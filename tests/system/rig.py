"""What the system tests share: the real clients, a file system on the served array, and arrays for the Python API.

The processes of an array belong to `tests.cli.rig.Rig`. Everything that is started or mounted here is ended, unmounted
and detached when its block ends, also when the test fails; then the block fails if anything had to be forced.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.service.creation import create_array
from perdure.service.site import config, local
from perdure.service.site.config import Config
from perdure.service.site.local import Wish
from tests.cli.rig import Rig

CLIENT_S = 110
READY_S = 20
LOOK_S = 0.02
DEAD_AFTER_MS = 500
"""Short, because a killed disk's socket refuses at once; one that is only slow is not suspected so soon."""


# Clients --------------------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """The path of a program; the test is skipped, and says why, when it is not installed."""
    path = _found(name)
    if path is None:
        pytest.skip(f"{name} is not installed, and nothing can stand in for the real client")
    return path


def _found(name: str) -> str | None:
    """Where it is; the system administrator's programs are not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def call(*argv: object, code: int | None = 0, cwd: Path | None = None) -> str:
    """Run a program to its end; what it printed. Fails with all of that when its exit code is another."""
    done = subprocess.run(
        [tool(str(argv[0])), *map(str, argv[1:])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=CLIENT_S,
        check=False,
        cwd=cwd,
    )
    assert code is None or done.returncode == code, f"{argv} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def seeded() -> random.Random:
    """Randomness whose seed is printed, so shown when the test fails; PERDURE_SEED replays it."""
    seed = int(os.environ.get("PERDURE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PERDURE_SEED={seed}")
    return random.Random(seed)


@contextlib.contextmanager
def helper(module: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A module of these tests as a process of its own, with pipes; killed when the block ends."""
    command = [sys.executable, "-m", f"tests.system.{module}", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()
            with contextlib.suppress(OSError):  # what was not yet sent to it
                process.stdin.close()


# Arrays for the Python API --------------------------------------------------------------------------------


def new_array(rig: Rig, *, size: str = "16M", dead_after_ms: int = DEAD_AFTER_MS) -> Config:
    """Five disks and an array on them in the rig's directory, with no main program: for the Python API."""
    wish = Wish(size=size, disks=5, threshold=3, listen="unix:nbd.sock", dead_after_ms=dead_after_ms)
    rig.directory.mkdir(mode=0o700)
    local.prepare(rig.directory, wish)
    found = config.load(rig.directory / config.NAME)
    local.start_disks(found, 0.0)
    return create_array(found)


@contextlib.contextmanager
def blank_disk(rig: Rig, seat: int) -> Iterator[subprocess.Popen[bytes]]:
    """A fresh disk, of the right image, at the address of a seat whose disk has ended."""
    found = config.load(rig.directory / config.NAME)
    words = ["disk", "run", "--image", rig.directory / local.IMAGE_FILE, "--listen", found.addresses[seat]]
    words += ["--size", "64M", "--root-directory", rig.directory / local.ROOT_DIRECTORY]
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as disk:
        try:
            assert b"listening" in disk.stdout.readline()
            yield disk
        finally:
            disk.terminate()


def up_again(rig: Rig, *, code: int = 0) -> None:
    """`perdure up` on a directory that has an array; it must find that one and make no other."""
    assert rig.run("up", "--json", code=code).json["created"] is False


# A file system on the array -------------------------------------------------------------------------------


class FileSystem:
    """ext4 on the served array: nbdfuse shows the array as a file, which is mounted through a loop device.

    Where loop devices are not allowed, fuse2fs mounts the file. `with` begins with nothing attached.
    """

    def __init__(self, rig: Rig, directory: Path, *, kind: str) -> None:
        self.rig = rig
        self.kind = kind
        self.root = directory / "fs"
        self.file = directory / "array" / "disk"
        self._pid_file = directory / "nbdfuse.pid"
        self._nbdfuse: subprocess.Popen[bytes] | None = None
        self.root.mkdir()
        self.file.parent.mkdir()

    def __enter__(self) -> FileSystem:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nbdfuse is not None:
            self._nbdfuse.kill()  # nothing that was written matters any more, and nothing may hang
        self.detach()

    def attach(self) -> None:
        """Show the array that is served now as a file."""
        self._pid_file.unlink(missing_ok=True)
        self._nbdfuse = subprocess.Popen([tool("nbdfuse"), "-P", self._pid_file, self.file, self.rig.nbd_uri])
        give_up = time.monotonic() + READY_S
        while not (self._pid_file.exists() and self._pid_file.read_text().strip()):
            assert self._nbdfuse.poll() is None, "nbdfuse ended instead of serving"
            assert time.monotonic() < give_up, "nbdfuse does not get ready"
            time.sleep(LOOK_S)

    def make(self, *, journal: bool) -> None:
        """A new ext4 with everything written now: nothing is left to be done lazily by a kernel thread."""
        features = "has_journal" if journal else "^has_journal"
        call("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", features, self.file)

    def check(self, flags: str) -> tuple[int, str]:
        """e2fsck on what is on the array; its exit code (0 clean, 1 repaired, 4 not repaired) and what it said."""
        done = subprocess.run(
            [tool("e2fsck"), flags, self.file], capture_output=True, text=True, timeout=CLIENT_S, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def mount(self) -> None:
        """Mount it. `-o loop` gives the device back by itself once it is unmounted, however that happens."""
        if self.kind == "loop":
            call("mount", "-t", "ext4", "-o", "loop,noatime", self.file, self.root)
        else:
            call("fuse2fs", self.file, self.root, "-o", "fakeroot")

    def freeze(self) -> None:
        """Write out everything and let nothing change until `thaw`."""
        call("fsfreeze", "--freeze", self.root)

    def thaw(self) -> None:
        """Undo `freeze`."""
        call("fsfreeze", "--unfreeze", self.root)

    def unmount(self) -> None:
        """Unmount the file system; what cannot be written any more is lost, as it is when a machine stops."""
        if _is_mounted(self.root):
            _unmount(self.root)
        give_up = time.monotonic() + READY_S
        while str(self.file) in _loops():
            assert time.monotonic() < give_up, f"a loop device was not given back: {_loops()}"
            time.sleep(LOOK_S)

    def crash(self) -> None:
        """kill -9 the main program and then nbdfuse, which may hang or abort once its server has gone.

        Whatever the kernel still holds back fails from now on, as it would if this machine stopped.
        """
        self.rig.kill_main()
        assert self._nbdfuse is not None
        self._nbdfuse.kill()

    def detach(self) -> None:
        """Unmount and take the file away; nothing of the kernel's memory of either survives."""
        try:
            self.unmount()
        finally:
            if _is_mounted(self.file.parent):
                _unmount(self.file.parent)
            if self._nbdfuse is not None:
                _end(self._nbdfuse)
                self._nbdfuse = None


def how_to_mount() -> str:
    """`loop`, or `fuse2fs` where loop devices are not allowed; skips when neither is."""
    tool("nbdfuse")
    tool("mkfs.ext4")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be used here, so the array cannot be shown as a file to mount")
    losetup = _found("losetup")
    if os.geteuid() == 0 and losetup is not None and _found("mount") is not None:
        free = subprocess.run([losetup, "--find"], capture_output=True, timeout=CLIENT_S, check=False)
        if free.returncode == 0:
            return "loop"
    tool("fuse2fs")
    return "fuse2fs"


def _is_mounted(path: Path) -> bool:
    """From the kernel's list: os.path.ismount says False of a FUSE mount whose server has died."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _unmount(path: Path) -> None:
    """`umount`, patiently; as a last resort `umount -l`, and then the test fails."""
    give_up = time.monotonic() + READY_S
    while subprocess.run([tool("umount"), path], capture_output=True, timeout=CLIENT_S, check=False).returncode:
        if not _is_mounted(path):
            return
        if time.monotonic() > give_up:
            call("umount", "-l", path)
            raise AssertionError(f"{path} was busy and had to be unmounted lazily")
        time.sleep(LOOK_S)


def _loops() -> str:
    if _found("losetup") is None:
        return ""
    return call("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError("nbdfuse did not end when its mount point was unmounted") from None
