"""Where Alice's state is: in files or in VSS, on this machine's own disk or on an array.

A place starts the nodes (and what they need) as a context, from whose end on nothing of it runs. What the host keeps of
it (`copy`) and puts back (`restore`) is all that lies on the host's disk.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from examples.lightning.demo import session
from examples.lightning.demo.command_line import PERDURE, Array
from examples.lightning.demo.session import Session

READY_S = 300.0
_LOOK_S = 0.05
Serve = Callable[[str, Path], Sequence[str]]
"""The command that serves VSS at HOST:PORT over a SQLite file."""


class Place(Protocol):
    """One place."""

    title: ClassVar[str]

    def nodes(self, world: Path) -> contextlib.AbstractContextManager[Session]:
        """Start the nodes on what is there; Bob and the chain are in `world`."""

    def copy(self) -> None:
        """Keep what the host has now."""

    def restore(self) -> None:
        """Put it back. Nothing of the place runs."""


def node(program: Path, world: Path, store: str) -> list[str]:
    """The words that start the nodes."""
    return ["node", str(program), str(world), store]


# This machine's disk --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Directory:
    """Files in an ordinary directory, each synced."""

    program: Path
    folder: Path
    title: ClassVar[str] = "directory"

    def nodes(self, world: Path) -> contextlib.AbstractContextManager[Session]:
        """As in Place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return session.started(node(self.program, world, f"files:{self.folder / 'alice'}"), self.folder / "log")

    def copy(self) -> None:
        """As in Place."""
        shutil.copytree(self.folder / "alice", self.folder / "yesterday")

    def restore(self) -> None:
        """As in Place."""
        shutil.rmtree(self.folder / "alice")
        shutil.copytree(self.folder / "yesterday", self.folder / "alice")


@dataclass(frozen=True, slots=True)
class VssOnSqlite:
    """VSS over an ordinary SQLite file."""

    program: Path
    folder: Path
    serve: Serve
    title: ClassVar[str] = "VSS on SQLite"

    @contextlib.contextmanager
    def nodes(self, world: Path) -> Iterator[Session]:
        """As in Place."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        listen = free_address()
        with _server(self.serve(listen, self.folder / "data" / "vss.sqlite"), listen, self.folder / "server.log"):
            command = node(self.program, world, f"vss:http://{listen}")
            with session.started(command, self.folder / "log") as nodes:
                yield nodes

    def copy(self) -> None:
        """As in Place."""
        shutil.copytree(self.folder / "data", self.folder / "yesterday")

    def restore(self) -> None:
        """As in Place."""
        shutil.rmtree(self.folder / "data")
        shutil.copytree(self.folder / "yesterday", self.folder / "data")


def perdure_vss(listen: str, database: Path) -> Sequence[str]:
    """Perdure's own VSS server over an ordinary file."""
    return [*PERDURE, "vss", "serve", "--no-auth", "--listen", listen, "--sqlite", str(database)]


# An array -------------------------------------------------------------------------------------------------

NOT_ON_THE_HOST = ("data",)
"""The mounted file system: in life it is inside the TEE, as the node is."""


@dataclass(frozen=True, slots=True)
class OnArray:
    """What both places on an array share: the operator's directory, which is all that the host's disk has."""

    program: Path
    folder: Path
    array: Array

    def copy(self) -> None:
        """As in Place."""
        self._copy(self.array.directory, self.folder / "yesterday")

    def restore(self) -> None:
        """As in Place."""
        self._copy(self.folder / "yesterday", self.array.directory)

    def _copy(self, source: Path, target: Path) -> None:
        leave_out = shutil.ignore_patterns("*.sock", "lock", "*.lock", "attached", *NOT_ON_THE_HOST)
        shutil.copytree(source, target, ignore=leave_out, dirs_exist_ok=True)


@dataclass(frozen=True, slots=True)
class MountedArray(OnArray):
    """Files on an array that `perdure run` mounts: the node is not changed."""

    title: ClassVar[str] = "directory on an array"

    def nodes(self, world: Path) -> contextlib.AbstractContextManager[Session]:
        """As in Place."""
        self.folder.mkdir(exist_ok=True)
        command = self.array.command("run", "--", *node(self.program, world, "files:alice"))
        return session.started(command, self.folder / "log")


@dataclass(frozen=True, slots=True)
class VssOnArray(OnArray):
    """VSS whose database is on an array."""

    title: ClassVar[str] = "VSS on an array"

    @contextlib.contextmanager
    def nodes(self, world: Path) -> Iterator[Session]:
        """As in Place."""
        self.folder.mkdir(exist_ok=True)
        listen = free_address()
        config = self.array.directory / "perdure.toml"
        serve = [*PERDURE, "vss", "serve", "--no-auth", "--config", str(config), "--listen", listen]
        with _server(serve, listen, self.folder / "server.log"):
            command = node(self.program, world, f"vss:http://{listen}")
            with session.started(command, self.folder / "log") as nodes:
                yield nodes


# Servers --------------------------------------------------------------------------------------------------


def free_address() -> str:
    """A HOST:PORT of the loopback device at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def _server(command: Sequence[str], listen: str, log: Path) -> Iterator[None]:
    """A server that accepts connections, killed when the block ends. Raises session.Ended if it does not come up."""
    with (
        log.open("ab") as said,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as server,
    ):
        try:
            _wait_for(server, listen, log)
            yield
        finally:
            server.kill()


def _wait_for(server: subprocess.Popen[bytes], listen: str, log: Path) -> None:
    host, _, port = listen.rpartition(":")
    until = time.monotonic() + READY_S
    while True:
        if server.poll() is not None or time.monotonic() > until:
            raise session.Ended(session.last_words(log))
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(_LOOK_S)
