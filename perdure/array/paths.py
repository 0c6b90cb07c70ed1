"""From a leaf to the Merkle root that a document attests: the main program's half of docs/spec.md, 3.6.

The disk only makes paths (`perdure.disk.wire`), so what follows them is not among the lines that run in it.
"""

from __future__ import annotations

from perdure.disk import wire


def path_bytes(index: int, count: int) -> int:
    """How long the path of leaf `index` of `count` is."""
    total = 0
    while count > 1:
        total += 64 * (index ^ 1 < count)
        index, count = index >> 1, (count + 1) >> 1
    return total


def merkle_root(own: bytes, index: int, count: int, path: bytes) -> bytes | None:
    """The root that `path` leads to from leaf `index` of `count`; None unless all have the one right length."""
    if index >= count or len(own) != 64:
        return None
    while count > 1:
        if index ^ 1 < count:
            sibling, path = path[:64], path[64:]
            if len(sibling) != 64:
                return None
            own = wire.fork(sibling, own) if index & 1 else wire.fork(own, sibling)
        index, count = index >> 1, (count + 1) >> 1
    return None if path else own
