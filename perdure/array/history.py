"""The array's history: an append-only run of records in sectors of its own, which no client sees.

Being in the array, it is sealed, survives n-k losses and cannot be rolled back: a host that wants an event forgotten
would have to turn the whole array back. Records go round a ring of sectors; the oldest make room. Each carries the
digest of the one before, so what is read is one unbroken run, and what is missing from it is missing at its old end.

A sector (4,096 bytes; docs/spec.md, section 15):

    magic 4 "PHIS" | part u16 | parts u16 | number u64 | payload 4,080

The payloads of a record's parts, end to end, filled with zeros:

    digest 32 = SHA-256(tag | number u64 | previous 32 | body) | previous 32 | length u32 | body

A record stands in consecutive sectors; one that does not fit before the ring's end starts at its first sector. The ring
is so long that no record overwrites the one before it: else a crash in the middle of it would leave neither.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Protocol

from perdure.array.geometry import SECTOR_BYTES, Geometry, Run, ceil_div
from perdure.array.ports import Buffer
from perdure.errors import Misuse

_MAGIC = b"PHIS"
_PART = Struct(">4sHHQ")
_RECORD = Struct(">32s32sI")
_PAYLOAD_BYTES = SECTOR_BYTES - _PART.size
_TAG = sha256(b"perdure/history/1").digest() * 2
_NUMBER = Struct(">Q")
_CHUNK = 256
BODY_BYTES_MAX = 64 << 10
"""Of one record: what the longest evidence that is believed takes in JSON, and more; of usual evidence a dozen."""
NOTHING_BEFORE = bytes(32)


class Sectors(Protocol):
    """What is asked of the array: whole sectors, also those that are not presented."""

    geometry: Geometry

    async def read_sectors(self, run: Run) -> Buffer:
        """The sectors of `run`, end to end."""

    async def write_sectors(self, start: int, data: Buffer) -> None:
        """Write whole sectors from `start`."""

    async def flush(self) -> None:
        """Return when that is durable."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record stands, in sectors from the ring's start, and its digest."""

    start: int
    parts: int
    digest: bytes


class History:
    """The history of one mounted array. One caller at a time may append."""

    def __init__(self, array: Sectors) -> None:
        self._array = array
        self._ring = array.geometry.history
        self._places: OrderedDict[int, _Place] = OrderedDict()
        """By number, oldest first: an unbroken run."""

    @property
    def numbers(self) -> range:
        """Of the records that are there, oldest first; empty before the first."""
        if not self._places:
            return range(0)
        return range(next(iter(self._places)), next(reversed(self._places)) + 1)

    async def load(self) -> None:
        """Find what is there. What a crash left unfinished, or the ring has partly overwritten, does not count.

        Raises what reading raises.
        """
        found: dict[int, tuple[_Place, bytes]] = {}
        tail = b""  # the sectors of a record that goes on in the next chunk
        for start in range(0, self._ring.count, _CHUNK):
            count = min(_CHUNK, self._ring.count - start)
            data = tail + bytes(await self._array.read_sectors(Run(self._ring.start + start, count)))
            at = start - len(tail) // SECTOR_BYTES
            tail = self._scan(data, at, found, is_last=start + count == self._ring.count)
        self._places = _unbroken(found)

    def _scan(self, data: bytes, at: int, found: dict[int, tuple[_Place, bytes]], *, is_last: bool) -> bytes:
        """Note every whole record in `data`, whose first sector is `at`; what is left of one that is cut off."""
        index, count = 0, len(data) // SECTOR_BYTES
        while index < count:
            parts = _parts(data, index * SECTOR_BYTES)
            if parts and index + parts > count and not is_last:
                return data[index * SECTOR_BYTES :]
            whole = data[index * SECTOR_BYTES : (index + parts) * SECTOR_BYTES]
            record = _decode(whole) if parts else None
            if record is None:
                index += 1
                continue
            number, digest, previous, _ = record
            found[number] = (_Place(at + index, parts, digest), previous)
            index += parts
        return b""

    async def append(self, body: bytes) -> int:
        """Add a record and return its number when it is as durable as a flushed write.

        Raises Misuse for more than `BODY_BYTES_MAX` or an array without a history, and what ended the mount.
        """
        if len(body) > BODY_BYTES_MAX:
            raise Misuse(f"a record of the history has at most {BODY_BYTES_MAX} bytes, not {len(body)}")
        least = 3 * _parts_of(BODY_BYTES_MAX) - 1  # the one before, and in front of it all but room for the new one
        if self._ring.count < least:
            raise Misuse(
                f"this array was created without a history, or with a shorter one than {least} sectors: nothing is kept"
            )
        last = next(reversed(self._places), 0)
        previous = self._places[last].digest if last else NOTHING_BEFORE
        data, digest = _encode(last + 1, previous, body)
        place = _Place(self._next_start(len(data) // SECTOR_BYTES), len(data) // SECTOR_BYTES, digest)
        await self._array.write_sectors(self._ring.start + place.start, data)
        await self._array.flush()
        self._make_room(place)
        self._places[last + 1] = place
        return last + 1

    def _next_start(self, parts: int) -> int:
        if not self._places:
            return 0
        last = self._places[next(reversed(self._places))]
        start = last.start + last.parts
        return start if start + parts <= self._ring.count else 0

    def _make_room(self, new: _Place) -> None:
        """Forget, oldest first, what the new record has overwritten, and what is older than that."""
        end = new.start + new.parts
        hit = [at for at, old in self._places.items() if old.start < end and new.start < old.start + old.parts]
        for number in list(self._places):
            if hit and number <= max(hit):
                del self._places[number]

    async def read(self, number: int) -> bytes:
        """The body of a record. Raises Misuse when it is not there (any more), and what reading raises."""
        place = self._places.get(number)
        if place is None:
            raise Misuse(f"The history has no record {number}; it has {_span(self.numbers)}.")
        record = _decode(bytes(await self._array.read_sectors(Run(self._ring.start + place.start, place.parts))))
        if record is None or record[:2] != (number, place.digest):
            raise Misuse(f"Record {number} has made room for a newer one meanwhile.")
        return record[3]


def _unbroken(found: dict[int, tuple[_Place, bytes]]) -> OrderedDict[int, _Place]:
    """The longest run of records up to the newest in which each names the one before it."""
    run: list[int] = []
    number = max(found, default=0)
    while number in found:
        run.append(number)
        previous = found[number][1]
        number -= 1
        if number in found and found[number][0].digest != previous:
            break
    return OrderedDict((at, found[at][0]) for at in reversed(run))


def _parts_of(length: int) -> int:
    return ceil_div(_RECORD.size + length, _PAYLOAD_BYTES)


def _parts(data: bytes, at: int) -> int:
    """How many sectors the record has that starts at this byte; 0 when none does."""
    magic, part, parts, _ = _PART.unpack_from(data, at)
    return parts if magic == _MAGIC and part == 0 and 0 < parts <= _parts_of(BODY_BYTES_MAX) else 0


def _digest(number: int, previous: bytes, body: bytes) -> bytes:
    return sha256(_TAG + _NUMBER.pack(number) + previous + body).digest()


def _encode(number: int, previous: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The sectors of a record, and its digest."""
    digest = _digest(number, previous, body)
    content, parts = _RECORD.pack(digest, previous, len(body)) + body, _parts_of(len(body))
    payloads = (content[at * _PAYLOAD_BYTES : (at + 1) * _PAYLOAD_BYTES] for at in range(parts))
    sectors = (_PART.pack(_MAGIC, at, parts, number) + payload for at, payload in enumerate(payloads))
    return b"".join(sector.ljust(SECTOR_BYTES, b"\0") for sector in sectors), digest


def _decode(data: bytes) -> tuple[int, bytes, bytes, bytes] | None:
    """Number, digest, previous and body of the record that `data` is; None when it is none, or not whole."""
    parts, payload = len(data) // SECTOR_BYTES, b""
    _, _, _, number = _PART.unpack_from(data)
    for part in range(parts):
        if _PART.unpack_from(data, part * SECTOR_BYTES) != (_MAGIC, part, parts, number):
            return None
        payload += data[part * SECTOR_BYTES + _PART.size : (part + 1) * SECTOR_BYTES]
    digest, previous, length = _RECORD.unpack_from(payload)
    body = payload[_RECORD.size : _RECORD.size + length]
    if len(body) != length or digest != _digest(number, previous, body):
        return None
    return number, digest, previous, body


def _span(numbers: range) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
