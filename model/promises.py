"""What follows of itself after a step, and what must hold then.

S1  no mount completes without an acknowledged entry
S2  no main program is told of anything that the owner after it lacks
S3  no two histories
S4  what was acknowledged can be decoded, and the array mounted, with up to n - k losses
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from model.decide import Decision, Weak
from model.network import Case, forgotten, have_landed, is_on_its_way, members
from model.state import Change, Kind, Log, Main, Phase, Role, State, epoch_of, is_prefix, landed
from model.steps import Shown, go_on, written


class Violation(NamedTuple):
    """Which promise does not hold, and why; `disks` are those that a mount is shown."""

    promise: str
    why: str
    disks: Shown = ()


def settle(case: Case, state: State) -> tuple[State, Violation | None]:
    """Let main programs go on, acknowledge what is proved, forget what nobody holds; and what was wrong with that."""
    state = _complete(case, state)
    acked, served, violation = state.acked, state.served, None
    for by, main in enumerate(state.mains):
        if main.phase == Phase.SERVE:
            served = max(served, main.base)
        elif not (case.weak is Weak.ACK_DURING_CHANGE and _has_served(main)):
            continue
        own = _acknowledged(case, state, by, main)
        if not is_prefix(own, acked) and not is_prefix(acked, own):
            why = f"{name(by)} acknowledges {words(state, own)}, but {words(state, acked)} was acknowledged"
            violation = Violation("S3", why)
        acked = max(acked, own, key=len)
    for by, main in enumerate(state.mains):
        if _has_served(main) and main.epoch >= epoch_of(served) and not is_prefix(acked, main.history):
            why = f"{name(by)} serves {words(state, main.history)}, but {words(state, acked)} was acknowledged"
            violation = violation or Violation("S2", why)
    return _forget(case, state._replace(acked=acked, served=served)), violation


def _has_served(main: Main) -> bool:
    return main.phase == Phase.SERVE or (main.phase < Phase.READ and main.change != Change.MOUNT)


def _complete(case: Case, state: State) -> State:
    """Main programs go on that have nothing else to do: what they send need not land, so nothing is missed.

    Only a PROPOSE that may still be followed by a vote is left to `following`: its last answer can be lost.
    """
    for by, main in enumerate(state.mains):
        while main.phase <= Phase.ACTIVATE and have_landed(state, by, members(state, main.target)):
            if main.phase == Phase.PROPOSE and main.change != Change.MOUNT and main.counter < case.votes:
                break
            state = go_on(case, state, by, main)
            main = state.mains[by]  # noqa: PLW2901
    return state


def _acknowledged(case: Case, state: State, by: int, main: Main) -> Log:
    """What a FLUSH may have returned for by now: what every member of the roster in force has (rule 8)."""
    if case.weak is Weak.NO_EVIDENCE:
        return main.history
    links = [state.disks[at].links[by] for at in members(state, main.base)]
    counts = sorted(landed(link, len(main.history)) for link in links if link.role == Role.MEMBER)
    return main.history[: counts[-case.k] if case.weak is Weak.ACK_BY_K else counts[0]]


# What nobody can see any more ---------------------------------------------------------------------------------


def _forget(case: Case, state: State) -> State:
    """Drop main programs that can do nothing any more, rosters that nobody holds, sessions that are over."""
    mains = list(state.mains)
    for by, main in enumerate(mains):
        if main.phase != Phase.DEAD and _is_over(case, state, by, main):
            own = tuple(entry for entry in main.history if entry == main.epoch)
            mains[by] = Main(main.epoch if own else 0, Phase.DEAD, 0, 0, 0, own, 0, 0)
    kept = {state.served}
    for main in mains:
        kept.update((main.base, main.target))
    disks = []
    for disk in state.disks:
        now = disk
        kept.update((disk.current, disk.next, *disk.saved[1:3]))
        for by, link in enumerate(disk.links):
            is_done_with = link.role == Role.LOST and not link.queue and mains[by].base not in disk.member_of
            if is_done_with or mains[by].phase == Phase.DEAD:
                now = forgotten(now, by)
            for command in link.queue:
                if command[0] <= Kind.ACTIVATE:
                    kept.update(command[1 : 3 - command[0]])
        disks.append(now)
    if not kept.issuperset([version for version, _ in state.rosters]):
        for at, disk in enumerate(disks):
            disks[at] = disk._replace(member_of=tuple([version for version in disk.member_of if version in kept]))
    rosters = tuple([pair for pair in state.rosters if pair[0] in kept])
    return state._replace(disks=tuple(disks), mains=tuple(mains), rosters=rosters)


def _is_over(case: Case, state: State, by: int, main: Main) -> bool:
    """Whether a later mount has left it so little that it can complete nothing, and nothing of it can land."""
    links = [(disk, disk.links[by]) for disk in state.disks]
    if main.phase == Phase.READ or any(
        link.role in (Role.MET, Role.JOINER) or is_on_its_way(disk, link) for disk, link in links
    ):
        return False
    seated = [links[at] for at in members(state, main.target)]
    if main.phase != Phase.SERVE:
        return main.change == Change.MOUNT and any(link.queue for _, link in seated)
    heeding = sum(link.session == disk.epoch for disk, link in seated)
    may_vote = main.counter < case.votes and len(seated) > case.k and heeding
    proved = min((landed(link, len(main.history)) for _, link in seated), default=0)
    may_write = written(state) < case.entries or proved > main.moving
    return heeding < case.k and not may_vote and not may_write and state.joins >= case.joins


# What must hold -----------------------------------------------------------------------------------------------


def check(case: Case, state: State, decided: Iterable[tuple[Shown, Decision | None]]) -> Violation | None:
    """Whether what mounts decide now keeps all that was acknowledged, and every mount that must succeed does."""
    seated = set(members(state, state.served))
    born = sum(1 for disk in state.disks if disk.epoch)
    for shown, decision in decided:
        if decision is None:
            enough = len(seated.intersection(shown)) >= case.k
            is_taken_over = any(_is_known(state, state.disks[at].current) for at in shown)
            if len(shown) == born or (enough and not is_taken_over):
                return Violation("S4", "these disks cannot mount, though they are enough", shown)
            continue
        if not is_prefix(state.acked, decision.history):
            kept = f"a mount of these disks has {words(state, decision.history)}"
            why = f"{kept}, but {words(state, state.acked)} was acknowledged"
            return Violation("S1", why, shown)
        logs = [(shown[at], state.disks[shown[at]].log) for at in decision.present]
        for number, entry in enumerate(decision.history):
            if sum(log[number : number + 1] == (entry,) for _, log in logs) < case.k:
                why = f"entry {number + 1} of {words(state, decision.history)} is on fewer than k of the members shown"
                return Violation("S4", why, shown)
        for _, log in logs:
            if any(mine != theirs for mine, theirs in zip(log, decision.history, strict=False)):
                why = f"a member holds {words(state, log)} where the history is {words(state, decision.history)}"
                return Violation("S3", why, shown)
    return None


def _is_known(state: State, version: int) -> bool:
    """Whether it is newer than the roster last in force, and all its members know it: losses are counted from it."""
    disks = [state.disks[at] for at in members(state, version)]
    return version > state.served and all(max(disk.current, disk.next) >= version for disk in disks)


def name(by: int) -> str:
    """A main program's letter: A is the creator."""
    return "ABCDEFGH"[by]


def words(state: State, history: Log) -> str:
    """A history, each entry by the letter of who wrote it; 0 where one is missing."""
    letters = {main.epoch: name(by) for by, main in enumerate(state.mains) if main.epoch}
    return "[" + " ".join(letters.get(entry, "0") for entry in history) + "]"
