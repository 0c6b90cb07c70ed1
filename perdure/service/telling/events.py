"""What happened to an array: every change of state, kept in the array's own history, told to whoever listens.

An event is noted at once, in memory, and gets its number; a task of its own then appends it to the history, where it
is sealed and cannot be rolled back, and posts it to the webhook. Events of an array that has stopped cannot be kept
there any more; they wait in a file (`perdure.service.telling.unkept`) for the next main program, which moves them into
the history. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import operator
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from perdure.array.history import BODY_BYTES_MAX, History
from perdure.array.session import Proof
from perdure.errors import Misuse, PerdureError
from perdure.service.status import OTHER_RELEASE
from perdure.service.telling.webhook import Webhook

if TYPE_CHECKING:  # that module writes what is defined here
    from perdure.service.telling.unkept import Unkept

RECENT_MAX: Final = 1000
"""Events that are kept in memory, without their evidence."""
WAITING_MAX: Final = 200
"""Events that wait to be kept; of louder ones twice as many. More come only while the array takes none."""
MESSAGE_CHARS_MAX: Final = 4000
REPLY_MAX: Final = 200
"""Events in one answer."""
JSON_BYTES_MAX: Final = 1 << 20
"""Of one event, as it comes out of the history."""
_SENTENCE_BYTES_MAX: Final = 18 << 10
"""Of an event without evidence, as it is kept."""
_SENTENCE_JSON_BYTES_MAX: Final = 64 << 10

ENDED: Final = "exported"
"""The state of the event that a main program which stops tells last."""

logger = logging.getLogger("perdure")


class Kind(StrEnum):
    """What an event is about."""

    ARRAY = "array"
    DISK = "disk"
    REPAIR = "repair"
    ERASE = "erase"
    COMMAND = "command"
    """Somebody asked the main program for something."""


class Level(StrEnum):
    """How loud it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
    """Evidence of a rollback or a clone, or the array has stopped."""


@dataclass(frozen=True, slots=True)
class Attached:
    """Evidence that belongs to an event: a HELLO and its answer, which anybody with the policy can judge."""

    seat: int
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """With the bytes in hexadecimal."""
        return {"seat": self.seat, "question": self.proof.question.hex(), "answer": self.proof.answer.hex()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Attached:
        """Read one."""
        return cls(value["seat"], Proof(bytes.fromhex(value["question"]), bytes.fromhex(value["answer"])))


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `number` counts from 1 for each array; `unix_ms` is the main program's clock.

    What a mount could not keep, it has told all the same, and the next mount gives its numbers again. So a number tells
    events apart within an epoch, and across epochs only those that are in the array.
    """

    number: int
    unix_ms: int
    kind: Kind
    level: Level
    message: str
    seat: int | None = None
    instance: str | None = None
    state: str | None = None
    """What the array or the disk has become."""
    evidence_seats: tuple[int, ...] = ()
    """Whose evidence is attached; `perdure events --evidence NUMBER` gives it."""
    epoch: str = ""
    """Of the mount that told it, hexadecimal: a later mount's is greater. Empty of one by a release that had none."""

    def to_json(self) -> dict[str, Any]:
        """As `events --json` prints it and the webhook gets it."""
        return {
            "number": self.number,
            "unix_ms": self.unix_ms,
            "kind": self.kind,
            "level": self.level,
            "message": self.message,
            "seat": self.seat,
            "instance": self.instance,
            "state": self.state,
            "evidence_seats": list(self.evidence_seats),
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        """Read one. Fields that came later are left out; raises Misuse for what only another release can read."""
        try:
            known = {one.name: value[one.name] for one in fields(cls) if one.name in value}
            made = {"kind": Kind(value["kind"]), "level": Level(value["level"])}
            seats = tuple(value.get("evidence_seats", ()))
            return cls(**{**known, **made, "evidence_seats": seats, "number": operator.index(value["number"])})
        except (ValueError, TypeError, KeyError):
            raise Misuse(OTHER_RELEASE) from None


Entry = tuple[Event, Sequence[Attached]]


class EventLog:
    """The events of one mounted array."""

    def __init__(
        self,
        history: History,
        epoch: bytes,
        unkept: Unkept,
        webhook: Webhook | None,
        now_unix_ms: Callable[[], int],
        hear: Callable[[Event, Sequence[Attached]], None] = lambda _event, _attached: None,
    ) -> None:
        """`epoch` is the mount's; `hear` is given every event that has a number, those of the history first."""
        self.goes_on = False
        """Whether the main program before this one has kept all and told this one to take its place."""
        self._history = history
        self._epoch = epoch.hex()
        self._unkept = unkept
        self._webhook = webhook
        self._now_unix_ms = now_unix_ms
        self._hear = hear
        self._recent: deque[Event] = deque(maxlen=RECENT_MAX)
        self._latest: dict[str, Event] = {}
        """By state: the last event of each, also when the others have pushed it out."""
        self._lacking = 0
        """Events that found no room to wait in since the last that did."""
        self._waiting: deque[Entry] = deque()
        self._taken_over = 0
        """How many at the head of those are still in the file of an earlier main program."""
        self._news = asyncio.Event()
        self._loaded = asyncio.Event()
        self._last = 0
        self.failure: str | None = None
        """Why events are not kept in the array any more; None while they are."""
        self._task = asyncio.ensure_future(self._run())

    @property
    def last(self) -> int:
        """The number of the last event; 0 while the history is still being read."""
        return self._last if self.is_loaded else 0

    @property
    def is_loaded(self) -> bool:
        """Whether the history has been read, or cannot be."""
        return self._loaded.is_set()

    async def loaded(self) -> None:
        """Return when that is so; where too few disks answer, that may take for ever."""
        await self._loaded.wait()

    def note(
        self,
        kind: Kind,
        level: Level,
        message: str,
        *,
        seat: int | None = None,
        instance: str | None = None,
        state: str | None = None,
        evidence: Sequence[Attached] = (),
    ) -> None:
        """Take an event in, at once; it is written to the log too.

        What finds no room, because the array takes none for long, is in the log only; that it was so is an event.
        Evidence that does not fit is left out, and the message says so.
        """
        given, evidence = evidence, _fitting(evidence)
        seats, message = tuple(attached.seat for attached in evidence), message[:MESSAGE_CHARS_MAX]
        lacking = sorted({one.seat for one in given} - set(seats))
        if lacking:
            message += f" (the evidence of seats {', '.join(map(str, lacking))} did not fit)"
        event = Event(0, self._now_unix_ms(), kind, level, message, seat, instance, state, seats)
        logger.log(_LOG_LEVELS[level], "%s", message, extra={"event": event})
        if len(self._waiting) - max(0, self._taken_over) >= WAITING_MAX * (2 if level is Level.CRITICAL else 1):
            self._lacking += 1
            return
        self._waiting.append((event, evidence))
        self._number()

    def _number(self) -> None:
        """Give numbers to what waits, once it is known which was the last."""
        if not self.is_loaded:
            return
        for at, (event, evidence) in enumerate(self._waiting):
            if not event.number:
                self._last += 1
                numbered = replace(event, number=self._last, epoch=self._epoch)
                self._waiting[at] = (numbered, evidence)
                self._remember(numbered, evidence)
                if (
                    self._webhook is not None
                ):  # now: an array that waits for its disks keeps nothing, and alarms must out
                    self._webhook.post(numbered.to_json())
        self._news.set()

    def _remember(self, event: Event, evidence: Sequence[Attached]) -> None:
        self._recent.append(event)
        self._hear(event, evidence)
        if event.state is not None:
            self._latest[event.state] = event

    # Keeping ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._load()
        except PerdureError as error:
            self._give_up(error)
        await self._follow_up()
        self._loaded.set()
        self._number()
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._keep()
            if self._lacking:
                count, self._lacking = self._lacking, 0
                self.note(
                    Kind.ARRAY, Level.WARNING, f"{count} events found no room to wait in; they are in the log only"
                )

    async def _load(self) -> None:
        await self._history.load()
        numbers = self._history.numbers
        self._last = numbers[-1] if numbers else 0
        for number in numbers:
            body = await self._history.read(number)
            try:
                self._remember(*_decode(body))
            except Misuse as error:
                self._remember(Event(number, 0, Kind.ARRAY, Level.WARNING, str(error)), ())

    async def _follow_up(self) -> None:
        """Put before all that waits how the main program before this one ended, and what it could not keep."""
        left = await asyncio.to_thread(self._unkept.read)
        known = [*self._recent, *(event for event, _ in left)]
        first: list[Entry] = []
        if known and known[-1].state != ENDED and not self.goes_on:
            first.append(self._about_the_last(f"{_CUT_SHORT[0]} {self._last} {_CUT_SHORT[1]}"))
        if left:
            follow = "event that follows is" if len(left) == 1 else f"{len(left)} events that follow are"
            first.append(self._about_the_last(f"the {follow} {_TAKEN_OVER}"))
            first += [(replace(event, number=0), attached) for event, attached in left]
            self._taken_over = len(first)
        self._waiting.extendleft(reversed(first))

    def _about_the_last(self, message: str) -> Entry:
        return Event(0, self._now_unix_ms(), Kind.ARRAY, Level.WARNING, message), ()

    async def _keep(self) -> None:
        """Append the first that waits; once that cannot be, have all that wait in the file."""
        if self.failure is None:
            try:
                await self._history.append(_encode(*self._waiting[0]))
            except PerdureError as error:
                self._give_up(error)
            else:
                self._waiting.popleft()
                self._taken_over -= 1
                if self._taken_over == 0:
                    await asyncio.to_thread(self._unkept.forget)
                return
        waiting = list(self._waiting)  # at once, since it takes the place of what an earlier main program has left
        await asyncio.to_thread(self._unkept.add, waiting)
        for _ in waiting:
            self._waiting.popleft()

    def _give_up(self, error: PerdureError) -> None:
        self.failure = str(error)
        logger.warning("events are not kept in the array any more: %s", error)

    # Showing ----------------------------------------------------------------------------------------------

    def since(self, number: int) -> list[Event]:
        """The events after `number`, oldest first, at most `REPLY_MAX` of them, of those in memory."""
        return [event for event in self._recent if event.number > number][:REPLY_MAX]

    @property
    def began_unix_ms(self) -> int | None:
        """When the first event of all was; 0 when that is forgotten, None before there is any or while it is read."""
        if not self.is_loaded or not self._recent:
            return None
        return self._recent[0].unix_ms if self._recent[0].number == 1 else 0

    def latest(self, state: str) -> Event | None:
        """The last event by which something became `state`, of those in memory and of those noted since the mount."""
        return self._latest.get(state)

    async def find(self, number: int) -> Entry:
        """One event, with its evidence. Raises Misuse when it is not there (any more), and what reading raises."""
        unkept = self._unkept.find(number)
        return _decode(await self._history.read(number)) if unkept is None else unkept

    @property
    def not_kept(self) -> str | None:
        """Why the newest are not in the array, and in no file either where that is so; None while they are."""
        return " ".join(filter(None, (self.failure, self.failure and self._unkept.failure))) or None

    async def kept(self) -> None:
        """Return when all that was noted is kept, or cannot be."""
        while self._waiting and not self._task.done():
            await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """The same, and posted, as far as the webhook takes it in a few seconds."""
        await self.kept()
        if self._webhook is not None:
            await self._webhook.settle()

    async def stop(self) -> None:
        """Let go of what runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


_CUT_SHORT: Final = (
    "the main program before this one ended without a word: what it told after event",
    "may not be here, and the numbers after that are given again",
)
_TAKEN_OVER: Final = (
    "of the main program before this one, which could not keep them in the array; they have new numbers"
)
_LOG_LEVELS: Final = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.CRITICAL: logging.CRITICAL}


def _fitting(evidence: Sequence[Attached]) -> Sequence[Attached]:
    """As much of it as one record takes, the shortest first: a host that makes its own long pushes out no other's.

    What a verifier has believed fits if it is alone.
    """
    packer, size, length, seats = zlib.compressobj(9), 0, 0, set()
    for one in sorted(evidence, key=lambda one: len(one.proof.answer)):
        text = json.dumps(one.to_json()).encode()
        length += len(text)
        size += len(packer.compress(text)) + len(packer.flush(zlib.Z_SYNC_FLUSH))
        if size > BODY_BYTES_MAX - _SENTENCE_BYTES_MAX or length > JSON_BYTES_MAX - _SENTENCE_JSON_BYTES_MAX:
            break
        seats.add(one.seat)
    return [one for one in evidence if one.seat in seats]


def _encode(event: Event, evidence: Sequence[Attached]) -> bytes:
    """What the history keeps. Evidence that does not fit is left out, which the event then says."""
    for kept in (evidence, _fitting(evidence), ()):
        seats = tuple(attached.seat for attached in kept)
        proofs = [attached.to_json() for attached in kept]
        value = {**replace(event, evidence_seats=seats).to_json(), "evidence": proofs}
        text = json.dumps(value).encode()
        body = zlib.compress(text, 9)
        if len(body) <= BODY_BYTES_MAX and len(text) <= JSON_BYTES_MAX:
            return body
    raise Misuse("An event's sentence is longer than the history takes.")


def _decode(body: bytes) -> tuple[Event, list[Attached]]:
    try:
        value = json.loads(zlib.decompressobj().decompress(body, JSON_BYTES_MAX))
        proofs = value.pop("evidence")
        attached = [Attached.from_json(one) for one in proofs]
        return Event.from_json(value), attached
    except (Misuse, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        raise Misuse(
            "This event was written by another release of the main program, in a form that is not known."
        ) from None
