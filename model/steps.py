"""What may happen next: a command lands, a main program votes, writes, takes a disk in, or another one mounts.

No step is ever forced. So a crash of a main program is one that does nothing any more, a pause one that goes on late; a
dead or hidden disk is one on which nothing lands and which no mount is shown; a lost message never lands. Evidence of
what has landed may come at any time after it; so there are no answers here, only what has landed. A plain answer
decides nothing, unless a mutant lets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from model.decide import Decision, Weak, decide, view
from model.network import (
    Case,
    carry_out,
    have_landed,
    is_on_its_way,
    linked,
    lose,
    members,
    opened,
    seated_in,
    send,
    with_disks,
    with_main,
    with_role,
)
from model.state import COUNTERS, NO_LINK, Change, Command, Kind, Link, Main, Phase, Role, State, epoch_of, landed


class Step(NamedTuple):
    """Something that happened: what, by which main program, to which disks, and what belongs to it."""

    what: str
    main: int
    disks: tuple[int, ...] = ()
    more: tuple[object, ...] = ()


Following = Iterator[tuple[Step, State]]
Shown = tuple[int, ...]


def following(case: Case, state: State, mounts: Iterable[tuple[Shown, Decision]]) -> Following:
    """Every step that is possible in `state`; `mounts` are the decisions that mounts may come to."""
    yield from _landings(case, state)
    for at, main in enumerate(state.mains):
        if main.phase == Phase.PROPOSE and have_landed(state, at, members(state, main.target)):
            yield Step("activates", at, (), (main.target,)), go_on(case, state, at, main)
        if main.phase == Phase.READ:
            yield from _opens_late(case, state, at, main)
        if main.phase < Phase.READ and main.counter < case.votes:
            yield from _votes(case, state, at, main)
        if main.phase == Phase.SERVE:
            yield from _writes(case, state, at, main)
            yield from _joins(case, state, at, main)
    if len(state.mains) <= case.mains:
        for shown, decision in mounts:
            yield from _mounts(case, state, shown, decision)
    if case.weak is Weak.NO_INSTANCE:
        yield from _clones(state)


def _landings(case: Case, state: State) -> Following:
    """The next command of a session lands: signed commands land in order, once, and at their epoch only."""
    for at, disk in enumerate(state.disks):
        for by, link in enumerate(disk.links):
            if is_on_its_way(disk, link):
                now = linked(carry_out(case, disk, link.queue[0]), by, link._replace(queue=link.queue[1:]))
                yield Step("lands", by, (at,), link.queue[0]), with_disks(state, {at: now})


# Roster changes -------------------------------------------------------------------------------------------------


def go_on(case: Case, state: State, by: int, main: Main) -> State:
    """PROPOSE is complete: ACTIVATE. ACTIVATE is complete: the roster is in force (rules 4 and 5)."""
    to = members(state, main.target)
    if main.phase == Phase.PROPOSE and case.weak is not Weak.SERVE_AFTER_PROPOSE:
        cut = len(main.history) if main.change == Change.MOUNT else None
        now = with_main(state, by, main._replace(phase=Phase.ACTIVATE))
        return send(now, by, (Kind.ACTIVATE, main.target, cut, ()), to)
    main = main._replace(phase=Phase.SERVE, base=main.target)
    if main.change != Change.MOUNT:
        return with_main(state, by, main)
    last = len(main.history)
    now = with_main(state, by, main._replace(moving=last))
    is_home = all(state.disks[at].applied == last for at in to)
    return now if is_home else send(now, by, (Kind.EXECUTE, 0, last), to)


def _votes(case: Case, state: State, by: int, main: Main) -> Following:
    """Some members are lost, or seem so: a roster without them (rule 9), once all others have answered what was sent.

    A mount that loses a disk begins again, as another main program.
    """
    if main.change == Change.MOUNT and main.phase != Phase.SERVE:
        return
    main = main._replace(base=main.target) if main.phase == Phase.ACTIVATE else main
    seated = members(state, main.base)
    asked = [] if main.phase == Phase.SERVE else members(state, main.target)
    known = [at for at in sorted({*seated, *asked}) if state.disks[at].links[by].role == Role.MEMBER]
    least = case.k - (case.weak is Weak.FEWER_THAN_K)
    for count in range(1, len(known) - least + 1):
        for gone in combinations(known, count):
            left = [at for at in seated if at in known and at not in gone]
            if len(left) < least or not have_landed(state, by, [at for at in asked if at not in gone]):
                continue
            now = lose(state, by, gone)
            for at in (at for at in asked if at not in seated and at not in gone):
                link = now.disks[at].links[by]._replace(role=Role.JOINER)
                now = with_disks(now, {at: linked(now.disks[at], by, link)})
            if set(gone).isdisjoint(seated):
                yield Step("gives up", by, gone), with_main(now, by, main._replace(phase=Phase.SERVE, target=main.base))
            else:
                yield Step("votes off", by, gone), _change(now, by, main, Change.REMOVE, left)


def _change(state: State, by: int, main: Main, change: Change, to: list[int]) -> State:
    """PROPOSE a roster of `to`, whose predecessor is the main program's base."""
    target = main.epoch * COUNTERS + main.counter + 1
    main = main._replace(phase=Phase.PROPOSE, change=change, target=target, counter=main.counter + 1)
    now = with_main(state, by, main)
    now = now._replace(rosters=tuple(sorted((*now.rosters, (target, main.base)))))
    now = with_disks(now, {at: seated_in(now.disks[at], target) for at in to})
    return send(now, by, (Kind.PROPOSE, main.base, target, ()), to)


# Writing --------------------------------------------------------------------------------------------------------


def written(state: State) -> int:
    """How many entries there were."""
    return sum(entry == main.epoch for main in state.mains for entry in main.history)


def _writes(case: Case, state: State, by: int, main: Main) -> Following:
    """The next entry to every member and joiner, or only the applying of what is proved (rule 7)."""
    seated = members(state, main.base)
    receiving = [*seated, *with_role(state, by, Role.JOINER)]
    sent = len(main.history)
    proved = min(landed(state.disks[at].links[by], sent) for at in seated)
    if case.weak is Weak.APPLY_UNPROVED:
        proved = sent
    if written(state) < case.entries:
        for applied in {main.moving, max(proved, main.moving)}:
            now = send(state, by, (Kind.EXECUTE, main.epoch, applied), receiving)
            now = with_main(now, by, main._replace(history=(*main.history, main.epoch), moving=applied))
            yield Step("writes", by, tuple(receiving), (sent + 1, applied)), now
    if proved > main.moving:
        now = with_main(state, by, main._replace(moving=proved))
        yield Step("applies", by, tuple(receiving), (proved,)), send(now, by, (Kind.EXECUTE, 0, proved), receiving)


# Joining --------------------------------------------------------------------------------------------------------


def _joins(case: Case, state: State, by: int, main: Main) -> Following:
    """Meet a disk that is no member, name it, open it and rebuild it, and add it (rules 11 and 12)."""
    seated = members(state, main.base)
    is_quiet = main.moving == len(main.history) and have_landed(state, by, seated)
    for at, disk in enumerate(state.disks):
        link = disk.links[by]
        if at in seated:
            continue
        if link.role == Role.JOINER and main.counter < case.votes:
            yield from _adds(case, state, by, main, at)
        elif link.role == Role.MET and is_quiet:
            yield from _opens(case, state, by, main, at)
        elif state.joins < case.joins and len(seated) < case.n + (case.weak is Weak.SWAP) and link.role > Role.MEMBER:
            met = with_disks(state, {at: linked(disk, by, Link(disk.epoch, Role.MET, ()))})
            met = met._replace(joins=state.joins + 1)
            if link.role in (Role.JOINER, Role.MET):
                continue
            if not case.naming and is_quiet:
                yield from _opens(case, met, by, main, at)
            elif case.naming and main.counter < case.votes:
                yield Step("names", by, (at,)), _change(met, by, main, Change.NAME, seated)


def _opens(case: Case, state: State, by: int, main: Main, at: int) -> Following:
    """OPEN at an epoch above its own, as it was when it was met, and above the mount's; then look, then rebuild."""
    disk = state.disks[at]
    for epoch in _epochs(case, state, max(disk.links[by].session, main.epoch)):
        if epoch <= disk.epoch:
            continue
        if case.weak is not Weak.NO_LOOK and epoch_of(max(disk.current, disk.next)) > main.epoch:
            continue  # a later main program counts on it: this one is late, and stops
        content = (0,) * len(main.history) if case.weak is Weak.UNBUILT else main.history
        now = linked(opened(disk, epoch, state.mains), by, Link(epoch, Role.JOINER, ((Kind.WELCOME, content),)))
        yield Step("opens joiner", by, (at,), (epoch,)), with_disks(state, {at: now})


def _adds(case: Case, state: State, by: int, main: Main, at: int) -> Following:
    seated = members(state, main.base)
    disk = state.disks[at]
    ready = with_disks(state, {at: linked(disk, by, disk.links[by]._replace(role=Role.MEMBER))})
    if len(seated) < case.n:
        yield Step("adds", by, (at,)), _change(ready, by, main, Change.ADD, [*seated, at])
    if case.weak is Weak.SWAP:
        for gone in seated:
            left = [other for other in seated if other != gone]
            yield Step("swaps", by, (gone, at)), _change(lose(ready, by, [gone]), by, main, Change.ADD, [*left, at])


# Mounts ---------------------------------------------------------------------------------------------------------


def decisions(case: Case, state: State) -> Iterator[tuple[Shown, Decision | None]]:
    """What a mount decides for every set of disks that hosts may show it."""
    views = [view(disk) for disk in state.disks]
    born = [at for at, disk in enumerate(state.disks) if disk.epoch]
    for count in range(1, len(born) + 1):
        for shown in combinations(born, count):
            yield shown, decide(tuple([views[at] for at in shown]), state.rosters, case.k, case.weak)


def _epochs(case: Case, state: State, floor: int) -> list[int]:
    """The epochs that somebody may draw who found `floor` to be the highest."""
    used = {*state.acked, epoch_of(state.served)}
    for disk in state.disks:
        used |= {disk.epoch, epoch_of(disk.current), epoch_of(disk.next), *disk.log}
        used.update([link.session for link in disk.links])
    for main in state.mains:
        used |= {main.epoch, epoch_of(main.base), epoch_of(main.target), *main.history}
    if case.any_epochs:
        return [epoch for epoch in range(floor + 1, case.mains + case.joins + 2) if epoch not in used]
    return [max(*used, floor) + 1]


def _mounts(case: Case, state: State, shown: Shown, decision: Decision) -> Following:
    """Another main program opens the disks that it is shown, decides, and proposes (rules 1 to 4)."""
    present = [shown[at] for at in decision.present]
    by = len(state.mains)
    state = state._replace(disks=tuple([disk._replace(links=(*disk.links, NO_LINK)) for disk in state.disks]))
    if case.weak is Weak.READ_BEFORE_OPEN:
        main = Main(0, Phase.READ, Change.MOUNT, decision.base, 0, decision.history, 0, 0)
        met = {at: linked(state.disks[at], by, Link(0, Role.MET, ())) for at in present}
        yield Step("reads", by, shown, (decision,)), with_disks(state, met)._replace(mains=(*state.mains, main))
        return
    for epoch in _epochs(case, state, max(state.disks[at].epoch for at in shown)):
        main = Main(epoch, Phase.PROPOSE, Change.MOUNT, decision.base, epoch * COUNTERS, decision.history, 0, 0)
        now = _take_over(case, state._replace(mains=(*state.mains, main)), by, main, shown, present)
        yield Step("mounts", by, shown, (epoch, decision)), now


def _opens_late(case: Case, state: State, by: int, main: Main) -> Following:
    present = with_role(state, by, Role.MET)
    for epoch in _epochs(case, state, max(state.disks[at].epoch for at in present)):
        main = main._replace(epoch=epoch, phase=Phase.PROPOSE, target=epoch * COUNTERS)
        now = _take_over(case, with_main(state, by, main), by, main, tuple(present), present)
        yield Step("opens", by, tuple(present), (epoch,)), now


def _take_over(case: Case, state: State, by: int, main: Main, shown: Shown, present: list[int]) -> State:
    """Every disk shown is opened, and the roster of those present is proposed to them."""
    propose: Command = (Kind.PROPOSE, main.base, main.target, main.history)
    if case.weak is Weak.ONE_STEP:
        propose = (Kind.ACTIVATE, main.target, len(main.history), main.history)
        state = with_main(state, by, main._replace(phase=Phase.ACTIVATE))
    disks = {}
    for at in shown:
        disk = opened(state.disks[at], main.epoch, state.mains)
        if at in present:
            disk = linked(disk, by, Link(main.epoch, Role.MEMBER, (propose,)))
            disk = seated_in(disk, main.target)
        disks[at] = disk
    return with_disks(state, disks)._replace(rosters=tuple(sorted((*state.rosters, (main.target, main.base)))))


def _clones(state: State) -> Following:
    """Without instances: a host feeds our log to a second disk, up to a point, and shows that one later."""
    for at, disk in enumerate(state.disks):
        if not any(other.saved for other in state.disks) and disk.epoch:
            saved = (disk.epoch, disk.current, disk.next, disk.log, disk.applied)
            yield Step("is cloned", 0, (at,)), with_disks(state, {at: disk._replace(saved=saved)})
        elif len(disk.saved) > 1:
            clone = opened(disk, disk.epoch, state.mains)
            epoch, current, proposed, log, applied = disk.saved
            clone = clone._replace(epoch=epoch, current=current, next=proposed, log=log, applied=applied, saved=(0,))
            yield Step("gives way to its clone", 0, (at,)), with_disks(state, {at: clone})
