"""Whether disks answer at the addresses of a configuration, and what their evidence proves. All are asked at once.

The question is a HELLO, which changes nothing on a disk: a main program that owns the array is not disturbed.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perdure.array.commands import Authority
from perdure.disk import address as disk_address
from perdure.disk.wire import NO_EPOCH
from perdure.errors import Disconnected, PerdureError
from perdure.evidence.collateral import Collateral
from perdure.evidence.policy import Policy
from perdure.evidence.verifier import Verifier
from perdure.service import asking
from perdure.service.doctor.finding import Finding, Level, fail, ok, warn
from perdure.service.site.config import Config

ALL_MS_MAX: Final = 12_000
"""Of one disk, connecting and answering, and whatever else may hold it up: an examination always ends."""
_ID_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Trust:
    """What a disk's evidence is judged with: the key that signs the question, the policy, and what helps to verify."""

    authority: Authority
    policy: Policy
    collateral: Collateral


def findings(found: Config, trust: Trust | None) -> list[Finding]:
    """One for each address, and one for all together; without `trust` it is only tried whether somebody listens."""
    each = asyncio.run(_each(found, trust))
    return [*each, quorum(found, sum(finding.level is Level.OK for finding in each))]


def quorum(found: Config, count: int) -> Finding:
    """Whether `count` disks that are as they should be are enough."""
    shape = found.array
    text = f"{count} of {shape.disks} disks are as they should be; any {shape.threshold} hold the array"
    if count >= shape.disks:
        return ok("disks", text)
    if found.array.array_id is None:
        return fail("disks", text, "An array is created on all its disks.", "See what is said of each disk above.")
    if count < shape.threshold:
        return fail(
            "disks",
            text,
            "With fewer than that nothing can be mounted, and nothing older is served in its place.",
            "Make disks that still run reachable; what an ended disk held in its RAM is gone.",
        )
    return warn(
        "disks",
        f"{text}, so {count - shape.threshold} more may be lost",
        "Each loss that is not mended brings the array nearer to its last.",
        "`perdure status` says which seat to mend, and how.",
    )


async def _each(found: Config, trust: Trust | None) -> Sequence[Finding]:
    has_array = found.array.array_id is not None
    return await asyncio.gather(*(_one(seat, at, trust, has_array) for seat, at in enumerate(found.addresses)))


async def _one(seat: int, address: str, trust: Trust | None, has_array: bool) -> Finding:
    check = f"disk {seat}"
    try:
        async with asyncio.timeout(ALL_MS_MAX / 1000):
            if trust is None:
                return ok(check, f"{address} is open, after {await _connected_ms(address):.1f} ms")
            (asked,) = await asking.ask(address, trust.authority, count=1, answer_ms_max=asking.ANSWER_MS_MAX)
        verifier = Verifier(trust.policy, trust.collateral)
        verified = verifier.verify(asked.answer.document, asked.commitment, asked.at_ms)
    except (PerdureError, OSError, TimeoutError, UnicodeError) as error:  # the last for what can be no host's name
        return _trouble(check, address, error)
    what = f"{address}: {verified.platform}, root {verified.root}, instance {asked.answer.instance.hex()[:_ID_CHARS]}"
    if has_array and asked.answer.epoch == NO_EPOCH:
        return warn(
            check,
            f"{what}, and it is blank",
            "It was started anew and remembers nothing: it is no member of the array.",
            f"`perdure replace {seat}` rebuilds the seat on it.",
        )
    return ok(check, f"{what}, proved in {asked.took_ms:.1f} ms")


def _trouble(check: str, address: str, error: Exception) -> Finding:
    if isinstance(error, PerdureError) and not isinstance(error, Disconnected):
        return fail(
            check,
            f"{address}: {type(error).__name__}: {error}",
            "A disk whose evidence does not hold is never used.",
            "Compare what `perdure evidence ask` shows with what the policy allows (docs/platforms.md, section 2).",
        )
    return warn(
        check,
        f"{address} does not answer: {error or 'no answer in time'}",
        "It may have ended, and then what it held is gone; or its host or the network keeps it from you.",
        "Look at the disk's machine, its relay, and what lies between.",
    )


async def _connected_ms(address: str) -> float:
    """How long it takes until somebody accepts. Raises OSError, TimeoutError."""
    family, target = disk_address.parse(address)
    start_s = time.monotonic()
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.setblocking(False)
        async with asyncio.timeout(asking.ANSWER_MS_MAX / 1000):
            await asyncio.get_running_loop().sock_connect(stream, target)
    return (time.monotonic() - start_s) * 1000
