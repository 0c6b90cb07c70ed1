"""The whole demo: pay on every place in turns, keep a copy half-way, kill everything, and let the host try.

Places are measured in turns of a few payments each, so that a noisy machine is equally noisy for all of them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.lightning.demo import attacks
from examples.lightning.demo.attacks import Trial, Worlds
from examples.lightning.demo.command_line import Done, array_in
from examples.lightning.demo.places import Directory, MountedArray, Place, Serve, VssOnArray, VssOnSqlite
from examples.lightning.demo.session import Session

TURN = 10
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a directory of its own is made there)
Say = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """One place's payments: milliseconds each, and what was written for them. `balances` are Alice's, in satoshis."""

    latencies_ms: list[float] = field(default_factory=list)
    writes: int = 0
    bytes: int = 0
    balances: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add one answer to `pay`."""
        self.latencies_ms += answer["latencies_ms"]
        self.writes += answer["writes"]
        self.bytes += answer["bytes"]


@dataclass(slots=True)
class Result:
    """All that was found, place by place; `refusals` is what the array said when its newest disks were ended."""

    payments: int
    measured: dict[str, Measured] = field(default_factory=dict)
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    refusals: list[Done] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def run(program: Path, payments: int, serve: Serve | None, *, has_vss: bool, say: Say) -> Result:
    """Run the demo. `payments` is a multiple of four; `serve` gives VSS over SQLite, None to leave it out.

    Raises session.Ended when nodes or servers do not come up, RuntimeError when a verb of Perdure fails.
    """
    result = Result(payments)
    with scene(program, serve, has_vss=has_vss) as (worlds, places):
        say(f"{payments} payments on each of: {', '.join(worlds)}")
        measure(places, worlds, result, say)
        for place in places:
            say(f"the host tries: {place.title}")
            _attack(place, worlds[place.title], result)
    return result


@contextlib.contextmanager
def scene(program: Path, serve: Serve | None, *, has_vss: bool) -> Iterator[tuple[dict[str, Worlds], list[Place]]]:
    """Places and their worlds. Ordinary places are on this machine's disk, beside the program; all else is in memory,
    where nobody waits for Bob. All is gone with the block.
    """
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with contextlib.ExitStack() as stack:
        disk, memory = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lightning-", dir=where)))
            for where in (program.parent, base)
        )
        places: list[Place] = [Directory(program, disk / "directory")]
        if serve is not None:
            places.append(VssOnSqlite(program, disk / "vss", serve))
        mounted = stack.enter_context(array_in(memory / "array-1"))
        mounted.must("run", "--make-file-system", "--", "true")
        places.append(MountedArray(program, memory / "mounted", mounted))
        if has_vss:
            array = stack.enter_context(array_in(memory / "array-2"))
            array.must("down")  # the server of VSS is its main program
            places.append(VssOnArray(program, memory / "vss", array))
        yield {place.title: Worlds(memory / f"world-{i}") for i, place in enumerate(places)}, places


def measure(places: Sequence[Place], worlds: Mapping[str, Worlds], result: Result, say: Say) -> None:
    """Open a channel on each place and pay; copies are kept half-way; at the end everything is killed."""
    with contextlib.ExitStack() as stack:
        sessions = {place.title: stack.enter_context(place.nodes(worlds[place.title].now)) for place in places}
        for title, session in sessions.items():
            session.ask("open")
            result.measured[title] = Measured()
        say("channels are open on all")
        _pay(sessions, result, result.payments // 2, "yesterday")
        say("half is paid, and the host copies")
        for place in places:
            place.copy()
            worlds[place.title].keep()
        _pay(sessions, result, result.payments // 2, "now")


def _pay(sessions: Mapping[str, Session], result: Result, count: int, when: str) -> None:
    for start in range(0, count, TURN):
        for title, session in sessions.items():
            answer = session.ask("pay", count=min(TURN, count - start))
            result.measured[title].add(answer)
            result.measured[title].balances[when] = answer["balance"]


def _attack(place: Place, worlds: Worlds, result: Result) -> None:
    if not isinstance(place, MountedArray | VssOnArray):
        result.trials[place.title] = attacks.put_yesterday_back(place, worlds)
        return
    result.trials[place.title] = attacks.put_yesterdays_directory_back(place, worlds)
    if isinstance(place, MountedArray):
        result.trials[place.title] += attacks.keep_two_disks(place, worlds, TURN)
        result.refusals = attacks.leave_only_old_disks(place.array)
