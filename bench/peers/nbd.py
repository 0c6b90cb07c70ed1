"""Two NBD servers that keep bytes in memory and promise nothing: how fast the way there is.

nbdkit's memory plugin is in C. `bare` is this package's own server over a plain bytearray (`bench.peers.bare`): what
is left of the array's speed when nothing is sealed, coded, sent or proved.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import processes
from bench.model import MIB, Result, Target, Work
from bench.ours.targets import require_connections
from bench.work import fio

SIZE_BYTES = 128 * MIB
BARE = Path(__file__).with_name("bare.py")


@contextlib.contextmanager
def nbdkit() -> Iterator[Target]:
    """nbdkit's memory plugin."""
    with processes.scratch(in_memory=False) as folder:
        socket = folder / "nbd.sock"
        words = ("nbdkit", "--foreground", "--unix", socket, "memory", SIZE_BYTES)
        with processes.started(*words, log=folder / "log") as server:
            processes.until(socket.exists, "nbdkit", process=server)
            place = fio.Place.nbd(f"nbd+unix:///?socket={socket}")
            fio.fill(place)
            yield Target(
                "nbdkit memory",
                "an NBD server in C over memory: no redundancy, no cryptography, nothing durable",
                lambda work, seconds: fio.run(place, work, seconds),
                lambda: {"main": processes.tree([server.pid])},
            )


@contextlib.contextmanager
def bare() -> Iterator[Target]:
    """Our NBD server over memory."""
    with processes.scratch(in_memory=False) as folder:
        socket = folder / "nbd.sock"
        words = (sys.executable, "-P", BARE, f"unix:{socket}", SIZE_BYTES)
        with processes.started(*words, log=folder / "log") as server:
            processes.until(socket.exists, "the bare NBD server", process=server)
            place = fio.Place.nbd(f"nbd+unix:///perdure?socket={socket}")

            def do(work: Work, seconds: float) -> Result:
                require_connections(work)
                return fio.run(place, work, seconds)

            fio.fill(place)
            what = "Perdure's NBD server (asyncio, uvloop) over a bytearray: the ceiling of the NBD path in Python"
            yield Target("bare NBD", what, do, lambda: {"main": processes.tree([server.pid])})
