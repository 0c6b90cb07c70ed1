"""What a run consists of, and carrying it out: blocks, databases, sizes, each with its targets up and ended again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench import floor, turns
from bench.document import TCP, Document, assemble
from bench.model import GIB, MIB, Kind, Skip, Target, Work
from bench.ours import scaling
from bench.ours import targets as ours
from bench.peers import etcd, gluster, nbd, postgres
from bench.report import machine
from bench.turns import FAILURES, Progress, Runs, Session, Starters
from bench.work import mounted, table

PEERS: Starters = {
    "GlusterFS": gluster.target,
    "etcd": etcd.target,
    "nbdkit memory": nbd.nbdkit,
    "bare NBD": nbd.bare,
}
DATABASES: Starters = {
    f"{ours.PLAIN}, ext4": mounted.ours,
    "GlusterFS": mounted.theirs,
    "tmpfs": mounted.memory,
    "PostgreSQL, 2 standbys": postgres.target,
}
QUICK_MODES = (ours.PLAIN, TCP, ours.CHAINS)
_CEILING = ("write-32", "read-32")
QUICK_WORKS = {
    TCP: ("durable-write",),
    ours.CHAINS: ("durable-write-1",),
    "nbdkit memory": _CEILING,
    "bare NBD": _CEILING,
}
"""In a quick run these targets do only work whose name begins so."""
FLOOR, MOUNT, REPAIR, MEMORY = "floor", "mount", "repair", "memory"
SIZES_MIB: dict[str, tuple[int, ...]] = {MOUNT: (1024, 16 * 1024), REPAIR: (64, 256, 1024)}
QUICK_SIZES_MIB: dict[str, tuple[int, ...]] = {MOUNT: (1024,), REPAIR: (64,)}
MOUNTS = 3
"""How often each size is mounted, each way; once in a quick run."""
START_S = 6.0
EACH_S = {MOUNT: 25.0, REPAIR: 30.0, MEMORY: 15.0}
"""About what a target's start takes, and what is measured of each size."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which work by which targets, how often and how long, and which of the other measurements."""

    works: tuple[Work, ...]
    blocks: Starters
    databases: Starters
    extras: tuple[str, ...]
    sizes_mib: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rounds: int = 1
    seconds: float = 1.0
    quick: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> Plan:
        """From the command line. Raises SystemExit for a name that nothing has."""
        only, wanted, quick = options.only, options.targets, options.quick
        modes = {name: start for name, start in ours.targets().items() if not quick or wanted or name in QUICK_MODES}
        blocks, databases = {**modes, **PEERS}, {} if quick and not (only or wanted) else dict(DATABASES)
        _require(wanted, {*blocks, *databases}, "target")
        extras = (FLOOR, MOUNT, REPAIR, *(() if quick else (MEMORY,)))
        works = tuple(table.chosen(only, quick=quick))
        _require(only, {*extras, MEMORY, *table.ALL, *(name.rpartition("-")[0] for name in table.ALL)}, "work")
        if only or wanted:
            extras = tuple(name for name in (FLOOR, MOUNT, REPAIR, MEMORY) if name in only)
        return cls(
            works,
            {name: start for name, start in blocks.items() if not wanted or name in wanted},
            {name: start for name, start in databases.items() if not wanted or name in wanted},
            extras,
            QUICK_SIZES_MIB if quick else SIZES_MIB,
            options.rounds or (1 if quick else 5),
            options.seconds or (1.0 if quick else 4.0),
            quick and not (only or wanted),
        )

    def names(self) -> list[str]:
        """Everything that can be asked for."""
        works = [f"work: {name:20} {work.title}" for name, work in table.ALL.items()]
        extras = [f"work: {name}" for name in (FLOOR, MOUNT, REPAIR, MEMORY)]
        return [*works, *extras, *(f"target: {name}" for name in dict.fromkeys((*self.blocks, *self.databases)))]

    def of_kind(self, *, block: bool) -> list[Work]:
        """The work on blocks, or that of databases."""
        return [work for work in self.works if (work.kind is Kind.BLOCK) == block]

    def later_s(self, *, block: bool) -> float:
        """About how long all takes that comes after the blocks, or after the databases."""
        total = 0.0
        if block and (works := self.of_kind(block=False)):
            total += len(self.databases) * (START_S + len(works) * self.rounds * (self.seconds + turns.OVERHEAD_S))
        for name, each_s in EACH_S.items():
            total += each_s * len(self.sizes_mib.get(name, (0,))) * (name in self.extras)
        return total


def _require(names: tuple[str, ...], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no {what} {name!r}; python -m bench --list names all")


def carry_out(plan: Plan) -> Document:
    """Everything, in order. What cannot run is in the document by name, with the reason."""
    about, started = machine.describe(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    findings = _Findings(plan)
    for starters, block in ((plan.blocks, True), (plan.databases, False)):
        works = plan.of_kind(block=block)
        if works and starters:
            findings.turns(starters, works, block=block)
    if FLOOR in plan.extras and not findings.floors:
        findings.measure_floor()
    findings.measure_sizes()
    return assemble(
        machine=about,
        settings={"started": started, "rounds": plan.rounds, "seconds": plan.seconds, "quick": plan.quick},
        targets=findings.targets,
        skipped=findings.skipped,
        runs=findings.runs,
        memory=findings.memory,
        floors=findings.floors,
        scaling=findings.scaling,
    )


class _Findings:
    """What was found so far, and how to find more."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._progress = Progress(0)
        self.skipped: dict[str, str] = {}
        self.runs: Runs = {}
        self.memory: dict[str, dict[str, int]] = {}
        self.targets: dict[str, str] = {}
        self.floors: list[floor.Costs] = []
        self.scaling: dict[str, Any] = {"mounts": [], "repairs": [], "memory": {}}

    def turns(self, starters: Starters, works: list[Work], *, block: bool) -> None:
        """One group of targets: started, measured in turns, ended. The floor is measured in the rounds of blocks."""
        plan, progress = self._plan, self._progress
        with Session(progress, self.skipped) as session:
            progress.left_s = START_S * len(starters) + len(starters) * len(works) * plan.rounds * plan.seconds
            session.start(starters)
            if plan.quick:
                _narrow(session.targets)
            run_s = turns.duration_s(session.targets, works, plan.rounds, plan.seconds)
            progress.left_s = run_s + plan.later_s(block=block)
            runs, memory = turns.measure(
                session,
                works,
                rounds=plan.rounds,
                seconds=plan.seconds,
                progress=progress,
                each_round=self.measure_floor if block else lambda: None,
            )
            self.runs |= runs
            self.memory = {**memory, **self.memory}
            self.targets |= {one.name: self.targets.get(one.name, one.what) for one in session.targets}

    def measure_floor(self) -> None:
        """Once more."""
        self._progress.say("floor: what the promise costs at least")
        self.floors.append(floor.measure())

    def measure_sizes(self) -> None:
        """Every size of everything that depends on it."""
        for name, size_mib, measure in _sized(self._plan):
            title = f"{name}, {size_mib} MiB"
            self._progress.say(title, EACH_S[name])
            try:
                found = measure()
            except (Skip, *FAILURES, ValueError) as error:
                turns.skip(self.skipped, title, error)
                continue
            if name == MEMORY:
                self.scaling["memory"] = found
            else:
                self.scaling[f"{name}s"].append(found)


def _narrow(targets: list[Target]) -> None:
    """Leave each target in `QUICK_WORKS` what that says."""
    for target in targets:
        if target.name in QUICK_WORKS:
            begins, takes = QUICK_WORKS[target.name], target.takes
            target.takes = partial(_takes, takes, begins)


def _takes(takes: Callable[[Work], bool], begins: tuple[str, ...], work: Work) -> bool:
    return takes(work) and work.name.startswith(begins)


def _sized(plan: Plan) -> Iterator[tuple[str, int, Callable[[], dict[str, float]]]]:
    if MOUNT in plan.extras:
        for size in plan.sizes_mib[MOUNT]:
            yield MOUNT, size, partial(scaling.mounts, size * MIB, 1 if plan.quick else MOUNTS)
    if REPAIR in plan.extras:
        for size in plan.sizes_mib[REPAIR]:
            yield REPAIR, size, partial(scaling.repairs, size * MIB, plan.seconds)
    if MEMORY in plan.extras:
        yield MEMORY, 16 * 1024, partial(scaling.memory, 16 * GIB)
