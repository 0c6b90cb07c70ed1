"""What the array's history may be found to hold (docs/spec.md, section 15). Pure: told of every append and every load.

- An append that has returned is found by every later mount, unaltered, until the ring has come round to it.
- Whatever is found was appended under that very number; bodies are never repeated, so nothing is found twice.
- What is found has no gaps, and goes on for as long as records are whole.

Where records stand is worked out here as the specification says it, not asked of the code under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.sim.history import Violation

_PAYLOAD_BYTES = 4080
_HEAD_BYTES = 68


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    epoch: bytes
    """Of the main program whose append returned."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    epoch: bytes
    bodies: Mapping[int, bytes]


class Records:
    """The appends and loads of one story, in order. Raises Violation from the call that shows it."""

    def __init__(self, ring: int) -> None:
        self._ring = ring
        self._began: dict[bytes, int] = {}
        """The number of every body whose append began."""
        self._places: dict[bytes, range] = {}
        self._kept: dict[int, _Kept] = {}
        self._loads: list[_Loaded] = []
        self.overwritten = 0
        """Records up to this number may have made room."""

    def begins(self, number: int, body: bytes, before: Mapping[int, bytes]) -> None:
        """An append begins, by a main program that has found and appended `before`; what it overwrites may be gone.

        And so may all that is older, even where it stands elsewhere.
        """
        parts = -(-(_HEAD_BYTES + len(body)) // _PAYLOAD_BYTES)
        start = self._places[before[number - 1]].stop if number - 1 in before else 0
        if start + parts > self._ring:
            start = 0
        place = range(start, start + parts)
        self._began[body], self._places[body] = number, place
        hit = (at for at, other in before.items() if _overlap(self._places[other], place))
        self.overwritten = max(self.overwritten, *hit, 0)

    def keeps(self, number: int, body: bytes, epoch: bytes) -> None:
        """An append has returned, and the main program of this epoch has said that it is kept as `number`."""
        if self._began.get(body) != number:
            raise Violation(f"a record was kept as {number} that was appended as {self._began.get(body)}")
        if self._kept.setdefault(number, _Kept(body, epoch)).body != body:
            raise Violation(f"two records were kept as number {number}")
        for load in self._loads:
            if load.epoch > epoch and number > self.overwritten and load.bodies.get(number) != body:
                raise Violation(f"record {number} was said to be kept, and a later mount did not find it")

    def stands(self, number: int) -> bool:
        """Whether this record was kept and cannot have made room."""
        return number in self._kept and number > self.overwritten

    def found(self, bodies: Mapping[int, bytes], epoch: bytes) -> None:
        """The main program of this epoch has loaded the history, oldest first."""
        numbers = list(bodies)
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise Violation(f"the history has gaps or is out of order: {numbers}")
        for number, body in bodies.items():
            if self._began.get(body) != number:
                raise Violation(f"record {number} is not one that was appended under that number")
        for number, kept in self._kept.items():
            if kept.epoch < epoch and (number > self.overwritten or number in bodies):
                self._require(number, kept.body, bodies)
        self._loads.append(_Loaded(epoch, dict(bodies)))

    def _require(self, number: int, body: bytes, bodies: Mapping[int, bytes]) -> None:
        if bodies.get(number) != body:
            span = f"{min(bodies)} to {max(bodies)}" if bodies else "none"
            raise Violation(f"record {number} was kept, and is not found as it was; found were {span}")


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
