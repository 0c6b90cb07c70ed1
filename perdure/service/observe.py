"""The status of an array, made from the engine's own state: it looks and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from perdure.array.chain import CHAIN_MS_MAX
from perdure.array.committer import LINKED_MAX
from perdure.array.engine import Array
from perdure.array.session import Health, Session
from perdure.array.world import Stray
from perdure.disk.wire import LINKS
from perdure.errors import Blank, Clone, Fenced, Fork, PerdureError, TakenOffline, error_to_json
from perdure.service.status import FORKS, ArrayStatus, DiskState, DiskStatus, Repair, State, Verb
from perdure.service.telling.verdicts import Verdict
from perdure.shell.meter import Meter

EXPOSURE: Final = {"ms": CHAIN_MS_MAX, "commands": LINKS, "entries": LINKED_MAX}
IN_USE = (DiskState.ONLINE, DiskState.SUSPECT)
_GONE = (DiskState.OFFLINE, DiskState.DEAD, DiskState.BLANK, *FORKS)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the main program as a service knows beside the array. Everything in it is for people."""

    name: str = ""
    zones: Mapping[str, str] = field(default_factory=dict)
    """By address."""
    meters: Mapping[str, Meter] = field(default_factory=dict)
    """By address: of the answers that came from there."""
    uptime_ms: int = 0
    requests: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    spares: tuple[str, ...] = ()
    events_last: int = 0
    scrubbed_unix_ms: int | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By instance (hexadecimal): what the events say of it, those of earlier main programs too."""


NOTHING_AROUND: Final = Surroundings()


def observe(
    array: Array,
    addresses: Sequence[str],
    now_ms: int,
    nbd_uri: str,
    repairs: Sequence[Repair] = (),
    around: Surroundings = NOTHING_AROUND,
) -> ArrayStatus:
    """The array as it is now. `addresses` are the configuration's, `now_ms` the runtime's clock."""
    disks = tuple(_placed(disk, around) for disk in _disks(array, addresses, now_ms, repairs, around))
    failure, shape = array.committer.failure, array.geometry
    spare = _spare(disks, shape.k) if failure is None else 0
    state = _state(failure, disks, is_suspended=array.is_suspended)
    version = array.members.roster.version
    return ArrayStatus(
        array_id=array.array_id.hex(),
        state=state,
        k=shape.k,
        n=shape.n,
        size_bytes=shape.size_bytes,
        disks=disks,
        losses_survived=max(0, spare),
        summary=_summary(disks),
        roster_version=f"{version.epoch.hex()}.{version.counter}",
        dirty_sectors=array.cache.dirty_sectors,
        tags_known=array.reader.tags.known_count,
        journal_last=array.committer.last,
        strays=_strays(array, disks, around.spares),
        nbd_uri=nbd_uri,
        action=_action(state, spare, disks),
        failure=None if failure is None else error_to_json(failure),
        exit_code=_exit_code(state, failure, disks),
        repairs=tuple(repairs),
        is_sealed=array.opened.genesis.is_sealed,
        acknowledgements="chains" if array.has_chains else "evidence",
        exposure=dict(EXPOSURE) if array.has_chains else None,
        evidence_age_ms=max((disk.evidence_age_ms for disk in disks if disk.evidence_age_ms is not None), default=None),
        name=around.name,
        uptime_ms=around.uptime_ms,
        requests=around.requests,
        evidence=around.evidence,
        spares=around.spares,
        events_last=around.events_last,
        scrubbed_unix_ms=around.scrubbed_unix_ms,
    )


def _placed(disk: DiskStatus, around: Surroundings) -> DiskStatus:
    """With what is known of its place and of its answers."""
    address = disk.address or ""
    meter = around.meters.get(address)
    if meter is None or not meter.count or disk.state not in IN_USE:
        return replace(disk, domain=around.zones.get(address, disk.domain))
    return replace(
        disk,
        domain=around.zones.get(address, disk.domain),
        latency_us=round(meter.usual_us),
        answers=meter.to_json(),
    )


def _state(failure: PerdureError | None, disks: Sequence[DiskStatus], *, is_suspended: bool = False) -> State:
    if isinstance(failure, Fenced):
        return State.FENCED
    if failure is not None:
        return State.FORKED if failure.exit_code == Fork.exit_code else State.UNUSABLE
    if is_suspended:
        return State.SUSPENDED
    return State.ONLINE if all(disk.state is DiskState.ONLINE for disk in disks) else State.DEGRADED


def _exit_code(state: State, failure: PerdureError | None, disks: Sequence[DiskStatus]) -> int:
    """Evidence of a rollback or a clone outweighs all else, though the array may go on without that disk."""
    if any(disk.is_fork for disk in disks):
        return Fork.exit_code
    return state.exit_code if failure is None else failure.exit_code


def _summary(disks: Sequence[DiskStatus]) -> str:
    """As in /proc/mdstat: U for a disk that is in use, _ for a seat without one; and ? for one that is silent."""
    marks = {DiskState.ONLINE: "U", DiskState.SUSPECT: "?"}
    return "[" + "".join(marks.get(disk.state, "_") for disk in disks) + "]"


def _spare(disks: Sequence[DiskStatus], needed: int) -> int:
    """How many more disks may be lost, if those that are silent are; negative where all waits for them."""
    return sum(disk.state is DiskState.ONLINE for disk in disks) - needed


# Seats ----------------------------------------------------------------------------------------------------


def is_waiting(stray: Stray, spares: Sequence[str]) -> bool:
    """Whether it is a spare as it should be."""
    return stray.address in spares and isinstance(stray.why, Blank)


def _strays(array: Array, disks: Sequence[DiskStatus], spares: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """What the mount set aside, but for what has become a member since, and for spares that wait."""
    in_use = {disk.address for disk in disks if disk.state in (*IN_USE, DiskState.REBUILDING)}
    strays = (stray for stray in array.opened.strays if stray.address not in in_use)
    return tuple(
        {"address": stray.address, "reason": str(stray.why)} for stray in strays if not is_waiting(stray, spares)
    )


def _disks(
    array: Array, addresses: Sequence[str], now_ms: int, repairs: Sequence[Repair], around: Surroundings
) -> tuple[DiskStatus, ...]:
    sessions = dict(array.members)
    in_use = {session.channel.address for session in sessions.values()}
    joining = {repair.seat: repair.address for repair in repairs if not repair.state.is_over}
    seats = []
    for seat in range(array.geometry.n):
        session = sessions.get(seat)
        if session is not None:
            seats.append(_member(array, seat, session, now_ms))
        elif seat in joining:
            none = _counters(array, None)
            seats.append(DiskStatus(seat, None, joining[seat], DiskState.REBUILDING, none))
        else:
            hint = addresses[seat] if seat < len(addresses) and addresses[seat] not in in_use else None
            seats.append(_departed(array, seat, hint, around.verdicts))
    return tuple(seats)


def _member(array: Array, seat: int, session: Session, now_ms: int) -> DiskStatus:
    attested = session.attested
    if session.lost is not None:
        state = _state_of(session.lost)
    else:
        state = DiskState.ONLINE if session.health is Health.ONLINE else DiskState.SUSPECT
    return DiskStatus(
        seat=seat,
        instance=session.instance.hex(),
        address=session.channel.address,
        state=state,
        errors=_counters(array, session.instance),
        platform=None if attested is None else str(attested.platform),
        root=None if attested is None else attested.root,
        measurement=None if attested is None else _hexadecimal(attested.measurement),
        module_id=None if attested is None else attested.module_id,
        evidence_age_ms=None if attested is None else now_ms - session.attested_ms,
        reason=None if session.lost is None else str(session.lost),
        domain=None if attested is None else attested.host,
    )


def _hexadecimal(measurement: Mapping[str, bytes]) -> Mapping[str, str]:
    """Without the registers in which nothing was measured."""
    return {name: value.hex() for name, value in measurement.items() if any(value)}


def _departed(array: Array, seat: int, address: str | None, told: Mapping[str, Verdict]) -> DiskStatus:
    """An empty seat: who held it, and what is found at the address where it was expected.

    What evidence shows outweighs the rest, whenever it was shown; then what an operator did.
    """
    held = [gone.instance for gone in array.members.roster.departed if gone.seat == seat]
    instance = held[-1] if held else None
    before = None if instance is None else told.get(instance.hex())
    seen = [array.members.lost[instance]] if instance in array.members.lost else []
    seen += [stray.why for stray in array.opened.strays if stray.address == address]
    verdicts = [Verdict(_state_of(why), str(why)) for why in seen]
    if before is not None and before.is_cleared:
        verdicts = [before]
    elif before is not None and before.state in _GONE:
        verdicts.append(before)
    found = min(verdicts, key=_weight, default=Verdict(DiskState.DEAD))
    return DiskStatus(
        seat=seat,
        instance=None if instance is None else instance.hex(),
        address=address,
        state=DiskState.MISSING if instance is None else found.state,
        errors=_counters(array, instance),
        reason=found.reason,
    )


def _weight(verdict: Verdict) -> int:
    """The least weighs most; of two alike, the one that was found later comes first."""
    return 0 if verdict.state in FORKS else 1 if verdict.state is DiskState.OFFLINE else 2


def _counters(array: Array, instance: bytes | None) -> Mapping[str, int]:
    found = array.members.errors.get(instance) if instance is not None else None
    return {"read": 0, "write": 0, "checksum": 0} if found is None else asdict(found)


def _state_of(verdict: PerdureError) -> DiskState:
    if isinstance(verdict, TakenOffline):
        return DiskState.OFFLINE
    if isinstance(verdict, Clone):
        return DiskState.CLONE
    if verdict.exit_code == Fork.exit_code:
        return DiskState.ROLLBACK
    return DiskState.BLANK if isinstance(verdict, Blank) else DiskState.DEAD


# Advice ---------------------------------------------------------------------------------------------------


def _action(state: State, spare: int, disks: Sequence[DiskStatus]) -> str:
    """In sentences; `spare` may be negative, as `_spare` says."""
    gone, is_any_silent = _gone(disks), any(disk.state is DiskState.SUSPECT for disk in disks)
    match state:
        case State.ONLINE:
            return "None is needed."
        case State.DEGRADED if any(disk.is_fork for disk in disks):
            return (
                "Evidence shows that a host rolled a disk back or put another in its place. Everything flushed is safe "
                f"on the others, and {max(0, spare)} more may be lost. Do not trust that host; keep the evidence, "
                f"which `perdure events` names, and the main program's log. {_mending(disks)}"
            ).rstrip()
        case State.DEGRADED if is_any_silent:
            more = f"{gone}, " if gone else ""
            return f"Everything flushed is safe: {more}{_silent(spare, disks)} {_mending(disks)}".rstrip()
        case State.DEGRADED if spare > 0:
            return f"Everything flushed is safe: {gone}, and {spare} more may be lost. {_mending(disks)}"
        case State.DEGRADED:
            first = f"{_mending(disks)} ".lstrip()
            return (
                f"Everything flushed is safe, but one more loss closes the array for good. {first}Copy what matters "
                "elsewhere meanwhile, for instance with `nbdcopy`."
            )
        case State.SUSPENDED:
            return (
                "Nothing is lost, and nothing goes on: requests wait until enough disks answer again. Make the silent "
                "ones reachable. If they have ended, what they held is gone: stop this main program with `perdure "
                "export` or `perdure down`; requests then fail, and what was not flushed is lost."
            )
        case State.UNUSABLE:
            return (
                "Nothing older is served. Make disks that still run reachable, stop this main program with `perdure "
                "export` or `perdure down`, and mount again with `perdure import` or `perdure up`; what an ended disk "
                "held in its RAM is gone."
            )
        case State.FENCED:
            return "Another main program owns the array now. Stop this one with `perdure export` or `perdure down`."
        case _:
            return (
                "A host showed disks from another history. Keep this main program's log, stop it with `perdure export` "
                "or `perdure down`, and do not trust that host; what a FLUSH covered, with chains up to the last "
                "evidence, is on the honest disks, and nothing is risked when you mount again with `perdure import` or "
                "`perdure up`."
            )


def _gone(disks: Sequence[DiskStatus]) -> str:
    count = sum(disk.state not in IN_USE for disk in disks)
    return f"{count} of {len(disks)} disks {'is' if count == 1 else 'are'} gone" if count else ""


def _silent(spare: int, disks: Sequence[DiskStatus]) -> str:
    """About disks of which nobody knows yet whether they are gone: they are not counted on."""
    count = sum(disk.state is DiskState.SUSPECT for disk in disks)
    what, them, their = ("a disk is", "it", "its host") if count == 1 else (f"{count} disks are", "them", "their hosts")
    rest = "the array stops" if spare < 0 else f"{spare} more may be lost"
    return (
        f"{what} silent, and writes wait for {them}. Without {them} {rest}. Look at {their} and the network, and keep "
        "the others running."
    )


def _mending(disks: Sequence[DiskStatus]) -> str:
    """What to type for the first seat that is empty; a disk in RAM that has ended can only be replaced."""
    empty = [disk for disk in disks if disk.state not in IN_USE]
    for disk in empty:
        if disk.state is DiskState.REBUILDING:
            return f"Seat {disk.seat} is being rebuilt."
    return _mending_of(empty[0]) if empty else ""


def _mending_of(disk: DiskStatus) -> str:
    seat = disk.seat
    fresh = f"`perdure {Verb.REPLACE} {seat}` rebuilds seat {seat} on a fresh disk"
    match disk.state:
        case DiskState.OFFLINE:
            return f"`perdure online {seat}` takes the disk of seat {seat} back, if it has gone on running."
        case DiskState.CLONE | DiskState.ROLLBACK:  # whoever answers at its address now is not to be asked again
            elsewhere = f"`perdure {Verb.REPLACE} {seat} --address ADDRESS`"
            return f"{elsewhere} rebuilds seat {seat} on a fresh disk of another host."
        case DiskState.DEAD:
            return f"{fresh}; if its own disk is back and has not ended, `perdure {Verb.REJOIN} {seat}` is faster."
        case _:
            return f"{fresh}."
