"""What the operator of all hosts can do with disks' memories and the private key: the search for a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, SLOTS, TAG_BYTES, Geometry
from perdure.array.journal import EntryHeader
from perdure.array.sealing import Keys, unseal
from perdure.errors import Corrupt
from tests.array.world import SimArray

Memory = bytes


def memories(sim: SimArray) -> list[Memory]:
    return [bytes(disk.memory) for disk in sim.disks if disk is not None]


def pieces(shape: Geometry, memory: Memory, index: int) -> Iterator[tuple[bytes, bytes]]:
    """Every tag and fragment of a sector that a disk's memory holds: in its home, and in entries of its ring."""
    tag, fragment = shape.tag_start(index) * 64, shape.fragment_start(index) * 64
    yield memory[tag : tag + TAG_BYTES], memory[fragment : fragment + shape.fragment_bytes]
    for slot in range(SLOTS):
        start = shape.slot_start(slot) * 64
        entry = memory[start : start + shape.slot_sectors * 64]
        if any(entry[:64]):
            yield from _in_entry(shape, entry, index)


def _in_entry(shape: Geometry, entry: Memory, index: int) -> Iterator[tuple[bytes, bytes]]:
    header = EntryHeader.decode(entry[:64])
    indices = [int.from_bytes(entry[64 + 4 * at : 68 + 4 * at], "big") for at in range(header.writes)]
    records = 4 * header.writes + 8 * header.trims
    tags = 64 + -(-records // 64) * 64
    fragments = tags + 64 * header.writes
    for at, found in enumerate(indices):
        if found == index:
            first = fragments + at * shape.fragment_bytes
            yield entry[tags + 64 * at : tags + 64 * at + TAG_BYTES], entry[first : first + shape.fragment_bytes]


def opened(
    shape: Geometry, keys: Keys, index: int, kept: Mapping[int, Memory], live: Sequence[Memory | None]
) -> set[bytes]:
    """All sectors that any choice of k fragments, old or present, opens to, under any tag that is to be had."""
    code, tags, fragments = Code(shape.k, shape.n), set[bytes](), dict[int, set[bytes]]()
    for seat, memory in [*enumerate(live), *kept.items()]:
        for tag, fragment in pieces(shape, memory, index) if memory is not None else ():
            tags.add(tag)
            fragments.setdefault(seat, set()).add(fragment)
    found = set()
    for seats in combinations(fragments, shape.k):
        for chosen in product(*(fragments[seat] for seat in seats)):
            parts = code.decode(dict(zip(seats, chosen, strict=True)))
            data = b"".join(bytes(part) for part in parts)[:SECTOR_BYTES]
            for tag in tags - {bytes(TAG_BYTES)}:
                try:
                    found.add(bytes(unseal(keys, index, tag, memoryview(data))))
                except Corrupt:
                    continue
    return found
