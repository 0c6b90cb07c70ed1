"""SQLite's five locks between the connections of one process (https://www.sqlite.org/lockingv3.html, section 3).

One main program owns the array, so no other process has to be kept out. Levels are as SQLite numbers them.
"""

from __future__ import annotations

import threading
from enum import IntEnum


class Level(IntEnum):
    """What a connection may do with a file."""

    NONE = 0
    SHARED = 1
    """Read."""
    RESERVED = 2
    """Will write; others may still read."""
    PENDING = 3
    """Waits to write; nobody begins to read."""
    EXCLUSIVE = 4
    """Write; nobody else does anything."""


class Locks:
    """Who holds which lock of one file."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._levels: dict[object, Level] = {}

    def level(self, holder: object) -> Level:
        """What `holder` has."""
        return self._levels.get(holder, Level.NONE)

    def raise_to(self, holder: object, wanted: Level) -> bool:
        """Raise what `holder` has to SHARED, RESERVED or EXCLUSIVE; whether it could be.

        Who wants EXCLUSIVE while others read is left with PENDING, so that they become fewer.
        """
        with self._guard:
            if self.level(holder) >= wanted:
                return True
            highest = max((level for other, level in self._levels.items() if other is not holder), default=Level.NONE)
            if highest >= (Level.PENDING if wanted is Level.SHARED else Level.RESERVED):
                return False
            is_free = wanted is not Level.EXCLUSIVE or highest is Level.NONE
            self._levels[holder] = wanted if is_free else Level.PENDING
            return is_free

    def lower_to(self, holder: object, wanted: Level) -> None:
        """Leave `holder` with SHARED or NONE."""
        with self._guard:
            self._levels.pop(holder, None)
            if wanted is not Level.NONE:
                self._levels[holder] = wanted

    @property
    def is_reserved(self) -> bool:
        """Whether anybody has more than SHARED."""
        with self._guard:
            return any(level > Level.SHARED for level in self._levels.values())
