"""Events that the array cannot take any more, with their evidence: in memory, and in a file until an array takes them.

When an array stops as FORKED, what shows it is worth most and has no place in the array. So all of it goes into a file
beside the configuration, whole or not at all, each time that there is more. The next main program for the array moves
it into the history and removes the file. Evidence proves itself, wherever it lay. The rest is hearsay: a file can be
changed, so it must not speak for a disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from perdure.errors import Misuse
from perdure.service.site import artefacts
from perdure.service.status import FORKS, State
from perdure.service.telling.events import ENDED, Attached, Entry, Event, Kind

ASIDE: Final = f"{artefacts.UNKEPT_FILE}.aside"
"""Where a file that is not about this array, or cannot be read, is put, so that it is not written over."""
BYTES_MAX: Final = 2 << 20
ENTRIES_MAX: Final = 200
"""Of the file: as much as the history can take without pushing out what is in it. What comes first has the room, since
how it began is what one wants to know."""

logger = logging.getLogger("perdure")


class Unkept:
    """Those of one array (id in hexadecimal). `path` None is memory only."""

    def __init__(self, path: Path | None, array_id: str) -> None:
        self._path = path
        self._array_id = array_id
        self.failure: str | None = None
        """Why the file could not be written, last time."""
        self._entries: list[Entry] = []
        self._bytes = _size(self._to_json([]))

    def find(self, number: int) -> Entry | None:
        """One that was added by this main program."""
        return next((entry for entry in self._entries if entry[0].number == number), None)

    def add(self, entries: Sequence[Entry]) -> None:
        """Take some in, and write them all. What finds no room is logged, as a file is that cannot be written."""
        for event, attached in entries:
            if not self._takes(event, attached) and not self._takes(replace(event, evidence_seats=()), ()):
                logger.warning(
                    "event %d found no room in the file of unkept events; it is in the log only", event.number
                )
        if self._path is None:
            return
        try:
            artefacts.write_atomic(self._path, json.dumps(self._to_json(self._entries)).encode())
        except Misuse as error:
            self.failure = str(error)
            logger.error("%s", error)  # noqa: TRY400  (no defect, so no traceback)
        else:
            self.failure = None

    def _takes(self, event: Event, attached: Sequence[Attached]) -> bool:
        size = _size(_entry_to_json((event, attached))) + len(", ")
        if self._bytes + size > BYTES_MAX or len(self._entries) == ENTRIES_MAX:
            return False
        self._entries.append((event, attached))
        self._bytes += size
        return True

    def _to_json(self, entries: Sequence[Entry]) -> dict[str, Any]:
        return {"array_id": self._array_id, "events": [_entry_to_json(entry) for entry in entries]}

    def read(self) -> list[Entry]:
        """What a main program before this one has left, as hearsay; a file that is none of that is put aside."""
        if self._path is None or not self._path.exists():
            return []
        try:
            value = json.loads(artefacts.read_bounded(self._path, "file of unkept events", bytes_max=BYTES_MAX))
            entries = [_entry_from_json(one) for one in value["events"]]
            if value["array_id"] == self._array_id:
                return [(as_hearsay(event), attached) for event, attached in entries]
            why = "it is about another array"
        except Misuse as error:
            why = str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = "it is not in the form that is known"
        aside = self._path.with_name(ASIDE)
        with suppress(OSError):
            self._path.replace(aside)
        logger.warning("the file of unkept events was put aside as %s: %s", aside, why)
        return []

    def forget(self) -> None:
        """All of it is kept in the array now."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def as_hearsay(event: Event) -> Event:
    """What an event that lay in a file may say in the history: evidence of a fork speaks for a disk, nothing else does.

    So nobody can clear a verdict, or put off a scrub, by writing the file.
    """
    if event.kind is Kind.DISK and event.state in FORKS:
        return event
    return replace(event, instance=None, state=event.state if event.state in (*State, ENDED) else None)


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    event, attached = entry
    return {**event.to_json(), "evidence": [one.to_json() for one in attached]}


def _entry_from_json(value: dict[str, Any]) -> Entry:
    proofs = value.pop("evidence")
    return Event.from_json(value), [Attached.from_json(one) for one in proofs]


def _size(value: dict[str, Any]) -> int:
    return len(json.dumps(value))
