"""What was last found of each disk that ever was a member: of one that is gone, why. From the array's own events.

So a main program knows what the one before it has seen: events are sealed in the array, and no host makes it forget
them by ending a program. Evidence that a host turned a disk back, or put another in its place, stands until an operator
clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perdure.array.session import Proof
from perdure.errors import Misuse
from perdure.service.status import FORKS, DiskState
from perdure.service.telling.events import Attached, Event, Kind

CLEARED: Final = "an operator has cleared what evidence had shown of it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a disk has become, why in a sentence, and the evidence where that shows a fork."""

    state: DiskState
    reason: str | None = None
    proof: Proof | None = None
    is_cleared: bool = False
    """Whether an operator has set aside what was found before; then this outweighs it, whoever found it."""


class Verdicts:
    """The last verdict on each instance (hexadecimal)."""

    def __init__(self) -> None:
        self.by_instance: dict[str, Verdict] = {}

    def hear(self, event: Event, attached: Sequence[Attached]) -> None:
        """Take an event in; to be given all of them, in the order of their numbers."""
        if event.kind is not Kind.DISK or event.instance is None or event.state not in tuple(DiskState):
            return
        state = DiskState(event.state)
        proofs = [one.proof for one in attached if state in FORKS and one.seat == event.seat]
        reason = event.message.partition(f" is {state}: ")[2] or None
        self.by_instance[event.instance] = Verdict(state, reason, proofs[0] if proofs else None)

    def is_fork(self, instance: str) -> bool:
        """Whether evidence speaks against a disk."""
        return instance in self.by_instance and self.by_instance[instance].state in FORKS

    def require_no_fork(self, instance: str, seat: int) -> None:
        """Raise Misuse, saying what to do instead, for a disk that is not to be taken back."""
        if self.is_fork(instance):
            shown = self.by_instance[instance].state
            raise Misuse(
                f"Evidence speaks against the disk of seat {seat} ({shown}), so its host is not to be trusted; nothing "
                f"was changed. `perdure replace {seat} --address ADDRESS` rebuilds the seat on another host. If you "
                f"know that no host did this, give `perdure clear {seat}` first."
            )

    def clear(self, instance: str) -> None:
        """Let a disk that evidence speaks against be as any that was voted off."""
        if self.is_fork(instance):
            self.by_instance[instance] = Verdict(DiskState.DEAD, CLEARED, is_cleared=True)
