"""Asking a disk for fresh evidence outside of any mount: a HELLO with a nonce, which changes nothing on the disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from perdure.array import commands
from perdure.array.commands import Answer, Authority
from perdure.array.ports import Lane
from perdure.disk.wire import Opcode
from perdure.errors import Disconnected, MalformedEvidence, Misuse, Refused
from perdure.shell.channel import SocketChannel

NONCE_BYTES: Final = 32
ANSWER_MS_MAX: Final = 5_000
"""How long one answer may take, as for a main program that is told nothing else (`perdure.api`)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer by a disk that nobody has verified yet.

    `took_ms` is from sending the signed question to having the whole answer, on a connection that is open for all but
    the first; `at_ms` is Unix milliseconds.
    """

    answer: Answer
    commitment: bytes
    took_ms: float
    at_ms: int


async def ask(address: str, authority: Authority, *, count: int, answer_ms_max: int = ANSWER_MS_MAX) -> list[Asked]:
    """Ask `count` times, one after another. Raises Disconnected, Refused, MalformedEvidence, Misuse."""
    try:
        channel = SocketChannel(address, answer_ms_max)
    except Misuse as error:
        raise Misuse(f"{error}; nothing was asked.") from None
    try:
        return [await _question(channel, authority) for _ in range(count)]
    except Disconnected as error:
        raise Disconnected(
            f"The disk at {address} does not answer ({error}): see whether it runs, and whether its host lets you "
            "reach it. Nothing is proved."
        ) from None
    except Refused as error:
        raise Refused(f"At {address} {error}. Nothing is proved.", error.reason) from None
    except MalformedEvidence as error:
        raise MalformedEvidence(f"At {address} {error}: no disk of this release says so. Nothing is proved.") from None
    finally:
        channel.close()


async def _question(channel: SocketChannel, authority: Authority) -> Asked:
    command = commands.build(authority, Opcode.HELLO, nonce=os.urandom(NONCE_BYTES))
    start_ns = time.perf_counter_ns()
    reply = await channel.exchange(Lane.WRITE, command.parts)
    took_ms = (time.perf_counter_ns() - start_ns) / 1_000_000
    answer = commands.parse_reply(command, reply)
    assert answer.commitment is not None, "it was asked for with a nonce"
    return Asked(answer, answer.commitment, took_ms, time.time_ns() // 1_000_000)
