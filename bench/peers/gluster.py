"""GlusterFS: a disperse volume of the same shape, 3 of 5, bricks on tmpfs, mounted over FUSE, all of it on loopback.

A glusterd of our own is started by hand, bound to an address of 127.0.0.0/8 with its own directories, so one that runs
here already is not touched. It starts the bricks, which detach themselves; they are ended by their process files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import processes
from bench.model import GIB, K, N, Result, Skip, Target, Work
from bench.work import fio

HOST = "127.0.24.7"
VOLUME = "perdure-bench"
_VOLFILE = """volume management
    type mgmt/glusterd
    option working-directory {0}/lib
    option run-directory {0}/run
    option logging-directory {0}/log
    option glusterd-sockfile {0}/run/glusterd.socket
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address {1}
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


class Gluster:
    """A running volume, mounted at `mount`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mount = folder / "mount"
        self.client: subprocess.Popen[bytes] | None = None

    def command(self, *words: object) -> str:
        """One command to our glusterd."""
        ours = (f"--glusterd-sock={self.folder}/run/glusterd.socket", f"--log-file={self.folder}/log/cli.log")
        return processes.call("gluster", *ours, "--mode=script", *words)

    def pids(self, kind: str) -> list[int]:
        """From the process files below the directory `kind` of the run directory."""
        files = sorted((self.folder / "run" / kind).rglob("*.pid"))
        texts = [path.read_text().strip() for path in files]
        return [int(text) for text in texts if text and Path(f"/proc/{text}").exists()]

    def processes(self) -> dict[str, list[int]]:
        """By role: the FUSE client codes and talks to all bricks, as our main program does to disks."""
        assert self.client is not None
        return {"main": [self.client.pid], "disks": self.pids("vols")}


@contextlib.contextmanager
def gluster(*, need_bytes: int = GIB) -> Iterator[Gluster]:
    """Start all of it and mount the volume. Raises Skip."""
    for name in ("glusterd", "glusterfs", "gluster"):
        processes.tool(name)
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("GlusterFS needs root and /dev/fuse")
    with processes.scratch(in_memory=True, need_bytes=need_bytes) as folder:
        volume = Gluster(folder)
        for name in ("lib", "run", "log", "log/bricks", "mount", *(f"brick-{number}" for number in range(N))):
            (folder / name).mkdir()
        (folder / "glusterd.vol").write_text(_VOLFILE.format(folder, HOST))
        words = ("glusterd", "-N", "-f", folder / "glusterd.vol", "-p", folder / "run" / "glusterd.pid")
        with processes.started(*words, log=folder / "log" / "out") as daemon, _without_leftovers(volume):
            processes.until(lambda: _answers(volume), "glusterd", process=daemon)
            bricks = [f"{HOST}:{folder}/brick-{number}" for number in range(N)]
            shape = ("disperse-data", K, "redundancy", N - K, "transport", "tcp")
            volume.command("volume", "create", VOLUME, *shape, *bricks, "force")
            volume.command("volume", "start", VOLUME)
            with _mounted(volume):
                yield volume


@contextlib.contextmanager
def _mounted(volume: Gluster) -> Iterator[None]:
    words = ("glusterfs", "-N", f"--volfile-server={HOST}", f"--volfile-id={VOLUME}", volume.mount)
    log = volume.folder / "log"
    with processes.started(*words, "--log-file", log / "mount.log", log=log / "out") as client:
        volume.client = client
        try:
            processes.until(lambda: processes.is_mounted(volume.mount), "the GlusterFS mount", process=client)
            # Mounted before all bricks are connected: the first file that can be made shows that enough are.
            processes.until(lambda: _writable(volume.mount / "ready"), "the GlusterFS bricks", process=client)
            yield
        finally:
            processes.unmount(volume.mount)


def _writable(path: Path) -> bool:
    try:
        path.write_bytes(b"ready")
        path.unlink()
    except OSError:
        return False
    return True


def _answers(volume: Gluster) -> bool:
    with contextlib.suppress(RuntimeError):
        volume.command("volume", "info")
        return True
    return False


@contextlib.contextmanager
def _without_leftovers(volume: Gluster) -> Iterator[None]:
    """End what detached itself, and remove the sockets that it left outside our directory."""
    try:
        yield
    finally:
        for pid in (*volume.pids("vols"), *volume.pids("shd")):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                os.kill(pid, signal.SIGKILL)  # nothing in there is wanted any more
                Path(os.fsdecode(words[words.index(b"-S") + 1])).unlink(missing_ok=True)


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """A file on the volume, for fio."""
    with gluster() as volume:
        place = fio.Place.file(volume.mount / "span")
        fio.fill(place)

        def do(work: Work, seconds: float) -> Result:
            return fio.run(place, work, seconds)

        what = f"GlusterFS, disperse volume of {K} + {N - K} bricks on tmpfs, FUSE mount: the same code, no secrecy"
        yield Target("GlusterFS", what, do, volume.processes, has_tcp=True)
