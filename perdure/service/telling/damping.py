"""How often what comes and goes is told: a host that lets its disk fall silent again and again must not push everything
else out of the history, and what lasts must be told all the same.

Each subject may change so many times in a row, and once more an hour (a minute, where it is urgent). A change beyond
that is held back; if it still stands after a minute, it is told after all. The next one held back waits twice as long,
up to an hour, unless it is urgent, so that changes at that pace do not fill the history either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FLAPS_MAX: Final = 12
"""So many changes of a subject in a row are told ..."""
REFILL_S: Final = 3600.0
"""... and once more after so long ..."""
URGENT_REFILL_S: Final = 60.0
"""... or after so long, where it is urgent."""
STANDS_S: Final = 60.0
"""What was held back is told once it has stood for so long."""


@dataclass(slots=True)
class _Subject:
    told: object = None
    """The state that was told last."""
    held: object = None
    """The state that it is in, where that was held back; None otherwise."""
    is_urgent: bool = False
    since_s: float = 0.0
    wait_s: float = STANDS_S
    count: int = 0
    """Changes that were held back since one was told."""


class Damper:
    """What was told of each subject, on a clock of seconds that never goes back. States are compared only."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._left: dict[object, tuple[float, float]] = {}
        self._subjects: dict[object, _Subject] = {}

    def tell(self, subject: object, state: object) -> None:
        """This state is told, however often it came."""
        known = self._subjects.setdefault(subject, _Subject())
        known.told, known.held = state, None

    def lets_through(self, subject: object, state: object, *, is_urgent: bool = False) -> bool:
        """Whether a subject's new state is to be told now."""
        known = self._subjects.setdefault(subject, _Subject())
        if self._has_left((subject, is_urgent), URGENT_REFILL_S if is_urgent else REFILL_S):
            known.wait_s = STANDS_S
            self.tell(subject, state)
            return True
        known.held, known.is_urgent, known.since_s = state, is_urgent, self._now_s()
        known.count += 1
        return False

    def _has_left(self, key: object, refill_s: float) -> bool:
        now = self._now_s()
        left, since = self._left.get(key, (float(FLAPS_MAX), now))
        left = min(float(FLAPS_MAX), left + (now - since) / refill_s)
        self._left[key] = (left - (left >= 1), now)
        return left >= 1

    def is_due(self, subject: object) -> bool:
        """Whether what was held back has stood for long enough, and is told now; to be asked a few times a second."""
        known = self._subjects.get(subject)
        if known is None or known.held in (None, known.told):
            return False
        wait_s = STANDS_S if known.is_urgent else known.wait_s
        if self._now_s() - known.since_s < wait_s:
            return False
        if not known.is_urgent:
            known.wait_s = min(2 * wait_s, REFILL_S)
        self.tell(subject, known.held)
        return True

    def left_out(self, subject: object) -> str:
        """How many changes were held back, since the last time that this was asked."""
        known = self._subjects.get(subject)
        if known is None or not known.count:
            return ""
        count, known.count = known.count, 0
        return f" (after {count} changes that were too many to note)"
