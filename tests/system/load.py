"""Random writes through the Python API by several tasks, each with an area of its own; a process of its own.

    python -m tests.system.load CONFIGURATION SEED

On standard output, one line each: `ready`; `w WRITER NUMBER OFFSET LENGTH` before a write begins; `d WRITER NUMBER`
once all the writer's writes up to NUMBER are acknowledged as durable. It goes on until killed, or fails loudly.
`possible` says from these lines what the array may hold.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from perdure import api
from perdure.array.engine import Array
from perdure.service.main import settings_of
from perdure.service.site import config

SECTOR = 4096
WRITERS = 6
AREA = 64 * SECTOR
LENGTH_MAX = 5 * SECTOR


def content(writer: int, number: int, length: int) -> bytes:
    """What a write writes; no two writes alike."""
    return random.Random(writer << 32 | number).randbytes(length)


# What may be there ----------------------------------------------------------------------------------------


def possible(lines: Iterable[str]) -> tuple[dict[int, list[bytes]], int]:
    """Each written sector with every content that it may have now, the acknowledged one first; and how many writes
    were acknowledged.

    A write that was begun and not acknowledged may be there, wholly or not, sector by sector, but in order.
    """
    writes: dict[int, list[tuple[int, int, int]]] = {writer: [] for writer in range(WRITERS)}
    durable = dict.fromkeys(range(WRITERS), 0)
    for line in lines:
        kind, *words = line.split()
        numbers = [int(word) for word in words]
        if kind == "w":
            writes[numbers[0]].append((numbers[1], numbers[2], numbers[3]))
        elif kind == "d":
            durable[numbers[0]] = numbers[1]
    held: dict[int, list[bytes]] = {}
    for writer, done in writes.items():
        for number, offset, length in done:
            data = content(writer, number, length)
            for sector in range(offset // SECTOR, -(-(offset + length) // SECTOR)):
                states = held.setdefault(sector, [bytes(SECTOR)])
                changed = _merged(states[-1], sector * SECTOR, offset, data)
                held[sector] = [changed] if number <= durable[writer] else [*states, changed]
    return held, sum(durable.values())


def _merged(sector: bytes, start: int, offset: int, data: bytes) -> bytes:
    first, end = max(start, offset), min(start + SECTOR, offset + len(data))
    return sector[: first - start] + data[first - offset : end - offset] + sector[end - start :]


# The load -------------------------------------------------------------------------------------------------


def say(*words: object) -> None:
    """One line, at once and whole, so that a kill cannot take back what was said."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def write(array: Array, writer: int, rng: random.Random) -> None:
    """Write for ever: some with FUA, the others made durable by a FLUSH now and then."""
    number = 0
    while True:
        number += 1
        length = rng.choice((SECTOR, rng.randrange(1, LENGTH_MAX)))
        offset = writer * AREA + rng.randrange(0, AREA - length)
        if rng.random() < 0.3:
            offset -= offset % SECTOR
        fua = rng.random() < 0.4
        say("w", writer, number, offset, length)
        await array.pwrite(offset, content(writer, number, length), fua=fua)
        if not fua and rng.random() < 0.5:
            await array.flush()
            fua = True
        if fua:
            say("d", writer, number)


async def main(path: Path, seed: int) -> None:
    """Mount, and let every writer go on until the process is killed."""
    found = config.load(path)
    assert found.array.array_id is not None
    rng = random.Random(seed)
    async with api.open_array_async(settings_of(found), found.array.array_id) as array:
        say("ready")
        await asyncio.gather(*(write(array, writer, random.Random(rng.random())) for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
