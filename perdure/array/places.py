"""Failure domains: how many seats may hang on one thing that fails, or is broken, as a whole (docs/spec.md, 12.5).

What a platform says of a disk's host and root is evidence. What the operator calls a zone is a hint, and guards only
against his own mistakes; so does nothing here ever let in what evidence keeps out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.array.geometry import Geometry
from perdure.array.ports import Attested
from perdure.errors import Misuse


class Place(NamedTuple):
    """Where one disk is: its address, and what its evidence says."""

    address: str
    attested: Attested


@dataclass(frozen=True, slots=True)
class Spread:
    """The most seats that one attestation root, and one failure domain (a host, a zone), may hold; None is n - k."""

    per_root: int | None = None
    per_domain: int | None = None
    zones: Mapping[str, str] = field(default_factory=dict)
    """The operator's word for where an address is."""

    def require(self, geometry: Geometry, places: Iterable[Place]) -> None:
        """Return if these disks may be members together. Raises Misuse that names the domain and its seats."""
        spare = geometry.n - geometry.k
        most = max(1, spare)  # an array that outlives nothing may still have each disk in a place of its own
        held: Counter[tuple[str, str]] = Counter()
        for address, attested in places:
            held["attestation root", attested.root] += 1
            if attested.host is not None:  # else only the operator's word for the place is left
                held["host", attested.host] += 1
            if address in self.zones:
                held["domain", self.zones[address]] += 1
        for (kind, name), count in held.items():
            allowed = self.per_root if kind == "attestation root" else self.per_domain
            if count > (most if allowed is None else allowed):
                raise Misuse(
                    f"{count} disks hang on the {kind} {name}, and the array outlives {spare} losses: what ends or "
                    "breaks them all at once would end the array. Spread them, or allow it in the policy when the "
                    "array is created. Nothing was changed."
                )
