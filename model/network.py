"""What a command does to a disk, what OPEN does to sessions, and how a command gets on its way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from model.decide import Weak
from model.state import NO_LINK, Command, Disk, Kind, Link, Main, Role, State, landed


@dataclass(frozen=True)
class Case:
    """What is searched: the array, how much may happen in it, and which rule is weakened, if one is."""

    name: str
    k: int
    n: int
    spares: int = 0
    """Blank disks beside the members."""
    mains: int = 1
    """Mounts after the creator."""
    entries: int = 1
    """Entries written, by all main programs together."""
    votes: int = 0
    """Roster changes of each main program after its mount."""
    joins: int = 0
    """Disks opened to be taken in, by all main programs together."""
    naming: bool = False
    """Whether a joiner is first named in a roster change of its own, as the product does."""
    degraded: bool = False
    """Whether the creator has voted off one disk before the search begins."""
    admitted: bool = False
    """Whether the creator has opened and rebuilt a spare before the search begins."""
    any_epochs: bool = False
    """Whether a mount may draw a lower epoch than an earlier one that it does not see."""
    weak: Weak | None = None


def carry_out(case: Case, disk: Disk, command: Command) -> Disk:
    """The disk after `command`."""
    kind = command[0]
    if kind == Kind.EXECUTE:
        _, entry, applied = command
        log = (*disk.log, entry) if entry else disk.log
        return disk._replace(log=log, applied=min(max(disk.applied, applied), len(log)))
    if kind == Kind.PROPOSE:
        _, base, target, history = command
        log = disk.log + history[len(disk.log) :]
        current = disk.current if case.weak is Weak.BASE_UNNAMED else base
        applied = max(disk.applied, len(history)) if case.weak is Weak.APPLY_AT_PROPOSE else disk.applied
        return disk._replace(current=current, next=target, log=log, applied=applied)
    if kind == Kind.ACTIVATE:
        _, target, cut, history = command
        log = disk.log + history[len(disk.log) :]
        return disk._replace(current=target, next=0, log=log[:cut])
    return disk._replace(next=0, log=command[1], applied=len(command[1]))


def opened(disk: Disk, epoch: int, mains: tuple[Main, ...]) -> Disk:
    """OPEN: from here on nothing of an earlier session lands."""
    links = []
    for main, link in zip(mains, disk.links, strict=False):
        if link.role in (Role.NONE, Role.MET):
            links.append(link)
        elif link.role == Role.LOST:
            links.append(Link(0, Role.LOST, ()))
        else:
            stuck = ((Kind.STUCK, landed(link, len(main.history))),) if link.queue else ()
            links.append(Link(0, link.role, stuck))
    return disk._replace(epoch=epoch, links=tuple(links))


def is_on_its_way(disk: Disk, link: Link) -> bool:
    """Whether something of this session may still land."""
    return bool(link.queue) and link.session == disk.epoch and link.queue[0][0] != Kind.STUCK


def linked(disk: Disk, by: int, link: Link) -> Disk:
    """The disk with another link to main program `by`."""
    return disk._replace(links=(*disk.links[:by], link, *disk.links[by + 1 :]))


def with_disks(state: State, disks: dict[int, Disk]) -> State:
    """The state with some disks in the places of others."""
    return state._replace(disks=tuple([disks.get(at, disk) for at, disk in enumerate(state.disks)]))


def with_main(state: State, at: int, main: Main) -> State:
    """The state with another main program at `at`."""
    return state._replace(mains=(*state.mains[:at], main, *state.mains[at + 1 :]))


def members(state: State, version: int) -> list[int]:
    """The places of the disks that a roster seats."""
    return [at for at, disk in enumerate(state.disks) if version in disk.member_of]


def seated_in(disk: Disk, version: int) -> Disk:
    """The disk as a member of one roster more."""
    return disk._replace(member_of=tuple(sorted((*disk.member_of, version))))


def with_role(state: State, by: int, role: Role) -> list[int]:
    """The places of the disks that are this to main program `by`."""
    return [at for at, disk in enumerate(state.disks) if disk.links[by].role == role]


def send(state: State, by: int, command: Command, to: Iterable[int]) -> State:
    """One more command on its way to each; it stays there for ever where a later OPEN came first."""
    sent = len(state.mains[by].history)
    disks = {}
    for at in to:
        disk = state.disks[at]
        link = disk.links[by]
        if link.session == disk.epoch:
            disks[at] = linked(disk, by, link._replace(queue=(*link.queue, command)))
        elif not link.queue:
            disks[at] = linked(disk, by, link._replace(queue=((Kind.STUCK, sent),)))
    return with_disks(state, disks)


def have_landed(state: State, by: int, to: Iterable[int]) -> bool:
    """Whether all that was sent to these members has landed; then evidence of it may come at any time."""
    links = [state.disks[at].links[by] for at in to]
    return all(link.role == Role.MEMBER and not link.queue for link in links)


def lose(state: State, by: int, gone: Iterable[int]) -> State:
    """Main program `by` gives these up. What is on its way to them may land all the same."""
    disks = {}
    for at in gone:
        disk = state.disks[at]
        link = disk.links[by]
        lost = Link(link.session, Role.LOST, link.queue) if is_on_its_way(disk, link) else Link(0, Role.LOST, ())
        disks[at] = linked(disk, by, lost)
    return with_disks(state, disks)


def forgotten(disk: Disk, by: int) -> Disk:
    """The disk without a link to main program `by`."""
    return disk if disk.links[by] == NO_LINK else linked(disk, by, NO_LINK)
