"""What a main program leaves to the one that takes its place in the process: sockets, and where each client stands.

`execve` keeps the process, so descriptors that are inheritable stay open. What else must travel is written into memory
without a name (memfd_create(2)), whose descriptor's number is in the environment: requests that came half are
plaintext and must touch no file. The form: the length of a JSON object (8 bytes), the object, then the clients' bytes
one after another. It has a version, which a new program is asked about before the old one ends; there is no reading of
another's version. The memory is overwritten once it is read.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from perdure.errors import Misuse
from perdure.nbd.carried import Carried
from perdure.nbd.server import CONNECTIONS_MAX, CarriedServer
from perdure.nbd.wire import PAYLOAD_BYTES_MAX

VERSION: Final = 1
VARIABLE: Final = "PERDURE_HANDOVER"
HEAD_BYTES_MAX: Final = 1 << 20
BYTES_MAX: Final = HEAD_BYTES_MAX + CONNECTIONS_MAX * (PAYLOAD_BYTES_MAX + (1 << 20))
_LENGTH: Final = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Handover:
    """Everything of one main program that the next goes on with. The descriptors belong to whoever holds this."""

    lock: int
    """Locked: so nobody else becomes the main program of the directory in between."""
    control: int
    """The control socket, which listens."""
    nbd: CarriedServer
    upgrades: int
    """How often the program has been replaced in this process, this time included."""
    repairs: Sequence[Mapping[str, Any]] = ()
    """What was being mended, as control requests with the `id` under which it is known."""

    @property
    def descriptors(self) -> Iterator[int]:
        """All of them."""
        yield from (self.lock, self.control, *self.nbd.descriptors)

    def write(self) -> int:
        """Write it into memory without a name; the descriptor. Nothing is inheritable yet.

        Raises OSError when there is no memory or no descriptor for it, and then leaves none open.
        """
        clients = [{"fd": fd, **client.head()} for fd, client in self.nbd.clients]
        head = {
            "version": VERSION,
            "lock": self.lock,
            "control": self.control,
            "listener": self.nbd.listener,
            "upgrades": self.upgrades,
            "repairs": list(self.repairs),
            "clients": clients,
        }
        text = json.dumps(head).encode()
        memory = os.memfd_create("perdure-handover", os.MFD_CLOEXEC)
        with ExitStack() as undo:
            undo.callback(os.close, memory)
            with open(memory, "wb", closefd=False) as file:
                file.write(_LENGTH.pack(len(text)) + text)
                for _, client in self.nbd.clients:
                    for blob in client.blobs():
                        file.write(blob)
            undo.pop_all()
        return memory


def inherited(environment: MutableMapping[str, str]) -> Handover | None:
    """What the program before this one left, if there was one; the variable is removed. Raises Misuse.

    The descriptors are this program's from then on and no child's.
    """
    number = environment.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        found = _decode(_taken(int(number)))
        for fd in found.descriptors:
            os.set_inheritable(fd, False)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        raise Misuse(
            f"What {VARIABLE} names was not left by a main program that this one can follow; nothing was started."
        ) from None
    return found


def _taken(memory: int) -> bytes:
    """All that was written, which is overwritten."""
    found = os.fstat(memory)
    if not stat.S_ISREG(found.st_mode) or found.st_size > BYTES_MAX:
        raise ValueError
    with open(memory, "r+b") as file:
        file.seek(0)
        data = file.read()
        file.seek(0)
        file.write(bytes(len(data)))
    return data


def _decode(data: bytes) -> Handover:
    (length,) = _LENGTH.unpack_from(data)
    if length > HEAD_BYTES_MAX:
        raise ValueError
    at = _LENGTH.size + length
    head = json.loads(data[_LENGTH.size : at])
    if head["version"] != VERSION:
        raise ValueError

    def take(count: int) -> bytes:
        nonlocal at
        if not 0 <= count <= len(data) - at:
            raise ValueError
        at += count
        return data[at - count : at]

    clients = tuple((_socket(one["fd"]), Carried.decode(one, take)) for one in head["clients"])
    nbd = CarriedServer(_socket(head["listener"]), clients)
    return Handover(int(head["lock"]), _socket(head["control"]), nbd, int(head["upgrades"]), tuple(head["repairs"]))


def _socket(fd: int) -> int:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ValueError
    return fd
