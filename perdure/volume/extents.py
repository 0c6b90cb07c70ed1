"""Arithmetic of extents: the runs of sectors, in order, that hold a file."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.array.geometry import SECTOR_BYTES, Run

Extents = tuple[Run, ...]


def capacity_of(extents: Extents) -> int:
    """Bytes that they hold."""
    return sum(run.count for run in extents) * SECTOR_BYTES


def joined(extents: Extents, more: list[Run]) -> Extents:
    """`extents` and `more` behind them; where the one goes on in the other they are one run."""
    if extents and more and extents[-1].end == more[0].start:
        last = Run(extents[-1].start, extents[-1].count + more[0].count)
        return (*extents[:-1], last, *more[1:])
    return (*extents, *more)


def cut(extents: Extents, sectors: int) -> tuple[Extents, Extents]:
    """The first `sectors` of them, and the rest."""
    kept, rest = [], []
    for run in extents:
        count = min(run.count, sectors)
        sectors -= count
        kept.append(Run(run.start, count))
        rest.append(Run(run.start + count, run.count - count))
    return tuple(run for run in kept if run.count), tuple(run for run in rest if run.count)


def pieces(extents: Extents, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Where `length` bytes from `offset` of a file stand: offset and length in the array of each piece, in order."""
    for run in extents:
        if length <= 0:
            return
        size = run.count * SECTOR_BYTES
        if offset < size:
            part = min(length, size - offset)
            yield run.start * SECTOR_BYTES + offset, part
            length -= part
        offset = max(0, offset - size)
