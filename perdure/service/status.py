"""The form of what the main program says of its array: one versioned JSON object.

It is for people and scripts on this machine. Nothing in it is evidence; addresses in it are hints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from perdure import RELEASE, __version__
from perdure.errors import Fork, Misuse

VERSION: Final = 6
OTHER_RELEASE: Final = (
    "The main program serves on, but it is of another release than this command. Run `perdure upgrade`: it puts the "
    "program that is installed now in its place, and clients only wait."
)


class State(StrEnum):
    """Of the array. What each means for a script is `exit_code`."""

    ONLINE = "online"
    DEGRADED = "degraded"
    SUSPENDED = "suspended"
    """Too few disks answer, and what is asked waits until they do (`when-too-few-disks = "freeze"`)."""
    UNUSABLE = "unusable"
    FENCED = "fenced"
    FORKED = "forked"

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 degraded, 2 unusable, 3 evidence of rollback or cloning."""
        codes = {State.ONLINE: 0, State.DEGRADED: 1, State.SUSPENDED: 2, State.UNUSABLE: 2}
        return codes.get(self, Fork.exit_code)


class DiskState(StrEnum):
    """Of one seat: a member that answers, one that is silent, or why the seat is empty."""

    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    DEAD = "dead"
    BLANK = "blank"
    CLONE = "clone"
    ROLLBACK = "rollback"
    MISSING = "missing"
    REBUILDING = "rebuilding"


FORKS: Final = (DiskState.CLONE, DiskState.ROLLBACK)
"""What evidence shows of a disk whose host is not to be trusted."""


class Verb(StrEnum):
    """What mends an array."""

    REPLACE = "replace"
    REJOIN = "rejoin"
    SCRUB = "scrub"


class RepairState(StrEnum):
    """Of one piece of repair. It waits while another seat is rebuilt; it is stopped with its main program."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self not in (RepairState.WAITING, RepairState.RUNNING)


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One seat. `instance` is hexadecimal; what is not known is None; `evidence_age_ms` is since its last evidence."""

    seat: int
    instance: str | None
    address: str | None
    state: DiskState
    errors: Mapping[str, int]
    platform: str | None = None
    root: str | None = None
    """The policy's name for the trust anchor that vouches for it."""
    measurement: Mapping[str, str] | None = None
    """What runs there: the registers that its last evidence showed, hexadecimal."""
    module_id: str | None = None
    evidence_age_ms: int | None = None
    reason: str | None = None
    """Why the seat is empty, in a sentence."""
    domain: str | None = None
    """Where it is: the configuration's zone, else the host that its evidence names."""
    latency_us: int | None = None
    """What an answer takes, of late, from when its question was sent; evidence is in it where it was asked for."""
    answers: Mapping[str, Any] | None = None
    """What `perdure.shell.meter` counts of its answers."""

    @property
    def is_fork(self) -> bool:
        """Whether evidence shows that time was turned back here, or that another disk stands in its place."""
        return self.state in FORKS


@dataclass(frozen=True, slots=True)
class Repair:
    """One piece of repair. Bytes are the array's own; `left_s` and `bytes_per_s` are None while nobody can tell.

    `mended_sectors`: how many were sent to the disk, or were wrong somewhere. `wrong_by_seat`: for a scrub, how many
    wrong fragments and tags each seat's disk showed meanwhile. `note`: what is left to do by hand.
    """

    id: str
    verb: Verb
    seat: int | None
    address: str | None
    state: RepairState
    total_bytes: int
    done_bytes: int
    mended_sectors: int
    bytes_per_s_max: int | None
    bytes_per_s: int | None
    left_s: int | None
    started_unix_ms: int
    duration_ms: int
    wrong_by_seat: tuple[int, ...] = ()
    error: Mapping[str, Any] | None = None
    note: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Repair:
        """Read one of a status."""
        verb, state = Verb(value["verb"]), RepairState(value["state"])
        return cls(**{**value, "verb": verb, "state": state, "wrong_by_seat": tuple(value["wrong_by_seat"])})


@dataclass(frozen=True, slots=True)
class ArrayStatus:
    """The whole status. `losses_survived` is how many more disks may be lost now, counting silent ones as lost;
    `journal_last` counts entries.

    `repairs`: what runs, and the last that ended, of each seat and of scrubs.
    """

    array_id: str
    state: State
    k: int
    n: int
    size_bytes: int
    disks: tuple[DiskStatus, ...]
    losses_survived: int
    summary: str
    roster_version: str
    dirty_sectors: int
    tags_known: int
    journal_last: int
    strays: tuple[Mapping[str, str], ...]
    nbd_uri: str
    action: str
    failure: Mapping[str, Any] | None
    exit_code: int
    repairs: tuple[Repair, ...] = ()
    acknowledgements: str = "evidence"
    """What a FLUSH rests on: `evidence`, or `chains`, which are weaker."""
    exposure: Mapping[str, int] | None = None
    """With chains, what a leaked secret can forge: so many ms, commands or journal entries, whichever comes first."""
    evidence_age_ms: int | None = None
    """The age of the last evidence of the member that gave it longest ago."""
    name: str = ""
    """The name of the configuration's directory."""
    uptime_ms: int = 0
    """Since this main program has mounted the array."""
    requests: Mapping[str, Any] = field(default_factory=dict)
    """What `perdure.shell.meter` counts of NBD requests: by `read`, `write`, `flush`, `trim`."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The same of documents that were verified."""
    spares: tuple[str, ...] = ()
    """Addresses of disks that take an empty seat by themselves."""
    events_last: int = 0
    """The number of the last event; `perdure events` shows them."""
    scrubbed_unix_ms: int | None = None
    """When the last whole scrub ended, as far as the history tells."""
    program: str = __version__
    """The main program's version, and its release, which never goes back."""
    release: int = RELEASE
    upgrades: int = 0
    """How often the program has been replaced in its process."""
    upgrade_error: Mapping[str, Any] | None = None
    """Why the last upgrade that was begun did not happen."""
    http_url: str | None = None
    """Where the page and the metrics are; None where none was asked for, or it could not be served ..."""
    http_error: str | None = None
    """... and then why."""
    is_sealed: bool = True
    """False for an array in the clear, which hosts read."""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """The object that `status --json` prints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ArrayStatus:
        """Read what a main program of this release said; raises Misuse for another's."""
        if value.get("version") != VERSION:
            raise Misuse(OTHER_RELEASE)
        disks = tuple(DiskStatus(**{**disk, "state": DiskState(disk["state"])}) for disk in value["disks"])
        repairs = tuple(Repair.from_json(repair) for repair in value["repairs"])
        state, strays, spares = State(value["state"]), tuple(value["strays"]), tuple(value["spares"])
        made = {"state": state, "disks": disks, "strays": strays, "repairs": repairs, "spares": spares}
        return cls(**{**value, **made})
