"""What each geometry survives: the table of docs/rules.md, from the product's own `Geometry`."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.errors import Misuse

DISKS_MAX = 12
HEAD = (
    "k-of-n",
    "losses survived",
    "disks needed to mount",
    "bytes sent and held for each byte (exact n/k)",
    "disks that hosts may hide, or show as they once were",
    "withheld old disks that reveal nothing",
)


def geometries(disks_max: int = DISKS_MAX) -> Iterator[Geometry]:
    """Every geometry of up to `disks_max` disks that the product takes."""
    for n in range(1, disks_max + 1):
        for k in range(1, n + 1):
            try:
                yield Geometry(k, n, 1)
            except Misuse:
                continue


def rows() -> list[tuple[str, ...]]:
    """One for each geometry, in the order of HEAD."""
    found: list[tuple[str, ...]] = []
    for shape in geometries():
        k, n = shape.k, shape.n
        cost = shape.fragment_bytes * n / SECTOR_BYTES
        found.append((f"{k}-of-{n}", str(n - k), str(k), f"{cost:.2f} ({n / k:.2f})", str(n - k), str(k - 1)))
    return found


def table() -> str:
    """The same in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
