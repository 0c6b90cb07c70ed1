"""What a host tries, and what comes of it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.lightning.demo.command_line import Array, Done
from examples.lightning.demo.places import MountedArray, Place, VssOnArray

FROZEN, OTHERS = (1, 3), (0, 2, 4)


@dataclass(frozen=True, slots=True)
class Worlds:
    """Bob and the chain, as they are now and as they were yesterday. A trial gets a copy of its own."""

    folder: Path

    @property
    def now(self) -> Path:
        """Where the nodes of the measured part have theirs."""
        return self.folder / "now"

    @property
    def yesterday(self) -> Path:
        """What was kept of it."""
        return self.folder / "yesterday"

    def keep(self) -> None:
        """Keep yesterday's, for a Bob who works with the host."""
        shutil.copytree(self.now, self.yesterday)

    @property
    def trial(self) -> Path:
        """Where the last copy for a trial is."""
        return self.folder / "trial"

    def copy_of(self, world: Path) -> Path:
        """A copy for a trial, in the place of the last one."""
        shutil.rmtree(self.trial, ignore_errors=True)
        shutil.copytree(world, self.trial)
        return self.trial


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one start on what the host had put back. `started_on` is Alice's balance in satoshis then."""

    name: str
    started_on: int
    result: dict[str, Any]


def put_yesterday_back(place: Place, worlds: Worlds) -> list[Trial]:
    """Start the nodes on what the host kept, once for each thing that can happen next."""
    trials = [
        ("honest peer", "reconnect", worlds.now),
        ("no peer", "force-close", worlds.now),
        ("as LDK advises", "surrender", worlds.now),
    ]
    done = [_try(place, name, verb, worlds.copy_of(world)) for name, verb, world in trials]
    in_league = worlds.copy_of(worlds.yesterday)
    return [*done, _try(place, "peer in league with the host", "conspire", in_league, world=str(worlds.now))]


def _try(place: Place, name: str, verb: str, trial: Path, **more: str) -> Trial:
    place.restore()
    with place.nodes(trial) as nodes:
        return Trial(name, nodes.first["balance"], nodes.ask(verb, **more))


# An array: nothing that lies on the host holds data -------------------------------------------------------


def put_yesterdays_directory_back(place: MountedArray | VssOnArray, worlds: Worlds) -> list[Trial]:
    """The operator's directory as it was: configuration, key, image. Worlds go on from here in their copy."""
    place.array.kill_main()
    return [_try(place, "yesterday's directory", "reconnect", worlds.copy_of(worlds.now))]


def keep_two_disks(place: MountedArray, worlds: Worlds, payments: int) -> list[Trial]:
    """Stop two of the five disks with what they hold, let the node pay on, and bring the two back beside the new."""
    array, world = place.array, worlds.trial
    array.freeze(FROZEN)
    with place.nodes(world) as nodes:
        nodes.ask("pay", count=payments)
    array.kill_main()
    array.thaw(FROZEN)
    with place.nodes(world) as nodes:
        return [Trial("two old disks beside three new", nodes.first["balance"], nodes.ask("reconnect"))]


def leave_only_old_disks(array: Array) -> list[Done]:
    """End every disk that knows better: the two old ones alone, then with blank ones in the seats, then blank alone.

    It costs the array, which is what a host can always do; the question is only what is served in its place.
    """
    array.kill_main()
    array.kill(OTHERS)
    done = [array.run("up"), array.run("import")]
    with contextlib.ExitStack() as blanks:
        for seat in OTHERS:
            blanks.enter_context(array.blank_disk(seat))
        done.append(array.run("import"))
    array.kill(FROZEN)
    return [*done, array.run("up")]
