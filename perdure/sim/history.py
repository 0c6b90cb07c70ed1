"""What the users of an array saw, and whether an array that never lies could have shown it. Pure: no time, no loop.

The order of writes is known, because the moment at which each enters the write cache is recorded; so nothing is
searched for. What is not known is how much of an earlier main program's unflushed work a mount has found: that is a
set of candidates, each a prefix, and every read and every FLUSH narrows it. An empty set is a violation.

- A read returns what was current at some moment between its call and its return, for the main program that asks.
- A sector enters the cache whole: each half is what a write under way brings, or what stood there at that moment.
- After a mount the sectors are explained by a prefix of the last owner's writes that includes all that it flushed.
- Nothing that enters a main program's cache after a later mount returned is ever seen by that mount.
- A FLUSH that returns was called before any later mount returned, and every later mount has what it covers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

Value = tuple[int, int]
"""What the two halves of a sector hold; writes never repeat a number, and 0 is never written or trimmed."""
ZERO: Value = (0, 0)


class Violation(Exception):
    """A promise was broken; the message says which, and by what."""


@dataclass(frozen=True, slots=True)
class Base:
    """One explanation of what a mount found: how many writes of each earlier owner count, and the sectors then."""

    path: tuple[tuple[int, int], ...]
    """Owner and count, oldest first."""
    sectors: tuple[Value, ...]


@dataclass(slots=True)
class Owner:
    """One main program that mounted: what it may have found, and what it did since."""

    number: int
    epoch: bytes
    bases: list[Base]
    log: list[tuple[int, Value]] = field(default_factory=list)
    under_way: set[int] = field(default_factory=set)
    """Numbers that were handed to a write and are in no sector yet."""
    flushed: int = 0
    """How many of its writes a FLUSH has covered."""
    _by_sector: dict[int, list[int]] = field(default_factory=dict)
    _entered: dict[int, int] = field(default_factory=dict)

    def put(self, index: int, value: Value) -> None:
        """A sector changes."""
        self._by_sector.setdefault(index, []).append(len(self.log))
        for number in value:
            self._entered.setdefault(number, len(self.log))
        self.log.append((index, value))

    def when_entered(self, number: int) -> int:
        """How many writes must be durable for this one to be."""
        return self._entered[number] + 1

    def since(self, start: int, index: int) -> list[Value]:
        """What the sector became after the first `start` writes."""
        places = self._by_sector.get(index, [])
        return [self.log[at][1] for at in places[bisect_left(places, start) :]]

    def before(self, start: int, index: int) -> Value | None:
        """What the first `start` writes leave in the sector; None if they do not touch it."""
        places = self._by_sector.get(index, [])
        at = bisect_left(places, start)
        return self.log[places[at - 1]][1] if at else None

    def last(self, index: int) -> Value | None:
        """The same, of all writes so far."""
        return self.before(len(self.log), index)


@dataclass(frozen=True, slots=True)
class Call:
    """An operation under way: whose, how much was in its log when it was made, and who had mounted later."""

    owner: Owner
    start: int
    overtaken_by: int | None


class History:
    """Told of every call and return, in order. Raises Violation from the one that shows it."""

    def __init__(self, sectors: int) -> None:
        self._sectors = sectors
        self.owners: list[Owner] = []

    def opened(self, epoch: bytes) -> Owner:
        """A mount, or the creation, has returned."""
        earlier = [owner for owner in self.owners if owner.epoch < epoch]
        if any(owner.epoch == epoch for owner in self.owners):
            raise Violation("two mounts share an epoch")
        bases = [Base((), (ZERO,) * self._sectors)]
        if earlier:
            bases = _successors(max(earlier, key=lambda owner: owner.epoch))
        owner = Owner(len(self.owners), epoch, bases)
        self.owners.append(owner)
        return owner

    def called(self, owner: Owner) -> Call:
        """An operation begins."""
        later = (other.number for other in self.owners if other.epoch > owner.epoch)
        return Call(owner, len(owner.log), next(later, None))

    def entered(self, owner: Owner, index: int, value: Value) -> None:
        """A sector enters the write cache. Each half must be on its way, or what is there already."""
        kept = [half for half in (0, 1) if value[half] not in owner.under_way]
        now = owner.last(index)
        found = [now] if now is not None else [base.sectors[index] for base in owner.bases]
        if not any(all(value[half] == old[half] for half in kept) for old in found):
            raise Violation(
                f"main {owner.number} puts {value} into sector {index}, which holds {sorted(set(found))}: nobody wrote "
                "that, or something newer is lost"
            )
        if now is None:
            owner.bases = [b for b in owner.bases if all(value[half] == b.sectors[index][half] for half in kept)]
        owner.under_way.difference_update(value)
        owner.put(index, value)

    def trimmed(self, owner: Owner, index: int) -> None:
        """A trim of a sector enters the write cache."""
        owner.put(index, ZERO)

    def wrote(self, call: Call, index: int, number: int) -> None:
        """A write of `number` was acknowledged."""
        if not any(number in value for value in call.owner.since(call.start, index)):
            raise Violation(f"main {call.owner.number} acknowledged {number} in sector {index} and did not keep it")

    def read(self, call: Call, index: int, value: Value) -> None:
        """A read of one sector has returned `value`."""
        owner = call.owner
        meanwhile = owner.since(call.start, index)
        before = owner.before(call.start, index)
        if value in meanwhile or value == before:
            return
        if before is None:
            left = [base for base in owner.bases if base.sectors[index] == value]
            if left:
                owner.bases = left
                return
        expected = [before] if before is not None else sorted({base.sectors[index] for base in owner.bases})
        raise Violation(
            f"main {owner.number} read {value} from sector {index}; it may hold {expected} or, written meanwhile, "
            f"{meanwhile}"
        )

    def flushed(self, call: Call, covers: int) -> None:
        """A FLUSH over the first `covers` writes of its main program has returned."""
        owner = call.owner
        if call.overtaken_by is not None:
            raise Violation(
                f"main {owner.number} acknowledged a FLUSH that was called after the mount of main "
                f"{call.overtaken_by} had returned"
            )
        owner.flushed = max(owner.flushed, covers)
        for later in self.owners:
            left = [base for base in later.bases if dict(base.path).get(owner.number, covers) >= covers]
            if not left:
                raise Violation(
                    f"main {owner.number} acknowledged a FLUSH of {covers} writes; main {later.number} lacks some"
                )
            later.bases = left


def _successors(owner: Owner) -> list[Base]:
    """All that a mount may find after `owner`: each prefix of its writes from the last FLUSH on."""
    found = []
    for base in owner.bases:
        sectors = list(base.sectors)
        for count in range(len(owner.log) + 1):
            if count:
                index, value = owner.log[count - 1]
                sectors[index] = value
            if count >= owner.flushed:
                found.append(Base((*base.path, (owner.number, count)), tuple(sectors)))
    return found
