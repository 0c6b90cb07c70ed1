"""`perdure vss serve` as the process that it is, on an array of real disks or on an ordinary file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.rig import Rig
from tests.system.rig import new_array
from tests.vss.client import Client


@dataclass
class Place:
    """Where a server keeps its things: the words that its command gets for that."""

    words: tuple[str, ...]
    is_array: bool
    rig: Rig | None = None


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    clients: list[Client] = field(default_factory=list)

    def client(self, store: str | None = None, authorization: str | None = None) -> Client:
        self.clients.append(Client(self.url, store, authorization))
        return self.clients[-1]

    def kill(self) -> None:
        """As a machine that loses power."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    place: Place, *words: str, auth: tuple[str, ...] = ("--no-auth",), log: Path | None = None
) -> Iterator[Served]:
    command = [sys.executable, "-m", "perdure.cli.main", "vss", "serve", "--listen", "127.0.0.1:0", "--json"]
    errors = os.open(os.devnull if log is None else log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    process = subprocess.Popen([*command, *place.words, *auth, *words], stdout=subprocess.PIPE, stderr=errors)
    os.close(errors)
    served = None
    try:
        line = process.stdout.readline()
        assert line, f"it did not start: {place.words}"
        served = Served(process, json.loads(line)["url"])
        yield served
    finally:
        for client in served.clients if served else ():
            client.close()
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def array_place(path: Path, *, size: str = "32M") -> Iterator[Place]:
    """A fresh array of five disks, three of which are enough."""
    path.mkdir(exist_ok=True)
    with Rig(path) as rig:
        config = new_array(rig, size=size)
        yield Place(("--config", str(config.path)), True, rig)


def file_place(path: Path) -> Place:
    """An ordinary file."""
    path.mkdir(exist_ok=True)
    return Place(("--sqlite", str(path / "vss.db")), False)
